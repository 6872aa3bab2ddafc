//! ELF kernels with a PVH entry note (Xen docs/misc/pvh.pandoc; Linux arch/x86/platform/pvh).

use crate::elf::Elf;
use crate::image::{Image, Source};
use crate::{EntryPoint, LoadError, Ram, entry, place};
use alloc::vec::Vec;
use layout::{COMMAND_LINE, MemoryMap, PVH_START_INFO};
use processor::Registers;
use units::GuestPhysical;

/// XEN_ELFNOTE_PHYS32_ENTRY (Xen public/elfnote.h).
const NOTE_ENTRY: u32 = 18;
/// XEN_HVM_START_MAGIC_VALUE, and the version with a memory map.
const MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;
/// Linux's own limit on x86 (COMMAND_LINE_SIZE less the terminator); PVH itself has none.
const COMMAND_LINE_MOST: usize = 2047;
/// Offsets of the tables from the start info, which is 56 bytes long.
const MODULES: u64 = 0x40;
const MEMORY_MAP: u64 = 0x80;

/// What differs in `hvm_start_info` (Xen public/arch-x86/hvm/start_info.h, version 1).
struct StartInfo {
    rsdp: u64,
    memory_map_entries: u32,
    modules: u32,
}

impl StartInfo {
    fn encode(&self) -> Vec<u8> {
        let modules_at = if self.modules == 0 { 0 } else { PVH_START_INFO.0 + MODULES };
        let mut bytes = Vec::with_capacity(56);
        for word in [MAGIC, VERSION, 0, self.modules] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend(words(&[
            modules_at,
            COMMAND_LINE.0,
            self.rsdp,
            PVH_START_INFO.0 + MEMORY_MAP,
            self.memory_map_entries.into(),
        ]));
        bytes
    }
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub(crate) fn load<I: Image>(
    memory: &dyn Ram,
    map: &MemoryMap,
    kernel: &mut Source<'_, I>,
    initrd: Option<&mut Source<'_, I>>,
    command_line: &str,
    rsdp: Option<GuestPhysical>,
) -> Result<EntryPoint, LoadError> {
    let elf = Elf::read(kernel)?;
    let entry = elf.note(kernel, b"Xen\0", NOTE_ENTRY)?.ok_or(LoadError::NoEntryNote)?;
    if !elf.covers(entry.into()) {
        return Err(LoadError::Field {
            format: "ELF kernel",
            field: "PVH entry note",
            value: entry.into(),
            allowed: "an address inside a loaded segment".into(),
        });
    }
    let end = elf.load(memory, map, kernel)?;
    place::command_line(memory, command_line, "a PVH kernel", COMMAND_LINE_MOST)?;

    let ranges = map.e820();
    let mut info = StartInfo {
        rsdp: rsdp.map_or(0, |address| address.0),
        memory_map_entries: u32::try_from(ranges.len()).unwrap_or(0),
        modules: 0,
    };
    if let Some(initrd) = initrd {
        let placed = place::initrd(memory, map, initrd, end, u64::from(u32::MAX))?;
        // hvm_modlist_entry: address, size, command line, reserved.
        let module = words(&[placed.address, placed.size, 0, 0]);
        info.modules = 1;
        place::write(memory, GuestPhysical(PVH_START_INFO.0 + MODULES), &module)?;
    }
    let entries: Vec<u8> = ranges
        .iter()
        // hvm_memmap_table_entry: address, size, type, reserved.
        .flat_map(|(range, kind)| words(&[range.base.0, range.size.0, *kind as u64]))
        .collect();
    place::write(memory, GuestPhysical(PVH_START_INFO.0 + MEMORY_MAP), &entries)?;
    place::write(memory, PVH_START_INFO, &info.encode())?;
    let registers = Registers { rbx: PVH_START_INFO.0, rip: entry.into(), ..Registers::default() };
    entry::protected_mode(memory, registers)
}
