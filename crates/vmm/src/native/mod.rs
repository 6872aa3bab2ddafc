//! The native machine: our own devices and an [`engine::Engine`] for the processors.

pub mod bus;
mod clock;
pub mod cpuid;
mod gate;
pub mod memory;
mod timers;
