//! What firmware and guests read about the machine: ACPI and SMBIOS tables, the firmware
//! configuration device (fw_cfg), and the flash that firmware lives in.
//!
//! Called by `vmm`: for a directly booted kernel it has the tables written into guest memory, for
//! firmware it puts them into fw_cfg. Never decides what the machine has; it describes what it is
//! told. Addresses come from `layout`. What a guest writes to fw_cfg or flash may not panic,
//! allocate without bound or block.
#![forbid(unsafe_code)]

mod acpi;
mod flash;
mod fw_cfg;
mod smbios;

pub use acpi::{
    ACPI_FILES, AcpiConfig, AcpiError, LOADER_FILE, RSDP_FILE, TABLES_FILE, write_acpi,
};
pub use flash::{FileStore, Flash, FlashRegisters, FlashStore};
pub use fw_cfg::{Basics, DmaMemory, FileError, FwCfg, FwCfgRegisters, GuestDma, Items};
pub use smbios::{SmbiosConfig, SmbiosError, add_smbios, write_smbios};
