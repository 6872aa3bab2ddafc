//! Suspend to RAM, taken away: an operating system finds the sleeping state S3 by an object of this name, and without it does
//! not have that state (ACPI 6.5 7.4.2). In S3 the processors are off, and the firmware wakes the operating system alone,
//! without what lay beneath it.

use super::fadt::dsdt;
use super::{Error, HEADER, Tables, each_table, read, u32_from};
use units::HostPhysical;

/// No table of definitions is longer.
const LONGEST: u32 = 4 << 20;
/// Where a table's checksum lies.
const CHECKSUM: usize = 9;
/// AML: `Name (_S3_, ` and `Name (\_S3_, ` (ACPI 6.5 20.2.2, 20.2.5.1).
const NAMES: [&[u8]; 2] = [b"\x08_S3_", b"\x08\\_S3_"];
/// Tables that are looked at.
const MOST: usize = 64;

/// Renames the object `_S3_` wherever DSDT and SSDTs define it, checksums included; how many there were.
///
/// # Errors
/// See [`Error`]. Tables that cannot be read or written are left alone.
pub fn hide_suspend_to_ram(
    memory: &mut impl Tables,
    root_pointer: HostPhysical,
) -> Result<u32, Error> {
    let mut tables = [0; MOST];
    let mut count = 0;
    let mut add = |address: u64| {
        if let Some(place) = tables.get_mut(count)
            && address != 0
        {
            *place = address;
            count += 1;
        }
    };
    each_table(memory, root_pointer, |address, header| {
        if header.starts_with(b"SSDT") {
            add(address);
        } else if header.starts_with(b"FACP") {
            add(dsdt(memory, address, u32_from(header, 4)));
        }
        None::<()>
    })?;
    let mut hidden = 0;
    for address in &tables[..count] {
        let mut header = [0; HEADER];
        let length = match read(memory, *address, &mut header) {
            Ok(()) => u32_from(&header, 4),
            Err(_) => continue,
        };
        if (HEADER as u32..=LONGEST).contains(&length)
            && let Some(table) = memory.table(HostPhysical(*address), length as usize)
        {
            hidden += rename(table);
        }
    }
    Ok(hidden)
}

fn rename(table: &mut [u8]) -> u32 {
    let mut renamed = 0;
    for at in HEADER..table.len() {
        let found = NAMES.iter().find(|name| table[at..].starts_with(name));
        if let Some(name) = found {
            // The name's first character.
            let first = at + name.len() - 4;
            table[first] = b'X';
            // All bytes of a table are 0 together.
            table[CHECKSUM] = table[CHECKSUM].wrapping_add(b'_' - b'X');
            renamed += 1;
        }
    }
    renamed
}

#[cfg(test)]
mod tests {
    use super::{CHECKSUM, hide_suspend_to_ram};
    use crate::acpi::tests::Bytes;
    use crate::acpi::{Error, Tables};
    use std::vec::Vec;
    use units::HostPhysical;

    impl Tables for Bytes {
        fn table(&mut self, address: HostPhysical, length: usize) -> Option<&mut [u8]> {
            let start = usize::try_from(address.0).ok()?;
            self.0.get_mut(start..start.checked_add(length)?)
        }
    }

    /// A table with `body`, its checksum right.
    fn put(memory: &mut [u8], at: usize, signature: &[u8; 4], body: &[u8]) {
        let length = 36 + body.len();
        memory[at..at + 4].copy_from_slice(signature);
        memory[at + 4..at + 8].copy_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
        memory[at + 36..at + length].copy_from_slice(body);
        memory[at + CHECKSUM] = 0_u8.wrapping_sub(sum(&memory[at..at + length]));
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    const DSDT: usize = 1024;
    const SSDT: usize = 2048;

    /// The DSDT by the FADT's 64-bit address, or by the 32-bit one.
    fn machine(new: bool) -> Bytes {
        let mut memory = std::vec![0; 4096];
        memory[16..24].copy_from_slice(b"RSD PTR ");
        memory[32..36].copy_from_slice(&256_u32.to_le_bytes());
        memory[24] = 0_u8.wrapping_sub(sum(&memory[16..36]));
        let roots = [512_u32, SSDT as u32];
        put(&mut memory, 256, b"RSDT", &roots.map(u32::to_le_bytes).concat());
        let mut fadt = [0; 208];
        match new {
            true => fadt[104..112].copy_from_slice(&(DSDT as u64).to_le_bytes()),
            false => fadt[4..8].copy_from_slice(&(DSDT as u32).to_le_bytes()),
        }
        put(&mut memory, 512, b"FACP", &fadt);
        let body = [b"\x08_S1_\x12".as_slice(), b"\x08_S3_\x12", b"\x08_S4_\x12 _S3_"].concat();
        put(&mut memory, DSDT, b"DSDT", &body);
        put(&mut memory, SSDT, b"SSDT", b"\x08\\_S3_\x12\x08_S3");
        Bytes(memory)
    }

    #[test]
    fn only_the_definitions_are_renamed_and_checksums_stay_right() {
        for new in [false, true] {
            let mut memory = machine(new);
            let before = memory.0.clone();
            assert_eq!(hide_suspend_to_ram(&mut memory, HostPhysical(16)), Ok(2));
            let changed: Vec<usize> =
                (0..before.len()).filter(|at| before[*at] != memory.0[*at]).collect();
            assert_eq!(changed, [DSDT + CHECKSUM, DSDT + 43, SSDT + CHECKSUM, SSDT + 38]);
            assert_eq!(&memory.0[DSDT + 42..DSDT + 47], b"\x08XS3_");
            for table in [DSDT, SSDT] {
                let length = usize::from(memory.0[table + 4]);
                assert_eq!(sum(&memory.0[table..table + length]), 0);
            }
            assert_eq!(hide_suspend_to_ram(&mut memory, HostPhysical(16)), Ok(0));
        }
    }

    #[test]
    fn no_byte_of_the_tables_makes_it_panic_or_write_past_them() {
        for at in 0..1100 {
            for value in [0, 1, 0x7f, 0xff] {
                let mut memory = machine(true);
                memory.0[at] = value;
                let _ = hide_suspend_to_ram(&mut memory, HostPhysical(16));
                assert_eq!(memory.0[3000..], [0; 1096]);
            }
        }
        let mut memory = machine(true);
        memory.0[16] = 0;
        let result = hide_suspend_to_ram(&mut memory, HostPhysical(16));
        assert_eq!(result, Err(Error::RootPointer));
    }
}
