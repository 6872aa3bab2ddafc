//! Descriptor tables and interrupts (SDM 3A 3.5, 6.14, 8.7).
//!
//! The monitor runs with interrupts off and takes them in two places only
//! ([`control::take_interrupts`](super::control::take_interrupts) and
//! [`control::halt`](super::control::halt)), so a handler has nothing to do but end its interrupt: the
//! scheduler looks at the clock and at its flags afterwards.

use super::{apic, control};
use alloc::boxed::Box;
use alloc::vec;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

/// Vector of the local APIC's timer.
pub const TIMER: u8 = 0x40;
/// Vector with which processors wake each other.
pub const WAKE: u8 = 0x41;
/// Vector of spurious interrupts; takes no EOI (SDM 3A 11.9).
pub const SPURIOUS: u8 = 0xff;

const CODE: u16 = 8;
const DATA: u16 = 16;
const TASK: u16 = 24;
/// Vectors with a stack of their own: NMI, double fault, machine check.
const NMI: usize = 2;
const OWN_STACKS: [usize; 3] = [NMI, 8, 18];
const STACK: usize = 16 << 10;

/// Task state segment, 64-bit (SDM 3A figure 8-11).
#[repr(C, packed)]
struct TaskState {
    reserved0: u32,
    stacks: [u64; 3],
    reserved1: u64,
    interrupt_stacks: [u64; 7],
    reserved2: u64,
    reserved3: u16,
    io_map: u16,
}

const _: () = assert!(size_of::<TaskState>() == 104);

/// What LGDT and LIDT read.
#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Gate([u64; 2]);

unsafe extern "C" {
    static interrupt_entries: [[u8; 16]; 256];
}

/// Interrupts that came without anybody having asked for them.
static UNEXPECTED: AtomicU64 = AtomicU64::new(0);

/// What `interrupts.s` leaves on the stack.
#[repr(C)]
struct Frame {
    saved: [u64; 9],
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

fn leak<T>(value: T) -> &'static mut T {
    Box::leak(Box::new(value))
}

/// Gives this processor a GDT, a task state and an interrupt table of its own.
pub fn prepare_processor() {
    let stack = || vec![0u8; STACK].leak().as_ptr_range().end as u64 & !15;
    let mut interrupt_stacks = [0; 7];
    interrupt_stacks[..OWN_STACKS.len()].fill_with(stack);
    let task = leak(TaskState {
        reserved0: 0,
        stacks: [0; 3],
        reserved1: 0,
        interrupt_stacks,
        reserved2: 0,
        reserved3: 0,
        io_map: size_of::<TaskState>() as u16,
    });
    let base = (&raw const *task) as u64;
    let limit = size_of::<TaskState>() as u64 - 1;
    // An available 64-bit TSS (type 9), present (SDM 3A 8.2.3).
    let low = limit | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
    let gdt: &[u64; 5] = leak([0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, low, base >> 32]);
    let idt: &[Gate; 256] = leak(core::array::from_fn(gate));
    let gdt = Pointer { limit: size_of::<[u64; 5]>() as u16 - 1, base: gdt.as_ptr() as u64 };
    let idt = Pointer { limit: size_of::<[Gate; 256]>() as u16 - 1, base: idt.as_ptr() as u64 };
    // SAFETY: the descriptors are the flat ones the code is compiled for; the tables are leaked, so
    // they stay where they are.
    unsafe {
        asm!(
            "lgdt [{gdt}]",
            "push {code}",
            "lea {scratch}, [rip + 2f]",
            "push {scratch}",
            "retfq",
            "2:",
            "mov ds, {data:e}",
            "mov es, {data:e}",
            "mov ss, {data:e}",
            "ltr {task:x}",
            "lidt [{idt}]",
            gdt = in(reg) &raw const gdt,
            idt = in(reg) &raw const idt,
            code = in(reg) u64::from(CODE),
            data = in(reg) u32::from(DATA),
            task = in(reg) TASK,
            scratch = lateout(reg) _,
        );
    }
}

/// An interrupt gate, present, DPL 0 (SDM 3A 6.14.1).
fn gate(vector: usize) -> Gate {
    // SAFETY: only the address of an entry is taken.
    let entry = unsafe { &raw const interrupt_entries[vector] } as u64;
    let own = OWN_STACKS.iter().position(|own| *own == vector);
    let stack = own.map_or(0, |index| index as u64 + 1);
    let low = entry & 0xffff
        | u64::from(CODE) << 16
        | stack << 32
        | 0x8e << 40
        | (entry >> 16 & 0xffff) << 48;
    Gate([low, entry >> 32])
}

/// Called by `interrupts.s` for every vector.
#[unsafe(no_mangle)]
extern "C" fn monitor_interrupt(frame: &Frame) {
    match frame.vector {
        // The core swallows its own NMIs; one that comes here has nothing to say to the monitor.
        2 => {}
        0..=31 => panic!(
            "exception {} at {:#x}, error {:#x}, cr2 {:#x}, rsp {:#x}, rflags {:#x}",
            frame.vector,
            frame.rip,
            frame.error,
            control::cr2(),
            frame.rsp,
            frame.rflags,
        ),
        vector if vector == u64::from(SPURIOUS) => {}
        vector => {
            if vector != u64::from(TIMER) && vector != u64::from(WAKE) {
                UNEXPECTED.fetch_add(1, Ordering::Relaxed);
            }
            apic::end_of_interrupt();
        }
    }
}
