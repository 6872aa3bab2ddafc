//! The state a unikernel starts in: 64-bit mode, its memory mapped one to one, one argument.
//!
//! ```text
//! 0x00_1000  GDT: null, code, data
//! 0x00_2000  page tables: PML4, PDPT, four page directories, the first 2 MiB's table
//! 0x01_0000  boot information, manifest, command line   (the guest can read up to 0x10_0000)
//! 0x10_0000  the unikernel                              (and write from here on)
//!            heap up, stack down
//! ```
//!
//! What lies below the boot information is mapped nowhere: a null pointer faults.

use crate::abi::{COMMAND_LINE_SIZE, GUEST_BASE};
use crate::attach::Devices;
use crate::elf::Unikernel;
use crate::memory::GuestMemory;
use alloc::vec::Vec;
use processor::{DescriptorTable, Registers, Segment, SystemRegisters};
use units::{Bytes, GuestPhysical};

/// `hvt_cpu_x86_64.h`, the map of low memory.
const GDT: u64 = 0x1000;
const PML4: u64 = 0x2000;
const PDPT: u64 = 0x3000;
const DIRECTORIES: u64 = 0x4000;
const FIRST_TABLE: u64 = 0x8000;
const BOOT_INFO: u64 = 0x1_0000;

/// Memory is mapped with pages of 2 MiB.
const GRANULE: u64 = 2 << 20;
/// Four page directories' worth.
const MOST_MEMORY: u64 = 4 << 30;
/// What must be free above the unikernel for its first stack.
const STACK_LEAST: u64 = 64 << 10;
/// `struct hvt_boot_info` (`hvt_abi.h`).
const BOOT_INFO_SIZE: u64 = 40;

// SDM 3A 4.5.4.
const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;

/// CR0: PE, ET, NE, WP, PG (SDM 3A 2.5; `hvt_cpu_x86_64.h`).
const CR0: u64 = 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31;
/// CR4: PAE, OSFXSR, OSXMMEXCPT.
const CR4: u64 = 1 << 5 | 1 << 9 | 1 << 10;
/// EFER: LME, LMA (SDM 3A 2.2.1).
const EFER: u64 = 1 << 8 | 1 << 10;
/// RFLAGS bit 1 reads one (SDM 1 3.4.3).
const RFLAGS: u64 = 1 << 1;

const CODE: u16 = 8;
const DATA: u16 = 16;
// Access rights as `processor::Segment` lays them out.
const CODE_64: u16 = 0xa09b;
const DATA_32: u16 = 0xc093;
const TASK_BUSY: u16 = 0x008b;
const LDT: u16 = 0x0082;
/// The descriptors of [`CODE_64`] and [`DATA_32`], base 0, limit 4 GiB (SDM 3A figure 3-8).
const DESCRIPTORS: [u64; 3] = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// What a unikernel is started with.
#[derive(Clone, Copy, Debug)]
pub struct Boot<'a> {
    /// Its memory: whole pages of 2 MiB, from address 0 on.
    pub memory: Bytes,
    /// Its command line.
    pub command_line: &'a str,
    /// Ticks of the time-stamp counter per second.
    pub tsc_hertz: u64,
}

/// Why a unikernel cannot be put into memory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// A size of memory it cannot have.
    #[error("memory of {0}; allowed are multiples of 2 MiB up to 4 GiB")]
    Memory(Bytes),
    /// It does not fit.
    #[error("it ends at {end:#x} and needs a stack of 64 KiB above, beyond its memory of {memory}")]
    TooLarge {
        /// Where it ends.
        end: u64,
        /// Its memory.
        memory: Bytes,
    },
    /// Its command line does not fit.
    #[error("a command line of {length} bytes; at most {} fit, none of them zero", COMMAND_LINE_SIZE - 1)]
    CommandLine {
        /// Its length.
        length: usize,
    },
    /// Guest memory is smaller than it was said to be.
    #[error("no memory at {0}")]
    NoMemory(GuestPhysical),
}

/// The first processor's registers. Fields of [`SystemRegisters`] that a unikernel has no say in
/// (the APIC base) are zero: keep the processor's own.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    /// General registers.
    pub registers: Registers,
    /// System registers.
    pub system: SystemRegisters,
}

impl Start {
    /// Puts `unikernel` and everything it is told into memory that is all zero.
    ///
    /// # Errors
    /// It does not fit. Memory may then hold parts of it.
    pub fn place<M: GuestMemory + ?Sized>(
        memory: &M,
        unikernel: &Unikernel<'_>,
        devices: &Devices,
        boot: Boot<'_>,
    ) -> Result<Self, PlaceError> {
        let size = boot.memory.0;
        if size == 0 || size > MOST_MEMORY || !size.is_multiple_of(GRANULE) {
            return Err(PlaceError::Memory(boot.memory));
        }
        let fits = |end: u64| end.checked_add(STACK_LEAST).is_some_and(|end| end <= size);
        if !fits(unikernel.end) {
            return Err(PlaceError::TooLarge { end: unikernel.end, memory: boot.memory });
        }
        let length = boot.command_line.len();
        if length >= COMMAND_LINE_SIZE || boot.command_line.contains('\0') {
            return Err(PlaceError::CommandLine { length });
        }
        let write = |address: u64, bytes: &[u8]| {
            let address = GuestPhysical(address);
            if memory.write(address, bytes) { Ok(()) } else { Err(PlaceError::NoMemory(address)) }
        };
        for segment in &unikernel.segments {
            write(segment.address, segment.bytes)?;
            let zeros = [0; 4096];
            let mut done = segment.bytes.len() as u64;
            while done < segment.memory_size {
                let count = (segment.memory_size - done).min(zeros.len() as u64);
                write(segment.address + done, &zeros[..count as usize])?;
                done += count;
            }
        }
        write(GDT, &bytes(DESCRIPTORS))?;
        for (at, table) in page_tables(size) {
            write(at, &table)?;
        }
        let manifest = unikernel.manifest.attached(&devices.properties());
        let manifest_at = BOOT_INFO + BOOT_INFO_SIZE;
        let line_at = manifest_at + manifest.len() as u64;
        let information = [size, unikernel.end, boot.tsc_hertz, line_at, manifest_at];
        write(BOOT_INFO, &bytes(information))?;
        write(manifest_at, &manifest)?;
        write(line_at, boot.command_line.as_bytes())?;
        write(line_at + length as u64, &[0])?;
        Ok(state(unikernel.entry, size))
    }
}

/// Registers at the entry point: the boot information's address as the first argument, and a stack
/// as after a call (System V ABI for AMD64, 3.2.2 and 3.2.3).
fn state(entry: u64, memory: u64) -> Start {
    let registers = Registers {
        rip: entry,
        rsp: memory - 8,
        rdi: BOOT_INFO,
        rflags: RFLAGS,
        ..Registers::default()
    };
    let flat = |selector, rights| Segment { selector, base: 0, limit: u32::MAX, rights };
    let data = flat(DATA, DATA_32);
    let system = SystemRegisters {
        cs: flat(CODE, CODE_64),
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: Segment { limit: 0x67, rights: TASK_BUSY, ..Segment::default() },
        ldt: Segment { rights: LDT, ..Segment::default() },
        gdt: DescriptorTable { base: GDT, limit: size_of_val(&DESCRIPTORS) as u16 - 1 },
        cr0: CR0,
        cr3: PML4,
        cr4: CR4,
        efer: EFER,
        ..SystemRegisters::default()
    };
    Start { registers, system }
}

fn bytes(words: impl IntoIterator<Item = u64>) -> Vec<u8> {
    words.into_iter().flat_map(u64::to_le_bytes).collect()
}

/// Page tables by address.
fn page_tables(size: u64) -> Vec<(u64, Vec<u8>)> {
    let entry = |address: u64| match address {
        0..BOOT_INFO => 0,
        BOOT_INFO..GUEST_BASE => address | PRESENT,
        _ => address | PRESENT | WRITABLE,
    };
    let directory = |number: u64| {
        let page = move |index: u64| (number * 512 + index) * GRANULE;
        bytes((0..512).map(page).map(move |address| match address {
            0 => FIRST_TABLE | PRESENT | WRITABLE,
            address if address < size => address | PRESENT | WRITABLE | LARGE,
            _ => 0,
        }))
    };
    let directory_at = |number| DIRECTORIES + number * units::PAGE_SIZE;
    let mut tables = Vec::from([
        (PML4, bytes([PDPT | PRESENT | WRITABLE])),
        (PDPT, bytes((0..4).map(|number| directory_at(number) | PRESENT | WRITABLE))),
        (FIRST_TABLE, bytes((0..512).map(|page| entry(page * units::PAGE_SIZE)))),
    ]);
    tables.extend((0..4).map(|number| (directory_at(number), directory(number))));
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_memory_is_unmapped_then_read_only_then_the_guests() {
        let tables = page_tables(4 << 20);
        let entry = |table: u64, index: usize| {
            let (_, bytes) = tables.iter().find(|(at, _)| *at == table).unwrap();
            crate::bytes::long(bytes, index * 8)
        };
        assert_eq!(entry(FIRST_TABLE, 0), 0);
        assert_eq!(entry(FIRST_TABLE, 15), 0);
        assert_eq!(entry(FIRST_TABLE, 16), 0x1_0001);
        assert_eq!(entry(FIRST_TABLE, 255), 0xf_f001);
        assert_eq!(entry(FIRST_TABLE, 256), 0x10_0003);
        assert_eq!(entry(DIRECTORIES, 0), 0x8003);
        assert_eq!(entry(DIRECTORIES, 1), 0x20_0083);
        assert_eq!(entry(DIRECTORIES, 2), 0);
        assert_eq!(entry(0x7000, 511), 0);
        assert_eq!(entry(PML4, 0), 0x3003);
        assert_eq!(entry(PDPT, 3), 0x7003);
    }
}
