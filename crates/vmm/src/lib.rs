//! The machine: guest memory, processors, buses, devices and life cycle of one VM, and the process
//! around it (control socket, console, sandbox).
//!
//! [`Machine`] is what the process steers; [`LifeCycle`] is the only caller of its steps and
//! refuses the impossible ones. The native machine builds on an [`engine::Engine`]; `tcg` is QEMU
//! as a machine. The binary `macrohard-vm` is the only user.
//!
//! `unsafe` lives in named modules only (guest memory mapping, process set-up).
#![deny(unsafe_code)]

pub mod console;
mod descriptor;
mod disks;
pub mod flash;
pub mod machine;
pub mod native;
pub mod process;
mod screen;
pub mod service;
pub mod tcg;

pub use console::Console;
pub use machine::{
    EndingSlot, FilePart, LifeCycle, Machine, MachineError, QUIT_PATIENCE, Surroundings,
};
