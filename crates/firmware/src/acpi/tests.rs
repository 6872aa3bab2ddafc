use super::*;
use std::process::Command;
use units::Bytes as Size;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

fn config(processors: u32, mib: u64) -> AcpiConfig {
    AcpiConfig {
        processors,
        map: MemoryMap::new(Size::mib(mib), 46).unwrap(),
        ecam: Some(Range { base: layout::ECAM, size: layout::ECAM_SIZE }),
        pm_base: layout::PM_BASE,
        virtio: vec![VirtioRegisters {
            range: Range { base: GuestPhysical(0xfd00_0000), size: Size(0x1000) },
            interrupt: 16,
        }],
    }
}

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap()
}

fn read(memory: &GuestMemoryMmap, address: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
    bytes
}

fn number(bytes: &[u8], at: usize, width: usize) -> u64 {
    let mut value = [0; 8];
    value[..width].copy_from_slice(&bytes[at..at + width]);
    u64::from_le_bytes(value)
}

/// Follows every pointer as a guest does: signature to table, checksums verified.
fn walk(memory: &GuestMemoryMmap, rsdp: u64) -> Vec<(String, Vec<u8>)> {
    let table = |address: u64| {
        let length = usize::try_from(number(&read(memory, address, 8), 4, 4)).unwrap();
        let bytes = read(memory, address, length);
        let name = String::from_utf8(bytes[..4].to_vec()).unwrap();
        if name != "FACS" {
            assert_eq!(sum(&bytes), 0, "checksum of {name}");
        }
        (name, bytes)
    };
    let root = read(memory, rsdp, 36);
    assert_eq!(&root[..8], b"RSD PTR ");
    assert_eq!((sum(&root[..20]), sum(&root)), (0, 0));
    let (name, xsdt) = table(number(&root, 24, 8));
    assert_eq!(name, "XSDT");
    let mut found: Vec<_> = xsdt[36..].chunks(8).map(|entry| table(number(entry, 0, 8))).collect();
    let fadt = found[0].1.clone();
    assert_eq!(number(&fadt, 40, 4), number(&fadt, 140, 8), "DSDT and X_DSDT");
    found.push(table(number(&fadt, 40, 4)));
    found.push(table(number(&fadt, 36, 4)));
    found
}

fn names(tables: &[(String, Vec<u8>)]) -> Vec<&str> {
    tables.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn a_guest_finds_every_table_with_a_good_checksum() {
    let memory = memory();
    let rsdp = write_acpi(&memory, &config(4, 2048)).unwrap();
    let tables = walk(&memory, rsdp.0);
    assert_eq!(names(&tables), ["FACP", "APIC", "MCFG", "WAET", "DSDT", "FACS"]);
    let fadt = &tables[0].1;
    assert_eq!(number(fadt, 46, 2), 9, "SCI");
    assert_eq!(
        (number(fadt, 56, 4), number(fadt, 64, 4), number(fadt, 76, 4)),
        (0x600, 0x604, 0x608)
    );
    assert_eq!(
        number(fadt, 112, 4) & (1 << 4 | 1 << 10),
        1 << 10,
        "power button fixed, reset register"
    );
    assert_eq!(number(&tables[2].1, 44, 8), 0xb000_0000, "ECAM");
}

#[test]
fn processors_past_254_get_x2apic_entries() {
    let madt = fixed::madt(300);
    let mut ids = Vec::new();
    let mut at = 44;
    while at < madt.len() {
        match madt[at] {
            0 => ids.push(u64::from(madt[at + 3])),
            9 => ids.push(number(&madt, at + 4, 4)),
            _ => {}
        }
        at += usize::from(madt[at + 1]);
    }
    assert_eq!(at, madt.len());
    assert_eq!(ids, (0..300).collect::<Vec<_>>());
}

#[test]
fn too_many_processors_are_refused() {
    assert!(write_acpi(&memory(), &config(512, 2048)).is_ok());
    let error = write_acpi(&memory(), &config(4096, 2048)).unwrap_err();
    assert!(matches!(error, AcpiError::Room { .. }), "{error}");
}

/// Does what firmware does with the linker commands, and must come to the same tables.
#[test]
fn the_linker_commands_place_the_same_tables() {
    let [tables, rsdp, commands] = linker::files(&config(2, 4096));
    let memory = memory();
    let (tables_at, rsdp_at) = (0x1_0000u64, 0xf_0000u64);
    let text = |bytes: &[u8]| {
        let end = bytes.iter().position(|byte| *byte == 0).unwrap();
        String::from_utf8(bytes[..end].to_vec()).unwrap()
    };
    let base = |file: &str| {
        if file == RSDP_FILE { rsdp_at } else { tables_at }
    };
    memory.write_slice(&tables, GuestAddress(tables_at)).unwrap();
    memory.write_slice(&rsdp, GuestAddress(rsdp_at)).unwrap();
    assert_eq!(commands.len() % 128, 0);
    for command in commands.chunks(128) {
        let first = text(&command[4..60]);
        match number(command, 0, 4) {
            1 => assert!(first == RSDP_FILE || tables_at % number(command, 60, 4) == 0),
            2 => {
                let source = text(&command[60..116]);
                let width = usize::from(command[120]);
                let at = base(&first) + number(command, 116, 4);
                let value = number(&read(&memory, at, width), 0, width) + base(&source);
                memory.write_slice(&value.to_le_bytes()[..width], GuestAddress(at)).unwrap();
            }
            3 => {
                let (at, start) = (number(command, 60, 4), number(command, 64, 4));
                let length = usize::try_from(number(command, 68, 4)).unwrap();
                let bytes = read(&memory, base(&first) + start, length);
                let old = read(&memory, base(&first) + at, 1)[0];
                let new = old.wrapping_sub(sum(&bytes));
                memory.write_slice(&[new], GuestAddress(base(&first) + at)).unwrap();
            }
            0 => {}
            other => panic!("command {other}"),
        }
    }
    assert_eq!(names(&walk(&memory, rsdp_at)), ["FACP", "APIC", "MCFG", "WAET", "DSDT", "FACS"]);
}

#[test]
fn the_files_keep_their_size_when_firmware_moves_the_window() {
    let before = AcpiConfig { ecam: None, ..config(4, 2048) };
    let ecam = Range { base: GuestPhysical(0xe000_0000), size: layout::ECAM_SIZE };
    let after = AcpiConfig { ecam: Some(ecam), ..config(4, 2048) };
    let sizes = |config| linker::files(config).map(|file| file.len());
    assert_eq!(sizes(&before), sizes(&after));
}

/// The reference disassembler and compiler of the ACPI project must take the tables back and forth.
#[test]
fn iasl_disassembles_and_recompiles_the_dsdt_without_complaint() {
    let folder = tempfile::tempdir().unwrap();
    let memory = memory();
    let rsdp = write_acpi(&memory, &config(2, 4096)).unwrap();
    for (name, bytes) in walk(&memory, rsdp.0) {
        std::fs::write(folder.path().join(format!("{name}.dat")), bytes).unwrap();
    }
    let iasl = |arguments: &[&str]| {
        let done = Command::new("iasl").args(arguments).current_dir(folder.path()).output().ok()?;
        Some((
            done.status.success(),
            String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned(),
        ))
    };
    let Some(_) = iasl(&["-v"]) else {
        println!("SKIPPED: iasl is not installed (Debian package acpica-tools)");
        return;
    };
    for table in ["FACP", "APIC", "MCFG", "WAET", "FACS"] {
        let (good, text) = iasl(&["-d", &format!("{table}.dat")]).unwrap();
        assert!(good && !text.contains("Error") && !text.contains("Warning"), "{table}: {text}");
        let source = std::fs::read_to_string(folder.path().join(format!("{table}.dsl"))).unwrap();
        let complaint = ["Invalid", "**", "Unknown"].into_iter().find(|word| source.contains(word));
        assert_eq!(complaint, None, "{table}: {source}");
    }
    let (good, text) = iasl(&["-d", "DSDT.dat"]).unwrap();
    assert!(good && !text.contains("Error"), "{text}");
    let (good, text) = iasl(&["-p", "again", "DSDT.dsl"]).unwrap();
    assert!(good && text.contains(" 0 Errors"), "{text}");
    assert!(text.contains(" 0 Warnings"), "{text}");
}
