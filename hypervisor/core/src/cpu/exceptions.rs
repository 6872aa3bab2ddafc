//! What happens when the core itself faults: it says what and where and stops the machine's virtual
//! machines for good. The only faults it survives are those of an MSR it tried on purpose.
//!
//! `unsafe` here: the assembly entries.
#![allow(unsafe_code)]

use super::{control, msr};
#[cfg(target_os = "none")]
core::arch::global_asm!(include_str!("exceptions.s"), options(att_syntax));

/// What the entries push.
#[repr(C)]
struct Frame {
    r15_to_rax: [u64; 15],
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

unsafe extern "C" {
    fn core_try_rdmsr(index: u32, value: *mut u64) -> u32;
    fn core_try_wrmsr(index: u32, value: u64) -> u32;
    fn core_idle(word: *const u32);
    fn try_rdmsr_at();
    fn try_wrmsr_at();
    fn try_failed();
}

/// Reads an MSR that may not exist.
pub fn try_read_msr(index: u32) -> Option<u64> {
    let mut value = 0;
    // SAFETY: a read that faults is resumed by `core_exception`.
    let read = unsafe { core_try_rdmsr(index, &raw mut value) };
    (read != 0).then_some(value)
}

/// Writes an MSR that may not exist or may refuse; false when it did.
///
/// # Safety
/// As [`msr::write`].
pub unsafe fn try_write_msr(index: u32, value: u64) -> bool {
    // SAFETY: the caller's promise; a write that faults is resumed by `core_exception`.
    unsafe { core_try_wrmsr(index, value) != 0 }
}

/// Halts until `word` is not 0. Whoever changes it sends this processor an NMI afterwards. With
/// interrupts and, on AMD, the global interrupt flag as the caller has set them.
pub fn idle(word: &core::sync::atomic::AtomicU32) {
    // SAFETY: reads the word and halts; NMIs return here.
    unsafe { core_idle(word.as_ptr()) };
}

const GENERAL_PROTECTION: u64 = 13;
const NAMES: &str = "divide error, debug, NMI, breakpoint, overflow, bound, invalid opcode, no FPU, \
    double fault, coprocessor overrun, invalid TSS, segment not present, stack fault, \
    general protection, page fault, reserved, x87 error, alignment check, machine check, SIMD error, \
    virtualization exception, control protection";

#[unsafe(no_mangle)]
extern "C" fn core_exception(frame: &mut Frame) {
    let place = |code: unsafe extern "C" fn()| code as *const () as u64;
    let tried = [place(try_rdmsr_at), place(try_wrmsr_at)];
    if frame.vector == GENERAL_PROTECTION && tried.contains(&frame.rip) {
        frame.rip = place(try_failed);
        return;
    }
    let name = NAMES.split(", ").nth(frame.vector as usize).unwrap_or("interrupt");
    let Frame { vector, rip, error, rsp, rflags, r15_to_rax, .. } = *frame;
    let (cr2, gs) = (control::cr2(), msr::read(msr::GS_BASE));
    panic!(
        "exception {vector} ({name}) in the core: rip {rip:#x}, error {error:#x}, cr2 {cr2:#x}, rsp {rsp:#x}, rflags {rflags:#x}, gs {gs:#x}, r15 to rax {r15_to_rax:x?}"
    );
}
