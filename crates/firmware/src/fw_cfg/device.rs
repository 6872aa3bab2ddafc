//! The ports.

use super::dma::{DmaMemory, Operation, Request};
use super::{FileError, Items};
use crate::acpi::{self, ACPI_FILES, AcpiConfig};
use chipset::{Device, PortDevice, PortRange, SaveRestore, Saved, StateError};
use layout::FW_CFG;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const SELECTOR: u16 = FW_CFG;
const DATA: u16 = FW_CFG + 1;
/// Big-endian address of a DMA request: high half, low half; the low half starts it.
const DMA_HIGH: u16 = FW_CFG + 4;
const DMA_LOW: u16 = FW_CFG + 8;
const RANGES: [PortRange; 2] = [PortRange::new(SELECTOR, 2), PortRange::new(DMA_HIGH, 8)];
/// What the DMA address reads as, big-endian: "QEMU CFG".
const DMA_SIGNATURE: [u8; 8] = *b"QEMU CFG";
/// Zeros past an item's end are written in pieces.
const ZEROS: [u8; 4096] = [0; 4096];

/// What the guest has set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FwCfgRegisters {
    selected: u16,
    offset: u32,
    dma_high: u32,
}

/// Says what the ACPI tables are to describe at the time they are read.
type AcpiSource = Box<dyn Fn() -> AcpiConfig + Send>;

/// The firmware configuration device.
pub struct FwCfg {
    items: BTreeMap<u16, Vec<u8>>,
    numbers: BTreeMap<String, u16>,
    memory: Box<dyn DmaMemory>,
    registers: FwCfgRegisters,
    acpi: Option<(AcpiSource, AcpiConfig)>,
}

impl FwCfg {
    /// A device with `items`, reaching guest RAM through `memory`.
    #[must_use]
    pub fn new(items: Items, memory: Box<dyn DmaMemory>) -> Self {
        let (items, numbers) = items.finish();
        Self { items, numbers, memory, registers: FwCfgRegisters::default(), acpi: None }
    }

    /// A device that also has the ACPI tables as files. `source` is asked when they are read, not
    /// before: by then firmware has programmed the configuration window the tables describe. It is
    /// called from within a port access and may lock what the PCI bus locks, nothing of this
    /// device.
    ///
    /// # Errors
    /// Too many files.
    pub fn with_acpi(
        mut items: Items,
        memory: Box<dyn DmaMemory>,
        source: AcpiSource,
    ) -> Result<Self, FileError> {
        let config = source();
        for (name, content) in ACPI_FILES.into_iter().zip(acpi::files(&config)) {
            items.add_file(name, content)?;
        }
        let device = Self::new(items, memory);
        Ok(Self { acpi: Some((source, config)), ..device })
    }

    fn select(&mut self, item: u16) {
        // Bits 15 and 14 are "architecture-local" and "write": neither has items here.
        self.registers.selected = item;
        self.registers.offset = 0;
        let is_acpi = |name: &&str| self.numbers.get(*name) == Some(&item);
        if ACPI_FILES.iter().any(is_acpi) {
            self.rebuild_acpi();
        }
    }

    /// Tables and commands belong together: all files change or none.
    fn rebuild_acpi(&mut self) {
        let Some((source, described)) = &mut self.acpi else {
            return;
        };
        let config = source();
        if config == *described {
            return;
        }
        for (name, mut content) in ACPI_FILES.into_iter().zip(acpi::files(&config)) {
            if let Some(old) = self.numbers.get(name).and_then(|n| self.items.get_mut(n)) {
                // The directory has told the size.
                content.resize(old.len(), 0);
                *old = content;
            }
        }
        *described = config;
    }

    /// What is left of the selected item.
    fn rest(&self) -> &[u8] {
        let offset = usize::try_from(self.registers.offset).unwrap_or(usize::MAX);
        self.items
            .get(&self.registers.selected)
            .and_then(|item| item.get(offset..))
            .unwrap_or_default()
    }

    fn advance(&mut self, by: u32) {
        self.registers.offset = self.registers.offset.saturating_add(by);
    }

    /// The next byte of the item; zeros past its end.
    fn next_byte(&mut self) -> u8 {
        let byte = self.rest().first().copied();
        if byte.is_some() {
            self.advance(1);
        }
        byte.unwrap_or(0)
    }

    fn request(&mut self, at: u64) {
        let Some(request) = Request::read(&*self.memory, at) else {
            return;
        };
        if let Some(item) = request.select() {
            self.select(item);
        }
        let good = match request.operation() {
            Operation::Read => self.copy(request.address, request.length),
            Operation::Skip => {
                self.advance(request.length);
                true
            }
            Operation::Nothing => true,
            Operation::Write => false,
        };
        request.finish(&*self.memory, good);
    }

    /// Copies to guest memory; stops at the first address that is not RAM, so that no length
    /// makes more work than RAM is large.
    fn copy(&mut self, to: u64, length: u32) -> bool {
        let rest = self.rest();
        let wanted = usize::try_from(length).unwrap_or(usize::MAX);
        let data = &rest[..wanted.min(rest.len())];
        if !self.memory.write(to, data) {
            return false;
        }
        let mut at = to.checked_add(data.len() as u64);
        let mut left = wanted - data.len();
        while left > 0 {
            let piece = &ZEROS[..left.min(ZEROS.len())];
            let Some(address) = at.filter(|address| self.memory.write(*address, piece)) else {
                return false;
            };
            at = address.checked_add(piece.len() as u64);
            left -= piece.len();
        }
        self.advance(length);
        true
    }
}

impl Device for FwCfg {
    fn name(&self) -> &'static str {
        "fw-cfg"
    }

    fn reset(&mut self) {
        self.registers = FwCfgRegisters::default();
    }

    fn ports(&mut self) -> Option<&mut dyn PortDevice> {
        Some(self)
    }
}

impl PortDevice for FwCfg {
    fn ranges(&self) -> &[PortRange] {
        &RANGES
    }

    fn read(&mut self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        if port == DATA {
            // The data port is 8 bits wide: later bytes of a wider access are undriven.
            if let Some(first) = data.first_mut() {
                *first = self.next_byte();
            }
        } else if let Some(offset) = port.checked_sub(DMA_HIGH) {
            for (byte, at) in data.iter_mut().zip(usize::from(offset)..) {
                *byte = DMA_SIGNATURE.get(at).copied().unwrap_or(0xff);
            }
        }
    }

    fn write(&mut self, port: u16, data: &[u8]) {
        match (port, data) {
            (SELECTOR, [low, high]) => self.select(u16::from_le_bytes([*low, *high])),
            (DMA_HIGH | DMA_LOW, [a, b, c, d]) => {
                let half = u32::from_be_bytes([*a, *b, *c, *d]);
                if port == DMA_HIGH {
                    self.registers.dma_high = half;
                } else {
                    let at = (u64::from(self.registers.dma_high) << 32) | u64::from(half);
                    self.registers.dma_high = 0;
                    self.request(at);
                }
            }
            // The data port takes no writes since QEMU 2.4; other widths are not decoded.
            _ => {}
        }
    }
}

impl SaveRestore for FwCfg {
    type Registers = FwCfgRegisters;
    const VERSION: u16 = 1;

    fn save(&self) -> Saved<FwCfgRegisters> {
        Saved { version: Self::VERSION, registers: self.registers }
    }

    fn restore(&mut self, saved: Saved<FwCfgRegisters>) -> Result<(), StateError> {
        if saved.version != Self::VERSION {
            return Err(StateError::Version {
                device: "fw-cfg",
                found: saved.version,
                known: Self::VERSION,
            });
        }
        self.registers = saved.registers;
        self.rebuild_acpi();
        Ok(())
    }
}
