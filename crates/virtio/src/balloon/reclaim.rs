//! Giving guest memory back to the host.
#![allow(unsafe_code)]

use crate::GuestMemory;
use rustix::fs::FallocateFlags;
use units::{Bytes, GuestPhysical, PAGE_SIZE};
use vm_memory::{
    Address, GuestAddress, GuestAddressSpace, GuestMemoryBackend, GuestMemoryRegion,
    GuestRegionMmap, MemoryRegionAddress,
};

/// The range cannot be given back.
#[derive(Debug, thiserror::Error)]
pub enum ReclaimError {
    /// Not all of it is RAM.
    #[error("{length} at {start} are not all RAM")]
    NotMemory {
        /// Where it starts.
        start: GuestPhysical,
        /// How long it is.
        length: Bytes,
    },
    /// The system refused.
    #[error("cannot give back {length} at {start}: {error}")]
    System {
        /// Where it starts.
        start: GuestPhysical,
        /// How long it is.
        length: Bytes,
        /// What the system said.
        error: std::io::Error,
    },
}

/// Takes guest memory that holds nothing any more. Reads of it give zeros, or what was there
/// before, until the guest writes again.
pub trait MemoryReclaim: Send {
    /// Gives back `length` bytes from `start`, both multiples of [`PAGE_SIZE`].
    ///
    /// # Errors
    /// Not all of it is RAM (nothing happens then), or the system refused.
    fn release(&self, start: GuestPhysical, length: Bytes) -> Result<(), ReclaimError>;
}

/// Reclaim for memory as `vm-memory` maps it: files (a memfd) get a hole, so that every process
/// that maps them gives the pages up; private memory is dropped. Memory that a device's file stands for
/// (the core's pool) is the VM's as long as it runs: its pages stay as they are.
#[derive(Clone)]
pub struct MappedMemory(pub GuestMemory);

impl MemoryReclaim for MappedMemory {
    fn release(&self, start: GuestPhysical, length: Bytes) -> Result<(), ReclaimError> {
        let memory = self.0.memory();
        let parts = parts(&*memory, start, length);
        for (region, offset, count) in parts.ok_or(ReclaimError::NotMemory { start, length })? {
            punch(region, offset, count).map_err(|error| ReclaimError::System {
                start,
                length,
                error: error.into(),
            })?;
        }
        Ok(())
    }
}

/// The regions a range covers, with the part of each; `None` unless every byte is covered and the
/// range consists of whole pages.
fn parts<M: GuestMemoryBackend<R = GuestRegionMmap>>(
    memory: &M,
    start: GuestPhysical,
    length: Bytes,
) -> Option<Vec<(&GuestRegionMmap, u64, u64)>> {
    if length.0 == 0 || !start.0.is_multiple_of(PAGE_SIZE) || !length.0.is_multiple_of(PAGE_SIZE) {
        return None;
    }
    let mut parts = Vec::new();
    let (mut at, mut left) = (start.0, length.0);
    while left > 0 {
        let (region, offset) = memory.to_region_addr(GuestAddress(at))?;
        let offset = offset.raw_value();
        let count = left.min(region.len().checked_sub(offset)?);
        parts.push((region, offset, count));
        left -= count;
        if left > 0 {
            at = at.checked_add(count)?;
        }
    }
    Some(parts)
}

fn punch(region: &GuestRegionMmap, offset: u64, count: u64) -> rustix::io::Result<()> {
    if let Some(file) = region.file_offset() {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        return match rustix::fs::fallocate(file.file(), flags, file.start() + offset, count) {
            // What the kernel says of a device (fallocate(2)).
            Err(rustix::io::Errno::NODEV) => Ok(()),
            other => other,
        };
    }
    let length = usize::try_from(count).map_err(|_| rustix::io::Errno::INVAL)?;
    let address = region
        .get_host_address(MemoryRegionAddress(offset))
        .map_err(|_| rustix::io::Errno::FAULT)?;
    // SAFETY: `parts` has checked that `count` bytes from `offset` lie inside the region, which is
    // mapped as long as `region` lives. The mapping stays; its pages read as zeros from now on,
    // which for guest memory, to which no Rust reference exists, is a change like any other.
    unsafe { rustix::mm::madvise(address.cast(), length, rustix::mm::Advice::LinuxDontNeed) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::MetadataExt;
    use vm_memory::{Bytes as _, FileOffset, GuestMemoryMmap};

    fn filled(memory: GuestMemoryMmap, addresses: std::ops::Range<u64>) -> GuestMemory {
        for page in addresses.step_by(4096) {
            memory.write_slice(&[0xaa; 4096], GuestAddress(page)).unwrap();
        }
        GuestMemory::new(memory)
    }

    fn byte(memory: &GuestMemory, at: u64) -> u8 {
        memory.memory().read_obj(GuestAddress(at)).unwrap()
    }

    #[test]
    fn a_file_behind_memory_gets_a_hole_of_just_the_pages_given() {
        let fd = rustix::fs::memfd_create("ram", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(fd);
        file.set_len(0x9000).unwrap();
        let backing = FileOffset::new(file.try_clone().unwrap(), 0x1000);
        let ranges = [(GuestAddress(0x10000), 0x8000, Some(backing))];
        let memory =
            filled(GuestMemoryMmap::from_ranges_with_files(ranges).unwrap(), 0x10000..0x18000);
        let before = file.metadata().unwrap().blocks();
        let reclaim = MappedMemory(memory.clone());
        reclaim.release(GuestPhysical(0x12000), Bytes(0x3000)).unwrap();
        assert_eq!(before - file.metadata().unwrap().blocks(), 0x3000 / 512);
        for (at, value) in [(0x11fff, 0xaa), (0x12000, 0), (0x14fff, 0), (0x15000, 0xaa)] {
            assert_eq!(byte(&memory, at), value, "{at:#x}");
        }
    }

    #[test]
    fn memory_of_a_device_is_kept() {
        let file = File::options().read(true).write(true).open("/dev/zero").unwrap();
        let ranges = [(GuestAddress(0), 0x2000, Some(FileOffset::new(file, 0)))];
        let memory = filled(GuestMemoryMmap::from_ranges_with_files(ranges).unwrap(), 0..0x2000);
        let reclaim = MappedMemory(memory.clone());
        reclaim.release(GuestPhysical(0), Bytes(0x1000)).unwrap();
        assert_eq!(byte(&memory, 0), 0xaa);
    }

    #[test]
    fn private_memory_across_regions_is_dropped() {
        let ranges = [(GuestAddress(0), 0x2000), (GuestAddress(0x2000), 0x2000)];
        let memory = filled(GuestMemoryMmap::from_ranges(&ranges).unwrap(), 0..0x4000);
        let reclaim = MappedMemory(memory.clone());
        reclaim.release(GuestPhysical(0x1000), Bytes(0x2000)).unwrap();
        for (at, value) in [(0xfff, 0xaa), (0x1000, 0), (0x2fff, 0), (0x3000, 0xaa)] {
            assert_eq!(byte(&memory, at), value, "{at:#x}");
        }
    }

    #[test]
    fn what_is_not_all_memory_is_left_alone() {
        let ranges = [(GuestAddress(0), 0x2000), (GuestAddress(0x4000), 0x2000)];
        let memory = filled(GuestMemoryMmap::from_ranges(&ranges).unwrap(), 0..0x2000);
        let reclaim = MappedMemory(memory.clone());
        for (start, length) in [
            (0x1000, 0x2000),
            (0, 0),
            (0x800, 0x1000),
            (0, 0x800),
            (0x8000, 0x1000),
            (u64::MAX - 0xfff, 0x1000),
            (0, u64::MAX - 0xfff),
        ] {
            let result = reclaim.release(GuestPhysical(start), Bytes(length));
            assert!(matches!(result, Err(ReclaimError::NotMemory { .. })), "{start:#x}");
        }
        assert_eq!(byte(&memory, 0x1000), 0xaa);
    }
}
