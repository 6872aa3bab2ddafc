//! ELF kernels with a PVH entry note (Xen docs/misc/pvh.pandoc; Linux arch/x86/platform/pvh).

use crate::elf::Elf;
use crate::image::{Image, Source};
use crate::{EntryPoint, LoadError, entry, place};
use engine::Registers;
use layout::{COMMAND_LINE, MemoryMap, PVH_START_INFO};
use linux_loader::loader::elf::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use units::GuestPhysical;
use vm_memory::{ByteValued, GuestMemoryMmap};

/// XEN_ELFNOTE_PHYS32_ENTRY (Xen public/elfnote.h).
const NOTE_ENTRY: u32 = 18;
/// Linux's own limit on x86 (COMMAND_LINE_SIZE less the terminator); PVH itself has none.
const COMMAND_LINE_MOST: usize = 2047;
/// Offsets of the tables from the start info, which is 56 bytes long.
const MODULES: u64 = 0x40;
const MEMORY_MAP: u64 = 0x80;

pub(crate) fn load<I: Image>(
    memory: &GuestMemoryMmap,
    map: &MemoryMap,
    kernel: &mut Source<'_, I>,
    initrd: Option<&mut Source<'_, I>>,
    command_line: &str,
    rsdp: Option<GuestPhysical>,
) -> Result<EntryPoint, LoadError> {
    let elf = Elf::read(kernel)?;
    let entry = elf
        .note(kernel, b"Xen\0", NOTE_ENTRY)?
        .ok_or(LoadError::NoEntryNote)?;
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

    let mut info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: 1,
        cmdline_paddr: COMMAND_LINE.0,
        rsdp_paddr: rsdp.map_or(0, |address| address.0),
        memmap_paddr: PVH_START_INFO.0 + MEMORY_MAP,
        ..hvm_start_info::default()
    };
    if let Some(initrd) = initrd {
        let placed = place::initrd(memory, map, initrd, end, u64::from(u32::MAX))?;
        let module = hvm_modlist_entry {
            paddr: placed.address,
            size: placed.size,
            ..hvm_modlist_entry::default()
        };
        info.nr_modules = 1;
        info.modlist_paddr = PVH_START_INFO.0 + MODULES;
        place::write(memory, GuestPhysical(info.modlist_paddr), module.as_slice())?;
    }
    for (range, kind) in map.e820() {
        let entry = hvm_memmap_table_entry {
            addr: range.base.0,
            size: range.size.0,
            type_: kind as u32,
            reserved: 0,
        };
        let size = u64::try_from(size_of_val(&entry)).unwrap_or(0);
        let at = info.memmap_paddr + u64::from(info.memmap_entries) * size;
        place::write(memory, GuestPhysical(at), entry.as_slice())?;
        info.memmap_entries += 1;
    }
    place::write(memory, PVH_START_INFO, info.as_slice())?;
    let registers = Registers {
        rbx: PVH_START_INFO.0,
        rip: entry.into(),
        ..Registers::default()
    };
    entry::protected_mode(memory, registers)
}
