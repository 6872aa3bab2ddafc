//! What firmware and guests read about the machine: ACPI and SMBIOS tables, the firmware
//! configuration device (fw_cfg), and the flash that firmware lives in.
//!
//! Called by `vmm`: for a directly booted kernel it has the tables written into guest memory, for
//! firmware it puts them into fw_cfg. Never decides what the machine has; it describes what it is
//! told. Addresses come from `layout`. What a guest writes to fw_cfg or flash may not panic,
//! allocate without bound or block.
//!
//! Feature `std` (on by default) brings all of it; without it there are the ACPI tables only, as
//! bytes, for the bare-metal monitor.
#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod acpi;
#[cfg(feature = "std")]
mod flash;
#[cfg(feature = "std")]
mod fw_cfg;
#[cfg(feature = "std")]
mod smbios;

#[cfg(feature = "std")]
pub use acpi::{ACPI_FILES, LOADER_FILE, RSDP_FILE, TABLES_FILE, write_acpi};
pub use acpi::{AcpiConfig, AcpiError, PlacedTables, VirtioRegisters, place_acpi};
#[cfg(feature = "std")]
pub use flash::{FileStore, Flash, FlashRegisters, FlashStore};
#[cfg(feature = "std")]
pub use fw_cfg::{Basics, DmaMemory, FileError, FwCfg, FwCfgRegisters, GuestDma, Items};
#[cfg(feature = "std")]
pub use smbios::{SmbiosConfig, SmbiosError, add_smbios, write_smbios};
