//! The file of a unikernel: an ELF executable with two notes of Solo5's (`elf_abi.h`, `mft_abi.h`;
//! System V ABI, chapters 4 and 5).

use crate::abi::{GUEST_BASE, NOTE_ABI, NOTE_MANIFEST, NOTE_OWNER, TARGET_HVT, TARGETS, VERSIONS};
use crate::bytes::{array, half, long, word};
use crate::manifest::{self, Manifest, ManifestError};
use alloc::vec::Vec;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const FLAG_EXECUTE: u32 = 1;
const FLAG_WRITE: u32 = 2;
/// More than any linker writes; bounds the work on a hostile file.
const MOST_HEADERS: u16 = 128;
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const NOTE_HEADER: usize = 12;
const PAGE: u64 = units::PAGE_SIZE;
/// Where a description begins: behind the header and the padded name.
const DESCRIPTION_AT: usize = NOTE_HEADER + 8;
/// `struct abi1_info`: target, version, two reserved words.
const ABI_SIZE: usize = 16;
/// The manifest has 8-byte fields and lies in its note where those are aligned.
const MANIFEST_PADDING: usize = 4;

/// Why a file is no unikernel for this tender.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnikernelError {
    /// Something other than an x86-64 executable.
    #[error("{field} of the ELF header is {value:#x}; allowed is {allowed}")]
    Header {
        /// The field's name.
        field: &'static str,
        /// What it holds.
        value: u64,
        /// What it may hold.
        allowed: &'static str,
    },
    /// A part of the file that is not in the file.
    #[error("{part} of {size:#x} bytes at {offset:#x} passes the end of the file at {end:#x}")]
    Truncated {
        /// Which.
        part: &'static str,
        /// Where it begins.
        offset: u64,
        /// Its size.
        size: u64,
        /// The file's size.
        end: u64,
    },
    /// A segment that breaks a rule.
    #[error("segment {index} at {address:#x}: {rule}")]
    Segment {
        /// Which program header.
        index: usize,
        /// Its virtual address.
        address: u64,
        /// The rule.
        rule: &'static str,
    },
    /// The entry point is in no code.
    #[error("the entry point {0:#x} lies in no executable segment")]
    Entry(u64),
    /// No note of Solo5's.
    #[error("it has no Solo5 note {0}; is it a Solo5 unikernel?")]
    NoNote(&'static str),
    /// A note whose description has a size it cannot have.
    #[error("the Solo5 note {note} has a description of {size} bytes")]
    NoteSize {
        /// `ABI1` or `MFT1`.
        note: &'static str,
        /// Its size.
        size: usize,
    },
    /// Built for another kind of tender.
    #[error("it is built for Solo5's target {name}; this tender runs hvt", name = target_name(*.0))]
    Target(u32),
    /// A version of the interface this tender does not speak.
    #[error(
        "it uses version {0} of the hvt interface; this tender speaks {first} to {last}",
        first = VERSIONS.start(),
        last = VERSIONS.end()
    )]
    Version(u32),
    /// A damaged manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

fn target_name(number: u32) -> &'static str {
    let name = usize::try_from(number).ok().and_then(|at| TARGETS.get(at).copied());
    name.unwrap_or("of no known name")
}

/// A piece of the file that is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment<'f> {
    pub(crate) address: u64,
    pub(crate) bytes: &'f [u8],
    pub(crate) memory_size: u64,
    executable: bool,
}

/// A unikernel's file, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unikernel<'f> {
    /// Where it starts.
    pub entry: u64,
    /// The first address after it, whole pages.
    pub end: u64,
    /// The version of the interface it uses.
    pub version: u32,
    /// Its devices.
    pub manifest: Manifest,
    pub(crate) segments: Vec<Segment<'f>>,
}

struct ProgramHeader {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    file_size: u64,
    memory_size: u64,
    align: u64,
}

/// Whether `file` is an ELF file with the note of a Solo5 unikernel, of whatever target.
#[must_use]
pub fn is_unikernel(file: &[u8]) -> bool {
    file.starts_with(b"\x7fELF")
        && program_headers(file)
            .is_ok_and(|headers| matches!(note(file, &headers, NOTE_ABI), Ok(Some(_))))
}

impl<'f> Unikernel<'f> {
    /// Reads and checks `file`.
    ///
    /// # Errors
    /// The first rule it breaks.
    pub fn read(file: &'f [u8]) -> Result<Self, UnikernelError> {
        let headers = program_headers(file)?;
        let version = version(file, &headers)?;
        let manifest = read_manifest(file, &headers)?;
        let (segments, end) = segments(file, &headers)?;
        let entry = long(file, 24);
        let in_code = |segment: &&Segment<'_>| {
            let offset = entry.checked_sub(segment.address);
            segment.executable && offset.is_some_and(|at| at < segment.memory_size)
        };
        if !segments.iter().any(|segment| in_code(&segment)) {
            return Err(UnikernelError::Entry(entry));
        }
        Ok(Self { entry, end, version, manifest, segments })
    }
}

/// `size` bytes of the file at `offset`.
fn part<'f>(
    file: &'f [u8],
    part: &'static str,
    offset: u64,
    size: u64,
) -> Result<&'f [u8], UnikernelError> {
    let range = || {
        let from = usize::try_from(offset).ok()?;
        file.get(from..from.checked_add(usize::try_from(size).ok()?)?)
    };
    range().ok_or(UnikernelError::Truncated { part, offset, size, end: file.len() as u64 })
}

fn program_headers(file: &[u8]) -> Result<Vec<ProgramHeader>, UnikernelError> {
    let header = part(file, "the ELF header", 0, HEADER as u64)?;
    let fields = [
        (
            "e_ident[EI_MAG]",
            u32::from_be_bytes(array(header, 0)).into(),
            0x7f45_4c46,
            "0x7f, \"ELF\"",
        ),
        ("e_ident[EI_CLASS]", header[4].into(), 2, "2 (64-bit)"),
        ("e_ident[EI_DATA]", header[5].into(), 1, "1 (little-endian)"),
        ("e_version", word(header, 20).into(), 1, "1"),
        ("e_type", half(header, 16).into(), 2, "2 (executable)"),
        ("e_machine", half(header, 18).into(), 62, "62 (x86-64)"),
        ("e_ehsize", half(header, 52).into(), HEADER as u64, "64"),
        ("e_phentsize", half(header, 54).into(), PROGRAM_HEADER as u64, "56"),
    ];
    for (field, value, wanted, allowed) in fields {
        if value != wanted {
            return Err(UnikernelError::Header { field, value, allowed });
        }
    }
    let count = half(header, 56);
    if !(1..=MOST_HEADERS).contains(&count) {
        return Err(UnikernelError::Header {
            field: "e_phnum",
            value: count.into(),
            allowed: "1 to 128",
        });
    }
    let size = u64::from(count) * PROGRAM_HEADER as u64;
    let table = part(file, "the program header table", long(header, 32), size)?;
    let headers = table.chunks_exact(PROGRAM_HEADER).map(|b| ProgramHeader {
        kind: word(b, 0),
        flags: word(b, 4),
        offset: long(b, 8),
        address: long(b, 16),
        file_size: long(b, 32),
        memory_size: long(b, 40),
        align: long(b, 48),
    });
    Ok(headers.collect())
}

/// The description of Solo5's note `kind`, up to the end of its segment; and its size as it says.
/// Every note is the first of a segment of its own.
fn note<'f>(
    file: &'f [u8],
    headers: &[ProgramHeader],
    kind: u32,
) -> Result<Option<(&'f [u8], usize)>, UnikernelError> {
    for header in headers.iter().filter(|header| header.kind == PT_NOTE) {
        let bytes = part(file, "a note", header.offset, header.file_size)?;
        let ours = bytes.len() >= DESCRIPTION_AT
            && word(bytes, 0) as usize == NOTE_OWNER.len()
            && bytes[NOTE_HEADER..].starts_with(NOTE_OWNER)
            && word(bytes, 8) == kind;
        if ours {
            let size = usize::try_from(word(bytes, 4)).unwrap_or(usize::MAX);
            return Ok(Some((&bytes[DESCRIPTION_AT..], size)));
        }
    }
    Ok(None)
}

fn version(file: &[u8], headers: &[ProgramHeader]) -> Result<u32, UnikernelError> {
    let note_name = "ABI1";
    let (bytes, size) = note(file, headers, NOTE_ABI)?.ok_or(UnikernelError::NoNote(note_name))?;
    if size != ABI_SIZE || bytes.len() < ABI_SIZE {
        let note = note_name;
        return Err(UnikernelError::NoteSize { note, size });
    }
    let (target, version) = (word(bytes, 0), word(bytes, 4));
    if target != TARGET_HVT {
        return Err(UnikernelError::Target(target));
    }
    if !VERSIONS.contains(&version) {
        return Err(UnikernelError::Version(version));
    }
    Ok(version)
}

fn read_manifest(file: &[u8], headers: &[ProgramHeader]) -> Result<Manifest, UnikernelError> {
    let note_name = "MFT1";
    let (bytes, size) =
        note(file, headers, NOTE_MANIFEST)?.ok_or(UnikernelError::NoNote(note_name))?;
    let most = MANIFEST_PADDING + manifest::MOST_BYTES;
    if !(MANIFEST_PADDING..=most).contains(&size) || bytes.len() < size {
        let note = note_name;
        return Err(UnikernelError::NoteSize { note, size });
    }
    Ok(Manifest::read(&bytes[MANIFEST_PADDING..size])?)
}

/// What is loaded, and the first address after it. Rules: in ascending order, apart from each other
/// by whole pages, above [`GUEST_BASE`], and no code that can be written.
fn segments<'f>(
    file: &'f [u8],
    headers: &[ProgramHeader],
) -> Result<(Vec<Segment<'f>>, u64), UnikernelError> {
    let mut found = Vec::new();
    let mut end = GUEST_BASE;
    for (index, header) in headers.iter().enumerate() {
        if header.kind != PT_LOAD || header.memory_size == 0 {
            continue;
        }
        let broken = |rule| UnikernelError::Segment { index, address: header.address, rule };
        if !header.align.is_power_of_two() || header.align < PAGE {
            return Err(broken("its alignment must be a power of two from 4096 on"));
        }
        if header.address & !(header.align - 1) < end {
            return Err(broken("it must lie above 0x100000 and behind the segment before it"));
        }
        if header.file_size > header.memory_size {
            return Err(broken("it has more bytes in the file than in memory"));
        }
        if header.flags & FLAG_EXECUTE != 0 && header.flags & FLAG_WRITE != 0 {
            return Err(broken("it can be written and executed; allowed is either"));
        }
        let bytes = part(file, "a segment", header.offset, header.file_size)?;
        end = header
            .address
            .checked_add(header.memory_size)
            .and_then(|end| end.checked_next_multiple_of(header.align))
            .ok_or_else(|| broken("it passes the end of the address space"))?;
        found.push(Segment {
            address: header.address,
            bytes,
            memory_size: header.memory_size,
            executable: header.flags & FLAG_EXECUTE != 0,
        });
    }
    Ok((found, end))
}
