//! The core's own GDT, TSS and IDT (SDM 3A 3.5, 8.7, 6.14).
//!
//! `unsafe` here: loading them, and the table of entry addresses the assembly exports.
#![allow(unsafe_code)]

use x86::bits64::task::TaskStateSegment;
use x86::dtables::{DescriptorTablePointer, lgdt, lidt, sgdt};
use x86::segmentation::{SegmentSelector, load_cs, load_ds, load_es, load_ss};
use x86::task::load_tr;

/// Selector of the core's code segment.
pub const CODE: u16 = 8;
/// Selector of the core's data segment.
pub const DATA: u16 = 16;
/// Selector of the processor's task segment.
pub const TASK: u16 = 24;

/// One processor's GDT and TSS (SDM 3A 8.7, figure 8-11). They must not move once loaded.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(16))]
pub struct Tables {
    gdt: [u64; 5],
    task: TaskStateSegment,
}

const _: () = assert!(size_of::<TaskStateSegment>() == 104);

impl Tables {
    /// Tables whose exceptions use the three stacks with these tops: NMI, double fault, machine check.
    pub fn new([nmi, double_fault, machine_check]: [u64; 3]) -> Self {
        Self {
            gdt: [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0, 0],
            task: TaskStateSegment {
                ist: [nmi, double_fault, machine_check, 0, 0, 0, 0],
                iomap_base: size_of::<TaskStateSegment>() as u16,
                ..TaskStateSegment::new()
            },
        }
    }

    /// Loads GDT, segments, TR and the shared IDT on this processor.
    ///
    /// # Safety
    /// The tables stay where they are for as long as the processor runs the core.
    pub unsafe fn load(&mut self) {
        let base = (&raw const self.task) as u64;
        let limit = size_of::<TaskStateSegment>() as u64 - 1;
        // Available 64-bit TSS (type 9), present (SDM 3A 8.2.3).
        self.gdt[3] = limit | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
        self.gdt[4] = base >> 32;
        let data = SegmentSelector::from_raw(DATA);
        // SAFETY: the descriptors above are the flat ones the core is compiled for; the caller keeps
        // the tables in place.
        unsafe {
            lgdt(&DescriptorTablePointer::new(&self.gdt));
            load_cs(SegmentSelector::from_raw(CODE));
            load_ds(data);
            load_es(data);
            load_ss(data);
            load_tr(SegmentSelector::from_raw(TASK));
        }
        load_idt();
    }
}

/// Addresses of the GDT and the TSS this processor has loaded ([`Tables::load`]).
pub fn loaded() -> [u64; 2] {
    let mut gdt = DescriptorTablePointer::<u64>::default();
    // SAFETY: SGDT writes `gdt`.
    unsafe { sgdt(&mut gdt) };
    let base = gdt.base as u64;
    [base, base + core::mem::offset_of!(Tables, task) as u64]
}

/// A gate is two words.
#[repr(C, align(4096))]
struct Idt([[u64; 2]; 256]);

static mut IDT: Idt = Idt([[0; 2]; 256]);

unsafe extern "C" {
    /// Code: an entry of 16 bytes for each exception, and one for all other vectors.
    static exception_entries: [[u8; 16]; 33];
}

/// Interrupt gate, present, DPL 0 (SDM 3A 6.14.1).
fn gate(entry: u64, stack: u64) -> [u64; 2] {
    let attributes = u64::from(CODE) << 16 | stack << 32 | 0x8e << 40;
    [entry & 0xffff | attributes | (entry >> 16 & 0xffff) << 48, entry >> 32]
}

/// Fills the IDT. Once, before any processor loads it.
///
/// # Safety
/// No processor uses the IDT yet and no other runs this.
pub unsafe fn fill_idt() {
    for vector in 0..256 {
        // NMI, double fault and machine check have stacks of their own: see [`Tables::new`].
        let stack = [2, 8, 18].iter().position(|own| *own == vector).map_or(0, |place| place + 1);
        let entry = (&raw const exception_entries) as u64 + 16 * vector.min(32) as u64;
        // SAFETY: nobody else touches the IDT.
        unsafe { (&raw mut IDT.0[vector]).write(gate(entry, stack as u64)) };
    }
}

/// Loads the IDT on this processor, first before it has tables of its own: exceptions are reported then
/// too.
pub fn load_idt() {
    let idt = DescriptorTablePointer {
        limit: size_of::<Idt>() as u16 - 1,
        base: idt_base() as *const Idt,
    };
    // SAFETY: the IDT is static; its gates name the code segment that boot and final tables share.
    unsafe { lidt(&idt) };
}

/// Base of the IDT.
pub fn idt_base() -> u64 {
    (&raw const IDT) as u64
}
