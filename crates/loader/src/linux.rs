//! Linux bzImage (Linux Documentation/arch/x86/boot.rst; field names and offsets are its own).

use crate::image::{Fields, Image, Source};
use crate::{EntryPoint, LoadError, entry, place};
use engine::Registers;
use layout::{COMMAND_LINE, HIGH_MEMORY, MemoryMap, ZERO_PAGE};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::{BzImage, KernelLoader};
use units::GuestPhysical;
use vm_memory::{ByteValued, GuestAddress, GuestMemoryMmap};

const FORMAT: &str = "Linux bzImage";
/// Where the setup header begins in the file.
const HEADER: usize = 0x1f1;
/// End of the largest setup header that fits the zero page.
const HEADER_MOST: usize = HEADER + size_of::<setup_header>();
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
    /// As in the file, zero past its own end.
    raw: setup_header,
    version: u16,
    /// Bytes of protected-mode code, from the end of the setup sectors to the end of the file.
    code_size: u64,
    /// Memory it needs from its load address on until it has unpacked itself.
    needed: u64,
    has_64_bit_entry: bool,
}

fn field(field: &'static str, value: u64, allowed: impl Into<String>) -> LoadError {
    LoadError::Field {
        format: FORMAT,
        field,
        value,
        allowed: allowed.into(),
    }
}

impl Header {
    fn read<I: Image>(kernel: &mut Source<'_, I>) -> Result<Self, LoadError> {
        let head = kernel.head(HEADER_MOST)?;
        let fields = Fields(&head);
        let version = fields.u16(0x206);
        if version < VERSION_LEAST {
            return Err(field(
                "version",
                version.into(),
                format!("at least {VERSION_LEAST:#x}"),
            ));
        }
        // The jump at 0x200 skips the rest of the header and so tells its end.
        let end = 0x202 + usize::from(fields.u8(0x201));
        let mut raw = setup_header::default();
        let known = head.get(HEADER..end.min(head.len())).unwrap_or(&[]);
        raw.as_mut_slice()[..known.len()].copy_from_slice(known);

        if raw.loadflags & LOADFLAG_HIGH == 0 {
            return Err(field(
                "loadflags",
                raw.loadflags.into(),
                "bit 0 set (not a zImage)",
            ));
        }
        let sectors = if raw.setup_sects == 0 {
            4
        } else {
            u64::from(raw.setup_sects)
        };
        let setup = (sectors + 1) * SECTOR;
        let Some(code_size) = kernel.size().checked_sub(setup).filter(|size| *size > 0) else {
            let most = (kernel.size() / SECTOR).saturating_sub(2);
            return Err(field("setup_sects", sectors, format!("at most {most}")));
        };
        let said = u64::from(raw.syssize) * 16;
        if said > code_size.next_multiple_of(16) {
            let most = format!(
                "at most {:#x}: the file is cut short",
                code_size.div_ceil(16)
            );
            return Err(field("syssize", raw.syssize.into(), most));
        }
        if version >= VERSION_PAYLOAD {
            let end = u64::from(raw.payload_offset) + u64::from(raw.payload_length);
            if end > code_size {
                let most = code_size.saturating_sub(raw.payload_offset.into());
                let most = format!("at most {most:#x}");
                return Err(field("payload_length", raw.payload_length.into(), most));
            }
        }
        let init_size = if version >= VERSION_PREFERRED_ADDRESS {
            raw.init_size
        } else {
            0
        };
        let has_64_bit_entry = version >= VERSION_XLOADFLAGS && raw.xloadflags & XLOADFLAG_64 != 0;
        if has_64_bit_entry && code_size <= ENTRY_64 {
            return Err(field(
                "xloadflags",
                raw.xloadflags.into(),
                "bit 0 clear in so short a file",
            ));
        }
        let needed = code_size.max(init_size.into());
        Ok(Self {
            raw,
            version,
            code_size,
            needed,
            has_64_bit_entry,
        })
    }

    /// Where the protected-mode code goes: its preferred address, or the lowest it accepts.
    fn address(&self, map: &MemoryMap) -> Result<u64, LoadError> {
        let preferred = if self.version >= VERSION_PREFERRED_ADDRESS {
            self.raw.pref_address
        } else {
            HIGH_MEMORY.0
        };
        let to = map.low_ram_end().0;
        let fits = |address: u64| {
            address
                .checked_add(self.needed)
                .is_some_and(|end| end <= to)
        };
        if preferred >= HIGH_MEMORY.0 && fits(preferred) {
            return Ok(preferred);
        }
        let no_room = LoadError::NoRoom {
            what: "kernel",
            size: self.needed,
            from: HIGH_MEMORY.0,
            to,
        };
        if self.raw.relocatable_kernel == 0 {
            let from = preferred;
            return Err(LoadError::NoRoom {
                what: "kernel",
                size: self.needed,
                from,
                to,
            });
        }
        let alignment = u64::from(self.raw.kernel_alignment);
        if !alignment.is_power_of_two() {
            return Err(field("kernel_alignment", alignment, "a power of two"));
        }
        let lowest = HIGH_MEMORY.0.next_multiple_of(alignment);
        if fits(lowest) {
            Ok(lowest)
        } else {
            Err(no_room)
        }
    }
}

pub(crate) fn load<I: Image>(
    memory: &GuestMemoryMmap,
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
    let most = usize::try_from(header.raw.cmdline_size).unwrap_or(usize::MAX);
    place::command_line(memory, command_line, "this kernel (cmdline_size)", most)?;

    BzImage::load(memory, Some(GuestAddress(address)), kernel.image, None).map_err(|_| {
        let end = address + header.code_size;
        LoadError::NoRoom {
            what: "kernel",
            size: header.code_size,
            from: address,
            to: end,
        }
    })?;
    let placed = match initrd {
        Some(file) => {
            let end = address + header.needed;
            let most = u64::from(header.raw.initrd_addr_max) + 1;
            Some(place::initrd(memory, map, file, end, most)?)
        }
        None => None,
    };
    let low32 = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let mut parameters = boot_params {
        hdr: header.raw,
        ..boot_params::default()
    };
    parameters.hdr.vid_mode = VIDEO_MODE_NORMAL;
    parameters.hdr.type_of_loader = LOADER_UNKNOWN;
    parameters.hdr.loadflags &= LOADFLAG_HIGH | LOADFLAG_QUIET;
    parameters.hdr.code32_start = address_32;
    parameters.hdr.ramdisk_image = placed.map_or(0, |p| low32(p.address));
    parameters.hdr.ramdisk_size = placed.map_or(0, |p| low32(p.size));
    parameters.hdr.cmd_line_ptr = low32(COMMAND_LINE.0);
    parameters.hdr.setup_data = 0;
    parameters.acpi_rsdp_addr = rsdp.map_or(0, |address| address.0);
    for ((range, kind), entry) in map.e820().into_iter().zip(&mut parameters.e820_table) {
        *entry = boot_e820_entry {
            addr: range.base.0,
            size: range.size.0,
            r#type: kind as u32,
        };
        parameters.e820_entries += 1;
    }
    place::write(memory, ZERO_PAGE, parameters.as_slice())?;
    let registers = Registers {
        rsi: ZERO_PAGE.0,
        ..Registers::default()
    };
    if header.has_64_bit_entry {
        entry::long_mode(
            memory,
            Registers {
                rip: address + ENTRY_64,
                ..registers
            },
        )
    } else {
        entry::protected_mode(
            memory,
            Registers {
                rip: address,
                ..registers
            },
        )
    }
}
