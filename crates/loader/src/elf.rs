//! ELF program headers and notes, 32-bit and 64-bit, of an untrusted file (System V ABI, chapters
//! 4 and 5).

use crate::image::{Fields, Image, Source};
use crate::{LoadError, Ram};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use layout::{HIGH_MEMORY, MemoryMap};

const FORMAT: &str = "ELF kernel";
/// More than any linker writes; bounds the work on a hostile file.
const MOST_HEADERS: u16 = 128;
/// The largest note segment looked into.
const MOST_NOTES: u64 = 64 << 10;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;

/// A program header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    kind: u32,
    offset: u64,
    virtual_address: u64,
    physical: u64,
    file_size: u64,
    memory_size: u64,
}

/// A checked ELF header.
pub(crate) struct Elf {
    entry: u64,
    segments: Vec<Segment>,
}

pub(crate) fn is_elf(head: &[u8]) -> bool {
    head.starts_with(b"\x7fELF")
}

fn field(field: &'static str, value: u64, allowed: impl Into<String>) -> LoadError {
    LoadError::Field { format: FORMAT, field, value, allowed: allowed.into() }
}

impl Elf {
    pub(crate) fn read<I: Image>(source: &mut Source<'_, I>) -> Result<Self, LoadError> {
        let head = source.head(64)?;
        let header = Fields(&head);
        let is_64 = match header.u8(4) {
            1 => false,
            2 => true,
            class => return Err(field("e_ident[EI_CLASS]", class.into(), "1 or 2")),
        };
        if header.u8(5) != 1 {
            return Err(field("e_ident[EI_DATA]", header.u8(5).into(), "1 (little-endian)"));
        }
        // EM_386 and EM_X86_64.
        let machine = header.u16(18);
        if machine != 3 && machine != 62 {
            return Err(field("e_machine", machine.into(), "3 (x86) or 62 (x86-64)"));
        }
        let (entry, table, size, count) = if is_64 {
            (header.u64(24), header.u64(32), header.u16(54), header.u16(56))
        } else {
            (header.u32(24).into(), header.u32(28).into(), header.u16(42), header.u16(44))
        };
        let expected = if is_64 { 56 } else { 32 };
        if size != expected {
            return Err(field("e_phentsize", size.into(), expected.to_string()));
        }
        if !(1..=MOST_HEADERS).contains(&count) {
            return Err(field("e_phnum", count.into(), format!("1 to {MOST_HEADERS}")));
        }
        let length = u64::from(size) * u64::from(count);
        if !source.holds(table, length) {
            let most = source.size().saturating_sub(length);
            return Err(field("e_phoff", table, format!("at most {most:#x}")));
        }
        let bytes = source.bytes(table, usize::from(size) * usize::from(count))?;
        let segments = bytes.chunks_exact(usize::from(size)).map(|b| segment(b, is_64)).collect();
        Ok(Self { entry, segments })
    }

    fn loaded(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(|segment| segment.kind == PT_LOAD && segment.memory_size > 0)
    }

    /// Copies every loadable segment to its physical address; gives the end of the last.
    pub(crate) fn load<I: Image>(
        &self,
        memory: &dyn Ram,
        map: &MemoryMap,
        source: &mut Source<'_, I>,
    ) -> Result<u64, LoadError> {
        let mut last = 0;
        for segment in self.loaded() {
            if !source.holds(segment.offset, segment.file_size) {
                let most = source.size().saturating_sub(segment.offset);
                return Err(field("p_filesz", segment.file_size, format!("at most {most:#x}")));
            }
            if segment.file_size > segment.memory_size {
                let most = format!("at most p_memsz {:#x}", segment.memory_size);
                return Err(field("p_filesz", segment.file_size, most));
            }
            let end = in_ram(map, "p_paddr", segment.physical, segment.memory_size)?;
            source.copy(segment.offset, segment.file_size, memory, segment.physical)?;
            let zeros = segment.memory_size - segment.file_size;
            zero(memory, segment.physical + segment.file_size, zeros)?;
            last = last.max(end);
        }
        if last == 0 {
            return Err(field("PT_LOAD segments", 0, "at least 1"));
        }
        Ok(last)
    }

    /// The entry point as a physical address below 4 GiB: linkers write it as a virtual one.
    pub(crate) fn entry(&self) -> Result<u32, LoadError> {
        self.loaded()
            .find_map(|segment| {
                let offset = self.entry.checked_sub(segment.virtual_address)?;
                (offset < segment.memory_size).then_some(segment.physical.checked_add(offset)?)
            })
            .and_then(|entry| u32::try_from(entry).ok())
            .ok_or_else(|| field("e_entry", self.entry, "inside a segment below 4 GiB"))
    }

    /// True when the physical address `entry` lies in a loaded segment.
    pub(crate) fn covers(&self, entry: u64) -> bool {
        self.loaded().any(|segment| {
            entry.checked_sub(segment.physical).is_some_and(|at| at < segment.memory_size)
        })
    }

    /// The first four bytes of the description of note `kind` of `owner`.
    pub(crate) fn note<I: Image>(
        &self,
        source: &mut Source<'_, I>,
        owner: &[u8],
        kind: u32,
    ) -> Result<Option<u32>, LoadError> {
        for segment in self.segments.iter().filter(|segment| segment.kind == PT_NOTE) {
            let size = segment.file_size;
            if size > MOST_NOTES || !source.holds(segment.offset, size) {
                let most = MOST_NOTES.min(source.size().saturating_sub(segment.offset));
                return Err(field("p_filesz of a note", size, format!("at most {most:#x}")));
            }
            let bytes = source.bytes(segment.offset, usize::try_from(size).unwrap_or(0))?;
            if let Some(value) = find_note(&bytes, owner, kind) {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }
}

fn segment(bytes: &[u8], is_64: bool) -> Segment {
    let header = Fields(bytes);
    if is_64 {
        Segment {
            kind: header.u32(0),
            offset: header.u64(8),
            virtual_address: header.u64(16),
            physical: header.u64(24),
            file_size: header.u64(32),
            memory_size: header.u64(40),
        }
    } else {
        Segment {
            kind: header.u32(0),
            offset: header.u32(4).into(),
            virtual_address: header.u32(8).into(),
            physical: header.u32(12).into(),
            file_size: header.u32(16).into(),
            memory_size: header.u32(20).into(),
        }
    }
}

/// Notes are 4-byte aligned triples of header, owner, description; a note that runs past the
/// segment ends the search.
fn find_note(bytes: &[u8], owner: &[u8], kind: u32) -> Option<u32> {
    let mut rest = bytes;
    while rest.len() >= 12 {
        let header = Fields(rest);
        let padded = |at| usize::try_from(header.u32(at)).ok()?.checked_next_multiple_of(4);
        let (name, description, found) = (padded(0)?, padded(4)?, header.u32(8));
        let description_at = name.checked_add(12)?;
        let next = description_at.checked_add(description)?;
        if found == kind && header.u32(4) >= 4 && rest.get(12..12 + owner.len()) == Some(owner) {
            return (next <= rest.len()).then(|| Fields(rest).u32(description_at));
        }
        rest = rest.get(next..)?;
    }
    None
}

/// The end of `size` bytes at `address`, when they lie in RAM between 1 MiB and the end of low RAM.
pub(crate) fn in_ram(
    map: &MemoryMap,
    name: &'static str,
    address: u64,
    size: u64,
) -> Result<u64, LoadError> {
    if address < HIGH_MEMORY.0 {
        return Err(field(name, address, format!("at least {:#x}", HIGH_MEMORY.0)));
    }
    let to = map.low_ram_end().0;
    match address.checked_add(size) {
        Some(end) if end <= to => Ok(end),
        _ => Err(LoadError::NoRoom { what: "kernel", size, from: address, to }),
    }
}

/// Zeroes guest memory in pieces, so that a hostile size allocates nothing.
pub(crate) fn zero(memory: &dyn Ram, from: u64, size: u64) -> Result<(), LoadError> {
    const PIECE: [u8; 4096] = [0; 4096];
    let (mut at, mut left) = (from, size);
    while left > 0 {
        let length = left.min(4096);
        let piece = &PIECE[..usize::try_from(length).unwrap_or(0)];
        crate::place::write(memory, units::GuestPhysical(at), piece)?;
        at += length;
        left -= length;
    }
    Ok(())
}
