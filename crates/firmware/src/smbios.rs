//! SMBIOS tables (DMTF DSP0134 3.7): who made the machine, its processors and memory. Built once;
//! written into guest memory for a directly booted kernel, or given to firmware through fw_cfg.

use crate::fw_cfg::{FileError, Items};
use layout::{MemoryMap, Range};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

/// fw_cfg file with the entry point.
const ANCHOR_FILE: &str = "etc/smbios/smbios-anchor";
/// fw_cfg file with the structures.
const TABLES_FILE: &str = "etc/smbios/smbios-tables";

const MANUFACTURER: &str = "macrohard-hypervisor";
const PRODUCT: &str = "Standard PC (Q35)";
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Entry point and its offset of the table address (5.2.2).
const ANCHOR_SIZE: u64 = 24;
const ANCHOR_ADDRESS: usize = 16;
/// Structures begin at this distance from the entry point.
const TABLES_OFFSET: u64 = 32;

/// What the tables say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmbiosConfig {
    /// The VM's name; becomes the product's serial number.
    pub name: String,
    /// The VM's identity.
    pub uuid: [u8; 16],
    /// Virtual CPUs.
    pub processors: u32,
    /// Where RAM is.
    pub map: MemoryMap,
}

/// The tables cannot be put into guest memory.
#[derive(Debug, thiserror::Error)]
pub enum SmbiosError {
    /// Longer than the space below 1 MiB.
    #[error("SMBIOS tables of {size} bytes do not fit the {room} bytes below 1 MiB")]
    Room {
        /// What they take.
        size: u64,
        /// What there is.
        room: u64,
    },
    /// Guest memory is not mapped there.
    #[error("cannot write SMBIOS tables at {address:#x}: {source}")]
    Memory {
        /// Where.
        address: u64,
        /// Why.
        source: GuestMemoryError,
    },
}

/// Structures under construction.
struct Builder {
    bytes: Vec<u8>,
    count: u16,
}

impl Builder {
    /// Appends structure `kind` with its formatted part after the 4-byte header, and strings.
    /// Strings are referred to by number from 1 on. Gives the structure's handle.
    fn add(&mut self, kind: u8, handle: u16, formatted: &[u8], strings: &[&str]) -> u16 {
        let length = u8::try_from(formatted.len() + 4).unwrap_or(u8::MAX);
        let [low, high] = handle.to_le_bytes();
        self.bytes.extend_from_slice(&[kind, length, low, high]);
        self.bytes.extend_from_slice(formatted);
        for text in strings {
            // An empty string would end the list (6.1.3).
            let text = if text.is_empty() { " " } else { text };
            self.bytes.extend(text.bytes().filter(|byte| *byte != 0));
            self.bytes.push(0);
        }
        // An empty list still has two terminators.
        self.bytes.extend_from_slice(if strings.is_empty() { &[0, 0] } else { &[0] });
        self.count += 1;
        handle
    }
}

fn build(config: &SmbiosConfig) -> Vec<u8> {
    // Handles, by convention type << 8.
    const CHASSIS: u16 = 0x0300;
    const PROCESSOR: u16 = 0x0400;
    const MEMORY_ARRAY: u16 = 0x1000;
    const UNKNOWN: u8 = 2;
    let mut builder = Builder { bytes: Vec::new(), count: 0 };

    // Type 0, firmware: vendor, version, date; "virtual machine" (7.1).
    let mut bios = vec![1, 2, 0, 0xe8, 3, 0];
    // Characteristics: bit 3, "characteristics are not supported" (the list says nothing).
    bios.extend_from_slice(&[0x08, 0, 0, 0, 0, 0, 0, 0]);
    // Extension 1: ACPI. Extension 2: virtual machine (bit 4).
    bios.extend_from_slice(&[0x01, 0x10, 0, 0, 0xff, 0xff]);
    builder.add(0, 0, &bios, &[MANUFACTURER, VERSION, "01/01/2026"]);

    // Type 1, system: UUID with its first three fields little-endian (7.2.1); woken by power switch.
    let mut system = vec![1, 2, 3, 4];
    let [a, b, c, d, e, f, g, h, rest @ ..] = config.uuid;
    system.extend_from_slice(&[d, c, b, a, f, e, h, g]);
    system.extend_from_slice(&rest);
    system.extend_from_slice(&[6, 0, 0]);
    builder.add(1, 0x0100, &system, &[MANUFACTURER, PRODUCT, VERSION, &config.name]);

    // Type 3, chassis: "other", states safe, security unknown.
    builder.add(
        3,
        CHASSIS,
        &[1, 1, 2, 0, 0, 3, 3, 3, UNKNOWN, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[MANUFACTURER, VERSION],
    );

    // Type 4: one socket with all processors as its cores.
    let cores = u16::try_from(config.processors).unwrap_or(u16::MAX);
    let few = u8::try_from(config.processors).unwrap_or(u8::MAX);
    let mut processor = vec![1, 3, 1, 2];
    processor.extend_from_slice(&[0; 8]);
    processor.extend_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0]);
    // Populated and enabled; upgrade "other"; no caches described; no serial, tag or part.
    processor.extend_from_slice(&[0x41, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0]);
    processor.extend_from_slice(&[few, few, few]);
    // Characteristics: 64-bit, multi-core when it is. Family: see family 2, "other".
    let characteristics: u16 = if config.processors > 1 { 0x000c } else { 0x0004 };
    processor.extend_from_slice(&characteristics.to_le_bytes());
    processor.extend_from_slice(&1u16.to_le_bytes());
    for _ in 0..3 {
        processor.extend_from_slice(&cores.to_le_bytes());
    }
    builder.add(4, PROCESSOR, &processor, &["CPU 0", MANUFACTURER, VERSION]);

    // Type 16: the memory array, multi-bit ECC not claimed.
    let kib = config.map.ram_size().0 >> 10;
    let (capacity, extended) = match u32::try_from(kib) {
        Ok(kib) if kib < 0x8000_0000 => (kib, 0),
        _ => (0x8000_0000, kib << 10),
    };
    let mut array = vec![1, 3, 3];
    array.extend_from_slice(&capacity.to_le_bytes());
    array.extend_from_slice(&[0xfe, 0xff, 1, 0]);
    array.extend_from_slice(&extended.to_le_bytes());
    builder.add(16, MEMORY_ARRAY, &array, &[]);

    // Type 17: one module with everything. Sizes from 32 GiB on need the extended field (7.18.5).
    let mib = kib >> 10;
    let (size, extended) = match u16::try_from(mib) {
        Ok(mib) if mib < 0x7fff => (mib, 0),
        _ => (0x7fff, u32::try_from(mib).unwrap_or(u32::MAX)),
    };
    let mut module = MEMORY_ARRAY.to_le_bytes().to_vec();
    module.extend_from_slice(&[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff]);
    module.extend_from_slice(&size.to_le_bytes());
    // Form DIMM, no set, locator strings, type RAM, detail "other", speed unknown.
    module.extend_from_slice(&[9, 0, 1, 0, 7, 2, 0, 0, 0, 2, 0, 0, 0, 0]);
    module.extend_from_slice(&extended.to_le_bytes());
    module.extend_from_slice(&[0; 8]);
    builder.add(17, 0x1100, &module, &["DIMM 0", MANUFACTURER]);

    // Type 19: each RAM range as the array maps it.
    for (range, handle) in config.map.ram().iter().zip(0x1300..) {
        builder.add(19, handle, &mapped(range, MEMORY_ARRAY), &[]);
    }

    // Type 32: no boot errors.
    builder.add(32, 0x2000, &[0; 7], &[]);
    builder.add(127, 0x7f00, &[], &[]);
    builder.bytes
}

/// Type 19 (7.20): KiB addresses where they fit 32 bits, else the extended byte addresses.
fn mapped(range: &Range, array: u16) -> Vec<u8> {
    let (first, last) = (range.base.0, range.end().0 - 1);
    let mut body = Vec::new();
    let short = u32::try_from(last >> 10).ok().filter(|last| *last != u32::MAX);
    let (start, end) = match short {
        Some(end) => (u32::try_from(first >> 10).unwrap_or(u32::MAX), end),
        None => (u32::MAX, u32::MAX),
    };
    body.extend_from_slice(&start.to_le_bytes());
    body.extend_from_slice(&end.to_le_bytes());
    body.extend_from_slice(&array.to_le_bytes());
    body.push(1);
    let (first, last) = if short.is_some() { (0, 0) } else { (first, last) };
    body.extend_from_slice(&first.to_le_bytes());
    body.extend_from_slice(&last.to_le_bytes());
    body
}

/// The 64-bit entry point (5.2.2) for structures of `size` bytes at `address`.
fn anchor(size: usize, address: u64) -> Vec<u8> {
    let mut anchor = b"_SM3_".to_vec();
    // Checksum, length, version 3.7.0, entry point revision 1, reserved.
    anchor.extend_from_slice(&[0, 24, 3, 7, 0, 1, 0]);
    anchor.extend_from_slice(&u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes());
    anchor.extend_from_slice(&address.to_le_bytes());
    let sum = anchor.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    anchor[5] = 0u8.wrapping_sub(sum);
    anchor
}

/// Writes entry point and structures below 1 MiB (see `layout`), where kernels scan for them.
///
/// # Errors
/// They do not fit, or guest memory is not mapped there.
pub fn write_smbios<M: GuestMemoryBackend>(
    memory: &M,
    config: &SmbiosConfig,
) -> Result<(), SmbiosError> {
    let tables = build(config);
    let at = layout::SMBIOS.0;
    let (size, room) =
        (TABLES_OFFSET + tables.len() as u64, layout::SMBIOS_END.0 - layout::SMBIOS.0);
    if size > room {
        return Err(SmbiosError::Room { size, room });
    }
    let tables_at = at + TABLES_OFFSET;
    for (address, bytes) in [(at, anchor(tables.len(), tables_at)), (tables_at, tables)] {
        memory
            .write_slice(&bytes, GuestAddress(address))
            .map_err(|source| SmbiosError::Memory { address, source })?;
    }
    Ok(())
}

/// Adds the tables as fw_cfg files; firmware places them and sets the address.
///
/// # Errors
/// Added twice.
pub fn add_smbios(items: &mut Items, config: &SmbiosConfig) -> Result<(), FileError> {
    let tables = build(config);
    items.add_file(ANCHOR_FILE, anchor(tables.len(), 0))?;
    items.add_file(TABLES_FILE, tables)
}

const _: () = assert!(ANCHOR_SIZE as usize == ANCHOR_ADDRESS + 8 && ANCHOR_SIZE <= TABLES_OFFSET);

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use units::Bytes as Size;
    use vm_memory::GuestMemoryMmap;

    fn config(mib: u64) -> SmbiosConfig {
        SmbiosConfig {
            name: "a guest".into(),
            uuid: [0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0, 1, 2, 3, 4, 5, 6, 7, 8],
            processors: 6,
            map: MemoryMap::new(Size::mib(mib), 46).unwrap(),
        }
    }

    /// Type, formatted part and strings of each structure, as a guest walks them.
    fn walk(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>, Vec<String>)> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let (formatted, rest) = bytes.split_at(usize::from(bytes[1]));
            let end = rest.windows(2).position(|pair| pair == [0, 0]).unwrap() + 2;
            let text = String::from_utf8(rest[..end].to_vec()).unwrap();
            let strings = text.split('\0').filter(|s| !s.is_empty()).map(Into::into).collect();
            found.push((bytes[0], formatted.to_vec(), strings));
            bytes = &rest[end..];
        }
        found
    }

    fn number(bytes: &[u8], at: usize, width: usize) -> u64 {
        let mut value = [0; 8];
        value[..width].copy_from_slice(&bytes[at..at + width]);
        u64::from_le_bytes(value)
    }

    #[test]
    fn every_structure_has_the_length_of_its_version() {
        let found = walk(&build(&config(4096)));
        let shape: Vec<_> = found.iter().map(|(kind, body, _)| (*kind, body.len())).collect();
        // Lengths: DSP0134 7.1 to 7.45.
        let expected = [
            (0, 24),
            (1, 27),
            (3, 22),
            (4, 48),
            (16, 23),
            (17, 40),
            (19, 31),
            (19, 31),
            (32, 11),
            (127, 4),
        ];
        assert_eq!(shape, expected);
        assert_eq!(found[1].2, [MANUFACTURER, PRODUCT, VERSION, "a guest"]);
        let uuid = [0x78, 0x56, 0x34, 0x12, 0xbc, 0x9a, 0xf0, 0xde, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(found[1].1[8..24], uuid);
    }

    #[test]
    fn memory_sizes_use_the_extended_fields_when_they_must() {
        let found = walk(&build(&config(1 << 22)));
        let by_kind = |kind| &found.iter().find(|entry| entry.0 == kind).unwrap().1;
        assert_eq!(number(by_kind(16), 7, 4), 0x8000_0000);
        assert_eq!(number(by_kind(16), 15, 8), 1 << 42);
        assert_eq!((number(by_kind(17), 12, 2), number(by_kind(17), 28, 4)), (0x7fff, 1 << 22));
        let small = walk(&build(&config(512)));
        let module = &small.iter().find(|entry| entry.0 == 17).unwrap().1;
        assert_eq!((number(module, 12, 2), number(module, 28, 4)), (512, 0));
        let range = &small.iter().find(|entry| entry.0 == 19).unwrap().1;
        assert_eq!((number(range, 4, 4), number(range, 8, 4)), (0, (512 << 10) - 1));
    }

    #[test]
    fn the_entry_point_leads_to_the_structures() {
        let memory: GuestMemoryMmap =
            GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        write_smbios(&memory, &config(2048)).unwrap();
        let mut anchor = [0; 24];
        memory.read_slice(&mut anchor, GuestAddress(0xf_0000)).unwrap();
        assert_eq!(&anchor[..5], b"_SM3_");
        assert_eq!(anchor.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        let size = usize::try_from(number(&anchor, 12, 4)).unwrap();
        let mut tables = vec![0; size];
        memory.read_slice(&mut tables, GuestAddress(number(&anchor, ANCHOR_ADDRESS, 8))).unwrap();
        assert_eq!(walk(&tables).last().unwrap().0, 127);
    }

    /// The tool guests use must read what is meant.
    #[test]
    fn dmidecode_reads_the_tables() {
        let tables = build(&config(4096));
        // A dump has the entry point at 0, padded to 32 bytes, and the structures behind it.
        let mut dump = anchor(tables.len(), TABLES_OFFSET);
        dump.resize(usize::try_from(TABLES_OFFSET).unwrap(), 0);
        dump.extend_from_slice(&tables);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), dump).unwrap();
        let Ok(done) = Command::new("dmidecode").arg("--from-dump").arg(file.path()).output()
        else {
            println!("SKIPPED: dmidecode is not installed (Debian package dmidecode)");
            return;
        };
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        for fact in [
            "SMBIOS 3.7.0 present",
            "Serial Number: a guest",
            "UUID: 12345678-9abc-def0-0102-030405060708",
            "System is a virtual machine",
            "Core Count: 6",
            "Maximum Capacity: 4 GB",
            "Size: 4 GB",
            "Range Size: 2 GB",
        ] {
            assert!(text.contains(fact), "no \"{fact}\" in {text}");
        }
        for complaint in ["TRUNCATED", "Wrong", "<BAD", "OUT OF SPEC", "broken"] {
            assert!(!text.contains(complaint), "{text}");
        }
    }
}
