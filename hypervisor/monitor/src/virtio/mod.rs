//! Virtio devices for guests (virtio 1.2), reached by memory-mapped registers. A stock Linux finds
//! them through ACPI (`LNRO0005`), so its command line says nothing about them.
//!
//! Everything is done by the processor that has the guest's exit, under the lock of its board: a
//! doorbell is answered before the guest goes on, and what comes from elsewhere (a frame) is brought
//! when the board's time is due. What a driver writes is hostile: a ring that breaks the rules sets
//! DEVICE_NEEDS_RESET and nothing else.

mod block;
mod console;
mod mmio;
mod net;
mod queue;

pub use block::{Block, MemoryDisk, Storage};
pub use console::VirtioConsole;
pub use mmio::{MMIO_BASE, MMIO_SIZE, MOST_DEVICES, MmioBus, Written};
pub use net::{Net, Switch, SwitchPort, Uplink};

use crate::GuestRam;
use alloc::vec::Vec;
pub use queue::Broken;
use queue::Queue;

/// Device types (virtio 1.2, 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum DeviceKind {
    /// 5.1
    Net = 1,
    /// 5.2
    Block = 2,
    /// 5.3
    Console = 3,
}

/// What a device works with: guest memory and its queues.
pub struct Session<'a> {
    ram: &'a GuestRam,
    queues: &'a mut [Queue],
    interrupt: &'a mut bool,
    /// Chains that may still be taken. A driver that offers more while the device works gets the rest
    /// done when it rings for them, so that it cannot keep the processor.
    budget: u16,
}

impl Session<'_> {
    /// The next chain of queue `index` in `chain`; false when there is none.
    fn pop(&mut self, index: usize, chain: &mut Chain) -> Result<bool, Broken> {
        let Some(budget) = self.budget.checked_sub(1) else {
            return Ok(false);
        };
        self.budget = budget;
        match self.queues.get_mut(index) {
            Some(queue) => queue.pop(self.ram, chain),
            None => Ok(false),
        }
    }

    /// Gives a chain back with `written` bytes in it, and interrupts the driver if it wants that.
    fn give_back(&mut self, index: usize, chain: &Chain, written: u32) -> Result<(), Broken> {
        if let Some(queue) = self.queues.get_mut(index) {
            queue.give_back(self.ram, chain.head, written)?;
            *self.interrupt |= queue.wants_interrupt(self.ram)?;
        }
        Ok(())
    }
}

/// A device behind the transport.
pub trait Device: Send {
    /// Its type.
    fn kind(&self) -> DeviceKind;

    /// Feature bits it offers; the transport adds VERSION_1.
    fn features(&self) -> u64;

    /// How many queues it has.
    fn queues(&self) -> usize;

    /// Its configuration space.
    fn config(&self) -> Vec<u8>;

    /// The driver rang queue `index`.
    ///
    /// # Errors
    /// The ring is broken.
    fn ring(&mut self, index: usize, session: &mut Session<'_>) -> Result<(), Broken>;

    /// Something may have come from elsewhere.
    ///
    /// # Errors
    /// The ring is broken.
    fn poll(&mut self, session: &mut Session<'_>) -> Result<(), Broken> {
        let _ = session;
        Ok(())
    }

    /// Somebody typed. False where that means nothing to the device.
    fn typed(&mut self, bytes: &[u8]) -> bool {
        let _ = bytes;
        false
    }

    /// The driver reset the device.
    fn reset(&mut self) {}
}

/// One request: pieces of guest memory, first those the device reads, then those it writes.
#[derive(Debug, Default)]
pub struct Chain {
    head: u16,
    readable: Vec<(u64, u32)>,
    writable: Vec<(u64, u32)>,
}

fn length(pieces: &[(u64, u32)]) -> u64 {
    pieces.iter().map(|(_, length)| u64::from(*length)).sum()
}

impl Chain {
    /// Bytes the device may read.
    fn readable(&self) -> u64 {
        length(&self.readable)
    }

    /// Bytes the device may write.
    fn writable(&self) -> u64 {
        length(&self.writable)
    }

    /// Copies what is at `offset` of the readable part; gives how many bytes there were.
    fn read(&self, ram: &GuestRam, offset: u64, into: &mut [u8]) -> usize {
        walk(&self.readable, offset, into.len(), |address, done, count| {
            ram.read(address, &mut into[done..done + count])
        })
    }

    /// Copies to `offset` of the writable part; gives how many bytes there was room for.
    fn write(&self, ram: &GuestRam, offset: u64, bytes: &[u8]) -> usize {
        walk(&self.writable, offset, bytes.len(), |address, done, count| {
            ram.write(address, &bytes[done..done + count])
        })
    }
}

/// Calls `copy` for each piece of `wanted` bytes from `offset` on, with address, bytes before, bytes.
fn walk(
    pieces: &[(u64, u32)],
    offset: u64,
    wanted: usize,
    mut copy: impl FnMut(u64, usize, usize) -> usize,
) -> usize {
    let (mut skip, mut done) = (offset, 0);
    for (address, length) in pieces {
        let length = u64::from(*length);
        if skip >= length {
            skip -= length;
            continue;
        }
        let left = usize::try_from(length - skip).unwrap_or(usize::MAX);
        let count = left.min(wanted - done);
        let copied = copy(address.wrapping_add(skip), done, count);
        done += copied;
        skip = 0;
        if copied < count || done == wanted {
            break;
        }
    }
    done
}

#[cfg(test)]
mod tests;
