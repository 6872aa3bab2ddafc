//! What the FADT says: where the DSDT lies, and what puts the machine to sleep (ACPI 6.5 4.8.3.2, 5.2.9, 5.2.10).

use super::{Error, Memory, each_table, read, u32_from, u64_from};
use units::HostPhysical;

/// Bytes of a FADT that are looked at: up to the end of X_PM1b_CNT_BLK (ACPI 6.5 table 5.9).
const SIZE: usize = 196;
const FACS: usize = 36;
const DSDT: usize = 40;
const EVENTS: usize = 56;
const CONTROL: [usize; 2] = [64, 68];
const FLAGS: usize = 112;
const X_FACS: usize = 132;
const X_DSDT: usize = 140;
const X_EVENTS: usize = 148;
const X_CONTROL: [usize; 2] = [172, 184];
/// Flag: there are no such registers.
const HARDWARE_REDUCED: u32 = 1 << 20;
/// The address space of ports in a generic address (ACPI 6.5 table 5.1), and where its address begins.
const PORTS: u8 = 1;
const ADDRESS: usize = 4;
/// The least that a FACS has.
const FACS_SIZE: u32 = 64;

/// How an operating system puts the machine to sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SleepControl {
    /// The ports of PM1a_CNT and PM1b_CNT, 16 bits each; 0 where there is no second.
    pub ports: [u16; 2],
    /// The port of PM1a_STS, 16 bits.
    pub status: u16,
    /// The FACS, which has the address that the firmware goes on at behind S3.
    pub facs: HostPhysical,
}

/// Finds it; `None` where the firmware's tables do not name all of it, or not in one voice.
///
/// # Errors
/// See [`Error`].
pub fn sleep_control(
    memory: &impl Memory,
    root_pointer: HostPhysical,
) -> Result<Option<SleepControl>, Error> {
    let found = each_table(memory, root_pointer, |address, header| {
        header.starts_with(b"FACP").then_some((address, u32_from(header, 4)))
    })?;
    let Some((address, length)) = found else { return Ok(None) };
    let table = fadt(memory, address, length)?;
    if u32_from(&table, FLAGS) & HARDWARE_REDUCED != 0 {
        return Ok(None);
    }
    let (old, new) = (u64::from(u32_from(&table, FACS)), u64_from(&table, X_FACS));
    let facs = if old == 0 { new } else { old };
    let there = |old, new| port(&table, old, new).filter(|port| *port != 0);
    let (Some(first), Some(status)) = (there(CONTROL[0], X_CONTROL[0]), there(EVENTS, X_EVENTS))
    else {
        return Ok(None);
    };
    let Some(second) = port(&table, CONTROL[1], X_CONTROL[1]) else { return Ok(None) };
    if facs == 0 || old != 0 && new != 0 && old != new {
        return Ok(None);
    }
    let mut head = [0; 8];
    read(memory, facs, &mut head)?;
    let sound = head.starts_with(b"FACS") && u32_from(&head, 4) >= FACS_SIZE;
    Ok(sound.then_some(SleepControl { ports: [first, second], status, facs: HostPhysical(facs) }))
}

/// A FADT, zeros where it is shorter.
fn fadt(memory: &impl Memory, address: u64, length: u32) -> Result<[u8; SIZE], Error> {
    let mut table = [0; SIZE];
    read(memory, address, &mut table[..SIZE.min(length as usize)])?;
    Ok(table)
}

/// Where a FADT says that the DSDT lies; 0 for nowhere.
pub(super) fn dsdt(memory: &impl Memory, address: u64, length: u32) -> u64 {
    let Ok(table) = fadt(memory, address, length) else { return 0 };
    match u64_from(&table, X_DSDT) {
        0 => u64::from(u32_from(&table, DSDT)),
        address => address,
    }
}

/// A register by its old field and by its new one, 0 for none; `None` when they differ or it is no port.
fn port(table: &[u8; SIZE], old: usize, new: usize) -> Option<u16> {
    let (old, address) = (u64::from(u32_from(table, old)), u64_from(table, new + ADDRESS));
    if address != 0 && (table[new] != PORTS || old != 0 && old != address) {
        return None;
    }
    u16::try_from(if old == 0 { address } else { old }).ok()
}

#[cfg(test)]
mod tests {
    use super::{SleepControl, sleep_control};
    use crate::acpi::tests::Bytes;
    use units::HostPhysical;

    const FADT: usize = 512;
    const FACS: usize = 1024;

    fn machine(change: impl FnOnce(&mut [u8])) -> Bytes {
        let mut memory = std::vec![0; 4096];
        memory[16..24].copy_from_slice(b"RSD PTR ");
        memory[32..36].copy_from_slice(&256_u32.to_le_bytes());
        memory[24] = memory[16..36].iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
        memory[256..260].copy_from_slice(b"RSDT");
        memory[260..264].copy_from_slice(&40_u32.to_le_bytes());
        memory[292..296].copy_from_slice(&(FADT as u32).to_le_bytes());
        memory[FADT..FADT + 4].copy_from_slice(b"FACP");
        memory[FADT + 4..FADT + 8].copy_from_slice(&244_u32.to_le_bytes());
        memory[FADT + 36..FADT + 40].copy_from_slice(&(FACS as u32).to_le_bytes());
        memory[FADT + 56..FADT + 60].copy_from_slice(&0x600_u32.to_le_bytes());
        memory[FADT + 64..FADT + 68].copy_from_slice(&0x604_u32.to_le_bytes());
        memory[FACS..FACS + 4].copy_from_slice(b"FACS");
        memory[FACS + 4..FACS + 8].copy_from_slice(&64_u32.to_le_bytes());
        change(&mut memory);
        Bytes(memory)
    }

    fn find(change: impl FnOnce(&mut [u8])) -> Option<SleepControl> {
        sleep_control(&machine(change), HostPhysical(16)).expect("readable")
    }

    #[test]
    fn registers_are_found_by_old_and_new_fields() {
        let usual =
            SleepControl { ports: [0x604, 0], status: 0x600, facs: HostPhysical(FACS as u64) };
        assert_eq!(find(|_| {}), Some(usual));
        let new = |memory: &mut [u8]| {
            memory[FADT + 36..FADT + 40].fill(0);
            memory[FADT + 132..FADT + 140].copy_from_slice(&(FACS as u64).to_le_bytes());
            memory[FADT + 56..FADT + 60].fill(0);
            memory[FADT + 148] = 1;
            memory[FADT + 152..FADT + 160].copy_from_slice(&0x600_u64.to_le_bytes());
            memory[FADT + 64..FADT + 68].fill(0);
            memory[FADT + 172] = 1;
            memory[FADT + 176..FADT + 184].copy_from_slice(&0x604_u64.to_le_bytes());
        };
        assert_eq!(find(new), Some(usual));
        let second = |memory: &mut [u8]| memory[FADT + 68] = 0x50;
        assert_eq!(find(second), Some(SleepControl { ports: [0x604, 0x50], ..usual }));
        // An old, short table has no new fields.
        let short = |memory: &mut [u8]| {
            memory[FADT + 4] = 116;
            memory[FADT + 148..FADT + 200].fill(0xff);
        };
        assert_eq!(find(short), Some(usual));
    }

    #[test]
    fn what_is_not_whole_or_contradicts_itself_is_not_used() {
        assert_eq!(find(|memory| memory[FADT + 114] = 0x10), None, "no such hardware");
        assert_eq!(find(|memory| memory[FADT + 64..FADT + 66].fill(0)), None, "no port");
        assert_eq!(find(|memory| memory[FADT + 56..FADT + 58].fill(0)), None, "no status");
        assert_eq!(find(|memory| memory[FADT + 66] = 1), None, "no port has this number");
        assert_eq!(find(|memory| memory[FACS] = b'X'), None, "no FACS");
        assert_eq!(find(|memory| memory[FADT + 132] = 1), None, "another FACS");
        let memory_space = |memory: &mut [u8]| memory[FADT + 176] = 4;
        assert_eq!(find(memory_space), None, "registers in memory");
        assert_eq!(find(|memory| memory[FADT] = b'X'), None, "no FADT");
    }

    #[test]
    fn no_byte_of_the_tables_makes_it_panic() {
        for at in 0..1100 {
            for value in [0, 1, 0x7f, 0xff] {
                let _ = sleep_control(&machine(|memory| memory[at] = value), HostPhysical(16));
            }
        }
    }
}
