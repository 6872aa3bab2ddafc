//! The tables as fw_cfg files, with the commands by which firmware places and links them
//! (QEMU hw/acpi/bios-linker-loader: 128-byte commands, little-endian).

use super::{ALIGNMENT, AcpiConfig, CHECKSUM, Tables, rsdp};

/// File with all tables but the RSDP.
pub const TABLES_FILE: &str = "etc/acpi/tables";
/// File with the RSDP.
pub const RSDP_FILE: &str = "etc/acpi/rsdp";
/// File with the commands.
pub const LOADER_FILE: &str = "etc/table-loader";
/// The three, in the order of [`files`].
pub const ACPI_FILES: [&str; 3] = [TABLES_FILE, RSDP_FILE, LOADER_FILE];

use alloc::vec;
use alloc::vec::Vec;

const COMMAND: usize = 128;
const NAME: usize = 56;

const ALLOCATE: u32 = 1;
const ADD_POINTER: u32 = 2;
const ADD_CHECKSUM: u32 = 3;
/// Allocation zones: anywhere, or where real-mode code scans (0xf0000).
const ZONE_HIGH: u8 = 1;
const ZONE_F_SEGMENT: u8 = 2;

/// In the RSDP (ACPI 6.5 table 5.3): XSDT address, checksums of 20 and of all 36 bytes.
const RSDP_XSDT: usize = 24;
const RSDP_CHECKSUM: (usize, usize) = (8, 20);
const RSDP_EXTENDED_CHECKSUM: (usize, usize) = (32, 36);
const RSDP_ALIGNMENT: u32 = 16;

/// Tables and commands are padded to this, so that a rebuild after firmware moved something has the
/// same size. A command of zeros does nothing.
const PAGE: usize = 4096;

/// Room for a table or a window more or less.
fn pad(bytes: &mut Vec<u8>, slack: usize) {
    bytes.resize((bytes.len() + slack).next_multiple_of(PAGE), 0);
}

fn command(kind: u32, parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    for part in parts {
        bytes.extend_from_slice(part);
    }
    bytes.resize(COMMAND, 0);
    bytes
}

fn name(file: &str) -> [u8; NAME] {
    let mut name = [0; NAME];
    for (to, from) in name.iter_mut().zip(file.bytes()) {
        *to = from;
    }
    name
}

fn checksum(file: &str, at: usize, start: usize, length: usize) -> Vec<u8> {
    let numbers: Vec<u8> = [at, start, length]
        .iter()
        .flat_map(|number| u32::try_from(*number).unwrap_or(u32::MAX).to_le_bytes())
        .collect();
    command(ADD_CHECKSUM, &[&name(file), &numbers])
}

fn pointer(to: &str, from: &str, at: usize, width: usize) -> Vec<u8> {
    let at = u32::try_from(at).unwrap_or(u32::MAX).to_le_bytes();
    let width = [u8::try_from(width).unwrap_or(0)];
    command(ADD_POINTER, &[&name(from), &name(to), &at, &width])
}

/// Contents of [`ACPI_FILES`], in that order.
pub(crate) fn files(config: &AcpiConfig) -> [Vec<u8>; 3] {
    let tables = Tables::build(config);
    let alignment = u32::try_from(ALIGNMENT).unwrap_or(64).to_le_bytes();
    let mut commands = vec![
        command(ALLOCATE, &[&name(RSDP_FILE), &RSDP_ALIGNMENT.to_le_bytes(), &[ZONE_F_SEGMENT]]),
        command(ALLOCATE, &[&name(TABLES_FILE), &alignment, &[ZONE_HIGH]]),
    ];
    for found in &tables.pointers {
        commands.push(pointer(TABLES_FILE, TABLES_FILE, found.at, found.width));
    }
    for table in &tables.tables {
        commands.push(checksum(TABLES_FILE, table.at + CHECKSUM, table.at, table.length));
    }
    commands.push(pointer(TABLES_FILE, RSDP_FILE, RSDP_XSDT, 8));
    for (at, length) in [RSDP_CHECKSUM, RSDP_EXTENDED_CHECKSUM] {
        commands.push(checksum(RSDP_FILE, at, 0, length));
    }
    let mut root = rsdp(tables.xsdt as u64);
    root[RSDP_CHECKSUM.0] = 0;
    root[RSDP_EXTENDED_CHECKSUM.0] = 0;
    let mut bytes = tables.bytes;
    let mut commands = commands.concat();
    pad(&mut bytes, 256);
    pad(&mut commands, 4 * COMMAND);
    [bytes, root, commands]
}
