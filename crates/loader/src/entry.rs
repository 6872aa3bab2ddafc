//! The states a first processor can start in.

use crate::place::write;
use crate::{LoadError, Ram};
use alloc::vec::Vec;
use layout::{GDT, PAGE_TABLES};
use processor::{DescriptorTable, Registers, Segment, SystemRegisters};
use units::GuestPhysical;

/// How the first processor starts.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant)] // one value per machine
pub enum EntryPoint {
    /// As after power-on: real mode at 0xffff_fff0, in the firmware (SDM 3A 10.1.4). The processor
    /// is so after `Processor::reset`; nothing is to be set.
    Reset,
    /// With exactly these registers. Fields of [`SystemRegisters`] that a kernel has no say in
    /// (the APIC base) are zero here: keep the processor's own.
    State {
        /// General registers.
        registers: Registers,
        /// System registers.
        system: SystemRegisters,
    },
}

// Descriptor access rights as `engine::Segment` lays them out (SDM 3A 3.4.5.1).
const CODE_64: u16 = 0xa09b;
const CODE_32: u16 = 0xc09b;
const DATA_32: u16 = 0xc093;
const CODE_16: u16 = 0x009b;
const DATA_16: u16 = 0x0093;
const TASK_BUSY: u16 = 0x008b;
const LDT: u16 = 0x0082;

// Selectors: Linux wants code at 0x10 and data at 0x18 (boot.rst, 32-bit and 64-bit protocol).
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TASK: u16 = 0x20;

/// CR0.PE, ET, PG; CR4.PAE (SDM 3A 2.5); EFER.LME, LMA (SDM 3A 2.2.1).
const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// RFLAGS bit 1 reads one (SDM 1 3.4.3).
const RFLAGS: u64 = 1 << 1;

fn flat(selector: u16, rights: u16) -> Segment {
    Segment { selector, base: 0, limit: u32::MAX, rights }
}

/// A GDT entry of base 0 (SDM 3A figure 3-8).
fn descriptor(limit: u32, rights: u16) -> u64 {
    let scaled = if rights & 0x8000 != 0 { limit >> 12 } else { limit };
    let (rights, limit) = (u64::from(rights), u64::from(scaled));
    (limit & 0xffff) | ((rights & 0xff) << 40) | ((limit & 0xf_0000) << 32) | ((rights >> 12) << 52)
}

/// Writes the GDT and gives the segment part of the state, 32-bit or 64-bit.
fn segments(memory: &dyn Ram, code: u16) -> Result<SystemRegisters, LoadError> {
    let task = Segment { selector: TASK, base: 0, limit: 0x67, rights: TASK_BUSY };
    let entries = [
        0,
        0,
        descriptor(u32::MAX, code),
        descriptor(u32::MAX, DATA_32),
        descriptor(0x67, TASK_BUSY),
        0,
    ];
    let bytes: Vec<u8> = entries.iter().flat_map(|entry: &u64| entry.to_le_bytes()).collect();
    write(memory, GDT, &bytes)?;
    let data = flat(DATA, DATA_32);
    Ok(SystemRegisters {
        cs: flat(CODE, code),
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: task,
        ldt: Segment { rights: LDT, ..Segment::default() },
        gdt: DescriptorTable { base: GDT.0, limit: 47 },
        ..SystemRegisters::default()
    })
}

/// 32-bit protected mode, flat, paging off, interrupts off.
pub(crate) fn protected_mode(
    memory: &dyn Ram,
    registers: Registers,
) -> Result<EntryPoint, LoadError> {
    let system = SystemRegisters { cr0: CR0_PE | CR0_ET, ..segments(memory, CODE_32)? };
    Ok(EntryPoint::State { registers: Registers { rflags: RFLAGS, ..registers }, system })
}

/// 64-bit mode with the first 4 GiB mapped one to one, interrupts off.
pub(crate) fn long_mode(memory: &dyn Ram, registers: Registers) -> Result<EntryPoint, LoadError> {
    page_tables(memory)?;
    let system = SystemRegisters {
        cr0: CR0_PE | CR0_ET | CR0_PG,
        cr3: PAGE_TABLES.0,
        cr4: CR4_PAE,
        efer: EFER_LME | EFER_LMA,
        ..segments(memory, CODE_64)?
    };
    Ok(EntryPoint::State { registers: Registers { rflags: RFLAGS, ..registers }, system })
}

/// Real mode with all segments at 0, interrupts off, the stack below `instruction`.
pub(crate) fn real_mode(instruction: u16) -> EntryPoint {
    let data = Segment { limit: 0xffff, rights: DATA_16, ..Segment::default() };
    let system = SystemRegisters {
        cs: Segment { rights: CODE_16, ..data },
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: Segment { limit: 0xffff, rights: TASK_BUSY, ..Segment::default() },
        ldt: Segment { limit: 0xffff, rights: LDT, ..Segment::default() },
        // As after reset (SDM 3A table 10-1).
        gdt: DescriptorTable { base: 0, limit: 0xffff },
        idt: DescriptorTable { base: 0, limit: 0xffff },
        cr0: CR0_ET,
        ..SystemRegisters::default()
    };
    let registers = Registers {
        rip: u64::from(instruction),
        rsp: u64::from(instruction),
        rflags: RFLAGS,
        ..Registers::default()
    };
    EntryPoint::State { registers, system }
}

/// One PML4, one page-directory-pointer table, four page directories of 2 MiB pages
/// (SDM 3A 4.5.4).
fn page_tables(memory: &dyn Ram) -> Result<(), LoadError> {
    const PRESENT_WRITABLE: u64 = 0b11;
    const LARGE: u64 = 1 << 7;
    let page = |n: u64| GuestPhysical(PAGE_TABLES.0 + n * units::PAGE_SIZE);
    let table = |entries: &mut dyn Iterator<Item = u64>| {
        let mut bytes: Vec<u8> = entries.flat_map(u64::to_le_bytes).collect();
        bytes.resize(4096, 0);
        bytes
    };
    write(memory, page(0), &table(&mut [page(1).0 | PRESENT_WRITABLE].into_iter()))?;
    write(memory, page(1), &table(&mut (2..6).map(|n| page(n).0 | PRESENT_WRITABLE)))?;
    for gib in 0..4 {
        let mut pages = (0..512).map(|n| ((gib * 512 + n) << 21) | PRESENT_WRITABLE | LARGE);
        write(memory, page(2 + gib), &table(&mut pages))?;
    }
    Ok(())
}
