//! A virtual local APIC, as xAPIC and as x2APIC (SDM 3A 11; APM 2 16).
//!
//! Pure: time comes in as a number, and what leaves comes back as a value. The caller
//! - routes [`Message`]s: to every APIC whose [`Reach`] matches, which gets them by [`LocalApic::accept`];
//! - calls [`LocalApic::advance`] before it enters the guest and arms [`LocalApic::next_deadline`];
//! - injects [`LocalApic::highest_pending`] when the guest can take it, by [`LocalApic::acknowledge`].
//!
//! All times are the guest's time-stamp counter. `access` has register reads and writes, `timer` the
//! timer, `message` what APICs send each other.

mod access;
mod message;
mod reach;
#[cfg(test)]
mod tests;
mod timer;
mod vectors;

use units::GuestPhysical;

use crate::registers::{APIC_BASE_BOOTSTRAP, APIC_BASE_ENABLE, APIC_BASE_X2APIC};
use crate::validate;

pub use access::{Effect, FIRST_MSR, GeneralProtection, LAST_MSR};
pub use message::{Delivery, Destination, Message};
pub use reach::Reach;
pub use vectors::VectorSet;

use access::{DFR_FLAT, SVR_ENABLE, error};

/// Where the register window lies after reset (SDM 3A 11.4.1).
const DEFAULT_BASE: u64 = 0xfee0_0000;
/// Vectors below are illegal (SDM 3A 11.5.2).
pub const FIRST_LEGAL_VECTOR: u8 = 16;

/// Entries of the local vector table, by number: timer, thermal sensor, performance counters, pins
/// LINT0 and LINT1, errors of the APIC itself.
const LVT_ENTRIES: usize = 6;
const TIMER: usize = 0;
const LINT0: usize = 3;
const ERROR: usize = 5;
/// An entry is masked (SDM 3A 11.5.1, figure 11-8).
const LVT_MASKED: u32 = 1 << 16;

/// What an APIC is made of; never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The x2APIC id; its low byte is the xAPIC id.
    pub id: u32,
    /// This is the bootstrap processor's. It comes up as firmware leaves it: LINT0 takes the external
    /// interrupts of an 8259 (virtual wire, SDM 3A 11.1).
    pub bootstrap: bool,
    /// The guest's physical address width (CPUID 8000_0008 EAX bits 7:0).
    pub physical_bits: u8,
    /// The shortest period of a periodic timer in ticks of the time-stamp counter. A guest that asks for
    /// less gets this: it could keep the processor in the core otherwise.
    pub shortest_period: u64,
}

/// How the registers are reached (SDM 3A 11.12.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Not at all: the APIC takes and sends nothing.
    Disabled,
    /// Through a page of memory.
    XApic,
    /// Through MSRs.
    X2Apic,
}

impl Mode {
    const fn of(base: u64) -> Self {
        match base & (APIC_BASE_ENABLE | APIC_BASE_X2APIC) {
            APIC_BASE_ENABLE => Self::XApic,
            0 | APIC_BASE_X2APIC => Self::Disabled,
            _ => Self::X2Apic,
        }
    }
}

/// A virtual local APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalApic {
    config: Config,
    /// Vectors that wait for the processor (IRR).
    requested: VectorSet,
    /// Vectors the processor is at (ISR).
    in_service: VectorSet,
    /// Of both, those that are level-triggered (TMR).
    level: VectorSet,
    /// When the timer is due, in the guest's time-stamp counter; 0 when it is not armed.
    deadline: u64,
    /// IA32_APIC_BASE.
    base: u64,
    /// The interrupt command, the destination in its upper half.
    command: u64,
    lvt: [u32; LVT_ENTRIES],
    /// The spurious vector register.
    spurious: u32,
    /// Errors since the last write of the error status.
    errors: u32,
    /// The error status as it reads.
    error_status: u32,
    /// Of xAPIC mode.
    logical_destination: u32,
    destination_format: u32,
    initial_count: u32,
    divide: u32,
    task_priority: u8,
}

impl LocalApic {
    /// An APIC after power-on (SDM 3A 11.4.7.1).
    pub const fn new(config: Config) -> Self {
        let bootstrap = if config.bootstrap { APIC_BASE_BOOTSTRAP } else { 0 };
        Self::after_reset(config, DEFAULT_BASE | APIC_BASE_ENABLE | bootstrap, config.bootstrap)
    }

    /// With `virtual_wire` LINT0 takes an 8259's interrupts.
    const fn after_reset(config: Config, base: u64, virtual_wire: bool) -> Self {
        const EXTERNAL: u32 = 7 << 8;
        let mut lvt = [LVT_MASKED; LVT_ENTRIES];
        if virtual_wire {
            lvt[LINT0] = EXTERNAL;
        }
        Self {
            config,
            requested: VectorSet::EMPTY,
            in_service: VectorSet::EMPTY,
            level: VectorSet::EMPTY,
            deadline: 0,
            base,
            command: 0,
            lvt,
            spurious: 0xff,
            errors: 0,
            error_status: 0,
            logical_destination: 0,
            destination_format: DFR_FLAT,
            initial_count: 0,
            divide: 0,
            task_priority: 0,
        }
    }

    /// What INIT does: power-on state, but mode and ids stay (SDM 3A 11.4.7.3, 11.12.5.1).
    pub const fn init(&mut self) {
        *self = Self::after_reset(self.config, self.base, self.config.bootstrap);
    }

    /// Its configuration.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// How its registers are reached now.
    #[inline]
    pub const fn mode(&self) -> Mode {
        Mode::of(self.base)
    }

    /// Where its page of registers lies, in the mode that has one.
    pub fn window(&self) -> Option<GuestPhysical> {
        (self.mode() == Mode::XApic).then_some(GuestPhysical(self.base & !0xfff))
    }

    /// IA32_APIC_BASE.
    pub const fn apic_base(&self) -> u64 {
        self.base
    }

    /// Sets IA32_APIC_BASE. The bootstrap flag cannot be changed.
    ///
    /// # Errors
    /// A reserved bit, or a change of mode that is not allowed (SDM 3A 11.12.5, figure 11-27).
    pub fn set_apic_base(&mut self, value: u64) -> Result<(), GeneralProtection> {
        let change = (self.mode(), Mode::of(value));
        let leaps = matches!(change, (Mode::Disabled, Mode::X2Apic) | (Mode::X2Apic, Mode::XApic));
        if leaps || !validate::apic_base(value, self.config.physical_bits) {
            return Err(GeneralProtection);
        }
        let base = value & !APIC_BASE_BOOTSTRAP | self.base & APIC_BASE_BOOTSTRAP;
        if base & APIC_BASE_ENABLE != 0 {
            self.base = base;
        } else {
            // Its state does not survive (SDM 3A 11.4.3).
            *self = Self::after_reset(self.config, base, false);
        }
        Ok(())
    }

    /// CR8, the task priority's class (SDM 3A 11.8.6).
    #[inline]
    pub const fn cr8(&self) -> u8 {
        self.task_priority >> 4
    }

    /// Sets CR8. The caller has checked that it is below 16.
    pub const fn set_cr8(&mut self, value: u8) {
        self.task_priority = value << 4;
    }

    /// Takes over CR8 from a processor that keeps it; the lower half of the task priority stays when
    /// CR8 is what it was.
    #[inline]
    pub const fn set_cr8_if_changed(&mut self, value: u8) {
        if self.cr8() != value {
            self.set_cr8(value);
        }
    }

    /// The processor priority (SDM 3A 11.8.3.1).
    fn priority(&self) -> u8 {
        let task = self.task_priority;
        let service = self.in_service.highest().unwrap_or(0);
        if task >> 4 >= service >> 4 { task } else { service & 0xf0 }
    }

    /// The vector the processor would take now, interrupts allowed (SDM 3A 11.8.4).
    pub fn highest_pending(&self) -> Option<u8> {
        let vector = self.requested.highest()?;
        (vector >> 4 > self.priority() >> 4).then_some(vector)
    }

    /// The processor takes [`Self::highest_pending`]: it is in service from now on.
    pub fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.highest_pending()?;
        self.requested.remove(vector);
        self.in_service.insert(vector);
        Some(vector)
    }

    /// Who this APIC is to others.
    pub const fn reach(&self) -> Reach {
        Reach {
            mode: self.mode(),
            id: self.config.id,
            logical: self.logical_id(),
            flat: self.destination_format == DFR_FLAT,
        }
    }

    /// Vectors that others have collected for this APIC, edge- and level-triggered, all at once. Vectors
    /// below 16 are left out. An APIC that is off is disabled by software, too.
    pub fn accept(&mut self, edges: VectorSet, levels: VectorSet) {
        if self.is_software_enabled() {
            let (edges, levels) = (edges.legal(), levels.legal());
            self.requested.insert_all(edges);
            self.requested.insert_all(levels);
            self.level.remove_all(edges);
            self.level.insert_all(levels);
        }
    }

    /// True when an external interrupt of an 8259 reaches the processor: through LINT0, or past a
    /// disabled APIC (SDM 3A 11.4.3, 11.5.1).
    pub const fn takes_external(&self) -> bool {
        let entry = self.lvt[LINT0];
        let external =
            entry & LVT_MASKED == 0 && matches!(Delivery::of_lvt(entry), Some(Delivery::External));
        external || matches!(self.mode(), Mode::Disabled)
    }

    const fn is_software_enabled(&self) -> bool {
        self.spurious & SVR_ENABLE != 0
    }

    /// An edge-triggered interrupt of this processor's own.
    const fn request(&mut self, vector: u8) {
        if vector < FIRST_LEGAL_VECTOR {
            self.report(error::RECEIVE_ILLEGAL_VECTOR);
        } else {
            self.requested.insert(vector);
            self.level.remove(vector);
        }
    }

    /// Notes an error; the first one since the last write of the error status raises the error
    /// interrupt (SDM 3A 11.5.3). An illegal vector of that comes back here once, as no first one.
    const fn report(&mut self, error: u32) {
        let first = self.errors == 0;
        self.errors |= error;
        let entry = self.lvt[ERROR];
        if first && entry & LVT_MASKED == 0 {
            self.request(entry as u8);
        }
    }

    /// The logical destination register (SDM 3A 11.6.2.2; 11.12.10.2 for x2APIC, where it follows from
    /// the id).
    const fn logical_id(&self) -> u32 {
        match self.mode() {
            Mode::X2Apic => (self.config.id >> 4) << 16 | 1 << (self.config.id & 0xf),
            Mode::Disabled | Mode::XApic => self.logical_destination,
        }
    }
}
