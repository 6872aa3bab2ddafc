//! A split virtqueue (virtio 1.2, 2.7) from the device's side.

use super::Chain;
use crate::GuestRam;
use core::fmt;
use core::sync::atomic::{Ordering, fence};

/// The largest queue.
pub(super) const MOST_ENTRIES: u16 = 256;

const DESCRIPTOR: u64 = 16;
const NEXT: u16 = 1 << 0;
const WRITE: u16 = 1 << 1;
const INDIRECT: u16 = 1 << 2;
/// Flag of the available ring: the driver wants no interrupt (2.7.6).
const NO_INTERRUPT: u16 = 1 << 0;

/// The driver broke the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken(pub &'static str);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// One queue as the driver set it up.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Queue {
    /// Entries, a power of two when the queue is ready.
    pub(super) size: u16,
    /// The driver turned it on.
    pub(super) ready: bool,
    /// Descriptor table.
    pub(super) descriptors: u64,
    /// Available ring.
    pub(super) available: u64,
    /// Used ring.
    pub(super) used: u64,
    next_available: u16,
    next_used: u16,
}

impl Queue {
    /// Whether the driver's numbers can be a queue.
    #[must_use]
    pub(super) fn is_possible(&self) -> bool {
        self.size.is_power_of_two()
            && self.size <= MOST_ENTRIES
            && self.descriptors.is_multiple_of(16)
            && self.available.is_multiple_of(2)
            && self.used.is_multiple_of(4)
            && [self.descriptors, self.available, self.used].iter().all(|at| *at < 1 << 52)
    }

    fn word(ram: &GuestRam, at: u64) -> Result<u16, Broken> {
        let mut bytes = [0; 2];
        if ram.read(at, &mut bytes) < 2 {
            return Err(Broken("ring outside memory"));
        }
        Ok(u16::from_le_bytes(bytes))
    }

    /// The next chain in `chain`; false when there is none.
    pub(super) fn pop(&mut self, ram: &GuestRam, chain: &mut Chain) -> Result<bool, Broken> {
        chain.readable.clear();
        chain.writable.clear();
        if !self.ready {
            return Ok(false);
        }
        let index = Self::word(ram, self.available + 2)?;
        let waiting = index.wrapping_sub(self.next_available);
        if waiting == 0 {
            return Ok(false);
        }
        if waiting > self.size {
            return Err(Broken("available index further ahead than the queue is long"));
        }
        // The entry is read after the index that announced it (2.7.13.3).
        fence(Ordering::Acquire);
        let slot = u64::from(self.next_available % self.size);
        chain.head = Self::word(ram, self.available + 4 + 2 * slot)?;
        self.next_available = self.next_available.wrapping_add(1);
        self.follow(ram, chain)?;
        Ok(true)
    }

    fn follow(&self, ram: &GuestRam, chain: &mut Chain) -> Result<(), Broken> {
        let mut at = chain.head;
        for _ in 0..self.size {
            if at >= self.size {
                return Err(Broken("descriptor beyond the table"));
            }
            let mut bytes = [0; DESCRIPTOR as usize];
            let place = self.descriptors + u64::from(at) * DESCRIPTOR;
            if ram.read(place, &mut bytes) < bytes.len() {
                return Err(Broken("descriptor table outside memory"));
            }
            let [a, b] = [0, 8].map(|from| {
                let mut word = [0; 8];
                word.copy_from_slice(&bytes[from..from + 8]);
                u64::from_le_bytes(word)
            });
            let (length, flags, next) = (b as u32, (b >> 32) as u16, (b >> 48) as u16);
            if flags & INDIRECT != 0 {
                return Err(Broken("indirect descriptor, which was not negotiated"));
            }
            if flags & WRITE != 0 {
                chain.writable.push((a, length));
            } else if chain.writable.is_empty() {
                chain.readable.push((a, length));
            } else {
                return Err(Broken("a readable descriptor after a writable one"));
            }
            if flags & NEXT == 0 {
                return Ok(());
            }
            at = next;
        }
        Err(Broken("a chain longer than its table"))
    }

    /// Gives a chain back.
    pub(super) fn give_back(
        &mut self,
        ram: &GuestRam,
        head: u16,
        written: u32,
    ) -> Result<(), Broken> {
        let slot = u64::from(self.next_used % self.size.max(1));
        let mut element = [0; 8];
        element[..4].copy_from_slice(&u32::from(head).to_le_bytes());
        element[4..].copy_from_slice(&written.to_le_bytes());
        let place = self.used + 4 + 8 * slot;
        self.next_used = self.next_used.wrapping_add(1);
        if ram.write(place, &element) < element.len() {
            return Err(Broken("used ring outside memory"));
        }
        // The element is there before the index that announces it (2.7.8.2).
        fence(Ordering::Release);
        ram.write(self.used + 2, &self.next_used.to_le_bytes());
        Ok(())
    }

    /// Whether the driver wants an interrupt for what was given back.
    pub(super) fn wants_interrupt(&self, ram: &GuestRam) -> Result<bool, Broken> {
        // The used index must be out before the driver's wish is read (2.7.7.2).
        fence(Ordering::SeqCst);
        Ok(Self::word(ram, self.available)? & NO_INTERRUPT == 0)
    }
}
