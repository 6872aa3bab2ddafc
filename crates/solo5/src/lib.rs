//! The tender's side of the Solo5 *hvt* interface, versions 1 and 2, on x86-64: what a unikernel's
//! file says about itself, the state it starts in, and the answers to its hypercalls.
//!
//! The VMM (`run --hvt`) and the bare-metal monitor both plug in here. They bring guest memory
//! ([`GuestMemory`]), a console, a clock, disks and network cards; they run the processor and hand
//! every write to a hypercall port to [`Tender::call`]. Nothing here waits, and nothing here knows
//! who runs the processor.
//!
//! A file is read in [`Unikernel::read`], put into memory with [`Start::place`], and answered by
//! [`Tender`]. Files and guests are hostile: every field, pointer and length is checked against the
//! file, the manifest and guest memory before it is used. A guest that breaks the interface is
//! answered with a [`Violation`], which is its end.
//!
//! Facts are cited by the header of Solo5 that states them: `hvt_abi.h`, `elf_abi.h`, `mft_abi.h`,
//! `solo5.h`; the start state by `hvt_cpu_x86_64.h`.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod abi;
mod attach;
mod bytes;
mod elf;
mod manifest;
mod memory;
mod start;
mod tender;
#[cfg(feature = "test-support")]
pub mod test_support;

pub use attach::{AttachError, Devices};
pub use elf::{Unikernel, UnikernelError, is_unikernel};
pub use manifest::{Entry, EntryKind, Manifest, ManifestError};
pub use memory::GuestMemory;
pub use start::{Boot, PlaceError, Start};
pub use tender::{Block, Clock, Console, Net, Outcome, Tender, Violation, Wait};
