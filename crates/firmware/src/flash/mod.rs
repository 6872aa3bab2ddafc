//! The flash firmware lives in: a NOR chip with the Intel command set, 8 bits wide (CFI: JEDEC
//! JESD68.01, JEP137; commands: Intel 28F640J3 datasheet), as stock OVMF drives it.
//!
//! While the chip is in read-array mode its content is plain memory: the machine maps the store
//! read-only into the guest and only writes arrive here. After every write ask
//! [`Flash::is_read_array`]; in any other mode reads must come here too.

mod query;
mod store;

pub use store::{FileStore, FlashStore};

use chipset::{Device, MemoryDevice, SaveRestore, Saved, StateError};
use serde::{Deserialize, Serialize};
use std::io;

/// Erase granularity. OVMF's variable store is laid out for 4 KiB blocks.
const BLOCK: u64 = 4096;
/// Size of the write buffer in bytes; CFI tells it as a power of two.
const BUFFER: usize = 64;
const BUFFER_POWER: u8 = 6;
const _: () = assert!(1 << BUFFER_POWER == BUFFER);

/// Commands (28F640J3 table 16).
mod command {
    pub(super) const READ_ARRAY: u8 = 0xff;
    /// AMD's reset, which drivers also send to Intel chips.
    pub(super) const READ_ARRAY_AMD: u8 = 0xf0;
    pub(super) const PROGRAM: [u8; 2] = [0x10, 0x40];
    pub(super) const ERASE: u8 = 0x20;
    pub(super) const CLEAR_STATUS: u8 = 0x50;
    pub(super) const LOCK: u8 = 0x60;
    pub(super) const READ_STATUS: u8 = 0x70;
    pub(super) const IDENTIFY: u8 = 0x90;
    pub(super) const QUERY: u8 = 0x98;
    pub(super) const BUFFER: u8 = 0xe8;
    pub(super) const CONFIRM: u8 = 0xd0;
}

// Status register (28F640J3 table 18).
const READY: u8 = 1 << 7;
const ERASE_ERROR: u8 = 1 << 5;
const PROGRAM_ERROR: u8 = 1 << 4;

/// What a read answers with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Mode {
    #[default]
    Array,
    Status,
    Identify,
    Query,
}

/// What the next write means.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Next {
    #[default]
    Command,
    ProgramData,
    EraseConfirm,
    LockConfirm,
    BufferCount,
    /// Bytes of the write buffer still to come, and those that came with their addresses.
    BufferData {
        left: usize,
        bytes: Vec<(u64, u8)>,
    },
    BufferConfirm {
        bytes: Vec<(u64, u8)>,
    },
}

/// The chip's registers; its content is the store's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlashRegisters {
    mode: Mode,
    next: Next,
    status: u8,
}

/// A flash chip.
pub struct Flash<S> {
    name: &'static str,
    store: S,
    registers: FlashRegisters,
    unsynced: bool,
    failure: Option<io::Error>,
}

impl<S: FlashStore> Flash<S> {
    /// A chip whose content is `store`.
    #[must_use]
    pub fn new(name: &'static str, store: S) -> Self {
        Self { name, store, registers: FlashRegisters::default(), unsynced: false, failure: None }
    }

    /// True while reads give the content, so that the store may be mapped into the guest.
    #[must_use]
    pub fn is_read_array(&self) -> bool {
        self.registers.mode == Mode::Array
    }

    /// Size of the chip in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.store.size()
    }

    /// The latest failure of the store since the last call, for the log. The guest has seen an
    /// error in the status register.
    pub fn take_failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }

    /// Makes all writes durable; also done whenever the guest returns to read-array mode.
    ///
    /// # Errors
    /// The store failed; what was written may be lost with the host's power.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.unsynced {
            self.store.sync()?;
            self.unsynced = false;
        }
        Ok(())
    }

    fn note(&mut self, result: io::Result<()>, error_bit: u8) {
        self.registers.status |= READY;
        if let Err(error) = result {
            self.registers.status |= error_bit;
            self.failure = Some(error);
        }
    }

    fn read_array(&mut self) {
        self.registers.mode = Mode::Array;
        self.registers.next = Next::Command;
        let result = self.flush();
        self.note(result, PROGRAM_ERROR);
    }

    /// Programming a NOR cell can only clear bits.
    fn program(&mut self, at: u64, byte: u8) -> io::Result<()> {
        let mut old = [0];
        self.store.read(at, &mut old)?;
        let new = old[0] & byte;
        if new != old[0] {
            self.store.write(at, &[new])?;
            self.unsynced = true;
        }
        Ok(())
    }

    fn program_all(&mut self, bytes: &[(u64, u8)]) {
        let result = bytes.iter().try_for_each(|(at, byte)| self.program(*at, *byte));
        self.note(result, PROGRAM_ERROR);
    }

    fn erase(&mut self, at: u64) {
        let result = self.store.write(at & !(BLOCK - 1), &[0xff; 4096]);
        self.unsynced = true;
        self.note(result, ERASE_ERROR);
    }

    fn command(&mut self, byte: u8) {
        let registers = &mut self.registers;
        match byte {
            command::READ_ARRAY | command::READ_ARRAY_AMD => self.read_array(),
            command::CLEAR_STATUS => {
                self.read_array();
                // A chip would keep READY set. OVMF tells flash from ROM and RAM by reading zero
                // after this command and READ_STATUS, as QEMU's chip answers.
                self.registers.status = 0;
            }
            command::IDENTIFY => registers.mode = Mode::Identify,
            command::QUERY => registers.mode = Mode::Query,
            command::READ_STATUS => registers.mode = Mode::Status,
            _ => {
                registers.mode = Mode::Status;
                registers.next = match byte {
                    byte if command::PROGRAM.contains(&byte) => Next::ProgramData,
                    command::ERASE => Next::EraseConfirm,
                    command::LOCK => Next::LockConfirm,
                    command::BUFFER => {
                        registers.status |= READY;
                        Next::BufferCount
                    }
                    // An unknown command: a chip stays in the array.
                    _ => {
                        registers.mode = Mode::Array;
                        Next::Command
                    }
                };
            }
        }
    }

    /// A sequence the guest broke off or got wrong: both error bits (28F640J3 table 18, "command
    /// sequence error").
    fn sequence_error(&mut self, byte: u8) {
        if byte == command::READ_ARRAY {
            self.read_array();
        } else {
            self.registers.status |= READY | ERASE_ERROR | PROGRAM_ERROR;
        }
    }

    fn write_cycle(&mut self, at: u64, data: &[u8]) {
        // Commands come on the low eight data lines.
        let Some(byte) = data.first().copied() else {
            return;
        };
        let addressed = || (at..).zip(data.iter().copied());
        match std::mem::take(&mut self.registers.next) {
            Next::Command => self.command(byte),
            Next::ProgramData => self.program_all(&addressed().collect::<Vec<_>>()),
            Next::EraseConfirm if byte == command::CONFIRM => self.erase(at),
            Next::LockConfirm if byte == command::CONFIRM || byte == 1 => {
                // Blocks have no locks: unlocked is what they are, locking is not remembered.
                self.registers.status |= READY;
            }
            Next::EraseConfirm | Next::LockConfirm => self.sequence_error(byte),
            Next::BufferCount => {
                let left = usize::from(byte) + 1;
                if left > BUFFER {
                    self.sequence_error(byte);
                } else {
                    self.registers.next = Next::BufferData { left, bytes: Vec::new() };
                }
            }
            Next::BufferData { mut left, mut bytes } => {
                for entry in addressed().take(left) {
                    bytes.push(entry);
                    left -= 1;
                }
                self.registers.next = if left == 0 {
                    Next::BufferConfirm { bytes }
                } else {
                    Next::BufferData { left, bytes }
                };
            }
            Next::BufferConfirm { bytes } => {
                let same_block = bytes.iter().all(|(at, _)| at / BLOCK == bytes[0].0 / BLOCK);
                if byte == command::CONFIRM && same_block {
                    self.program_all(&bytes);
                } else {
                    self.sequence_error(byte);
                }
            }
        }
    }
}

impl<S: FlashStore> Device for Flash<S> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn reset(&mut self) {
        self.read_array();
        self.registers = FlashRegisters::default();
    }

    fn memory(&mut self) -> Option<&mut dyn MemoryDevice> {
        Some(self)
    }
}

impl<S: FlashStore> MemoryDevice for Flash<S> {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        let size = self.store.size();
        let inside = offset.checked_add(data.len() as u64).is_some_and(|end| end <= size);
        match self.registers.mode {
            _ if !inside => {}
            Mode::Array => {
                if let Err(error) = self.store.read(offset, data) {
                    data.fill(0xff);
                    self.failure = Some(error);
                }
            }
            Mode::Status => data.fill(self.registers.status),
            Mode::Identify => {
                for (byte, at) in data.iter_mut().zip(offset..) {
                    *byte = query::identity(at % BLOCK);
                }
            }
            Mode::Query => {
                for (byte, at) in data.iter_mut().zip(offset..) {
                    *byte = query::query(at % BLOCK, size);
                }
            }
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let size = self.store.size();
        if offset.checked_add(data.len() as u64).is_some_and(|end| end <= size) {
            self.write_cycle(offset, data);
        }
    }
}

impl<S: FlashStore> SaveRestore for Flash<S> {
    type Registers = FlashRegisters;
    const VERSION: u16 = 1;

    fn save(&self) -> Saved<FlashRegisters> {
        Saved { version: Self::VERSION, registers: self.registers.clone() }
    }

    fn restore(&mut self, saved: Saved<FlashRegisters>) -> Result<(), StateError> {
        let device = self.name;
        if saved.version != Self::VERSION {
            let known = Self::VERSION;
            return Err(StateError::Version { device, found: saved.version, known });
        }
        let size = self.store.size();
        let possible = match &saved.registers.next {
            Next::BufferData { left, bytes } => {
                (1..=BUFFER - bytes.len().min(BUFFER)).contains(left) && in_chip(bytes, size)
            }
            Next::BufferConfirm { bytes } => {
                (1..=BUFFER).contains(&bytes.len()) && in_chip(bytes, size)
            }
            _ => true,
        };
        if !possible {
            return Err(StateError::Field {
                device,
                field: "write buffer",
                value: format!("{:?}", saved.registers.next),
                allowed: "at most 64 bytes, all inside the chip",
            });
        }
        self.registers = saved.registers;
        Ok(())
    }
}

fn in_chip(bytes: &[(u64, u8)], size: u64) -> bool {
    bytes.iter().all(|(at, _)| *at < size)
}

#[cfg(test)]
mod tests;
