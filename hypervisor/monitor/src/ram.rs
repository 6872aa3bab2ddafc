//! A guest's memory as the monitor reads and writes it. The guest may write to it at the same time,
//! from any processor, so nothing here ever holds a reference into it: bytes are copied.
//!
//! `unsafe` here: the copies.
#![allow(unsafe_code)]

use alloc::vec::Vec;
use core::ptr;
use layout::Range;
use units::GuestPhysical;

/// Guest memory.
#[derive(Clone, Debug)]
pub struct GuestRam {
    parts: Vec<(Range, *mut u8)>,
}

// SAFETY: the pointers are to memory that is there for good; copies may race with the guest and with
// each other, which harms nobody but the guest.
unsafe impl Send for GuestRam {}
// SAFETY: as above.
unsafe impl Sync for GuestRam {}

impl GuestRam {
    /// The memory made of these ranges, each at its place in the monitor's address space.
    ///
    /// # Safety
    /// Each place holds as many bytes as its range, for good, and no reference into it exists.
    #[must_use]
    pub unsafe fn new(parts: Vec<(Range, *mut u8)>) -> Self {
        Self { parts }
    }

    /// Where `address` lies, and how many bytes of memory follow there.
    fn find(&self, address: u64) -> Option<(*mut u8, usize)> {
        self.parts.iter().find_map(|(range, start)| {
            let offset = address.checked_sub(range.base.0)?;
            let left = range.size.0.checked_sub(offset).filter(|left| *left > 0)?;
            let offset = usize::try_from(offset).ok()?;
            Some((start.wrapping_add(offset), usize::try_from(left).ok()?))
        })
    }

    /// Whether all of `length` bytes at `address` are memory.
    #[must_use]
    pub fn holds(&self, address: u64, length: u64) -> bool {
        let mut done = 0;
        while done < length {
            let at = address.checked_add(done).and_then(|at| self.find(at));
            let Some((_, left)) = at else { return false };
            done += (left as u64).min(length - done);
        }
        true
    }

    /// Copies guest memory at `address` into `into`; gives how many bytes were there.
    pub fn read(&self, address: u64, into: &mut [u8]) -> usize {
        let mut done = 0;
        while done < into.len() {
            let Some((from, left)) = address.checked_add(done as u64).and_then(|at| self.find(at))
            else {
                break;
            };
            let count = left.min(into.len() - done);
            // SAFETY: `find` gave `left` bytes of guest memory; `into` is ours alone.
            unsafe { ptr::copy_nonoverlapping(from, into.as_mut_ptr().add(done), count) };
            done += count;
        }
        done
    }

    /// Copies `bytes` into guest memory at `address`; gives how many there was room for.
    pub fn write(&self, address: u64, bytes: &[u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() {
            let Some((to, left)) = address.checked_add(done as u64).and_then(|at| self.find(at))
            else {
                break;
            };
            let count = left.min(bytes.len() - done);
            // SAFETY: as in `read`.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr().add(done), to, count) };
            done += count;
        }
        done
    }
}

impl loader::Ram for GuestRam {
    fn write(&self, address: GuestPhysical, bytes: &[u8]) -> Result<(), loader::NoRam> {
        if GuestRam::write(self, address.0, bytes) == bytes.len() {
            Ok(())
        } else {
            Err(loader::NoRam)
        }
    }
}

impl chipset::GuestBytes for GuestRam {
    fn read(&self, address: u64, into: &mut [u8]) -> usize {
        GuestRam::read(self, address, into)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use units::Bytes;

    /// Memory of `size` bytes at 0 and as much at 1 MiB, for a test.
    pub(crate) fn ram(size: u64) -> GuestRam {
        let part = |base| {
            let bytes = std::vec![0u8; size as usize].leak();
            let range = Range { base: GuestPhysical(base), size: Bytes(size) };
            (range, bytes.as_mut_ptr())
        };
        // SAFETY: leaked, and the references are gone.
        unsafe { GuestRam::new(std::vec![part(0), part(1 << 20)]) }
    }

    /// Memory of `size` bytes from 0 on, for a test.
    pub(crate) fn one_piece(size: u64) -> GuestRam {
        let bytes = std::vec![0u8; size as usize].leak();
        let range = Range { base: GuestPhysical(0), size: Bytes(size) };
        // SAFETY: leaked, and the references are gone.
        unsafe { GuestRam::new(std::vec![(range, bytes.as_mut_ptr())]) }
    }

    #[test]
    fn what_lies_outside_memory_is_neither_read_nor_written() {
        let ram = ram(0x1000);
        assert_eq!(ram.write(0xffe, b"abcd"), 2);
        let mut bytes = [0xff; 4];
        assert_eq!(ram.read(0xffe, &mut bytes), 2);
        assert_eq!(&bytes, b"ab\xff\xff");
        assert_eq!(ram.read(0x1000, &mut bytes), 0);
        assert_eq!(ram.write(u64::MAX, b"x"), 0);
        assert_eq!(ram.write(0x10_0000, b"x"), 1);
        assert!(ram.holds(0, 0x1000) && ram.holds(0x10_0fff, 1));
        assert!(!ram.holds(0, 0x1001) && !ram.holds(u64::MAX, 2) && !ram.holds(0x1000, 1));
    }
}
