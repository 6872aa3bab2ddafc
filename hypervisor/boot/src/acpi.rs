//! As much of ACPI as is needed to find the processors and what puts the machine to sleep: root pointer, root table, MADT,
//! FADT, FACS, names in DSDT and SSDTs (ACPI 6.5 5.2.5, 5.2.7 to 5.2.9, 5.2.11, 5.2.12). The tables are the firmware's and checked
//! like anyone's.

mod fadt;
mod sleep;

pub use fadt::{SleepControl, sleep_control};
pub use sleep::hide_suspend_to_ram;

use units::HostPhysical;

/// Memory the tables lie in.
pub trait Memory {
    /// Fills `into` from `address` on; false when that is not memory one may read.
    fn read(&self, address: HostPhysical, into: &mut [u8]) -> bool;
}

/// Memory whose tables can be changed.
pub trait Tables: Memory {
    /// The bytes of a table; `None` when that is not memory one may write.
    fn table(&mut self, address: HostPhysical, length: usize) -> Option<&mut [u8]>;
}

/// Why something was not found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The root pointer does not begin with "RSD PTR " or its checksum is wrong.
    RootPointer,
    /// A table lies where there is no memory, or is longer than a table can be.
    Unreadable {
        /// Where it should lie.
        address: u64,
    },
    /// There is no MADT.
    NoMadt,
}

const HEADER: usize = 36;
/// No table that is looked at is longer.
const LONGEST: u32 = 1 << 16;

fn u32_from(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    if let Some(from) = bytes.get(at..at + 4) {
        word.copy_from_slice(from);
    }
    u32::from_le_bytes(word)
}

fn u64_from(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_from(bytes, at)) | u64::from(u32_from(bytes, at + 4)) << 32
}

/// Whether these are the first 20 bytes of a root pointer.
#[must_use]
pub fn is_root_pointer(bytes: &[u8; 20]) -> bool {
    bytes.starts_with(b"RSD PTR ")
        && bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)) == 0
}

/// Calls `found` with the APIC id of every processor that is enabled, in the table's order.
///
/// # Errors
/// See [`Error`].
pub fn processors(
    memory: &impl Memory,
    root_pointer: HostPhysical,
    mut found: impl FnMut(u32),
) -> Result<(), Error> {
    let madt = each_table(memory, root_pointer, |address, header| {
        header.starts_with(b"APIC").then_some((address, u32_from(header, 4)))
    })?;
    let (table, length) = madt.ok_or(Error::NoMadt)?;
    let read = |address: u64, into: &mut [u8]| read(memory, address, into);
    self::madt(&read, table, length, &mut found)
}

fn read(memory: &impl Memory, address: u64, into: &mut [u8]) -> Result<(), Error> {
    match memory.read(HostPhysical(address), into) {
        true => Ok(()),
        false => Err(Error::Unreadable { address }),
    }
}

/// Calls `look` with address and header of every table that the root table names, until it finds something.
fn each_table<T>(
    memory: &impl Memory,
    root_pointer: HostPhysical,
    mut look: impl FnMut(u64, &[u8; HEADER]) -> Option<T>,
) -> Result<Option<T>, Error> {
    let mut pointer = [0; 36];
    let mut first = [0; 20];
    read(memory, root_pointer.0, &mut first)?;
    if !is_root_pointer(&first) {
        return Err(Error::RootPointer);
    }
    let new = first[15] >= 2;
    let (root, width) = if new {
        read(memory, root_pointer.0, &mut pointer)?;
        (u64_from(&pointer, 24), 8)
    } else {
        (u64::from(u32_from(&first, 16)), 4)
    };
    let mut header = [0; HEADER];
    read(memory, root, &mut header)?;
    let length = u32_from(&header, 4);
    if length > LONGEST {
        return Err(Error::Unreadable { address: root });
    }
    let mut at = HEADER as u64;
    while at + width <= u64::from(length) {
        let mut entry = [0; 8];
        read(memory, root.saturating_add(at), &mut entry[..width as usize])?;
        let table = u64::from_le_bytes(entry);
        // Kernels skip an entry that leads nowhere, too.
        if read(memory, table, &mut header).is_ok()
            && let Some(found) = look(table, &header)
        {
            return Ok(Some(found));
        }
        at += width;
    }
    Ok(None)
}

/// ACPI 6.5 5.2.12.2 and 5.2.12.12: local APIC and local x2APIC structures; flag bit 0 is "enabled".
fn madt(
    read: &impl Fn(u64, &mut [u8]) -> Result<(), Error>,
    table: u64,
    length: u32,
    found: &mut impl FnMut(u32),
) -> Result<(), Error> {
    if length > LONGEST {
        return Err(Error::Unreadable { address: table });
    }
    let mut at = 44;
    while at + 2 <= u64::from(length) {
        let mut head = [0; 2];
        read(table + at, &mut head)?;
        let mut body = [0; 16];
        let size = usize::from(head[1]);
        if size < 2 {
            break;
        }
        let known = match head[0] {
            0 => 8,
            9 => 16,
            _ => 0,
        };
        if known > 0 && size >= known && at + size as u64 <= u64::from(length) {
            read(table + at, &mut body[..known])?;
            let (id, flags) = if head[0] == 0 {
                (u32::from(body[3]), u32_from(&body, 4))
            } else {
                (u32_from(&body, 4), u32_from(&body, 8))
            };
            if flags & 1 != 0 {
                found(id);
            }
        }
        at += size as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Error, Memory, processors};
    use std::vec::Vec;
    use units::HostPhysical;

    pub(super) struct Bytes(pub(super) Vec<u8>);

    impl Memory for Bytes {
        fn read(&self, address: HostPhysical, into: &mut [u8]) -> bool {
            let start = address.0 as usize;
            let Some(from) = start.checked_add(into.len()).and_then(|end| self.0.get(start..end))
            else {
                return false;
            };
            into.copy_from_slice(from);
            true
        }
    }

    fn machine() -> Bytes {
        let mut memory = std::vec![0; 4096];
        memory[16..24].copy_from_slice(b"RSD PTR ");
        memory[32..36].copy_from_slice(&256_u32.to_le_bytes());
        let sum = memory[16..36].iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        memory[24] = 0_u8.wrapping_sub(sum);
        memory[256..260].copy_from_slice(b"RSDT");
        memory[260..264].copy_from_slice(&40_u32.to_le_bytes());
        memory[292..296].copy_from_slice(&512_u32.to_le_bytes());
        memory[512..516].copy_from_slice(b"APIC");
        memory[516..520].copy_from_slice(&(44_u32 + 8 + 8 + 16).to_le_bytes());
        memory[556..564].copy_from_slice(&[0, 8, 0, 3, 1, 0, 0, 0]);
        memory[564..572].copy_from_slice(&[0, 8, 0, 4, 0, 0, 0, 0]);
        memory[572..588].copy_from_slice(&[9, 16, 0, 0, 5, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        Bytes(memory)
    }

    #[test]
    fn enabled_processors_are_found_in_both_structures() {
        let mut ids = Vec::new();
        processors(&machine(), HostPhysical(16), |id| ids.push(id)).expect("good tables");
        assert_eq!(ids, [3, 0x105]);
    }

    #[test]
    fn damaged_tables_are_errors() {
        let mut memory = machine();
        memory.0[24] ^= 1;
        assert_eq!(processors(&memory, HostPhysical(16), |_| {}), Err(Error::RootPointer));
        let mut memory = machine();
        memory.0[292] = 0xff;
        memory.0[293] = 0xff;
        assert!(processors(&memory, HostPhysical(16), |_| {}).is_err());
        let mut memory = machine();
        memory.0[512] = b'X';
        assert_eq!(processors(&memory, HostPhysical(16), |_| {}), Err(Error::NoMadt));
    }

    #[test]
    fn no_byte_of_the_tables_makes_it_panic_or_loop() {
        for at in 0..600 {
            for value in [0, 1, 0x7f, 0xff] {
                let mut memory = machine();
                memory.0[at] = value;
                let _ = processors(&memory, HostPhysical(16), |_| {});
            }
        }
    }
}
