//! What the monitor reads of the machine's ACPI tables: which processors there are (ACPI 6.5 5.2.5,
//! 5.2.7, 5.2.8, 5.2.12). Pure; the caller says how memory is read.

use alloc::vec::Vec;

/// The largest table that is read.
const MOST_BYTES: usize = 64 << 10;
/// The most processors that are looked for.
const MOST_PROCESSORS: usize = 256;
const HEADER: usize = 36;
/// Where tables of the MADT's interrupt controllers begin.
const MADT_ENTRIES: usize = 44;
const LOCAL_APIC: u8 = 0;
const LOCAL_X2APIC: u8 = 9;
/// Processor flags: enabled, or can be.
const ENABLED: u32 = 1 << 0;

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Local APIC ids of the enabled processors by the MADT that the root pointer at `rsdp` leads to, in
/// its order; none where a table is missing or damaged. `read` gives bytes of the machine's memory.
pub fn processors<'a>(rsdp: u64, read: &dyn Fn(u64, usize) -> &'a [u8]) -> Vec<u32> {
    madt(rsdp, read).map(entries).unwrap_or_default()
}

fn table<'a>(at: u64, read: &dyn Fn(u64, usize) -> &'a [u8]) -> Option<&'a [u8]> {
    let length = u32_at(read(at, HEADER), 4)? as usize;
    let table = read(at, length.clamp(HEADER, MOST_BYTES));
    let sum = table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    (sum == 0).then_some(table)
}

fn madt<'a>(rsdp: u64, read: &dyn Fn(u64, usize) -> &'a [u8]) -> Option<&'a [u8]> {
    if rsdp == 0 {
        return None;
    }
    let root = read(rsdp, HEADER);
    if !root.starts_with(b"RSD PTR ") {
        return None;
    }
    // Revision 2 and later have an XSDT with 8-byte pointers.
    let xsdt = if *root.get(15)? >= 2 { u64_at(root, 24)? } else { 0 };
    let (list, width) = if xsdt == 0 {
        (table(u32_at(root, 16)?.into(), read)?, 4)
    } else {
        (table(xsdt, read)?, 8)
    };
    list[HEADER..]
        .chunks_exact(width)
        .filter_map(|pointer| match width {
            4 => u32_at(pointer, 0).map(u64::from),
            _ => u64_at(pointer, 0),
        })
        .filter_map(|at| table(at, read))
        .find(|table| table.starts_with(b"APIC"))
}

fn entries(madt: &[u8]) -> Vec<u32> {
    let mut ids = Vec::new();
    let mut rest = madt.get(MADT_ENTRIES..).unwrap_or_default();
    while let [kind, length, ..] = *rest {
        let Some(entry) = rest.get(..usize::from(length)) else {
            break;
        };
        let processor = match kind {
            LOCAL_APIC => entry.get(3).map(|id| u32::from(*id)).zip(u32_at(entry, 4)),
            LOCAL_X2APIC => u32_at(entry, 4).zip(u32_at(entry, 8)),
            _ => None,
        };
        if let Some((id, flags)) = processor
            && flags & ENABLED != 0
            && !ids.contains(&id)
            && ids.len() < MOST_PROCESSORS
        {
            ids.push(id);
        }
        rest = &rest[usize::from(length).max(2).min(rest.len())..];
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;
    use layout::MemoryMap;
    use std::vec;
    use units::Bytes;

    /// The tables that guests of ours get, as a machine.
    fn machine(processors: u32) -> Vec<u8> {
        let config = firmware::AcpiConfig {
            processors,
            map: MemoryMap::new(Bytes::mib(64), 40).unwrap(),
            ecam: None,
            pm_base: layout::PM_BASE,
            virtio: Vec::new(),
        };
        let placed = firmware::place_acpi(&config).unwrap();
        let mut memory = vec![0; 1 << 20];
        for (at, bytes) in [placed.rsdp, placed.tables] {
            let at = at.0 as usize;
            memory[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        memory
    }

    fn find(memory: &[u8], rsdp: u64) -> Vec<u32> {
        processors(rsdp, &|at, size| {
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            let end = at.saturating_add(size).min(memory.len());
            memory.get(at..end).unwrap_or_default()
        })
    }

    #[test]
    fn every_enabled_processor_is_found() {
        assert_eq!(find(&machine(4), layout::ACPI.0), [0, 1, 2, 3]);
    }

    #[test]
    fn damaged_or_missing_tables_name_nobody() {
        assert!(find(&machine(4), 0).is_empty());
        assert!(find(&machine(4), 0x1000).is_empty());
        let memory = machine(4);
        for at in (layout::ACPI.0 as usize)..(layout::ACPI.0 as usize + 0x3000) {
            let mut damaged = memory.clone();
            damaged[at] ^= 0xff;
            let found = find(&damaged, layout::ACPI.0);
            assert!(found.is_empty() || found == [0, 1, 2, 3], "{at:#x}: {found:?}");
        }
    }
}
