//! Interrupts, exceptions, and attempts: pieces of code that may fault, in kernel or user mode.

use crate::machine::{SCRATCH, USER, fail, read_msr, write_msr};
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

global_asm!(include_str!("traps.s"), options(att_syntax));

/// Processors this guest can have.
pub(crate) const PROCESSORS: usize = 2;
/// How user code ends when nothing is wrong.
const DONE: u8 = 0x80;
/// A tick of the timer while an attempt runs.
pub(crate) const TICK: u8 = 0x81;
/// RFLAGS.IF (SDM 1 3.4.3).
pub(crate) const INTERRUPTS_ON: u64 = 1 << 9;
/// An attempt ends after so many ticks.
const PATIENCE: u32 = 4;

/// RAX, RCX, RDX, RBX, (RSP), RBP, RSI, RDI, R8 to R15.
pub(crate) type Registers = [u64; 16];

#[derive(Debug)]
#[repr(C)]
pub(crate) struct Frame {
    r15_to_rax: [u64; 15],
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It came to its end.
    Done,
    /// It was taken off by this exception.
    Fault(u8),
    /// It ran for too long.
    Endless,
}

impl Outcome {
    pub(crate) fn is(self, vectors: &[u8]) -> bool {
        matches!(self, Self::Fault(vector) if vectors.contains(&vector))
    }
}

const IDLE: AtomicU64 = AtomicU64::new(0);
/// RSP of the attempt that runs on each processor.
static SLOTS: [AtomicU64; PROCESSORS] = [IDLE; PROCESSORS];
/// What ended the last attempt: vector and error code.
static LAST: [AtomicU64; PROCESSORS] = [IDLE; PROCESSORS];
static ERROR: [AtomicU64; PROCESSORS] = [IDLE; PROCESSORS];
static TICKS: AtomicU32 = AtomicU32::new(0);
/// Interrupts since the start, by vector; entry 2 counts NMIs.
static COUNTS: [AtomicU32; 256] = [const { AtomicU32::new(0) }; 256];
/// Debug exceptions do not end an attempt but are counted.
pub(crate) static STEPPING: AtomicBool = AtomicBool::new(false);
pub(crate) static STEPS: AtomicU32 = AtomicU32::new(0);

/// Interrupts that came with `vector`.
pub(crate) fn count(vector: u8) -> u32 {
    COUNTS[usize::from(vector)].load(Ordering::Relaxed)
}

/// All interrupts so far.
pub(crate) fn count_all() -> u32 {
    COUNTS.iter().map(|count| count.load(Ordering::Relaxed)).sum()
}

/// The error code of the last exception that ended an attempt on the first processor.
pub(crate) fn last_error() -> u64 {
    ERROR[0].load(Ordering::Relaxed)
}

/// Tells interrupts' ends to the local APIC, however it is reached.
fn end_of_interrupt() {
    const APIC_BASE: u32 = 0x1b;
    match read_msr(APIC_BASE) >> 10 & 3 {
        3 => write_msr(0x80b, 0),
        // SAFETY: the register of the local APIC, mapped one to one; attacks that move it put it back.
        2 => unsafe { (0xfee0_00b0 as *mut u32).write_volatile(0) },
        _ => {}
    }
}

/// This processor, by its task register.
pub(crate) fn current() -> usize {
    let task: u64;
    // SAFETY: reads a selector.
    unsafe { asm!("str {}", out(reg) task, options(nomem, nostack)) };
    usize::from(task & 0xffff != u64::from(FIRST_TASK))
}

#[unsafe(no_mangle)]
extern "C" fn hostile_trap(frame: &mut Frame) {
    let cpu = current();
    let vector = frame.vector as u8;
    let slot = SLOTS[cpu].load(Ordering::Relaxed);
    match vector {
        2 => {
            COUNTS[2].fetch_add(1, Ordering::Relaxed);
            return;
        }
        1 if STEPPING.load(Ordering::Relaxed) => {
            STEPS.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // A breakpoint an attempt left behind.
        1 if slot == 0 => {
            // SAFETY: no breakpoints.
            unsafe { asm!("mov dr7, {}", in(reg) 0x400_u64) };
            return;
        }
        TICK => {
            COUNTS[usize::from(TICK)].fetch_add(1, Ordering::Relaxed);
            end_of_interrupt();
            if cpu != 0 || slot == 0 || TICKS.fetch_add(1, Ordering::Relaxed) < PATIENCE {
                return;
            }
        }
        DONE if slot != 0 => {}
        // Interrupts may have vectors of exceptions from 16 on; no attempt opens the door to them.
        16.. if vector >= 32 || slot == 0 => {
            COUNTS[usize::from(vector)].fetch_add(1, Ordering::Relaxed);
            end_of_interrupt();
            return;
        }
        _ => {}
    }
    if slot == 0 {
        fail!("processor {cpu}: exception {vector} (error {:#x}) at {:#x}", frame.error, frame.rip);
    }
    LAST[cpu].store(u64::from(vector), Ordering::Relaxed);
    ERROR[cpu].store(frame.error, Ordering::Relaxed);
    // SAFETY: breakpoints and flat segments; an attempt may have left others.
    unsafe {
        asm!(
            "mov dr7, {zero}",
            "mov ds, {data:e}",
            "mov es, {data:e}",
            "mov fs, {zero:e}",
            "mov gs, {zero:e}",
            zero = in(reg) 0_u64,
            data = in(reg) 0x10_u64,
        );
    }
    frame.rip = attempt_faulted as *const () as u64;
    frame.cs = 8;
    frame.rflags = 2;
    frame.rsp = slot;
    frame.ss = 0x10;
}

unsafe extern "C" {
    fn attempt_kernel(code: u64, registers: *mut Registers, slot: *mut u64, flags: u64) -> u64;
    fn attempt_user(
        code: u64,
        registers: *mut Registers,
        slot: *mut u64,
        stack: u64,
        flags: u64,
    ) -> u64;
    fn attempt_faulted();
    static trap_entries: u8;
}

fn outcome(cpu: usize, faulted: u64) -> Outcome {
    if faulted == 0 {
        return Outcome::Done;
    }
    match LAST[cpu].load(Ordering::Relaxed) as u8 {
        DONE => Outcome::Done,
        TICK => Outcome::Endless,
        vector => Outcome::Fault(vector),
    }
}

/// Runs code at `code`, which ends with RET, in kernel mode.
pub(crate) fn attempt(code: u64, registers: &mut Registers) -> Outcome {
    attempt_with(code, 0, registers)
}

/// As `attempt`, with interrupts on if `flags` say so.
fn attempt_with(code: u64, flags: u64, registers: &mut Registers) -> Outcome {
    let cpu = current();
    TICKS.store(0, Ordering::Relaxed);
    // SAFETY: faults come back here; what else the code does is what the test is about.
    let faulted = unsafe { attempt_kernel(code, registers, SLOTS[cpu].as_ptr(), flags) };
    outcome(cpu, faulted)
}

/// Where pieces of code are put.
const KERNEL_CODE: u64 = SCRATCH + 0x10_0000;
const USER_CODE: u64 = USER + 0x1000;
/// The stack of user programs.
const STACK: u64 = USER + 0x10_0000;

fn place(at: u64, code: &[u8], end: &[u8]) {
    for (offset, byte) in code.iter().chain(end).enumerate() {
        // SAFETY: memory nobody else uses.
        unsafe { (at as *mut u8).add(offset).write_volatile(*byte) };
    }
}

/// Runs `code` in kernel mode.
pub(crate) fn kernel(code: &[u8], registers: &mut Registers) -> Outcome {
    place(KERNEL_CODE, code, &[0xc3]);
    attempt(KERNEL_CODE, registers)
}

/// Runs `code` in kernel mode with interrupts on.
pub(crate) fn interruptible(code: &[u8], registers: &mut Registers) -> Outcome {
    place(KERNEL_CODE, code, &[0xc3]);
    attempt_with(KERNEL_CODE, INTERRUPTS_ON, registers)
}

/// Runs `code` in user mode with these flags besides the one that is always set.
pub(crate) fn user(code: &[u8], flags: u64, registers: &mut Registers) -> Outcome {
    // INT 0x80.
    place(USER_CODE, code, &[0xcd, DONE]);
    let cpu = current();
    TICKS.store(0, Ordering::Relaxed);
    // SAFETY: as `attempt`.
    let faulted =
        unsafe { attempt_user(USER_CODE, registers, SLOTS[cpu].as_ptr(), STACK, flags | 2) };
    outcome(cpu, faulted)
}

const FIRST_TASK: u16 = 0x30;

/// 64-bit task state (SDM 3A 8.7).
#[repr(C, packed)]
struct Task {
    reserved: u32,
    stacks: [u64; 3],
    reserved1: u64,
    interrupt_stacks: [u64; 7],
    reserved2: [u8; 10],
    io_map: u16,
}

#[repr(C, align(16))]
struct Tables {
    gdt: [[u64; 10]; PROCESSORS],
    tasks: [Task; PROCESSORS],
    idt: [[u64; 2]; 256],
}

const NO_TASK: Task = Task {
    reserved: 0,
    stacks: [0; 3],
    reserved1: 0,
    interrupt_stacks: [0; 7],
    reserved2: [0; 10],
    io_map: 104,
};

static mut TABLES: Tables =
    Tables { gdt: [[0; 10]; PROCESSORS], tasks: [NO_TASK; PROCESSORS], idt: [[0; 2]; 256] };

/// Stacks of each processor: exceptions, NMI, interrupts, double fault.
const STACKS: usize = 4;
/// The number of the one for interrupts, as gates count them.
const INTERRUPTS: usize = 3;
const STACK_SIZE: usize = 4096;
static mut TRAP_STACKS: [[[u8; STACK_SIZE]; STACKS]; PROCESSORS] =
    [[[0; STACK_SIZE]; STACKS]; PROCESSORS];

/// The top of a processor's stack for exceptions.
pub(crate) fn exception_stack(cpu: usize) -> u64 {
    // SAFETY: an address.
    unsafe { (&raw const TRAP_STACKS[cpu][0]) as u64 + STACK_SIZE as u64 }
}

#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

/// Interrupts stay on the stack they find, but for those from user mode. QEMU's processor may deliver a
/// vector twice in a row when VMRUN has injected it: on a stack that begins anew the second frame lies over
/// the first, and the handler returns to its own first instruction for ever.
fn gate(vector: usize) -> [u64; 2] {
    let stack = match vector {
        2 => 2,
        8 => 4,
        32.. => 0,
        _ => 1_u64,
    };
    gate_on(vector, stack)
}

fn gate_on(vector: usize, stack: u64) -> [u64; 2] {
    let entry = (&raw const trap_entries) as u64 + vector as u64 * 16;
    let level = if vector == usize::from(DONE) { 0xee } else { 0x8e };
    let low = entry & 0xffff | 8 << 16 | stack << 32 | level << 40 | (entry >> 16 & 0xffff) << 48;
    [low, entry >> 32]
}

/// Loads this processor's tables.
pub(crate) fn load(cpu: usize) {
    // SAFETY: each processor writes its own tables, and all write the same into the IDT.
    unsafe {
        for vector in 0..256 {
            (&raw mut TABLES.idt[vector]).write_volatile(gate(vector));
        }
        let task = &raw mut TABLES.tasks[cpu];
        let mut stacks = [0; 7];
        for (number, top) in stacks.iter_mut().enumerate().take(STACKS) {
            *top = (&raw const TRAP_STACKS[cpu][number]) as u64 + STACK_SIZE as u64;
        }
        (*task).interrupt_stacks = stacks;
        (*task).stacks = [stacks[INTERRUPTS - 1], 0, 0];
        let base = task as u64;
        let selector = FIRST_TASK + cpu as u16 * 16;
        let gdt = &raw mut TABLES.gdt[cpu];
        // Null, kernel code and data, 32-bit code, user data and code.
        (&raw mut (*gdt)[1]).write(0x00af_9b00_0000_ffff);
        (&raw mut (*gdt)[2]).write(0x00cf_9300_0000_ffff);
        (&raw mut (*gdt)[3]).write(0x00cf_9b00_0000_ffff);
        (&raw mut (*gdt)[4]).write(0x00cf_f300_0000_ffff);
        (&raw mut (*gdt)[5]).write(0x00af_fb00_0000_ffff);
        let low = 103 | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
        (&raw mut (*gdt)[usize::from(selector / 8)]).write(low);
        (&raw mut (*gdt)[usize::from(selector / 8) + 1]).write(base >> 32);
        let gdt = Pointer { limit: 79, base: gdt as u64 };
        let idt = Pointer { limit: 0xfff, base: (&raw const TABLES.idt) as u64 };
        asm!(
            "lgdt [{gdt}]",
            "lidt [{idt}]",
            "ltr {task:x}",
            gdt = in(reg) &raw const gdt,
            idt = in(reg) &raw const idt,
            task = in(reg) selector,
        );
    }
}

/// Ticks get the stack for interrupts in kernel mode too: attempts may leave anything in RSP. They may come only while an
/// attempt runs: one that comes twice takes it off, and would come for ever if there were none.
pub(crate) fn keep_ticks_apart(apart: bool) {
    let stack = if apart { INTERRUPTS as u64 } else { 0 };
    // SAFETY: the table is this guest's, and no tick comes meanwhile.
    unsafe {
        (&raw mut TABLES.idt[usize::from(TICK)]).write_volatile(gate_on(usize::from(TICK), stack));
    }
}

/// Moves the first processor's stack for exceptions.
pub(crate) fn set_exception_stack(top: u64) {
    // SAFETY: the task state is this guest's.
    unsafe {
        let task = &raw mut TABLES.tasks[0];
        (&raw mut (*task).interrupt_stacks).cast::<u64>().write_unaligned(top);
    }
}
