//! Registers: reads and writes.

use units::Tsc;

use super::{
    Delivery, Destination, FIRST_LEGAL_VECTOR, LVT_ENTRIES, LVT_MASKED, LocalApic, Message, Mode,
    TIMER, timer,
};

/// MSRs of x2APIC mode start here (SDM 3A 11.12.1.2).
pub const FIRST_MSR: u32 = 0x800;
/// And end here.
pub const LAST_MSR: u32 = 0x8ff;

// Registers by number: bits 11:4 of their offset in the page, or their MSR less `FIRST_MSR` (SDM 3A
// tables 11-1 and 11-6).
const ID: u32 = 0x02;
const VERSION: u32 = 0x03;
const TASK_PRIORITY: u32 = 0x08;
const PROCESSOR_PRIORITY: u32 = 0x0a;
const END_OF_INTERRUPT: u32 = 0x0b;
const LOGICAL_DESTINATION: u32 = 0x0d;
/// xAPIC only.
const DESTINATION_FORMAT: u32 = 0x0e;
const SPURIOUS: u32 = 0x0f;
// Eight of each.
const IN_SERVICE: u32 = 0x10;
const TRIGGER_MODE: u32 = 0x18;
const REQUEST: u32 = 0x20;
const ERROR_STATUS: u32 = 0x28;
/// All 64 bits in x2APIC mode.
const COMMAND: u32 = 0x30;
/// xAPIC only.
const COMMAND_HIGH: u32 = 0x31;
const LVT: u32 = 0x32;
const INITIAL_COUNT: u32 = 0x38;
const CURRENT_COUNT: u32 = 0x39;
const DIVIDE: u32 = 0x3e;
/// x2APIC only.
const SELF_IPI: u32 = 0x3f;

/// What the version register reads: version 0x14, the last LVT entry's number in bits 23:16
/// (SDM 3A 11.4.8). Suppression of EOI broadcasts (bit 24) is not offered.
const VERSION_0X14: u32 = 0x14 | (LVT_ENTRIES as u32 - 1) << 16;
/// Bits that can be written in each LVT entry (SDM 3A 11.5.1, figure 11-8): vector, mask, and delivery
/// mode, polarity, trigger mode or timer mode.
pub(super) const LVT_WRITABLE: [u32; LVT_ENTRIES] =
    [0x1_00ff | timer::MODE, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];
/// Delivery status and remote IRR: only read.
const LVT_READ_ONLY: u32 = 1 << 12 | 1 << 14;
/// Spurious vector register: enabled by software (SDM 3A 11.9, figure 11-23).
pub(super) const SVR_ENABLE: u32 = 1 << 8;
/// Vector, enable, focus checking. The last has no effect.
pub(super) const SVR_BITS: u32 = 0x3ff;
/// Destination format register: the flat model, and the bits that read as one (SDM 3A 11.6.2.2).
pub(super) const DFR_FLAT: u32 = u32::MAX;
/// The model. Every one but flat is taken as clusters.
const DFR_MODEL: u32 = 0xf << 28;
/// Divide configuration: bits 3, 1 and 0 (SDM 3A 11.5.4, figure 11-10).
pub(super) const DIVIDE_BITS: u32 = 0b1011;
/// Bits of the command that must be zero in x2APIC mode (SDM 3A 11.12.9, figure 11-28). Bit 12, the
/// delivery status of old, processors let pass.
pub(super) const COMMAND_RESERVED: u64 = 0xfff3_2000;
/// Bits of the command that are kept.
const COMMAND_BITS: u32 = 0x000c_cfff;

/// Bits of the error status register (SDM 3A 11.5.3, figure 11-9).
pub(super) mod error {
    pub(in crate::apic) const SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
    pub(in crate::apic) const RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;
    pub(in crate::apic) const ILLEGAL_REGISTER: u32 = 1 << 7;
}

/// The access is a general-protection fault, error code 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneralProtection;

/// What else a write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a message would be lost"]
pub enum Effect {
    /// Nothing that concerns others.
    None,
    /// Sends a message; the caller routes it.
    Send(Message),
    /// Ends a level-triggered interrupt with this vector: its I/O APIC wants to know.
    EndOfInterrupt(u8),
}

impl LocalApic {
    /// Reads up to four bytes at `offset` of the page, as the low bytes of what comes back. Outside
    /// xAPIC mode the page is not there and reads as ones.
    pub fn read_page(&mut self, offset: u32, now: Tsc) -> u32 {
        if self.mode() != Mode::XApic {
            return u32::MAX;
        }
        // Registers are 16 bytes apart and 4 wide; parts of one can be read (SDM 3A 11.4.1 leaves it
        // open, software does it).
        match self.read(offset >> 4, now) {
            Some(value) if offset & 0xc == 0 => value as u32 >> (offset % 4 * 8),
            _ => {
                self.report(error::ILLEGAL_REGISTER);
                0
            }
        }
    }

    /// Writes four bytes at `offset` of the page.
    pub fn write_page(&mut self, offset: u32, value: u32, now: Tsc) -> Effect {
        if self.mode() != Mode::XApic {
            return Effect::None;
        }
        let effect = match offset & 0xf {
            0 => self.write(offset >> 4, value, now),
            _ => None,
        };
        effect.unwrap_or_else(|| {
            self.report(error::ILLEGAL_REGISTER);
            Effect::None
        })
    }

    /// RDMSR of an MSR from [`FIRST_MSR`] to [`LAST_MSR`].
    ///
    /// # Errors
    /// Not in x2APIC mode, no such register, or one that can only be written.
    pub fn read_msr(&self, msr: u32, now: Tsc) -> Result<u64, GeneralProtection> {
        let value = match self.mode() {
            Mode::X2Apic => self.read(msr.wrapping_sub(FIRST_MSR), now),
            _ => None,
        };
        value.ok_or(GeneralProtection)
    }

    /// WRMSR of such an MSR.
    ///
    /// # Errors
    /// Not in x2APIC mode, no such register, one that can only be read, or a reserved bit
    /// (SDM 3A 11.12.1.3).
    #[inline]
    pub fn write_msr(
        &mut self,
        msr: u32,
        value: u64,
        now: Tsc,
    ) -> Result<Effect, GeneralProtection> {
        let number = msr.wrapping_sub(FIRST_MSR);
        if self.mode() != Mode::X2Apic
            || reserved(number).is_none_or(|reserved| value & reserved != 0)
        {
            return Err(GeneralProtection);
        }
        match number {
            SELF_IPI => Ok(self.send_to_itself(value as u8)),
            COMMAND => {
                self.command = value & !u64::from(u32::MAX);
                Ok(self.send(value as u32))
            }
            _ => self.write(number, value as u32, now).ok_or(GeneralProtection),
        }
    }

    /// The register's value, if there is one in this mode that can be read.
    fn read(&self, number: u32, now: Tsc) -> Option<u64> {
        let x2apic = self.mode() == Mode::X2Apic;
        Some(u64::from(match number {
            ID if x2apic => self.config.id,
            ID => self.config.id << 24,
            VERSION => VERSION_0X14,
            TASK_PRIORITY => u32::from(self.task_priority),
            PROCESSOR_PRIORITY => u32::from(self.priority()),
            LOGICAL_DESTINATION => self.logical_id(),
            SPURIOUS => self.spurious,
            IN_SERVICE..TRIGGER_MODE => self.in_service.register(number),
            TRIGGER_MODE..REQUEST => self.level.register(number),
            REQUEST..ERROR_STATUS => self.requested.register(number),
            ERROR_STATUS => self.error_status,
            COMMAND if x2apic => return Some(self.command),
            COMMAND => self.command as u32,
            LVT..INITIAL_COUNT => self.lvt[(number - LVT) as usize],
            INITIAL_COUNT => self.initial_count,
            CURRENT_COUNT => self.current_count(now),
            DIVIDE => self.divide,
            DESTINATION_FORMAT if !x2apic => self.destination_format,
            COMMAND_HIGH if !x2apic => (self.command >> 32) as u32,
            END_OF_INTERRUPT if !x2apic => 0,
            _ => return None,
        }))
    }

    /// A write that both modes share. Registers that can only be read ignore it; `None` where there is
    /// none.
    fn write(&mut self, number: u32, value: u32, now: Tsc) -> Option<Effect> {
        match number {
            END_OF_INTERRUPT => return Some(self.end_of_interrupt()),
            COMMAND => return Some(self.send(value)),
            TASK_PRIORITY => self.task_priority = value as u8,
            LOGICAL_DESTINATION => self.logical_destination = value & 0xff00_0000,
            DESTINATION_FORMAT => self.destination_format = value | !DFR_MODEL,
            SPURIOUS => self.set_spurious(value & SVR_BITS, now),
            ERROR_STATUS => {
                // A write shows what came since the last one (SDM 3A 11.5.3).
                self.error_status = self.errors;
                self.errors = 0;
            }
            COMMAND_HIGH => {
                let low = self.command & u64::from(u32::MAX);
                self.command = u64::from(value & 0xff00_0000) << 32 | low;
            }
            LVT..INITIAL_COUNT => self.set_lvt((number - LVT) as usize, value, now),
            INITIAL_COUNT => self.set_initial_count(value, now),
            DIVIDE => self.set_divide(value & DIVIDE_BITS, now),
            ID | VERSION | PROCESSOR_PRIORITY | IN_SERVICE..ERROR_STATUS | CURRENT_COUNT => {}
            _ => return None,
        }
        Some(Effect::None)
    }

    /// The interrupt in service with the highest priority is done (SDM 3A 11.8.5).
    #[inline]
    pub(super) fn end_of_interrupt(&mut self) -> Effect {
        let Some(vector) = self.in_service.highest() else { return Effect::None };
        self.in_service.remove(vector);
        if self.level.contains(vector) { Effect::EndOfInterrupt(vector) } else { Effect::None }
    }

    /// Software-disabled, all LVT entries are masked and stay so (SDM 3A 11.4.7.2).
    fn set_spurious(&mut self, value: u32, now: Tsc) {
        self.advance(now);
        self.spurious = value;
        if !self.is_software_enabled() {
            self.lvt = self.lvt.map(|entry| entry | LVT_MASKED);
        }
    }

    fn set_lvt(&mut self, entry: usize, value: u32, now: Tsc) {
        let masked = if self.is_software_enabled() { 0 } else { LVT_MASKED };
        let value = value & LVT_WRITABLE[entry] | masked;
        if entry == TIMER {
            self.prepare_timer(value, now);
        }
        self.lvt[entry] = value;
    }

    fn send_to_itself(&mut self, vector: u8) -> Effect {
        if vector < FIRST_LEGAL_VECTOR {
            self.report(error::SEND_ILLEGAL_VECTOR);
        } else if self.is_software_enabled() {
            self.request(vector);
        }
        Effect::None
    }

    /// A write of the command's lower half: it sends.
    fn send(&mut self, low: u32) -> Effect {
        let high = (self.command >> 32) as u32;
        self.command = u64::from(high) << 32 | u64::from(low & COMMAND_BITS);
        let x2apic = self.mode() == Mode::X2Apic;
        let destination = if x2apic { high } else { high >> 24 };
        let Some(message) = Message::of_command(low, destination, x2apic) else {
            return Effect::None;
        };
        let has_vector = matches!(message.delivery, Delivery::Fixed | Delivery::LowestPriority);
        if has_vector && message.vector < FIRST_LEGAL_VECTOR {
            self.report(error::SEND_ILLEGAL_VECTOR);
            return Effect::None;
        }
        match message.destination {
            Destination::Itself => self.send_to_itself(message.vector),
            _ => Effect::Send(message),
        }
    }
}

/// Bits that must be zero in a WRMSR; `None` for registers that can only be read, or are not there.
const fn reserved(number: u32) -> Option<u64> {
    const UPPER: u64 = !(u32::MAX as u64);
    Some(match number {
        COMMAND => COMMAND_RESERVED,
        TASK_PRIORITY | SELF_IPI => !0xff,
        SPURIOUS => !(SVR_BITS as u64),
        LVT..INITIAL_COUNT => {
            !(LVT_WRITABLE[(number - LVT) as usize] | LVT_READ_ONLY) as u64 | UPPER
        }
        INITIAL_COUNT => UPPER,
        DIVIDE => !(DIVIDE_BITS as u64),
        // Only zero may be written (SDM 3A 11.12.1.2, table 11-6).
        ERROR_STATUS | END_OF_INTERRUPT => u64::MAX,
        _ => return None,
    })
}
