//! The processor's own registers and ports behind safe types: what the rest of the core calls instead
//! of writing assembly. Called by everything that touches hardware; knows no policy.
//!
//! `unsafe` here: port I/O, MSRs, control registers, descriptor tables.

pub mod control;
pub mod descriptors;
pub mod exceptions;
pub mod msr;
pub mod physical_apic;
pub mod port;
pub mod suspension;
