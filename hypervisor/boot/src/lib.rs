//! What a bare-metal program reads when it starts: PVH start information and Multiboot2 information,
//! the memory map, the boot archive (a cpio archive of everything the machine runs), ELF images and Linux
//! kernels.
//!
//! Used by the core and the monitor. Pure: it parses byte slices and numbers the caller has checked to
//! be memory, and touches no hardware. Whatever the bytes say, nothing here panics, allocates or reads
//! past its slice: a length that does not fit is an error that names it.
//!
//! Addresses are those of the machine as the booted program sees it. Root's are the machine's own,
//! mapped one to one.
#![no_std]
#![forbid(unsafe_code)]

pub mod acpi;
pub mod archive;
mod bytes;
pub mod elf;
pub mod linux;
pub mod memory_map;
pub mod multiboot2;
pub mod pvh;

#[cfg(test)]
extern crate std;
