//! Where everything lies in a guest's physical memory: the one place that says so. Used by `vmm`
//! (RAM and device windows), `loader` (boot structures) and `firmware` (ACPI, e820). Holds no code
//! that touches memory.
//!
//! The map is that of a Q35 PC, so that stock OVMF and every operating system find what they expect:
//!
//! ```text
//! 0x0000_0500  GDT for direct boot                      (direct boot only, up to 0xA0000)
//! 0x0000_6000  PVH start info, its module and memory map
//! 0x0000_7000  zero page of a Linux kernel
//! 0x0000_7c00  tiny guest image
//! 0x0000_9000  page tables: the first 4 GiB, one to one
//! 0x0001_0000  Multiboot information
//! 0x0002_0000  command line
//! 0x0009_fc00  EBDA
//! 0x000e_0000  ACPI tables
//! 0x000f_0000  SMBIOS
//! 0x0010_0000  RAM, up to 0x8000_0000 or 0xb000_0000
//! 0xb000_0000  ECAM (where no firmware moves it)
//! 0xc000_0000  32-bit PCI memory, up to 0xfbff_ffff
//! 0xfec0_0000  IOAPIC
//! 0xfee0_0000  local APICs
//! 0xff00_0000  flash, ends at 4 GiB
//! 0x1_0000_0000  the rest of RAM, then 64-bit PCI memory
//! ```
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::vec::Vec;
use units::{Bytes, GuestPhysical};

/// Global descriptor table that direct boot starts with.
pub const GDT: GuestPhysical = GuestPhysical(0x500);
/// PVH start info; its module entry and memory map follow it within the page.
pub const PVH_START_INFO: GuestPhysical = GuestPhysical(0x6000);
/// Linux zero page (`boot_params`), one page.
pub const ZERO_PAGE: GuestPhysical = GuestPhysical(0x7000);
/// Where a tiny guest image is put and starts, as a boot sector would.
pub const TINY_IMAGE: GuestPhysical = GuestPhysical(0x7c00);
/// First of six pages of page tables: one PML4, one PDPT, four page directories.
pub const PAGE_TABLES: GuestPhysical = GuestPhysical(0x9000);
/// Multiboot information, memory map, module list and strings.
pub const MULTIBOOT_INFO: GuestPhysical = GuestPhysical(0x1_0000);
/// End of the space for it.
pub const MULTIBOOT_INFO_END: GuestPhysical = GuestPhysical(0x2_0000);
/// Kernel command line.
pub const COMMAND_LINE: GuestPhysical = GuestPhysical(0x2_0000);
/// The longest command line with its terminator that fits there.
pub const COMMAND_LINE_SIZE: Bytes = Bytes::kib(64);
/// BDA word that holds the segment of the EBDA (real-mode convention of the PC BIOS).
pub const BDA_EBDA_SEGMENT: GuestPhysical = GuestPhysical(0x40e);
/// Extended BIOS data area; ends conventional memory.
pub const EBDA: GuestPhysical = GuestPhysical(0x9_fc00);
/// End of conventional memory (IBM PC: 640 KiB).
pub const LOW_MEMORY_END: GuestPhysical = GuestPhysical(0xa_0000);
/// ACPI tables for direct boot. The RSDP is first: ACPI 6.5 5.2.5.1 has guests scan from here.
pub const ACPI: GuestPhysical = GuestPhysical(0xe_0000);
/// End of the space for them.
pub const ACPI_END: GuestPhysical = GuestPhysical(0xf_0000);
/// SMBIOS anchor and tables for direct boot (SMBIOS 3.7 5.2.2: scanned from here).
pub const SMBIOS: GuestPhysical = GuestPhysical(0xf_0000);
/// End of the space for them.
pub const SMBIOS_END: GuestPhysical = GuestPhysical(0x10_0000);
/// RAM again.
pub const HIGH_MEMORY: GuestPhysical = GuestPhysical(0x10_0000);

/// RAM below 4 GiB ends here at the latest (Q35: below the configuration window).
pub const LOW_RAM_MOST: GuestPhysical = GuestPhysical(0xb000_0000);
/// RAM below 4 GiB ends here when there is more than fits below [`LOW_RAM_MOST`].
pub const LOW_RAM_SPLIT: GuestPhysical = GuestPhysical(0x8000_0000);
/// PCI Express configuration window for direct boot.
pub const ECAM: GuestPhysical = GuestPhysical(0xb000_0000);
/// Its size: 256 buses.
pub const ECAM_SIZE: Bytes = Bytes::mib(256);
/// Where 32-bit PCI memory ends.
pub const PCI_LOW_END: GuestPhysical = GuestPhysical(0xfc00_0000);
/// IOAPIC registers (82093AA datasheet 3.0).
pub const IOAPIC: GuestPhysical = GuestPhysical(0xfec0_0000);
/// Local APIC registers (SDM 3A 11.4.1).
pub const LOCAL_APIC: GuestPhysical = GuestPhysical(0xfee0_0000);
/// Flash may begin here at the earliest; it ends at 4 GiB.
pub const FLASH_FIRST: GuestPhysical = GuestPhysical(0xff00_0000);
/// End of the 32-bit address space; the rest of RAM begins here.
pub const FOUR_GIB: GuestPhysical = GuestPhysical(0x1_0000_0000);

/// I/O ports PCI functions may decode, first and last: above all fixed devices.
pub const PCI_PORTS: (u16, u16) = (0x1000, 0xffff);
/// ACPI power management block for direct boot (OVMF chooses the same on Q35).
pub const PM_BASE: u16 = 0x600;
/// Firmware configuration ports (QEMU docs/specs/fw_cfg).
pub const FW_CFG: u16 = 0x510;
/// Interrupt the ACPI system control interrupt comes in on (ICH9 13.1.14, select 0).
pub const SCI: u8 = 9;

/// A range of guest-physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub base: GuestPhysical,
    /// Size, at least one byte; the end fits 64 bits.
    pub size: Bytes,
}

impl Range {
    /// From `base` up to, not including, `end`; an empty range when `end` lies before it.
    #[must_use]
    pub const fn between(base: GuestPhysical, end: GuestPhysical) -> Self {
        Self { base, size: Bytes(end.0.saturating_sub(base.0)) }
    }

    /// First address after the range.
    #[must_use]
    pub const fn end(&self) -> GuestPhysical {
        GuestPhysical(self.base.0.saturating_add(self.size.0))
    }
}

/// What a guest may use a range for, with its e820 number (ACPI 6.5 15.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RangeKind {
    /// RAM.
    Usable = 1,
    /// Neither RAM nor free for devices.
    Reserved = 2,
    /// ACPI tables, RAM once they have been read.
    AcpiTables = 3,
}

/// RAM of a size that the machine cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Not whole pages, or less than a guest can start in.
    #[error("memory of {0}: must be a multiple of 4096 bytes and at least 1 MiB")]
    Size(Bytes),
    /// More than processors can address.
    #[error("memory of {size} ends at {end}, beyond the {bits} address bits of the processors")]
    AddressBits {
        /// The size asked for.
        size: Bytes,
        /// Where it would end.
        end: GuestPhysical,
        /// What the processors have.
        bits: u8,
    },
}

/// The map of one machine: depends on nothing but the size of its RAM and how many address bits
/// its processors have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryMap {
    low: Bytes,
    high: Bytes,
    address_bits: u8,
}

impl MemoryMap {
    /// Lays out `ram`; `address_bits` is what CPUID 0x8000_0008 tells the guest.
    ///
    /// # Errors
    /// RAM is not whole pages, too small, or ends beyond the address bits.
    pub fn new(ram: Bytes, address_bits: u8) -> Result<Self, LayoutError> {
        if !ram.0.is_multiple_of(units::PAGE_SIZE) || ram < Bytes::mib(1) {
            return Err(LayoutError::Size(ram));
        }
        let (low, high) = if ram.0 <= LOW_RAM_MOST.0 {
            (ram, Bytes(0))
        } else {
            (Bytes(LOW_RAM_SPLIT.0), Bytes(ram.0 - LOW_RAM_SPLIT.0))
        };
        let map = Self { low, high, address_bits };
        // Room for a 64-bit window after RAM is part of the machine.
        let most = map.address_end().0.saturating_sub(Bytes::gib(1).0);
        match FOUR_GIB.checked_add(high.0) {
            Some(end) if end.0 <= most && address_bits >= 36 => Ok(map),
            end => Err(LayoutError::AddressBits {
                size: ram,
                end: end.unwrap_or(GuestPhysical(u64::MAX)),
                bits: address_bits,
            }),
        }
    }

    /// First address beyond what processors can address.
    #[must_use]
    pub fn address_end(&self) -> GuestPhysical {
        GuestPhysical(1u64.checked_shl(u32::from(self.address_bits)).unwrap_or(u64::MAX))
    }

    /// Size of all RAM.
    #[must_use]
    pub fn ram_size(&self) -> Bytes {
        Bytes(self.low.0 + self.high.0)
    }

    /// RAM as it is mapped: one range below 4 GiB, and the rest from 4 GiB on.
    #[must_use]
    pub fn ram(&self) -> Vec<Range> {
        let low = Range { base: GuestPhysical(0), size: self.low };
        let high = Range { base: FOUR_GIB, size: self.high };
        [low, high].into_iter().filter(|range| range.size.0 > 0).collect()
    }

    /// Where RAM below 4 GiB ends.
    #[must_use]
    pub fn low_ram_end(&self) -> GuestPhysical {
        GuestPhysical(self.low.0)
    }

    /// Where RAM above 4 GiB ends; 4 GiB when there is none.
    #[must_use]
    pub fn high_ram_end(&self) -> GuestPhysical {
        GuestPhysical(FOUR_GIB.0 + self.high.0)
    }

    /// 32-bit memory for PCI functions, with the configuration window at `ecam` left out. Firmware
    /// may have placed the window elsewhere than [`ECAM`]; pass what it programmed.
    #[must_use]
    pub fn pci_low(&self, ecam: Option<Range>) -> Vec<Range> {
        let first = self.low.0.max(LOW_RAM_SPLIT.0);
        let whole = Range::between(GuestPhysical(first), PCI_LOW_END);
        let Some(ecam) = ecam else {
            return [whole].into();
        };
        let below = Range::between(whole.base, GuestPhysical(ecam.base.0.min(PCI_LOW_END.0)));
        let above = Range::between(GuestPhysical(ecam.end().0.max(first)), PCI_LOW_END);
        [below, above].into_iter().filter(|range| range.size.0 > 0).collect()
    }

    /// 64-bit memory for PCI functions: from the first GiB boundary after RAM to the end of the
    /// address space.
    #[must_use]
    pub fn pci_high(&self) -> Range {
        let base = self.high_ram_end().0.next_multiple_of(Bytes::gib(1).0);
        Range::between(GuestPhysical(base), self.address_end())
    }

    /// The map a directly booted kernel is given, sorted, no two overlapping.
    #[must_use]
    pub fn e820(&self) -> Vec<(Range, RangeKind)> {
        let mut map = Vec::with_capacity(6);
        let mut add = |base: GuestPhysical, end: GuestPhysical, kind| {
            let range = Range::between(base, end);
            if range.size.0 > 0 {
                map.push((range, kind));
            }
        };
        add(GuestPhysical(0), EBDA, RangeKind::Usable);
        add(EBDA, LOW_MEMORY_END, RangeKind::Reserved);
        add(ACPI, HIGH_MEMORY, RangeKind::Reserved);
        add(HIGH_MEMORY, self.low_ram_end(), RangeKind::Usable);
        add(ECAM, GuestPhysical(ECAM.0 + ECAM_SIZE.0), RangeKind::Reserved);
        add(FOUR_GIB, self.high_ram_end(), RangeKind::Usable);
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(ram: Bytes) -> MemoryMap {
        MemoryMap::new(ram, 46).unwrap()
    }

    #[test]
    fn ram_is_split_only_when_it_must_be() {
        assert_eq!(map(Bytes::mib(2816)).ram().len(), 1);
        let large = map(Bytes(Bytes::mib(2816).0 + 4096));
        let ram = large.ram();
        assert_eq!(ram[0], Range { base: GuestPhysical(0), size: Bytes::gib(2) });
        assert_eq!(ram[1], Range { base: FOUR_GIB, size: Bytes(0x3000_1000) });
        assert_eq!(large.ram_size(), Bytes(0xb000_1000));
    }

    #[test]
    fn no_two_parts_of_the_map_overlap() {
        for mib in [1, 128, 2048, 2816, 2817, 4096, 65536] {
            let map = map(Bytes::mib(mib));
            let e820 = map.e820();
            for pair in e820.windows(2) {
                assert!(pair[0].0.end() <= pair[1].0.base, "{mib} MiB: {pair:?}");
            }
            let ecam = Range { base: ECAM, size: ECAM_SIZE };
            let windows = map.pci_low(Some(ecam)).into_iter().chain([map.pci_high()]);
            for window in windows {
                assert!(window.size.0 > 0);
                for (range, _) in &e820 {
                    let apart = window.end() <= range.base || range.end() <= window.base;
                    assert!(apart, "{mib} MiB: {window:x?} {range:x?}");
                }
            }
        }
    }

    #[test]
    fn the_windows_go_around_a_configuration_window_that_moved() {
        let map = map(Bytes::gib(4));
        let ecam = Range { base: GuestPhysical(0xe000_0000), size: ECAM_SIZE };
        let windows: Vec<_> =
            map.pci_low(Some(ecam)).iter().map(|w| (w.base.0, w.end().0)).collect();
        assert_eq!(windows, [(0x8000_0000, 0xe000_0000), (0xf000_0000, 0xfc00_0000)]);
        let beyond = Range { base: GuestPhysical(1 << 35), size: ECAM_SIZE };
        assert_eq!(map.pci_low(Some(beyond)), map.pci_low(None));
    }

    #[test]
    fn impossible_sizes_are_refused() {
        for size in [Bytes(0), Bytes::kib(640), Bytes(Bytes::mib(2).0 + 1)] {
            assert_eq!(MemoryMap::new(size, 46), Err(LayoutError::Size(size)));
        }
        let huge = MemoryMap::new(Bytes::gib(62), 36);
        assert!(matches!(huge, Err(LayoutError::AddressBits { bits: 36, .. })));
        assert!(MemoryMap::new(Bytes(!4095), 64).is_err());
    }
}
