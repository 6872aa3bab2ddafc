//! DMA requests: a 16-byte big-endian structure in guest memory says what to copy where.

use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};

/// Guest memory as the device reaches it. Neither call may panic, whatever the address.
pub trait DmaMemory: Send + Sync {
    /// Fills `data`; false when part of it is not RAM.
    fn read(&self, address: u64, data: &mut [u8]) -> bool;
    /// Writes `data`; false when part of it is not RAM.
    fn write(&self, address: u64, data: &[u8]) -> bool;
}

/// Guest RAM as `vm-memory` holds it.
pub struct GuestDma(pub GuestMemoryAtomic<GuestMemoryMmap>);

impl DmaMemory for GuestDma {
    fn read(&self, address: u64, data: &mut [u8]) -> bool {
        self.0.memory().read_slice(data, GuestAddress(address)).is_ok()
    }

    fn write(&self, address: u64, data: &[u8]) -> bool {
        self.0.memory().write_slice(data, GuestAddress(address)).is_ok()
    }
}

// Control bits (QEMU docs/specs/fw_cfg, "DMA interface").
const ERROR: u32 = 1 << 0;
const READ: u32 = 1 << 1;
const SKIP: u32 = 1 << 2;
const SELECT: u32 = 1 << 3;
const WRITE: u32 = 1 << 4;

/// One request as found in guest memory, read once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    at: u64,
    control: u32,
    pub(super) length: u32,
    pub(super) address: u64,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// Copy item bytes to guest memory, zeros past the item's end.
    Read,
    /// Move on in the item.
    Skip,
    /// Nothing but the selection.
    Nothing,
    /// Refused: no item can be written.
    Write,
}

impl Request {
    /// Reads the structure at `at`; `None` when it is not in RAM.
    pub(super) fn read(memory: &dyn DmaMemory, at: u64) -> Option<Self> {
        let mut bytes = [0; 16];
        if !memory.read(at, &mut bytes) {
            return None;
        }
        let [c0, c1, c2, c3, l0, l1, l2, l3, address @ ..] = bytes;
        Some(Self {
            at,
            control: u32::from_be_bytes([c0, c1, c2, c3]),
            length: u32::from_be_bytes([l0, l1, l2, l3]),
            address: u64::from_be_bytes(address),
        })
    }

    /// The item to select first, if any.
    pub(super) fn select(&self) -> Option<u16> {
        let [high, low, ..] = self.control.to_be_bytes();
        (self.control & SELECT != 0).then_some(u16::from_be_bytes([high, low]))
    }

    pub(super) fn operation(&self) -> Operation {
        // Read wins over write, write over skip.
        if self.control & READ != 0 {
            Operation::Read
        } else if self.control & WRITE != 0 {
            Operation::Write
        } else if self.control & SKIP != 0 {
            Operation::Skip
        } else {
            Operation::Nothing
        }
    }

    /// Tells the guest that the request is done: control reads zero, or the error bit alone.
    pub(super) fn finish(&self, memory: &dyn DmaMemory, good: bool) {
        let control = if good { 0 } else { ERROR };
        // The structure was in RAM when it was read; if it no longer is, nobody can be told.
        let _ = memory.write(self.at, &control.to_be_bytes());
    }
}
