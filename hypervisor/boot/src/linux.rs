//! A Linux kernel (bzImage) and what it is told at its 32-bit entry (Linux
//! Documentation/arch/x86/boot.rst, zero-page.rst): the core starts root's with it.
//!
//! The caller puts bytes where they belong; this module says where, and what.

use crate::bytes::{u16_at, u32_at};
use crate::memory_map::MemoryRange;
use core::fmt;
use units::{Bytes, HostPhysical};

/// The setup header's magic at [`at::MAGIC`]: "HdrS".
const MAGIC: u32 = 0x5372_6448;
/// Protocol 2.12 (Linux 3.8): everything below is there.
const VERSION: u16 = 0x020c;
/// Bytes of a sector of the kernel's file.
const SECTOR: usize = 512;
/// The kernel's loader is none that has a number of its own.
const UNKNOWN_LOADER: u8 = 0xff;
/// loadflags: the kernel's own part lies above 1 MiB.
const LOADED_HIGH: u8 = 1 << 0;

/// Places in the kernel's file and in the zero page.
mod at {
    pub(super) const SCREEN: usize = 0;
    pub(super) const ROOT_POINTER: usize = 0x070;
    pub(super) const HIGH_RAMDISK: usize = 0x0c0;
    pub(super) const HIGH_RAMDISK_SIZE: usize = 0x0c4;
    pub(super) const HIGH_COMMAND_LINE: usize = 0x0c8;
    pub(super) const MEMORY_ENTRIES: usize = 0x1e8;
    pub(super) const HEADER: usize = 0x1f1;
    pub(super) const SECTORS: usize = 0x1f1;
    pub(super) const HEADER_SIZE: usize = 0x201;
    pub(super) const MAGIC: usize = 0x202;
    pub(super) const VERSION: usize = 0x206;
    pub(super) const LOADER: usize = 0x210;
    pub(super) const FLAGS: usize = 0x211;
    pub(super) const RAMDISK: usize = 0x218;
    pub(super) const RAMDISK_SIZE: usize = 0x21c;
    pub(super) const COMMAND_LINE: usize = 0x228;
    pub(super) const ALIGNMENT: usize = 0x230;
    pub(super) const RELOCATABLE: usize = 0x234;
    pub(super) const COMMAND_LINE_SIZE: usize = 0x238;
    pub(super) const INIT_SIZE: usize = 0x260;
    pub(super) const MEMORY: usize = 0x2d0;
}

/// Why a file is no kernel that can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It has not the magic.
    NoKernel,
    /// Its boot protocol is older than 2.12.
    Old {
        /// The protocol's version.
        version: u16,
    },
    /// It must lie at one address, or is a zImage.
    Fixed,
    /// The file ends too early.
    Short,
    /// A number of its header makes no sense.
    Header,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKernel => f.write_str("it is no bzImage"),
            Self::Old { version } => write!(
                f,
                "its boot protocol is {}.{:02}, and 2.12 (Linux 3.8) is needed",
                version >> 8,
                version & 0xff
            ),
            Self::Fixed => f.write_str("it is not relocatable (CONFIG_RELOCATABLE)"),
            Self::Short => f.write_str("the file ends too early"),
            Self::Header => f.write_str("its setup header is damaged"),
        }
    }
}

/// A kernel, checked.
#[derive(Clone, Copy, Debug)]
pub struct Kernel<'a> {
    file: &'a [u8],
    /// What is put into memory and started, at its first byte.
    pub code: &'a [u8],
    /// Alignment of the address it is put at, a power of two.
    pub alignment: u64,
    /// Bytes from there on that it uses before it looks at the memory map.
    pub size: Bytes,
    /// The longest command line, without its end.
    pub command_line: usize,
}

/// What the kernel is told.
#[derive(Clone, Copy, Debug)]
pub struct Contents {
    /// Its initial RAM disk; a size of 0 for none.
    pub ramdisk: (HostPhysical, Bytes),
    /// Its command line, zero-terminated.
    pub command_line: HostPhysical,
    /// The ACPI root pointer; 0 when unknown.
    pub root_pointer: HostPhysical,
}

/// True when the file looks like a bzImage, whatever its version.
#[must_use]
pub fn is_kernel(file: &[u8]) -> bool {
    u32_at(file, at::MAGIC) == Some(MAGIC)
}

impl<'a> Kernel<'a> {
    /// Checks a kernel's file.
    ///
    /// # Errors
    /// It is none, or none that can be started.
    pub fn parse(file: &'a [u8]) -> Result<Self, Error> {
        if !is_kernel(file) {
            return Err(Error::NoKernel);
        }
        let byte = |offset: usize| file.get(offset).copied().ok_or(Error::Short);
        let word = |offset| u32_at(file, offset).ok_or(Error::Short);
        let version = u16_at(file, at::VERSION).ok_or(Error::Short)?;
        if version < VERSION {
            return Err(Error::Old { version });
        }
        if byte(at::FLAGS)? & LOADED_HIGH == 0 || byte(at::RELOCATABLE)? == 0 {
            return Err(Error::Fixed);
        }
        let alignment = u64::from(word(at::ALIGNMENT)?);
        let size = u64::from(word(at::INIT_SIZE)?);
        // No sectors stand for four (boot.rst, setup_sects).
        let sectors = match byte(at::SECTORS)? {
            0 => 4,
            sectors => usize::from(sectors),
        };
        let code = file.get((sectors + 1) * SECTOR..).ok_or(Error::Short)?;
        if !alignment.is_power_of_two() || code.is_empty() || size < code.len() as u64 {
            return Err(Error::Header);
        }
        let command_line = word(at::COMMAND_LINE_SIZE)? as usize;
        Ok(Self { file, code, alignment, size: Bytes(size), command_line })
    }

    /// Writes the zero page. Entries of the memory map past the 128th are left out: firmware's maps
    /// have a tenth of that.
    pub fn write_zero_page(
        &self,
        page: &mut [u8; 4096],
        contents: &Contents,
        memory: impl Iterator<Item = [u8; MemoryRange::E820_SIZE]>,
    ) {
        /// The most entries the page has room for.
        const ENTRIES: usize = 128;
        page.fill(0);
        // The header as it is in the file, to the end it names itself (boot.rst, "64-bit boot protocol").
        let end = at::MAGIC + usize::from(self.file[at::HEADER_SIZE]);
        if let Some(header) = self.file.get(at::HEADER..end) {
            page[at::HEADER..end].copy_from_slice(header);
        }
        let mut put = |offset: usize, value: &[u8]| {
            page[offset..offset + value.len()].copy_from_slice(value);
        };
        let mut split = |address: u64, low: usize, high: usize| {
            put(low, &(address as u32).to_le_bytes());
            put(high, &((address >> 32) as u32).to_le_bytes());
        };
        split(contents.ramdisk.0.0, at::RAMDISK, at::HIGH_RAMDISK);
        split(contents.ramdisk.1.0, at::RAMDISK_SIZE, at::HIGH_RAMDISK_SIZE);
        split(contents.command_line.0, at::COMMAND_LINE, at::HIGH_COMMAND_LINE);
        put(at::ROOT_POINTER, &contents.root_pointer.0.to_le_bytes());
        put(at::LOADER, &[UNKNOWN_LOADER]);
        // Text mode 3, 80 columns and 25 lines on a VGA: struct screen_info's orig_video_mode, _cols,
        // _lines, _isVGA and _points.
        for (offset, value) in [(0x06, 3), (0x07, 80), (0x0e, 25), (0x0f, 1), (0x10, 16)] {
            put(at::SCREEN + offset, &[value]);
        }
        let mut count = 0;
        for entry in memory.take(ENTRIES) {
            put(at::MEMORY + usize::from(count) * MemoryRange::E820_SIZE, &entry);
            count += 1_u8;
        }
        put(at::MEMORY_ENTRIES, &[count]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::{array, u64_at};
    use crate::memory_map::{Kind, MemoryMap, Span};
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    fn entries(page: &[u8; 4096]) -> impl Iterator<Item = (u64, u64, u32)> + '_ {
        (0..usize::from(page[at::MEMORY_ENTRIES])).filter_map(|index| {
            let entry = array::<20>(page, at::MEMORY + index * 20)?;
            Some((u64_at(&entry, 0)?, u64_at(&entry, 8)?, u32_at(&entry, 16)?))
        })
    }

    fn file() -> Vec<u8> {
        let mut file = vec![0; 0x2000];
        let mut put =
            |offset: usize, value: &[u8]| file[offset..offset + value.len()].copy_from_slice(value);
        put(at::SECTORS, &[3]);
        put(at::HEADER_SIZE, &[0x6a]);
        put(at::MAGIC, b"HdrS");
        put(at::VERSION, &0x020f_u16.to_le_bytes());
        put(at::FLAGS, &[LOADED_HIGH]);
        put(at::ALIGNMENT, &0x20_0000_u32.to_le_bytes());
        put(at::RELOCATABLE, &[1]);
        put(at::COMMAND_LINE_SIZE, &2047_u32.to_le_bytes());
        put(at::INIT_SIZE, &0x30_0000_u32.to_le_bytes());
        put(4 * SECTOR, b"code");
        file
    }

    #[test]
    fn a_kernel_is_read_and_told() {
        let file = file();
        let kernel = Kernel::parse(&file).expect("a kernel");
        assert_eq!(&kernel.code[..4], b"code");
        assert_eq!((kernel.alignment, kernel.size.0), (0x20_0000, 0x30_0000));
        let mut map = MemoryMap::<8>::new();
        map.insert(Span::of(HostPhysical(0), Bytes(0x9f000)), Kind::Usable).expect("few");
        let pool = Span::of(HostPhysical(5 << 32), Bytes(1 << 30));
        map.insert(pool, Kind::SoftReserved).expect("few");
        let contents = Contents {
            ramdisk: (HostPhysical(0x1_2345_6000), Bytes(77)),
            command_line: HostPhysical(0x9000),
            root_pointer: HostPhysical(0xf_0000),
        };
        let mut page = [0xaa; 4096];
        kernel.write_zero_page(&mut page, &contents, map.e820());
        assert_eq!(u32_at(&page, at::MAGIC), Some(MAGIC));
        assert_eq!(u32_at(&page, at::RAMDISK), Some(0x2345_6000));
        assert_eq!(u32_at(&page, at::HIGH_RAMDISK), Some(1));
        assert_eq!(u32_at(&page, at::RAMDISK_SIZE), Some(77));
        assert_eq!(u32_at(&page, at::COMMAND_LINE), Some(0x9000));
        assert_eq!(u64_at(&page, at::ROOT_POINTER), Some(0xf_0000));
        assert_eq!(page[at::LOADER], 0xff);
        let told: Vec<_> = entries(&page).collect();
        assert_eq!(told, [(0, 0x9f000, 1), (5 << 32, 1 << 30, 0xefff_ffff)]);
    }

    #[test]
    fn what_cannot_be_started_is_refused_by_reason() {
        let with = |offset: usize, value: u8| {
            let mut file = file();
            file[offset] = value;
            Kernel::parse(&file).map(|_| ()).expect_err("damaged")
        };
        assert_eq!(with(at::MAGIC, 0), Error::NoKernel);
        assert_eq!(with(at::VERSION, 5), Error::Old { version: 0x0205 });
        assert_eq!(with(at::RELOCATABLE, 0), Error::Fixed);
        assert_eq!(with(at::SECTORS, 200), Error::Short);
        assert_eq!(with(at::ALIGNMENT, 3), Error::Header);
        assert_eq!(with(at::INIT_SIZE + 2, 0), Error::Header);
        assert!(std::format!("{}", Error::Old { version: 0x0205 }).contains("2.05"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0x200..0x1000)) {
            if bytes.len() > 0x210 {
                bytes[at::MAGIC..at::MAGIC + 4].copy_from_slice(b"HdrS");
                bytes[at::VERSION + 1] = 2;
            }
            if let Ok(kernel) = Kernel::parse(&bytes) {
                let contents = Contents {
                    ramdisk: (HostPhysical(0), Bytes(0)),
                    command_line: HostPhysical(0),
                    root_pointer: HostPhysical(0),
                };
                kernel.write_zero_page(&mut [0; 4096], &contents, core::iter::empty());
            }
        }
    }
}
