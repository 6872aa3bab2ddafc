//! The virtual processor as data: its registers in plain types, the same for every engine, and what
//! a guest sees in CPUID. Used by engines, by the loader (how a first processor starts), by the VMM
//! and by the bare-metal monitor. Runs nothing and touches no hardware.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod cpuid;
mod state;

pub use cpuid::{guest_cpuid, is_amd, physical_bits};
pub use state::{CpuidEntry, DescriptorTable, Msr, Registers, RunState, Segment, SystemRegisters};
