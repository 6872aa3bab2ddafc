//! The I/O APIC (Intel 82093AA data sheet, order 290566; EOI register and version of ICH9 13.5):
//! 24 pins that become MSI messages to the local APICs.
//!
//! Deviations: lines carry "asserted", so the polarity bit is stored and not used; a pin in ExtINT
//! mode sends nothing, because the 8259 output reaches the bootstrap processor directly.

use crate::device::{Device, MemoryDevice};
use crate::state::{SaveRestore, Saved, StateError, check_field, check_version};
use alloc::sync::Arc;
use serde::{Deserialize, Serialize};

/// Pins of the I/O APIC.
pub const IOAPIC_PINS: usize = 24;
/// Guest-physical address of its registers on a PC.
pub const IOAPIC_BASE: u64 = 0xfec0_0000;
/// Bytes its registers take up.
pub const IOAPIC_SIZE: u64 = 0x1000;

// Offsets in its window (82093AA 3.1, ICH9 13.5.1).
const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
const END_OF_INTERRUPT: u64 = 0x40;

// Indirect registers (82093AA 3.2).
const REGISTER_ID: u8 = 0x00;
const REGISTER_VERSION: u8 = 0x01;
const REGISTER_ARBITRATION: u8 = 0x02;
const REGISTER_ENTRIES: u8 = 0x10;
/// Version 0x20 (with an EOI register) and the number of the last entry.
const VERSION: u32 = (IOAPIC_PINS as u32 - 1) << 16 | 0x20;

// Redirection entry (82093AA 3.2.4).
const ENTRY_DELIVERY_SHIFT: u32 = 8;
const ENTRY_LOGICAL: u64 = 1 << 11;
const ENTRY_DELIVERY_STATUS: u64 = 1 << 12;
const ENTRY_REMOTE_IRR: u64 = 1 << 14;
const ENTRY_LEVEL: u64 = 1 << 15;
const ENTRY_MASKED: u64 = 1 << 16;
const ENTRY_WRITABLE: u64 = 0xff00_0000_0001_afff;
const ENTRY_READ_ONLY: u64 = ENTRY_DELIVERY_STATUS | ENTRY_REMOTE_IRR;

// MSI address and data (SDM 3A 11.11).
const MSI_ADDRESS: u64 = 0xfee0_0000;
const MSI_ADDRESS_LOGICAL: u64 = 1 << 2;
const MSI_DATA_ASSERT: u32 = 1 << 14;
const MSI_DATA_LEVEL: u32 = 1 << 15;

/// The lowest vector a local APIC accepts (SDM 3A 11.5.2).
const FIRST_VECTOR: u8 = 16;

/// What each pin would send: MSI address and data, `None` for a pin that sends nothing.
pub type PinRoutes = [Option<(u64, u32)>; IOAPIC_PINS];

/// Where the I/O APIC's messages go. Called under the I/O APIC's lock.
pub trait IoApicSink: Send + Sync {
    /// Delivers one message to the local APICs.
    fn deliver(&self, address: u64, data: u32);

    /// The guest changed what some pin sends. An engine that reports ends of interrupts needs to
    /// know (split irqchip); then [`IoApic::end_of_interrupt`] must follow each such end.
    fn routes_changed(&self, routes: &PinRoutes);
}

/// One redirection table entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry(u64);

impl Entry {
    const fn vector(self) -> u8 {
        self.0 as u8
    }

    const fn delivery_mode(self) -> u32 {
        (self.0 >> ENTRY_DELIVERY_SHIFT & 7) as u32
    }

    const fn has(self, bit: u64) -> bool {
        self.0 & bit != 0
    }

    /// Only fixed and lowest-priority interrupts can be level-triggered (82093AA 3.2.4, bits 10:8).
    const fn is_level(self) -> bool {
        self.has(ENTRY_LEVEL) && self.delivery_mode() <= 1
    }

    /// The message of this entry, masked or not.
    fn message(self) -> Option<(u64, u32)> {
        match self.delivery_mode() {
            0 | 1 if self.vector() >= FIRST_VECTOR => {}
            // SMI, NMI, INIT.
            2 | 4 | 5 => {}
            _ => return None,
        }
        let destination = self.0 >> 56;
        let mut address = MSI_ADDRESS | destination << 12;
        if self.has(ENTRY_LOGICAL) {
            address |= MSI_ADDRESS_LOGICAL;
        }
        let mut data = u32::from(self.vector()) | self.delivery_mode() << ENTRY_DELIVERY_SHIFT;
        if self.is_level() {
            data |= MSI_DATA_LEVEL | MSI_DATA_ASSERT;
        }
        Some((address, data))
    }

    fn route(self) -> Option<(u64, u32)> {
        if self.has(ENTRY_MASKED) { None } else { self.message() }
    }
}

/// Saved registers of an [`IoApic`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoApicRegisters {
    id: u8,
    selected: u8,
    /// One bit per pin: asserted.
    lines: u32,
    entries: [Entry; IOAPIC_PINS],
}

impl IoApicRegisters {
    const fn new() -> Self {
        // Masked after power-on (82093AA 3.2.4, bit 16).
        Self { id: 0, selected: 0, lines: 0, entries: [Entry(ENTRY_MASKED); IOAPIC_PINS] }
    }
}

/// The I/O APIC.
pub struct IoApic {
    registers: IoApicRegisters,
    sink: Arc<dyn IoApicSink>,
}

impl IoApic {
    /// An I/O APIC with all pins masked.
    #[must_use]
    pub fn new(sink: Arc<dyn IoApicSink>) -> Self {
        Self { registers: IoApicRegisters::new(), sink }
    }

    /// What each pin would send now.
    #[must_use]
    pub fn routes(&self) -> PinRoutes {
        self.registers.entries.map(Entry::route)
    }

    /// Drives pin `pin`, 0 to 23.
    pub fn set_pin(&mut self, pin: u8, high: bool) {
        let Some(entry) = self.registers.entries.get(usize::from(pin)).copied() else {
            return;
        };
        let bit = 1u32 << pin;
        let rises = high && self.registers.lines & bit == 0;
        if high {
            self.registers.lines |= bit;
        } else {
            self.registers.lines &= !bit;
        }
        if entry.is_level() {
            self.serve_level(usize::from(pin));
        } else if let (true, Some((address, data))) = (rises, entry.route()) {
            // An edge on a masked pin is not remembered (82093AA 3.2.4, bit 16).
            self.sink.deliver(address, data);
        }
    }

    /// A local APIC ended the level-triggered interrupt `vector`: pins whose lines are still
    /// asserted interrupt again.
    pub fn end_of_interrupt(&mut self, vector: u8) {
        for pin in 0..IOAPIC_PINS {
            let entry = &mut self.registers.entries[pin];
            if entry.vector() == vector && entry.is_level() && entry.has(ENTRY_REMOTE_IRR) {
                entry.0 &= !ENTRY_REMOTE_IRR;
                self.serve_level(pin);
            }
        }
    }

    /// Sends the interrupt of a level-triggered pin unless one is under way.
    fn serve_level(&mut self, pin: usize) {
        let entry = &mut self.registers.entries[pin];
        if self.registers.lines & 1 << pin == 0 || entry.has(ENTRY_REMOTE_IRR) {
            return;
        }
        if let Some((address, data)) = entry.route() {
            entry.0 |= ENTRY_REMOTE_IRR;
            self.sink.deliver(address, data);
        }
    }

    fn read_register(&self, index: u8) -> u32 {
        match index {
            // The arbitration id follows the id (82093AA 3.2.3).
            REGISTER_ID | REGISTER_ARBITRATION => u32::from(self.registers.id) << 24,
            REGISTER_VERSION => VERSION,
            _ => {
                let offset = index.wrapping_sub(REGISTER_ENTRIES);
                match self.registers.entries.get(usize::from(offset / 2)) {
                    Some(entry) if offset & 1 == 0 => entry.0 as u32,
                    Some(entry) => (entry.0 >> 32) as u32,
                    None => u32::MAX,
                }
            }
        }
    }

    fn write_register(&mut self, index: u8, value: u32) {
        if index == REGISTER_ID {
            self.registers.id = (value >> 24 & 0x0f) as u8;
            return;
        }
        let offset = index.wrapping_sub(REGISTER_ENTRIES);
        let pin = usize::from(offset / 2);
        let Some(entry) = self.registers.entries.get_mut(pin) else {
            return;
        };
        let before = entry.0;
        let written = if offset & 1 == 0 {
            before & 0xffff_ffff_0000_0000 | u64::from(value)
        } else {
            before & 0x0000_0000_ffff_ffff | u64::from(value) << 32
        };
        entry.0 = written & ENTRY_WRITABLE | before & ENTRY_READ_ONLY;
        if !entry.is_level() {
            // Switching to edge forgets the interrupt under way; Linux ends interrupts that way on
            // an I/O APIC without EOI register.
            entry.0 &= !ENTRY_REMOTE_IRR;
        }
        let (changed, level) = (Entry(before).route() != entry.route(), entry.is_level());
        if changed {
            self.sink.routes_changed(&self.routes());
        }
        if level {
            self.serve_level(pin);
        }
    }
}

impl Device for IoApic {
    fn name(&self) -> &'static str {
        "ioapic"
    }

    fn reset(&mut self) {
        let lines = self.registers.lines;
        self.registers = IoApicRegisters { lines, ..IoApicRegisters::new() };
        self.sink.routes_changed(&self.routes());
    }

    fn memory(&mut self) -> Option<&mut dyn MemoryDevice> {
        Some(self)
    }
}

impl MemoryDevice for IoApic {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let value = match offset & !3 {
            SELECT => u32::from(self.registers.selected),
            WINDOW => self.read_register(self.registers.selected),
            _ => 0,
        };
        let bytes = u64::from(value).to_le_bytes();
        let from = (offset & 3) as usize;
        for (at, byte) in data.iter_mut().enumerate() {
            *byte = bytes.get(from + at).copied().unwrap_or(0);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let mut bytes = [0; 4];
        for (to, from) in bytes.iter_mut().zip(data) {
            *to = *from;
        }
        let value = u32::from_le_bytes(bytes);
        match offset {
            SELECT => self.registers.selected = bytes[0],
            WINDOW => self.write_register(self.registers.selected, value),
            END_OF_INTERRUPT => self.end_of_interrupt(bytes[0]),
            _ => {}
        }
    }
}

impl SaveRestore for IoApic {
    type Registers = IoApicRegisters;
    const VERSION: u16 = 1;

    fn save(&self) -> Saved<IoApicRegisters> {
        Saved { version: <Self as SaveRestore>::VERSION, registers: self.registers.clone() }
    }

    fn restore(&mut self, saved: Saved<IoApicRegisters>) -> Result<(), StateError> {
        check_version("ioapic", &saved, <Self as SaveRestore>::VERSION)?;
        check_field(
            saved.registers.lines >> IOAPIC_PINS == 0,
            "ioapic",
            "lines",
            saved.registers.lines,
            "24 bits",
        )?;
        for entry in saved.registers.entries {
            check_field(
                entry.0 & !(ENTRY_WRITABLE | ENTRY_READ_ONLY) == 0,
                "ioapic",
                "entry",
                entry.0,
                "bits of a redirection entry",
            )?;
        }
        self.registers = saved.registers;
        self.sink.routes_changed(&self.routes());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
