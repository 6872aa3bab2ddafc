//! The guest's side of the interface.

use core::arch::asm;
use core::ffi::CStr;
use core::fmt;
use core::panic::PanicInfo;

/// Port of hypercall 0.
const PORT_BASE: u16 = 0x500;
const WALLTIME: u16 = 1;
const PUTS: u16 = 2;
const POLL: u16 = 3;
const BLOCK_WRITE: u16 = 4;
const BLOCK_READ: u16 = 5;
const HALT: u16 = 8;
/// Status of a unikernel that gave up (`solo5.h`, `SOLO5_EXIT_ABORT`).
const ABORT: i32 = 255;

/// A note: header, owner, description.
#[repr(C)]
pub struct Note<T> {
    owner_size: u32,
    description_size: u32,
    kind: u32,
    owner: [u8; 8],
    description: T,
}

impl<T> Note<T> {
    const fn new(kind: [u8; 4], description: T) -> Self {
        Self {
            owner_size: 6,
            description_size: size_of::<T>() as u32,
            kind: u32::from_le_bytes(kind),
            owner: *b"Solo5\0\0\0",
            description,
        }
    }
}

/// The note that names the interface: hvt, version 2.
pub const ABI: Note<[u32; 4]> = Note::new(*b"ABI1", [1, 2, 0, 0]);

/// Target, version and two reserved words.
pub type Abi = Note<[u32; 4]>;

/// The manifest in its note: padding, version, number of entries, entries.
#[repr(C)]
pub struct ManifestNote<const N: usize> {
    padding: u32,
    version: u32,
    count: u32,
    entries: [Entry; N],
}

/// A manifest's entry. Properties are 8 bytes aligned in the guest's memory, as bytes here.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Entry {
    name: [u8; 68],
    kind: u32,
    properties: [u8; 16],
    private: [u8; 8],
    attached: u8,
    end: [u8; 7],
}

impl Entry {
    /// Entry 0.
    pub const RESERVED: Self = Self::new("", 1 << 30);

    /// A disk.
    #[must_use]
    pub const fn block(name: &str) -> Self {
        Self::new(name, 1)
    }

    const fn new(name: &str, kind: u32) -> Self {
        let from = name.as_bytes();
        let mut name = [0; 68];
        let mut at = 0;
        while at < from.len() && at < 67 {
            name[at] = from[at];
            at += 1;
        }
        Self { name, kind, properties: [0; 16], private: [0; 8], attached: 0, end: [0; 7] }
    }

    /// Bytes of the disk and of one block, where the tender has attached one.
    #[must_use]
    pub fn disk(&self) -> Option<(u64, u16)> {
        let [a, b, c, d, e, f, g, h, low, high, ..] = self.properties;
        let capacity = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let there = self.kind == 1 && self.attached == 1;
        there.then_some((capacity, u16::from_le_bytes([low, high])))
    }
}

/// The note with the manifest.
pub type Manifest<const N: usize> = Note<ManifestNote<N>>;

/// A manifest of these entries, [`Entry::RESERVED`] the first.
#[must_use]
pub const fn manifest<const N: usize>(entries: [Entry; N]) -> Manifest<N> {
    let description = ManifestNote { padding: 0, version: 1, count: N as u32, entries };
    Note::new(*b"MFT1", description)
}

/// What the tender says at the entry point (`struct hvt_boot_info`).
#[repr(C)]
pub struct BootInfo {
    /// Bytes of memory.
    pub memory: u64,
    /// The first address after the unikernel.
    pub kernel_end: u64,
    /// Ticks of the time-stamp counter per second.
    pub tsc_hertz: u64,
    command_line: *const core::ffi::c_char,
    manifest: *const u8,
}

impl BootInfo {
    /// The command line.
    #[must_use]
    pub fn command_line(&self) -> &str {
        // SAFETY: the tender put a terminated string there, which nobody changes.
        let line = unsafe { CStr::from_ptr(self.command_line) };
        line.to_str().unwrap_or("(not UTF-8)")
    }

    /// Entry `index` of the manifest, with what the tender filled in.
    #[must_use]
    pub fn entry(&self, index: usize) -> Option<&Entry> {
        // SAFETY: the tender put a manifest there: version, count, and so many entries.
        unsafe {
            let count = self.manifest.add(4).cast::<u32>().read_unaligned();
            let first = self.manifest.add(8).cast::<Entry>();
            (index < count as usize).then(|| &*first.add(index))
        }
    }
}

/// Hypercall `number` with its structure.
fn call<T>(number: u16, structure: &mut T) {
    let pointer = core::ptr::from_mut(structure) as u64 as u32;
    // SAFETY: memory is mapped one to one below 4 GiB, so the truncated pointer is the address; the
    // tender reads and writes the structure and what it points at, during the instruction.
    unsafe { asm!("out dx, eax", in("dx") PORT_BASE + number, in("eax") pointer) };
}

/// Nanoseconds since 1970.
#[must_use]
pub fn walltime() -> u64 {
    let mut nanoseconds = 0u64;
    call(WALLTIME, &mut nanoseconds);
    nanoseconds
}

/// Prints.
pub struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut structure = [text.as_ptr() as u64, text.len() as u64];
        call(PUTS, &mut structure);
        Ok(())
    }
}

/// Prints as `println!` does.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => {{
        use core::fmt::Write;
        let _ = writeln!($crate::Console, $($argument)*);
    }};
}

/// Waits for a frame, at most so many nanoseconds: how many devices have one, and which.
#[must_use]
pub fn poll(nanoseconds: u64) -> (i32, u64) {
    let mut structure = [nanoseconds, u64::MAX, u64::MAX];
    call(POLL, &mut structure);
    (structure[2] as i32, structure[1])
}

#[repr(C)]
struct BlockCall {
    handle: u64,
    offset: u64,
    data: u64,
    length: u64,
    answer: i32,
}

/// Reads from a disk; the tender's answer, 0 when it is done.
pub fn read(handle: u64, offset: u64, into: &mut [u8]) -> i32 {
    block(BLOCK_READ, handle, offset, into.as_mut_ptr() as u64, into.len())
}

/// Writes to a disk.
pub fn write(handle: u64, offset: u64, bytes: &[u8]) -> i32 {
    block(BLOCK_WRITE, handle, offset, bytes.as_ptr() as u64, bytes.len())
}

fn block(number: u16, handle: u64, offset: u64, data: u64, length: usize) -> i32 {
    let mut structure = BlockCall { handle, offset, data, length: length as u64, answer: -1 };
    call(number, &mut structure);
    structure.answer
}

/// Ends the unikernel with a status.
pub fn halt(status: i32) -> ! {
    let mut structure = (0u64, status);
    call(HALT, &mut structure);
    unreachable!("the tender lets nobody go on after a halt")
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    say!("panic: {info}");
    halt(ABORT)
}
