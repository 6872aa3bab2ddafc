//! The firmware configuration device (QEMU docs/specs/fw_cfg): numbered items that firmware reads
//! byte by byte through two ports, or in one piece by DMA. From item 0x20 on they have file names.
//!
//! All items are read-only. What the guest asks for is hostile: item numbers, DMA addresses and
//! lengths. The work per request is bounded by the guest's own memory.

mod device;
mod dma;

pub use device::{FwCfg, FwCfgRegisters};
pub use dma::{DmaMemory, GuestDma};

use std::collections::BTreeMap;

/// Item numbers (QEMU docs/specs/fw_cfg and include/standard-headers/linux/qemu_fw_cfg.h).
mod item {
    pub(super) const SIGNATURE: u16 = 0x00;
    pub(super) const FEATURES: u16 = 0x01;
    pub(super) const UUID: u16 = 0x02;
    pub(super) const RAM_SIZE: u16 = 0x03;
    pub(super) const NO_GRAPHIC: u16 = 0x04;
    pub(super) const PROCESSORS: u16 = 0x05;
    pub(super) const PROCESSORS_MOST: u16 = 0x0f;
    pub(super) const DIRECTORY: u16 = 0x19;
    pub(super) const FIRST_FILE: u16 = 0x20;
}

/// Features: the two ports, and DMA.
const FEATURES: u32 = 0b11;
/// Longest file name with its terminator.
const NAME: usize = 56;
/// Files at most; QEMU offers as many by default.
const MOST_FILES: usize = 0x20;

/// A file cannot be added; a mistake of the machine's assembly.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// Empty, too long, or with bytes that are no printable ASCII.
    #[error("fw_cfg file name {0:?}: must be 1 to 55 printable ASCII characters")]
    Name(String),
    /// There already.
    #[error("fw_cfg file {0} exists already")]
    Exists(String),
    /// No number left.
    #[error("fw_cfg holds at most {MOST_FILES} files; {0} is one too many")]
    Full(String),
    /// Longer than a size field can say.
    #[error("fw_cfg file {0} is longer than 4 GiB")]
    Size(String),
}

/// What a machine tells its firmware besides files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Basics {
    /// The VM's identity, as SMBIOS has it.
    pub uuid: [u8; 16],
    /// All RAM in bytes.
    pub ram: u64,
    /// Processors present.
    pub processors: u16,
}

/// Builds the items of one machine.
#[derive(Debug, Default)]
pub struct Items {
    numbered: BTreeMap<u16, Vec<u8>>,
    /// In the order of their names, as QEMU numbers them.
    files: BTreeMap<String, Vec<u8>>,
}

impl Items {
    /// The items every machine has, and `etc/system-states` (no S3, no S4).
    #[must_use]
    pub fn new(basics: &Basics) -> Self {
        let processors = basics.processors.to_le_bytes().to_vec();
        let numbered = [
            (item::SIGNATURE, b"QEMU".to_vec()),
            (item::FEATURES, FEATURES.to_le_bytes().to_vec()),
            (item::UUID, basics.uuid.to_vec()),
            (item::RAM_SIZE, basics.ram.to_le_bytes().to_vec()),
            (item::NO_GRAPHIC, 1u16.to_le_bytes().to_vec()),
            (item::PROCESSORS, processors.clone()),
            (item::PROCESSORS_MOST, processors),
        ];
        // One byte per sleep state, bit 7 for supported, the rest the sleep type: S0 and S5 are
        // there, S3 and S4 are not (QEMU hw/acpi/core: values 1 and 2 are their sleep types).
        let states = vec![0x80, 0, 0, 1, 2, 0x80];
        let files = [("etc/system-states".to_owned(), states)];
        Self { numbered: numbered.into(), files: files.into() }
    }

    /// Adds a file. Firmware documents the names it looks for; `opt/` is free for users.
    ///
    /// # Errors
    /// The name is impossible or taken, or there are too many.
    pub fn add_file(&mut self, name: &str, content: Vec<u8>) -> Result<(), FileError> {
        let printable = name.bytes().all(|byte| byte.is_ascii_graphic());
        if name.is_empty() || name.len() >= NAME || !printable {
            return Err(FileError::Name(name.to_owned()));
        }
        if self.files.contains_key(name) {
            return Err(FileError::Exists(name.to_owned()));
        }
        if self.files.len() >= MOST_FILES {
            return Err(FileError::Full(name.to_owned()));
        }
        if u32::try_from(content.len()).is_err() {
            return Err(FileError::Size(name.to_owned()));
        }
        self.files.insert(name.to_owned(), content);
        Ok(())
    }

    /// Adds `etc/e820`: where RAM is, for firmware.
    ///
    /// # Errors
    /// Added twice.
    pub fn add_ram(&mut self, map: &layout::MemoryMap) -> Result<(), FileError> {
        let mut content = Vec::new();
        for range in map.ram() {
            content.extend_from_slice(&range.base.0.to_le_bytes());
            content.extend_from_slice(&range.size.0.to_le_bytes());
            content.extend_from_slice(&(layout::RangeKind::Usable as u32).to_le_bytes());
        }
        self.add_file("etc/e820", content)
    }

    /// Adds `bootorder`: OpenFirmware device paths, first choice first.
    ///
    /// # Errors
    /// Added twice.
    pub fn add_boot_order(&mut self, paths: &[String]) -> Result<(), FileError> {
        let mut content = paths.join("\n").into_bytes();
        content.push(0);
        self.add_file("bootorder", content)
    }

    /// Numbers the files; gives all items and each file's number.
    fn finish(mut self) -> (BTreeMap<u16, Vec<u8>>, BTreeMap<String, u16>) {
        let mut numbers = BTreeMap::new();
        // Big-endian count, then size, number, reserved and name of each.
        let mut directory =
            u32::try_from(self.files.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
        for (number, (name, content)) in (item::FIRST_FILE..).zip(self.files) {
            let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
            directory.extend_from_slice(&size.to_be_bytes());
            directory.extend_from_slice(&number.to_be_bytes());
            directory.extend_from_slice(&[0; 2]);
            let mut field = [0; NAME];
            for (to, from) in field.iter_mut().zip(name.bytes()) {
                *to = from;
            }
            directory.extend_from_slice(&field);
            self.numbered.insert(number, content);
            numbers.insert(name, number);
        }
        self.numbered.insert(item::DIRECTORY, directory);
        (self.numbered, numbers)
    }
}

#[cfg(test)]
mod tests;
