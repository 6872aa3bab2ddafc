//! ELF images of 32-bit and 64-bit x86 programs (System V ABI, chapters 4 and 5): what to load where,
//! and where a PVH boot enters.
//!
//! [`Image::parse`] checks every program header once; what it gives afterwards lies within the file.

use crate::bytes::{range, u16_at, u32_at, u64_at};
use crate::memory_map::Span;
use crate::pvh;
use core::fmt;
use core::ops::Range;
use units::{Bytes, HostPhysical};

/// e_ident: the magic, little-endian data.
const MAGIC: &[u8] = b"\x7fELF";
const LITTLE_ENDIAN: u8 = 1;
/// e_machine.
const I386: u16 = 3;
const X86_64: u16 = 62;
/// p_type.
const LOAD: u32 = 1;
const NOTE: u32 = 4;

/// More program headers than any image to boot has; bounds the time of the checks.
pub const MAX_HEADERS: u16 = 64;

/// Why a file is no image to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It does not begin as ELF files do.
    Magic,
    /// It is not a little-endian 32-bit or 64-bit file.
    Class {
        /// e_ident[EI_CLASS].
        class: u8,
        /// e_ident[EI_DATA].
        data: u8,
    },
    /// It is for another machine.
    Machine {
        /// e_machine.
        found: u16,
    },
    /// The file ends before its header or program headers do.
    Short {
        /// Bytes there are.
        found: usize,
    },
    /// Program headers are smaller than their fields.
    HeaderSize {
        /// e_phentsize.
        said: u16,
    },
    /// More program headers than [`MAX_HEADERS`].
    HeaderCount {
        /// e_phnum.
        found: u16,
    },
    /// A segment's bytes lie outside the file.
    SegmentFile {
        /// Number of the program header.
        index: u16,
        /// p_offset.
        offset: u64,
        /// p_filesz.
        size: u64,
    },
    /// A segment needs less memory than it has bytes, or passes the end of the address space.
    SegmentMemory {
        /// Number of the program header.
        index: u16,
        /// p_paddr.
        address: HostPhysical,
        /// p_memsz.
        size: u64,
    },
    /// Two segments want the same memory.
    Overlap {
        /// Number of the first program header.
        first: u16,
        /// Number of the second.
        second: u16,
    },
    /// Nothing is to be loaded.
    NoSegments,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => f.write_str("it does not begin as ELF files do"),
            Self::Class { class, data } => write!(
                f,
                "class {class} and data {data}; wanted is class 1 or 2, data {LITTLE_ENDIAN}"
            ),
            Self::Machine { found } => {
                write!(f, "e_machine is {found}; wanted is {I386} or {X86_64}")
            }
            Self::Short { found } => write!(f, "its {found} bytes end within its headers"),
            Self::HeaderSize { said } => write!(f, "its program headers have {said} bytes each"),
            Self::HeaderCount { found } => {
                write!(f, "it has {found} program headers, at most {MAX_HEADERS} are read")
            }
            Self::SegmentFile { index, offset, size } => {
                write!(f, "segment {index}: {size:#x} bytes at {offset:#x} lie outside the file")
            }
            Self::SegmentMemory { index, address, size } => write!(
                f,
                "segment {index}: {size:#x} bytes of memory at {:#x} are fewer than in the file, or pass the end of all memory",
                address.0
            ),
            Self::Overlap { first, second } => {
                write!(f, "segments {first} and {second} want the same memory")
            }
            Self::NoSegments => f.write_str("it has nothing to load"),
        }
    }
}

/// The width of an image's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// ELFCLASS32.
    Bits32,
    /// ELFCLASS64.
    Bits64,
}

/// What a segment's memory is for (p_flags).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// PF_W.
    pub write: bool,
    /// PF_X.
    pub execute: bool,
}

/// One loadable segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Its bytes; the rest of its memory is zero.
    pub contents: &'a [u8],
    /// Where they lie in the file.
    pub range: Range<usize>,
    /// Where it goes in physical memory.
    pub memory: Span,
    /// Where it is linked to run (p_vaddr).
    pub linked: u64,
    /// What may be done with it.
    pub access: Access,
}

/// A checked image.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    bytes: &'a [u8],
    width: Width,
    entry: u64,
    headers: Headers,
}

/// Where the program headers lie.
#[derive(Clone, Copy, Debug)]
struct Headers {
    offset: u64,
    size: u16,
    count: u16,
}

/// A program header's fields.
#[derive(Clone, Copy, Debug)]
struct Header {
    kind: u32,
    flags: u32,
    offset: u64,
    linked: u64,
    physical: u64,
    file_size: u64,
    memory_size: u64,
    alignment: u64,
}

impl<'a> Image<'a> {
    /// Checks the file's header and every program header.
    ///
    /// # Errors
    /// It is no x86 ELF file or cannot be loaded as it says.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let short = Error::Short { found: bytes.len() };
        if !bytes.starts_with(MAGIC) {
            return Err(Error::Magic);
        }
        let (class, data) = match bytes {
            [_, _, _, _, class, data, ..] => (*class, *data),
            _ => return Err(short),
        };
        let width = match (class, data) {
            (1, LITTLE_ENDIAN) => Width::Bits32,
            (2, LITTLE_ENDIAN) => Width::Bits64,
            _ => return Err(Error::Class { class, data }),
        };
        let machine = u16_at(bytes, 18).ok_or(short)?;
        if machine != I386 && machine != X86_64 {
            return Err(Error::Machine { found: machine });
        }
        let half = |offset| u16_at(bytes, offset).ok_or(short);
        let (entry, headers, least) = match width {
            Width::Bits32 => (
                u64::from(u32_at(bytes, 24).ok_or(short)?),
                Headers {
                    offset: u64::from(u32_at(bytes, 28).ok_or(short)?),
                    size: half(42)?,
                    count: half(44)?,
                },
                32,
            ),
            Width::Bits64 => (
                u64_at(bytes, 24).ok_or(short)?,
                Headers {
                    offset: u64_at(bytes, 32).ok_or(short)?,
                    size: half(54)?,
                    count: half(56)?,
                },
                56,
            ),
        };
        if headers.size < least {
            return Err(Error::HeaderSize { said: headers.size });
        }
        if headers.count > MAX_HEADERS {
            return Err(Error::HeaderCount { found: headers.count });
        }
        let table = u64::from(headers.size) * u64::from(headers.count);
        range(bytes, headers.offset, table).ok_or(short)?;
        let image = Self { bytes, width, entry, headers };
        image.check()?;
        Ok(image)
    }

    fn check(&self) -> Result<(), Error> {
        let mut loaded = false;
        for (index, header) in self.headers() {
            if header.kind != LOAD && header.kind != NOTE {
                continue;
            }
            range(self.bytes, header.offset, header.file_size).ok_or(Error::SegmentFile {
                index,
                offset: header.offset,
                size: header.file_size,
            })?;
            if header.kind != LOAD {
                continue;
            }
            loaded |= header.memory_size > 0;
            if header.memory_size < header.file_size
                || header.physical.checked_add(header.memory_size).is_none()
            {
                return Err(Error::SegmentMemory {
                    index,
                    address: HostPhysical(header.physical),
                    size: header.memory_size,
                });
            }
            let memory = header.memory();
            let other = self.headers().find(|(other, earlier)| {
                *other < index && earlier.kind == LOAD && earlier.memory().overlaps(&memory)
            });
            if let Some((first, _)) = other {
                return Err(Error::Overlap { first, second: index });
            }
        }
        if loaded { Ok(()) } else { Err(Error::NoSegments) }
    }

    /// The width of its addresses.
    #[must_use]
    pub const fn width(&self) -> Width {
        self.width
    }

    /// e_entry, an address it is linked for.
    #[must_use]
    pub const fn entry(&self) -> u64 {
        self.entry
    }

    /// What to load, in the file's order.
    pub fn segments(&self) -> impl Iterator<Item = Segment<'a>> + use<'a> {
        let image = *self;
        image.headers().filter_map(move |(_, header)| {
            if header.kind != LOAD || header.memory_size == 0 {
                return None;
            }
            let range = range(image.bytes, header.offset, header.file_size)?;
            Some(Segment {
                contents: image.bytes.get(range.clone())?,
                range,
                memory: header.memory(),
                linked: header.linked,
                access: Access { write: header.flags & 2 != 0, execute: header.flags & 1 != 0 },
            })
        })
    }

    /// From the lowest to the highest address of its memory.
    #[must_use]
    pub fn memory(&self) -> Span {
        self.segments()
            .map(|segment| segment.memory)
            .reduce(|all, memory| Span {
                start: all.start.min(memory.start),
                end: all.end.max(memory.end),
            })
            .unwrap_or(Span::of(HostPhysical(0), Bytes(0)))
    }

    /// Where PVH enters it: the XEN_ELFNOTE_PHYS32_ENTRY note, when it names memory of the image.
    #[must_use]
    pub fn pvh_entry(&self) -> Option<HostPhysical> {
        let entry =
            self.headers().filter(|(_, header)| header.kind == NOTE).find_map(|(_, header)| {
                let notes = range(self.bytes, header.offset, header.file_size)?;
                pvh_note(self.bytes.get(notes)?, header.alignment)
            })?;
        let first = Span::of(entry, Bytes(1));
        self.segments().any(|segment| segment.memory.contains(&first)).then_some(entry)
    }

    fn headers(&self) -> impl Iterator<Item = (u16, Header)> + use<'a> {
        let image = *self;
        (0..image.headers.count).map_while(move |index| {
            let offset = image
                .headers
                .offset
                .checked_add(u64::from(index) * u64::from(image.headers.size))?;
            let place = range(image.bytes, offset, u64::from(image.headers.size))?;
            Some((index, Header::read(image.bytes.get(place)?, image.width)?))
        })
    }
}

impl Header {
    fn read(bytes: &[u8], width: Width) -> Option<Self> {
        let word = |offset| u32_at(bytes, offset);
        let small = |offset| u32_at(bytes, offset).map(u64::from);
        let large = |offset| u64_at(bytes, offset);
        Some(match width {
            Width::Bits32 => Self {
                kind: word(0)?,
                offset: small(4)?,
                linked: small(8)?,
                physical: small(12)?,
                file_size: small(16)?,
                memory_size: small(20)?,
                flags: word(24)?,
                alignment: small(28)?,
            },
            Width::Bits64 => Self {
                kind: word(0)?,
                flags: word(4)?,
                offset: large(8)?,
                linked: large(16)?,
                physical: large(24)?,
                file_size: large(32)?,
                memory_size: large(40)?,
                alignment: large(48)?,
            },
        })
    }

    fn memory(&self) -> Span {
        Span::of(HostPhysical(self.physical), Bytes(self.memory_size))
    }
}

/// The entry address in a segment of notes. Notes are padded to 4 bytes, or to 8 in segments that
/// are aligned so (System V ABI, "Note Section").
fn pvh_note(mut notes: &[u8], alignment: u64) -> Option<HostPhysical> {
    const HEAD: usize = 12;
    let padding = if alignment == 8 { 8 } else { 4 };
    loop {
        let name_size = usize::try_from(u32_at(notes, 0)?).ok()?;
        let size = usize::try_from(u32_at(notes, 4)?).ok()?;
        let kind = u32_at(notes, 8)?;
        let name = notes.get(HEAD..)?.get(..name_size)?;
        let start = HEAD.checked_add(name_size)?.checked_next_multiple_of(padding)?;
        let content = notes.get(start..)?.get(..size)?;
        if kind == pvh::NOTE_PHYS32_ENTRY && name == pvh::NOTE_NAME {
            return match size {
                4 => u32_at(content, 0).map(|entry| HostPhysical(u64::from(entry))),
                8 => u64_at(content, 0)
                    .filter(|entry| u32::try_from(*entry).is_ok())
                    .map(HostPhysical),
                _ => None,
            };
        }
        let next = start.checked_add(size)?.checked_next_multiple_of(padding)?;
        notes = notes.get(next..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    const LOADED_AT: u64 = 0x100_0000;

    /// One note segment, one code segment with three bytes in a page of memory, one of zeros.
    fn image(entry: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(b"\x7fELF\x02\x01\x01");
        bytes.resize(16, 0);
        bytes.extend(2u16.to_le_bytes());
        bytes.extend(X86_64.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend((LOADED_AT + 1).to_le_bytes());
        bytes.extend(64u64.to_le_bytes());
        bytes.resize(52, 0);
        for half in [64u16, 56, 3, 0, 0, 0] {
            bytes.extend(half.to_le_bytes());
        }
        let mut header = |kind: u32, flags: u32, words: [u64; 6]| {
            bytes.extend(kind.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
            for word in words {
                bytes.extend(word.to_le_bytes());
            }
        };
        header(NOTE, 4, [232, 0, 0, 40, 40, 4]);
        header(LOAD, 5, [272, LOADED_AT, LOADED_AT, 3, 0x1000, 0x1000]);
        header(LOAD, 6, [0, 0x200_0000, LOADED_AT + 0x1000, 0, 64, 0x1000]);
        // A note of somebody else's first.
        for word in [4u32, 4, 1] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(b"GNU\0....");
        for word in [4u32, 4, pvh::NOTE_PHYS32_ENTRY] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(pvh::NOTE_NAME);
        bytes.extend(entry.to_le_bytes());
        bytes.extend([0x90, 0x90, 0xf4]);
        bytes
    }

    #[test]
    fn segments_and_both_entries_are_found() {
        let bytes = image(0x100_0002);
        let image = Image::parse(&bytes).expect("well formed");
        assert_eq!(image.width(), Width::Bits64);
        assert_eq!(image.entry(), LOADED_AT + 1);
        assert_eq!(image.pvh_entry(), Some(HostPhysical(0x100_0002)));
        let segments: Vec<_> = image.segments().collect();
        assert_eq!(segments.len(), 2);
        assert_eq!(segments[0].contents, [0x90, 0x90, 0xf4]);
        assert!(segments[0].access.execute && !segments[0].access.write);
        assert_eq!(segments[1].linked, 0x200_0000);
        assert_eq!(image.memory(), Span::of(HostPhysical(LOADED_AT), Bytes(0x1040)));
    }

    #[test]
    fn an_entry_outside_the_image_is_none() {
        let bytes = image(0x10);
        assert_eq!(Image::parse(&bytes).expect("well formed").pvh_entry(), None);
    }

    #[test]
    fn what_cannot_be_loaded_is_named() {
        let good = image(0x100_0000);
        let with = |at: usize, value: &[u8]| {
            let mut bytes = good.clone();
            bytes[at..at + value.len()].copy_from_slice(value);
            Image::parse(&bytes).err()
        };
        assert_eq!(with(0, b"MZ"), Some(Error::Magic));
        assert_eq!(with(4, &[3]), Some(Error::Class { class: 3, data: 1 }));
        assert_eq!(with(18, &183u16.to_le_bytes()), Some(Error::Machine { found: 183 }));
        assert_eq!(with(54, &8u16.to_le_bytes()), Some(Error::HeaderSize { said: 8 }));
        assert_eq!(with(56, &65u16.to_le_bytes()), Some(Error::HeaderCount { found: 65 }));
        assert_eq!(with(32, &u64::MAX.to_le_bytes()), Some(Error::Short { found: good.len() }));
        // The second header: 64 + 56; p_offset is its third field, p_paddr its fifth.
        assert_eq!(
            with(128, &0x1_0000u64.to_le_bytes()),
            Some(Error::SegmentFile { index: 1, offset: 0x1_0000, size: 3 })
        );
        assert_eq!(
            with(144, &u64::MAX.to_le_bytes()),
            Some(Error::SegmentMemory { index: 1, address: HostPhysical(u64::MAX), size: 0x1000 })
        );
        assert_eq!(
            with(144, &(LOADED_AT + 0x800).to_le_bytes()),
            Some(Error::Overlap { first: 1, second: 2 })
        );
    }

    fn walk(bytes: &[u8]) {
        if let Ok(image) = Image::parse(bytes) {
            for segment in image.segments() {
                assert_eq!(&bytes[segment.range.clone()], segment.contents);
                assert!(segment.contents.len() as u64 <= segment.memory.size().0);
            }
            let _ = image.pvh_entry();
            let _ = image.memory();
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400), wide: bool) {
            walk(&bytes);
            if let Some(head) = bytes.get_mut(..20) {
                head[..6].copy_from_slice(if wide { b"\x7fELF\x02\x01" } else { b"\x7fELF\x01\x01" });
                head[18..].copy_from_slice(&I386.to_le_bytes());
            }
            walk(&bytes);
        }

        #[test]
        fn damaged_images_never_panic(damage in prop::collection::vec((0usize..280, any::<u8>()), 1..8)) {
            let mut bytes = image(0x100_0000);
            for (at, value) in damage {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            walk(&bytes);
        }
    }
}
