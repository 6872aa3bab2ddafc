//! Multiboot 1 kernels (Multiboot Specification 0.6.96): ELF, or flat with addresses in the header.

use crate::elf::{Elf, in_ram, zero};
use crate::image::{Fields, Image, Source};
use crate::{EntryPoint, LoadError, Ram, entry, place};
use alloc::string::String;
use alloc::vec::Vec;
use alloc::{format, vec};
use layout::{EBDA, HIGH_MEMORY, MULTIBOOT_INFO, MULTIBOOT_INFO_END, MemoryMap};
use processor::Registers;
use units::GuestPhysical;

const FORMAT: &str = "Multiboot kernel";
/// The header lies wholly in the first 8192 bytes, 4-byte aligned (3.1).
pub(crate) const SEARCHED: usize = 8192;
const HEADER_MAGIC: u32 = 0x1bad_b002;
/// What EAX holds at entry (3.2).
const LOADER_MAGIC: u64 = 0x2bad_b002;

// Header flags (3.1.2). Bits 0 to 15 must be understood; 0 to 2 are: modules are page-aligned,
// memory is always described, and no video mode is set, which the absent flags 11 and 12 of the
// information say.
const FLAGS_UNDERSTOOD: u32 = 0b111;
const FLAG_ADDRESSES: u32 = 1 << 16;

// Information flags (3.3).
const INFO_MEMORY: u32 = 1 << 0;
const INFO_COMMAND_LINE: u32 = 1 << 2;
const INFO_MODULES: u32 = 1 << 3;
const INFO_MEMORY_MAP: u32 = 1 << 6;
const INFO_LOADER_NAME: u32 = 1 << 9;
const INFO_SIZE: usize = 116;
const MODULE_SIZE: usize = 16;
/// The longest command line; the information area holds it with all else.
const COMMAND_LINE_MOST: usize = 32 << 10;

/// The texts a Multiboot kernel is given.
pub(crate) struct Names<'a> {
    pub(crate) kernel: &'a str,
    pub(crate) module: &'a str,
    pub(crate) command_line: &'a str,
}

/// Offset of the header in the file's first bytes.
pub(crate) fn find_header(head: &[u8]) -> Option<usize> {
    let searched = head.get(..SEARCHED.min(head.len()))?;
    (0..searched.len().saturating_sub(11)).step_by(4).find(|at| {
        let header = Fields(&searched[*at..]);
        let sum = header.u32(0).wrapping_add(header.u32(4)).wrapping_add(header.u32(8));
        header.u32(0) == HEADER_MAGIC && sum == 0
    })
}

pub(crate) fn load<I: Image>(
    memory: &dyn Ram,
    map: &MemoryMap,
    kernel: &mut Source<'_, I>,
    initrd: Option<&mut Source<'_, I>>,
    names: &Names<'_>,
) -> Result<EntryPoint, LoadError> {
    let head = kernel.head(SEARCHED)?;
    let at = find_header(&head).unwrap_or(0);
    let header = Fields(head.get(at..).unwrap_or(&[]));
    let flags = header.u32(4);
    if flags & 0xffff & !FLAGS_UNDERSTOOD != 0 {
        return Err(field("flags", flags, "bits 0 to 2 and 16 and above"));
    }
    let (entry, end) = if flags & FLAG_ADDRESSES != 0 {
        load_flat(memory, map, kernel, &header, at)?
    } else {
        let elf = Elf::read(kernel)?;
        let entry = elf.entry()?;
        (entry, elf.load(memory, map, kernel)?)
    };
    let module = match initrd {
        Some(file) => Some(place::initrd(memory, map, file, end, u64::from(u32::MAX))?),
        None => None,
    };
    information(memory, map, module, names)?;
    let registers = Registers {
        rax: LOADER_MAGIC,
        rbx: MULTIBOOT_INFO.0,
        rip: entry.into(),
        ..Registers::default()
    };
    entry::protected_mode(memory, registers)
}

fn field(field: &'static str, value: u32, allowed: impl Into<String>) -> LoadError {
    LoadError::Field { format: FORMAT, field, value: value.into(), allowed: allowed.into() }
}

/// Loads by the addresses in the header (3.1.3); gives entry and end.
fn load_flat<I: Image>(
    memory: &dyn Ram,
    map: &MemoryMap,
    kernel: &mut Source<'_, I>,
    header: &Fields<'_>,
    at: usize,
) -> Result<(u32, u64), LoadError> {
    let (header_address, load, load_end) = (header.u32(12), header.u32(16), header.u32(20));
    let (bss_end, entry) = (header.u32(24), header.u32(28));
    // Where in the file the byte for `load` is.
    let offset = header_address
        .checked_sub(load)
        .and_then(|before| (at as u64).checked_sub(before.into()))
        .ok_or_else(|| field("load_addr", load, "header_addr less the header's offset, or more"))?;
    let in_file = kernel.size() - offset;
    let size = match load_end {
        0 => in_file,
        end => end.checked_sub(load).map(u64::from).filter(|size| *size <= in_file).ok_or_else(
            || field("load_end_addr", end, format!("load_addr to {in_file:#x} bytes after it")),
        )?,
    };
    let end = in_ram(map, "load_addr", load.into(), size)?;
    let bss = match bss_end {
        0 => 0,
        bss_end => u64::from(bss_end)
            .checked_sub(end)
            .ok_or_else(|| field("bss_end_addr", bss_end, format!("at least {end:#x}")))?,
    };
    let bss_end = in_ram(map, "bss", end, bss)?;
    if !(u64::from(load)..bss_end).contains(&entry.into()) {
        return Err(field("entry_addr", entry, format!("{load:#x} to {bss_end:#x}")));
    }
    kernel.copy(offset, size, memory, load.into())?;
    zero(memory, end, bss)?;
    Ok((entry, bss_end))
}

/// Writes the information structure (3.3) with all it points to.
fn information(
    memory: &dyn Ram,
    map: &MemoryMap,
    module: Option<place::Placed>,
    names: &Names<'_>,
) -> Result<(), LoadError> {
    let command_line = join(names.kernel, names.command_line);
    for text in [command_line.as_str(), names.module] {
        if let Some(position) = text.bytes().position(|byte| byte == 0) {
            return Err(LoadError::CommandLineZero { position });
        }
    }
    if command_line.len() + names.module.len() > COMMAND_LINE_MOST {
        let length = command_line.len() + names.module.len();
        return Err(LoadError::CommandLine { length, who: "Multiboot", most: COMMAND_LINE_MOST });
    }
    let mut area = vec![0; INFO_SIZE];
    let mut flags = INFO_MEMORY | INFO_COMMAND_LINE | INFO_MEMORY_MAP | INFO_LOADER_NAME;

    let mut entries = Vec::new();
    for (range, kind) in map.e820() {
        // Size of what follows the size field, then base, length, type.
        entries.extend_from_slice(&20u32.to_le_bytes());
        entries.extend_from_slice(&range.base.0.to_le_bytes());
        entries.extend_from_slice(&range.size.0.to_le_bytes());
        entries.extend_from_slice(&(kind as u32).to_le_bytes());
    }
    let map_length = low32(entries.len() as u64);
    let map_at = append(&mut area, &entries);
    let line_at = append(&mut area, &[command_line.as_bytes(), &[0]].concat());
    let name_at = append(&mut area, b"macrohard-hypervisor\0");
    let mut modules_at = 0;
    if let Some(placed) = module {
        let text_at = append(&mut area, &[names.module.as_bytes(), &[0]].concat());
        let mut entry = [0; MODULE_SIZE];
        put(&mut entry, 0, low32(placed.address));
        put(&mut entry, 4, low32(placed.address + placed.size));
        put(&mut entry, 8, text_at);
        modules_at = append(&mut area, &entry);
        flags |= INFO_MODULES;
    }

    put(&mut area, 0, flags);
    put(&mut area, 4, low32(EBDA.0 >> 10));
    put(&mut area, 8, low32((map.low_ram_end().0 - HIGH_MEMORY.0) >> 10));
    put(&mut area, 16, line_at);
    put(&mut area, 20, u32::from(module.is_some()));
    put(&mut area, 24, modules_at);
    put(&mut area, 44, map_length);
    put(&mut area, 48, map_at);
    put(&mut area, 64, name_at);
    let room = MULTIBOOT_INFO_END.0 - MULTIBOOT_INFO.0;
    if area.len() as u64 > room {
        return Err(LoadError::NoRoom {
            what: "Multiboot information",
            size: area.len() as u64,
            from: MULTIBOOT_INFO.0,
            to: MULTIBOOT_INFO_END.0,
        });
    }
    place::write(memory, GuestPhysical(MULTIBOOT_INFO.0), &area)
}

/// Kernels take the first word for their own name (3.3).
fn join(name: &str, line: &str) -> String {
    let name = name.replace(char::is_whitespace, "_");
    if line.is_empty() { name } else { format!("{name} {line}") }
}

/// Appends 4-byte aligned and gives the guest address.
fn append(area: &mut Vec<u8>, bytes: &[u8]) -> u32 {
    area.resize(area.len().next_multiple_of(4), 0);
    let at = MULTIBOOT_INFO.0 + area.len() as u64;
    area.extend_from_slice(bytes);
    low32(at)
}

fn put(area: &mut [u8], at: usize, value: u32) {
    if let Some(place) = area.get_mut(at..at + 4) {
        place.copy_from_slice(&value.to_le_bytes());
    }
}

/// All addresses here are below 4 GiB by the checks before.
fn low32(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
