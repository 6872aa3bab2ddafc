//! Multiboot2: how GRUB starts the core (Multiboot2 Specification 2.0, "MB2" below).
//!
//! The header lies in the first 32 KiB of the image; at the entry EAX is [`BOOT_MAGIC`], EBX the
//! physical address of the information, in 32-bit protected mode without paging (MB2 3.3).

use crate::bytes::{text, u32_at, u64_at};
use crate::memory_map::{Kind, Span};
use core::ops::Range;
use units::{Bytes, HostPhysical};

/// EAX at the entry (MB2 3.3).
pub const BOOT_MAGIC: u32 = 0x36d7_6289;
/// First word of the header (MB2 3.1.1).
pub const HEADER_MAGIC: u32 = 0xe852_50d6;
/// Architecture of the header: 32-bit protected mode of i386 (MB2 3.1.1).
pub const HEADER_ARCHITECTURE: u32 = 0;
/// The image must have its header within this many bytes (MB2 3.1).
pub const HEADER_WITHIN: usize = 32768;
/// Bytes of [`HEADER`].
pub const HEADER_SIZE: u32 = 48;
/// What the four first words of the header must add up to zero with (MB2 3.1.1).
pub const HEADER_CHECKSUM: u32 =
    0u32.wrapping_sub(HEADER_MAGIC).wrapping_sub(HEADER_ARCHITECTURE).wrapping_sub(HEADER_SIZE);

/// The header, to be placed at a multiple of 8: it asks for a memory map (MB2 3.1.3) and for modules
/// that begin at a page (MB2 3.1.12).
pub const HEADER: [u32; 12] = [
    HEADER_MAGIC,
    HEADER_ARCHITECTURE,
    HEADER_SIZE,
    HEADER_CHECKSUM,
    // Type 1, information request, required; 12 bytes, then 4 to the next multiple of 8.
    1,
    12,
    TAG_MEMORY_MAP,
    0,
    // Type 6, module alignment.
    6,
    8,
    // Type 0, the end.
    0,
    8,
];

/// Types of information tags (MB2 3.4).
const TAG_END: u32 = 0;
const TAG_COMMAND_LINE: u32 = 1;
const TAG_MODULE: u32 = 3;
const TAG_MEMORY_MAP: u32 = 6;
const TAG_ACPI_OLD: u32 = 14;
const TAG_ACPI_NEW: u32 = 15;

/// Why the information cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The information says it has more bytes, or fewer, than it can have.
    TotalSize {
        /// What it says.
        said: u32,
        /// Bytes there are.
        found: usize,
    },
    /// A tag is smaller than its head or passes the end of the information.
    TagSize {
        /// Where the tag lies in the information.
        offset: usize,
        /// What it says.
        said: u32,
    },
    /// The last tag is not the end tag.
    NoEnd,
    /// There is no memory map.
    NoMemoryMap,
    /// Entries of the memory map are smaller than their fields.
    MemoryEntrySize {
        /// What it says.
        said: u32,
    },
}

/// The information, checked once: every tag lies within it.
#[derive(Clone, Copy, Debug)]
pub struct Information<'a> {
    bytes: &'a [u8],
    memory_map: &'a [u8],
    entry_size: usize,
}

/// A module as GRUB loaded it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module<'a> {
    /// Where it begins.
    pub start: HostPhysical,
    /// Where it ends; never before `start`.
    pub end: HostPhysical,
    /// The words after its file name in GRUB's configuration; empty when they are no UTF-8.
    pub command_line: &'a str,
}

impl Module<'_> {
    /// How long it is.
    #[must_use]
    pub const fn size(&self) -> Bytes {
        Bytes(self.end.0 - self.start.0)
    }
}

/// Bytes of the information by its first word, for a caller that has to map it before it parses it.
#[must_use]
pub fn total_size(first_word: [u8; 4]) -> Bytes {
    Bytes(u64::from(u32::from_le_bytes(first_word)))
}

/// Heads of tags and of the information are two words.
const HEAD: usize = 8;

impl<'a> Information<'a> {
    /// Checks the information; `bytes` begins where EBX points and may be longer than it.
    ///
    /// # Errors
    /// A length does not fit, or there is no memory map.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let found = bytes.len();
        let said = u32_at(bytes, 0).ok_or(Error::TotalSize { said: 0, found })?;
        let bytes = usize::try_from(said)
            .ok()
            .filter(|size| *size >= HEAD)
            .and_then(|size| bytes.get(..size))
            .ok_or(Error::TotalSize { said, found })?;
        let mut tags = Tags { bytes, offset: HEAD };
        let mut memory_map = None;
        loop {
            match tags.step()? {
                Some((TAG_END, _)) => break,
                Some((TAG_MEMORY_MAP, body)) => memory_map = memory_map.or(Some(body)),
                Some(_) => {}
                None => return Err(Error::NoEnd),
            }
        }
        // MB2 3.6.8: entry size, entry version, entries.
        let body = &bytes[memory_map.ok_or(Error::NoMemoryMap)?];
        let said = u32_at(body, 0).unwrap_or(0);
        let entry_size = usize::try_from(said).unwrap_or(0);
        if entry_size < MEMORY_ENTRY {
            return Err(Error::MemoryEntrySize { said });
        }
        Ok(Self { bytes, memory_map: body.get(HEAD..).unwrap_or_default(), entry_size })
    }

    /// The words after the image's file name in GRUB's configuration (MB2 3.6.3); empty when there is
    /// none or it is no UTF-8.
    #[must_use]
    pub fn command_line(&self) -> &'a str {
        self.bodies(TAG_COMMAND_LINE).next().and_then(text).unwrap_or_default()
    }

    /// The modules in the configuration's order (MB2 3.6.6).
    pub fn modules(&self) -> impl Iterator<Item = Module<'a>> + use<'a> {
        self.bodies(TAG_MODULE).filter_map(|body| {
            let start = u32_at(body, 0)?;
            let end = u32_at(body, 4)?;
            (start <= end).then(|| Module {
                start: HostPhysical(u64::from(start)),
                end: HostPhysical(u64::from(end)),
                command_line: body.get(8..).and_then(text).unwrap_or_default(),
            })
        })
    }

    /// The memory map as the firmware gave it, with whatever overlaps it has (MB2 3.6.8).
    pub fn memory_map(&self) -> impl Iterator<Item = (Span, Kind)> + use<'a> {
        self.memory_map.chunks_exact(self.entry_size).filter_map(|entry| {
            let address = HostPhysical(u64_at(entry, 0)?);
            let size = Bytes(u64_at(entry, 8)?);
            Some((Span::of(address, size), Kind::from_e820(u32_at(entry, 16)?)))
        })
    }

    /// A copy of the ACPI root pointer: that of ACPI 2.0 where there is one (MB2 3.6.15, 3.6.16).
    #[must_use]
    pub fn rsdp(&self) -> Option<&'a [u8]> {
        self.bodies(TAG_ACPI_NEW).next().or_else(|| self.bodies(TAG_ACPI_OLD).next())
    }

    /// Every tag: its type and what follows its head.
    pub fn tags(&self) -> impl Iterator<Item = (u32, &'a [u8])> + use<'a> {
        let bytes = self.bytes;
        let mut tags = Tags { bytes, offset: HEAD };
        core::iter::from_fn(move || {
            let (kind, body) = tags.step().ok().flatten()?;
            Some((kind, bytes.get(body)?))
        })
        .take_while(|(kind, _)| *kind != TAG_END)
    }

    fn bodies(&self, wanted: u32) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.tags().filter_map(move |(kind, body)| (kind == wanted).then_some(body))
    }
}

/// Bytes of a memory map's entry that this version of the specification gives a meaning.
const MEMORY_ENTRY: usize = 24;

struct Tags<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl Tags<'_> {
    /// The next tag's type and the place of its body; `None` where the information ends.
    fn step(&mut self) -> Result<Option<(u32, Range<usize>)>, Error> {
        let offset = self.offset;
        let (Some(kind), Some(said)) = (u32_at(self.bytes, offset), u32_at(self.bytes, offset + 4))
        else {
            return Ok(None);
        };
        let end = usize::try_from(said)
            .ok()
            .filter(|size| *size >= HEAD)
            .and_then(|size| offset.checked_add(size))
            .filter(|end| *end <= self.bytes.len())
            .ok_or(Error::TagSize { offset, said })?;
        // Tags begin at multiples of 8 (MB2 3.4).
        self.offset = end.next_multiple_of(8);
        Ok(Some((kind, offset + HEAD..end)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn information(tags: &[(u32, &[u8])]) -> Vec<u8> {
        let mut bytes = std::vec![0; 8];
        for (kind, body) in tags {
            bytes.extend(kind.to_le_bytes());
            bytes.extend((8 + u32::try_from(body.len()).expect("short")).to_le_bytes());
            bytes.extend(*body);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        let size = u32::try_from(bytes.len()).expect("short");
        bytes[..4].copy_from_slice(&size.to_le_bytes());
        bytes
    }

    fn map(entries: &[(u64, u64, u32)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(24u32.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        for (address, size, kind) in entries {
            bytes.extend(address.to_le_bytes());
            bytes.extend(size.to_le_bytes());
            bytes.extend(kind.to_le_bytes());
            bytes.extend(0u32.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn the_header_adds_up_to_zero_and_ends_with_an_end_tag() {
        let sum = HEADER[..4].iter().fold(0u32, |sum, word| sum.wrapping_add(*word));
        assert_eq!(sum, 0);
        assert_eq!(HEADER_SIZE as usize, size_of_val(&HEADER));
        assert_eq!(HEADER[10..], [0, 8]);
    }

    #[test]
    fn everything_a_boot_loader_says_is_found() {
        let mut module = Vec::new();
        module.extend(0x20_0000u32.to_le_bytes());
        module.extend(0x20_1234u32.to_le_bytes());
        module.extend(b"boot archive\0");
        let memory = map(&[(0, 0x9_fc00, 1), (0xfffc_0000, 0x4_0000, 2)]);
        let bytes = information(&[
            (TAG_COMMAND_LINE, b"log=all\0"),
            (TAG_ACPI_OLD, b"old"),
            (TAG_MODULE, &module),
            (99, b"unknown tags are passed over"),
            (TAG_ACPI_NEW, b"new"),
            (TAG_MEMORY_MAP, &memory),
            (TAG_END, b""),
        ]);
        let found = Information::parse(&bytes).expect("well formed");
        assert_eq!(found.command_line(), "log=all");
        assert_eq!(found.rsdp(), Some(&b"new"[..]));
        let modules: Vec<_> = found.modules().collect();
        assert_eq!(modules.len(), 1);
        assert_eq!(modules[0].command_line, "boot archive");
        assert_eq!(modules[0].size(), Bytes(0x1234));
        let memory: Vec<_> = found.memory_map().collect();
        assert_eq!(
            memory[1],
            (Span::of(HostPhysical(0xfffc_0000), Bytes(0x4_0000)), Kind::Reserved)
        );
    }

    #[test]
    fn a_wrong_length_is_named() {
        let memory = map(&[]);
        let good = information(&[(TAG_MEMORY_MAP, &memory), (TAG_END, b"")]);
        let mut long = good.clone();
        long[12..16].copy_from_slice(&1000u32.to_le_bytes());
        assert_eq!(Information::parse(&long).err(), Some(Error::TagSize { offset: 8, said: 1000 }));
        assert!(matches!(Information::parse(&good[..20]).err(), Some(Error::TotalSize { .. })));
        let endless = information(&[(TAG_MEMORY_MAP, &memory)]);
        assert_eq!(Information::parse(&endless).err(), Some(Error::NoEnd));
        let without = information(&[(TAG_END, b"")]);
        assert_eq!(Information::parse(&without).err(), Some(Error::NoMemoryMap));
    }

    fn walk(bytes: &[u8]) {
        if let Ok(found) = Information::parse(bytes) {
            let _ = found.command_line();
            assert!(found.modules().all(|module| module.size().0 <= u64::from(u32::MAX)));
            let _ = found.memory_map().count();
            let _ = found.rsdp();
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            walk(&bytes);
        }

        #[test]
        fn damaged_information_never_panics(at in 0usize..120, value: u8) {
            let memory = map(&[(0, 1 << 20, 1)]);
            let mut bytes = information(&[(TAG_COMMAND_LINE, b"a b c\0"), (TAG_MODULE, &[1; 20]), (TAG_MEMORY_MAP, &memory), (TAG_END, b"")]);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            walk(&bytes);
        }
    }
}
