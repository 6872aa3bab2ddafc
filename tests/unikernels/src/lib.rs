//! What a unikernel needs to talk to its tender: the notes of its file, its boot information, and
//! the hypercalls of the Solo5 hvt interface (`hvt_abi.h`, `elf_abi.h`, `mft_abi.h`). The programs
//! are `src/bin`: `hello` and `blockecho`.
//!
//! `unsafe` here: the hypercall instruction, and the boot information's pointers. On a host this
//! crate is empty.
#![no_std]

#[cfg(target_os = "none")]
mod guest;

#[cfg(target_os = "none")]
pub use guest::*;
