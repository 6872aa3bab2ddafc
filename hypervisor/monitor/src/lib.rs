//! The bare-metal monitor: the root program on a machine without a host system. The core starts it as
//! root; it reads a manifest from the boot archive, makes a partition for every guest in it, and runs
//! their vCPUs on all processors until all guests have ended. Everything it asks of the core goes
//! through the interface that `hypervisor-abi` describes; it can do nothing that another root cannot.
//!
//! Where to begin: [`start`] (what happens in which order), [`runner`] (the loop of each processor),
//! [`board`] (what a guest finds besides processors). `hardware` holds all that touches the machine
//! and exists on the bare-metal target only; the rest is tested on the host.
#![no_std]
#![deny(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod board;
pub mod calls;
pub mod clock;
pub mod console;
pub mod exits;
pub mod guest;
#[cfg(target_os = "none")]
pub mod hardware;
pub mod hvt;
pub mod manifest;
pub mod memory;
pub mod ram;
pub mod runner;
pub mod scheduler;
pub mod start;
pub mod tables;
#[cfg(test)]
mod test_core;
pub mod vcpu;
pub mod virtio;
pub mod wake;

pub use calls::{Gate, RunPageAccess, Transfer};
pub use ram::GuestRam;

/// The machine as the loop of each processor sees it.
pub trait Machine: Sync {
    /// The time-stamp counter.
    fn tsc(&self) -> u64;

    /// Which processor this is, from 0.
    fn current(&self) -> usize;

    /// Makes a physical interrupt come to this processor when the time-stamp counter reaches
    /// `deadline`, or at once when it has; `u64::MAX` for none.
    fn arm(&self, deadline: u64);

    /// Takes the interrupts that wait.
    fn take_interrupts(&self);

    /// Halts this processor until an interrupt, and takes it.
    fn halt(&self);

    /// Interrupts processor `index`.
    fn wake(&self, index: usize);

    /// A byte somebody typed on the console.
    fn typed(&self) -> Option<u8>;
}
