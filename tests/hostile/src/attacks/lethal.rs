//! Attacks after which the guest does not go on.

use super::debug::{ACCESS, break_at};
use crate::machine::{Chance, MEMORY_END, exit, fail, flush, is_amd, page_directories, say, tsc};
use crate::traps::{Registers, kernel};
use crate::{second, traps};
use core::arch::{asm, global_asm};

global_asm!(include_str!("legacy.s"), options(att_syntax));

unsafe extern "C" {
    fn leave_long_mode(go_on: u32) -> !;
    fn legacy_tasks();
    fn legacy_alignment();
}

/// No IDT, and an exception.
pub(crate) fn triple_fault(_: &mut Chance) {
    let nothing = [0_u16; 5];
    // SAFETY: ends the guest.
    unsafe { asm!("lidt [{}]", "ud2", in(reg) &raw const nothing) };
}

/// INIT to itself: it starts where no firmware is.
pub(crate) fn init(_: &mut Chance) {
    // SAFETY: registers of the local APIC.
    unsafe { (0xfee0_0310 as *mut u32).write_volatile(0) };
    second::send(0x4500);
    fail!("INIT did nothing");
}

/// Code where the core has its own.
pub(crate) fn code_outside(_: &mut Chance) {
    // SAFETY: ends the guest.
    unsafe { asm!("jmp {}", in(reg) 0x100_0000_u64, options(noreturn)) };
}

/// Page tables where the core has its own memory.
pub(crate) fn tables_outside(_: &mut Chance) {
    // SAFETY: the entry for 6 to 8 MiB, which nobody uses.
    unsafe { (&raw mut page_directories[0][3]).write_volatile(0x100_0000 | 3) };
    flush();
    let outcome = kernel(&[0x48, 0x8b, 0x07], &mut {
        let mut registers: Registers = [0; 16];
        registers[7] = 6 << 20;
        registers
    });
    fail!("page tables outside memory: {outcome:?}");
}

/// A stack for exceptions where the core has its memory.
pub(crate) fn stack_outside(_: &mut Chance) {
    traps::set_exception_stack(MEMORY_END + 0x1000);
    // SAFETY: ends the guest.
    unsafe { asm!("ud2") };
    fail!("an exception without a stack was survived");
}

/// An instruction on nothing that the core does not know.
pub(crate) fn not_emulated(_: &mut Chance) {
    let mut registers: Registers = [0; 16];
    registers[7] = MEMORY_END + 0x1000;
    // FLD QWORD [RDI].
    let outcome = kernel(&[0xdd, 0x07], &mut registers);
    fail!("FLD of nothing: {outcome:?}");
}

fn watch() {
    let start = tsc();
    while tsc() - start < 150_000_000 {
        crate::machine::pause();
    }
    say!("the second processor ends it");
    exit(7)
}

fn legacy(go_on: unsafe extern "C" fn()) -> ! {
    second::start(watch);
    // SAFETY: never comes back.
    unsafe { leave_long_mode(go_on as *const () as u32) }
}

/// Task switches by jump, by task gate and by exceptions, in 32-bit protected mode.
pub(crate) fn tasks(_: &mut Chance) {
    legacy(legacy_tasks)
}

/// Alignment checks while an alignment check is delivered (CVE-2015-5307).
pub(crate) fn alignment(_: &mut Chance) {
    legacy(legacy_alignment)
}

/// A breakpoint on the stack that the debug exception itself is pushed to (CVE-2015-8104).
pub(crate) fn debug_loop(_: &mut Chance) {
    if is_amd() {
        // QEMU 10 itself ends (an assertion of its own) when a breakpoint is met while an exception is
        // delivered.
        say!("debug-loop: not on this processor");
        exit(0);
    }
    second::start(watch);
    break_at(traps::exception_stack(0) - 8, ACCESS);
    let outcome = kernel(&[0x0f, 0x0b], &mut [0; 16]);
    say!("debug-loop: {outcome:?}");
    exit(0)
}
