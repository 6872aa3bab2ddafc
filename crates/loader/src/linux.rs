//! Linux bzImage (Linux Documentation/arch/x86/boot.rst; field names and offsets are its own).

use crate::image::{Fields, Image, Source};
use crate::{EntryPoint, LoadError, Ram, entry, place};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use layout::{COMMAND_LINE, HIGH_MEMORY, MemoryMap, ZERO_PAGE};
use processor::Registers;
use units::GuestPhysical;

const FORMAT: &str = "Linux bzImage";
/// Where the setup header begins in the file.
const HEADER: usize = 0x1f1;
/// End of the largest setup header that fits the zero page.
const HEADER_MOST: usize = 0x26c;
// Fields of the setup header (boot.rst, "The Real-Mode Kernel Header").
const SETUP_SECTS: usize = 0x1f1;
const SYSSIZE: usize = 0x1f4;
const VID_MODE: usize = 0x1fa;
const TYPE_OF_LOADER: usize = 0x210;
const LOADFLAGS: usize = 0x211;
const CODE32_START: usize = 0x214;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21c;
const CMD_LINE_PTR: usize = 0x228;
const INITRD_ADDR_MAX: usize = 0x22c;
const KERNEL_ALIGNMENT: usize = 0x230;
const RELOCATABLE_KERNEL: usize = 0x234;
const XLOADFLAGS: usize = 0x236;
const CMDLINE_SIZE: usize = 0x238;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const SETUP_DATA: usize = 0x250;
const PREF_ADDRESS: usize = 0x258;
const INIT_SIZE: usize = 0x260;
// Fields of the zero page outside it (Documentation/arch/x86/zero-page.rst).
const ZERO_PAGE_SIZE: usize = 4096;
const ACPI_RSDP_ADDR: usize = 0x70;
const E820_ENTRIES: usize = 0x1e8;
const E820_TABLE: usize = 0x2d0;
const E820_ENTRY: usize = 20;
const E820_MOST: usize = 128;
const BOOT_FLAG: u16 = 0xaa55;
const MAGIC: u32 = 0x5372_6448;
const SECTOR: u64 = 512;
/// 2.06 is the first version that says how long a command line may be.
const VERSION_LEAST: u16 = 0x0206;
const VERSION_PREFERRED_ADDRESS: u16 = 0x020a;
const VERSION_PAYLOAD: u16 = 0x0208;
const VERSION_XLOADFLAGS: u16 = 0x020c;
const LOADFLAG_HIGH: u8 = 1 << 0;
const LOADFLAG_QUIET: u8 = 1 << 5;
const XLOADFLAG_64: u16 = 1 << 0;
/// The 64-bit entry lies this far into the protected-mode code.
const ENTRY_64: u64 = 0x200;
/// Boot loader without an assigned id.
const LOADER_UNKNOWN: u8 = 0xff;
const VIDEO_MODE_NORMAL: u16 = 0xffff;

pub(crate) fn is_linux(head: &[u8]) -> bool {
    let header = Fields(head);
    header.u16(0x1fe) == BOOT_FLAG && header.u32(0x202) == MAGIC
}

/// What the header says, checked.
struct Header {
    /// The beginning of the zero page: zero but for the setup header, which is as in the file and
    /// zero past its own end.
    page: Vec<u8>,
    preferred: u64,
    alignment: u64,
    relocatable: bool,
    initrd_most: u64,
    command_line_most: u32,
    load_flags: u8,
    version: u16,
    /// Bytes of protected-mode code, from the end of the setup sectors to the end of the file.
    code_size: u64,
    /// Memory it needs from its load address on until it has unpacked itself.
    needed: u64,
    has_64_bit_entry: bool,
}

fn field(field: &'static str, value: u64, allowed: impl Into<String>) -> LoadError {
    LoadError::Field { format: FORMAT, field, value, allowed: allowed.into() }
}

impl Header {
    fn read<I: Image>(kernel: &mut Source<'_, I>) -> Result<Self, LoadError> {
        let head = kernel.head(HEADER_MOST)?;
        let fields = Fields(&head);
        let version = fields.u16(0x206);
        if version < VERSION_LEAST {
            return Err(field("version", version.into(), format!("at least {VERSION_LEAST:#x}")));
        }
        // The jump at 0x200 skips the rest of the header and so tells its end.
        let end = 0x202 + usize::from(fields.u8(0x201));
        let known = head.get(HEADER..end.min(head.len())).unwrap_or(&[]);
        let mut page = vec![0; ZERO_PAGE_SIZE];
        page[HEADER..HEADER + known.len()].copy_from_slice(known);
        let raw = Fields(&page);

        if raw.u8(LOADFLAGS) & LOADFLAG_HIGH == 0 {
            return Err(field("loadflags", raw.u8(LOADFLAGS).into(), "bit 0 set (not a zImage)"));
        }
        let sectors = if raw.u8(SETUP_SECTS) == 0 { 4 } else { u64::from(raw.u8(SETUP_SECTS)) };
        let setup = (sectors + 1) * SECTOR;
        let Some(code_size) = kernel.size().checked_sub(setup).filter(|size| *size > 0) else {
            let most = (kernel.size() / SECTOR).saturating_sub(2);
            return Err(field("setup_sects", sectors, format!("at most {most}")));
        };
        let said = u64::from(raw.u32(SYSSIZE)) * 16;
        if said > code_size.next_multiple_of(16) {
            let most = format!("at most {:#x}: the file is cut short", code_size.div_ceil(16));
            return Err(field("syssize", raw.u32(SYSSIZE).into(), most));
        }
        if version >= VERSION_PAYLOAD {
            let end = u64::from(raw.u32(PAYLOAD_OFFSET)) + u64::from(raw.u32(PAYLOAD_LENGTH));
            if end > code_size {
                let most = code_size.saturating_sub(raw.u32(PAYLOAD_OFFSET).into());
                let most = format!("at most {most:#x}");
                return Err(field("payload_length", raw.u32(PAYLOAD_LENGTH).into(), most));
            }
        }
        let init_size = if version >= VERSION_PREFERRED_ADDRESS { raw.u32(INIT_SIZE) } else { 0 };
        let has_64_bit_entry =
            version >= VERSION_XLOADFLAGS && raw.u16(XLOADFLAGS) & XLOADFLAG_64 != 0;
        if has_64_bit_entry && code_size <= ENTRY_64 {
            return Err(field(
                "xloadflags",
                raw.u16(XLOADFLAGS).into(),
                "bit 0 clear in so short a file",
            ));
        }
        let needed = code_size.max(init_size.into());
        let preferred = raw.u64(PREF_ADDRESS);
        Ok(Self {
            preferred,
            alignment: raw.u32(KERNEL_ALIGNMENT).into(),
            relocatable: raw.u8(RELOCATABLE_KERNEL) != 0,
            initrd_most: u64::from(raw.u32(INITRD_ADDR_MAX)) + 1,
            command_line_most: raw.u32(CMDLINE_SIZE),
            load_flags: raw.u8(LOADFLAGS),
            page,
            version,
            code_size,
            needed,
            has_64_bit_entry,
        })
    }

    /// Where the protected-mode code goes: its preferred address, or the lowest it accepts.
    fn address(&self, map: &MemoryMap) -> Result<u64, LoadError> {
        let preferred =
            if self.version >= VERSION_PREFERRED_ADDRESS { self.preferred } else { HIGH_MEMORY.0 };
        let to = map.low_ram_end().0;
        let fits = |address: u64| address.checked_add(self.needed).is_some_and(|end| end <= to);
        if preferred >= HIGH_MEMORY.0 && fits(preferred) {
            return Ok(preferred);
        }
        let no_room =
            LoadError::NoRoom { what: "kernel", size: self.needed, from: HIGH_MEMORY.0, to };
        if !self.relocatable {
            let from = preferred;
            return Err(LoadError::NoRoom { what: "kernel", size: self.needed, from, to });
        }
        let alignment = self.alignment;
        if !alignment.is_power_of_two() {
            return Err(field("kernel_alignment", alignment, "a power of two"));
        }
        let lowest = HIGH_MEMORY.0.next_multiple_of(alignment);
        if fits(lowest) { Ok(lowest) } else { Err(no_room) }
    }
}

pub(crate) fn load<I: Image>(
    memory: &dyn Ram,
    map: &MemoryMap,
    kernel: &mut Source<'_, I>,
    initrd: Option<&mut Source<'_, I>>,
    command_line: &str,
    rsdp: Option<GuestPhysical>,
) -> Result<EntryPoint, LoadError> {
    let header = Header::read(kernel)?;
    let address = header.address(map)?;
    let address_32 = u32::try_from(address)
        .map_err(|_| field("pref_address", address, "an address below 4 GiB"))?;
    let most = usize::try_from(header.command_line_most).unwrap_or(usize::MAX);
    place::command_line(memory, command_line, "this kernel (cmdline_size)", most)?;

    let setup = kernel.size() - header.code_size;
    kernel.copy(setup, header.code_size, memory, address)?;
    let placed = match initrd {
        Some(file) => {
            let end = address + header.needed;
            let most = header.initrd_most;
            Some(place::initrd(memory, map, file, end, most)?)
        }
        None => None,
    };
    let low32 = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let mut page = header.page;
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    put(VID_MODE, &VIDEO_MODE_NORMAL.to_le_bytes());
    put(TYPE_OF_LOADER, &[LOADER_UNKNOWN]);
    put(LOADFLAGS, &[header.load_flags & (LOADFLAG_HIGH | LOADFLAG_QUIET)]);
    put(CODE32_START, &address_32.to_le_bytes());
    let (initrd, initrd_size) = placed.map_or((0, 0), |p| (low32(p.address), low32(p.size)));
    put(RAMDISK_IMAGE, &initrd.to_le_bytes());
    put(RAMDISK_SIZE, &initrd_size.to_le_bytes());
    put(CMD_LINE_PTR, &low32(COMMAND_LINE.0).to_le_bytes());
    put(SETUP_DATA, &0u64.to_le_bytes());
    put(ACPI_RSDP_ADDR, &rsdp.map_or(0, |address| address.0).to_le_bytes());
    let mut entries = 0;
    for (range, kind) in map.e820().into_iter().take(E820_MOST) {
        let at = E820_TABLE + usize::from(entries) * E820_ENTRY;
        put(at, &range.base.0.to_le_bytes());
        put(at + 8, &range.size.0.to_le_bytes());
        put(at + 16, &(kind as u32).to_le_bytes());
        entries += 1;
    }
    put(E820_ENTRIES, &[entries]);
    place::write(memory, ZERO_PAGE, &page)?;
    let registers = Registers { rsi: ZERO_PAGE.0, ..Registers::default() };
    if header.has_64_bit_entry {
        entry::long_mode(memory, Registers { rip: address + ENTRY_64, ..registers })
    } else {
        entry::protected_mode(memory, Registers { rip: address, ..registers })
    }
}
