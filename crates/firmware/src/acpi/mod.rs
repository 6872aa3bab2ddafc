//! The ACPI tables of the machine (ACPI 6.5), built once and handed over in two ways: written into
//! guest memory for a kernel that is booted directly, or as fw_cfg files with linker commands for
//! firmware that places them itself.

mod dsdt;
mod fixed;
#[cfg(feature = "std")]
mod linker;

#[cfg(feature = "std")]
pub(crate) use linker::files;
#[cfg(feature = "std")]
pub use linker::{ACPI_FILES, LOADER_FILE, RSDP_FILE, TABLES_FILE};

use acpi_tables::{Aml, facs::FACS, mcfg::MCFG, rsdp::Rsdp, xsdt::XSDT};
use alloc::vec;
use alloc::vec::Vec;
use layout::{MemoryMap, Range};
use units::GuestPhysical;

const OEM_ID: [u8; 6] = *b"MACROH";
const OEM_TABLE_ID: [u8; 8] = *b"HYPERVSR";
const OEM_REVISION: u32 = 1;
/// Offset of the checksum in every table but FACS (ACPI 6.5 table 5.4).
const CHECKSUM: usize = 9;

/// What the tables say about the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcpiConfig {
    /// Virtual CPUs; CPU `n` has local APIC id `n`.
    pub processors: u32,
    /// Where RAM and PCI memory are.
    pub map: MemoryMap,
    /// The PCI Express configuration window as now programmed.
    pub ecam: Option<Range>,
    /// First port of the power management block as now programmed.
    pub pm_base: u16,
    /// Virtio devices with registers in memory.
    pub virtio: Vec<VirtioRegisters>,
}

/// Where a virtio device with registers in memory is (virtio 1.2, 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtioRegisters {
    /// Its registers.
    pub range: Range,
    /// Its level-triggered interrupt at the I/O APIC.
    pub interrupt: u32,
}

/// The tables cannot be put into guest memory.
#[derive(Debug, thiserror::Error)]
pub enum AcpiError {
    /// Too many processors for the space below 1 MiB.
    #[error("ACPI tables of {size} bytes do not fit the {room} bytes below 1 MiB")]
    Room {
        /// What they take.
        size: u64,
        /// What there is.
        room: u64,
    },
    /// Guest memory is not mapped there.
    #[cfg(feature = "std")]
    #[error("cannot write ACPI tables at {address:#x}: {source}")]
    Memory {
        /// Where.
        address: u64,
        /// Why.
        source: vm_memory::GuestMemoryError,
    },
}

/// A pointer inside the tables to another place inside the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pointer {
    at: usize,
    width: usize,
}

/// A table whose checksum depends on pointers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Table {
    at: usize,
    length: usize,
}

/// All tables but the RSDP, back to back. Pointers hold offsets from the start, and say so in
/// `pointers`, until an address is given to the whole.
#[derive(Clone, Debug)]
pub(crate) struct Tables {
    bytes: Vec<u8>,
    pointers: Vec<Pointer>,
    tables: Vec<Table>,
    /// Offset of the XSDT, which the RSDP points to.
    xsdt: usize,
}

/// Alignment of the whole: that of the FACS (ACPI 6.5 5.2.10), which comes first.
const ALIGNMENT: u64 = 64;

impl Tables {
    pub(crate) fn build(config: &AcpiConfig) -> Self {
        let mut tables =
            Self { bytes: Vec::new(), pointers: Vec::new(), tables: Vec::new(), xsdt: 0 };
        let facs = tables.append(&encode(&FACS::new()));
        let dsdt = tables.append(&dsdt::build(config));
        let fadt = tables.append(&fixed::fadt(config));
        for (at, width, target) in fixed::fadt_pointers(facs, dsdt) {
            tables.point(fadt + at, width, target);
        }
        let mut listed = vec![fadt, tables.append(&fixed::madt(config.processors))];
        if let Some(ecam) = config.ecam {
            let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
            let buses = (ecam.size.0 >> 20).clamp(1, 256) - 1;
            mcfg.add_ecam(ecam.base.0, 0, 0, u8::try_from(buses).unwrap_or(u8::MAX));
            listed.push(tables.append(&encode(&mcfg)));
        }
        listed.push(tables.append(&fixed::waet()));
        let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
        for _ in &listed {
            xsdt.add_entry(0);
        }
        tables.xsdt = tables.append(&encode(&xsdt));
        for (index, target) in listed.into_iter().enumerate() {
            // Entries follow the 36-byte header (ACPI 6.5 table 5.8).
            tables.point(tables.xsdt + 36 + index * 8, 8, target);
        }
        // The FACS has no checksum.
        tables.tables.retain(|table| table.at != facs);
        for table in tables.tables.clone() {
            tables.bytes[table.at + CHECKSUM] = 0;
        }
        tables
    }

    fn append(&mut self, table: &[u8]) -> usize {
        let at = self.bytes.len().next_multiple_of(8);
        self.bytes.resize(at, 0);
        self.bytes.extend_from_slice(table);
        self.tables.push(Table { at, length: table.len() });
        at
    }

    fn point(&mut self, at: usize, width: usize, target: usize) {
        self.bytes[at..at + width].copy_from_slice(&target.to_le_bytes()[..width]);
        self.pointers.push(Pointer { at, width });
    }

    /// The tables as they are when they lie at `base`.
    fn placed(mut self, base: u64) -> Vec<u8> {
        for pointer in &self.pointers {
            let place = &mut self.bytes[pointer.at..pointer.at + pointer.width];
            let mut value = [0; 8];
            value[..pointer.width].copy_from_slice(place);
            let value = u64::from_le_bytes(value) + base;
            place.copy_from_slice(&value.to_le_bytes()[..pointer.width]);
        }
        for table in &self.tables {
            let sum = sum(&self.bytes[table.at..table.at + table.length]);
            self.bytes[table.at + CHECKSUM] = 0u8.wrapping_sub(sum);
        }
        self.bytes
    }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
}

fn encode(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn rsdp(xsdt: u64) -> Vec<u8> {
    encode(&Rsdp::new(OEM_ID, xsdt))
}

/// RSDP and tables with the addresses they belong at.
#[derive(Clone, Debug)]
pub struct PlacedTables {
    /// Where the RSDP goes, and it.
    pub rsdp: (GuestPhysical, Vec<u8>),
    /// Where all else goes, and it.
    pub tables: (GuestPhysical, Vec<u8>),
}

/// RSDP and tables as they lie below 1 MiB (see `layout`), where a kernel finds them by scanning.
///
/// # Errors
/// They do not fit there.
pub fn place_acpi(config: &AcpiConfig) -> Result<PlacedTables, AcpiError> {
    let tables = Tables::build(config);
    let base = layout::ACPI.0 + ALIGNMENT;
    let xsdt = base + tables.xsdt as u64;
    let bytes = tables.placed(base);
    let size = ALIGNMENT + bytes.len() as u64;
    let room = layout::ACPI_END.0 - layout::ACPI.0;
    if size > room {
        return Err(AcpiError::Room { size, room });
    }
    Ok(PlacedTables { rsdp: (layout::ACPI, rsdp(xsdt)), tables: (GuestPhysical(base), bytes) })
}

/// Writes [`place_acpi`]'s tables and gives the RSDP's address for kernels that are told.
///
/// # Errors
/// They do not fit, or guest memory is not mapped there.
#[cfg(feature = "std")]
pub fn write_acpi<M: vm_memory::GuestMemoryBackend>(
    memory: &M,
    config: &AcpiConfig,
) -> Result<GuestPhysical, AcpiError> {
    use vm_memory::{Bytes, GuestAddress};
    let placed = place_acpi(config)?;
    for (address, bytes) in [&placed.rsdp, &placed.tables] {
        memory
            .write_slice(bytes, GuestAddress(address.0))
            .map_err(|source| AcpiError::Memory { address: address.0, source })?;
    }
    Ok(placed.rsdp.0)
}

#[cfg(all(test, feature = "std"))]
mod tests;
