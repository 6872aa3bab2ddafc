//! Single steps over instructions the core carries out, and breakpoints before exits.

use crate::machine::{Chance, SCRATCH, fail, is_amd, say};
use crate::traps::{Outcome, Registers, STEPPING, STEPS, kernel};
use core::arch::asm;
use core::sync::atomic::Ordering;

/// PUSHF, OR QWORD [RSP], 0x100, POPF: single steps from the next instruction on.
const ON: [u8; 10] = [0x9c, 0x48, 0x81, 0x0c, 0x24, 0x00, 0x01, 0x00, 0x00, 0x9d];
/// PUSHF, AND QWORD [RSP], ~0x100, POPF.
const OFF: [u8; 10] = [0x9c, 0x48, 0x81, 0x24, 0x24, 0xff, 0xfe, 0xff, 0xff, 0x9d];

/// Pieces the core answers, and what one of them may count: itself, and PUSHF, AND and POPF after it.
const PIECES: &[(&str, &[u8])] = &[
    ("NOP", &[0x90]),
    ("CPUID", &[0x0f, 0xa2]),
    ("RDMSR", &[0x0f, 0x32]),
    ("WRMSR", &[0x0f, 0x30]),
    ("IN", &[0xe4, 0x80]),
    ("OUT", &[0xe6, 0x80]),
    ("OUTSB", &[0x6e]),
    ("a device's memory read", &[0x8b, 0x07]),
    ("a device's memory written", &[0x89, 0x07]),
    ("WBINVD", &[0x0f, 0x09]),
    ("MOV to CR8", &[0x44, 0x0f, 0x22, 0xc3]),
    ("MOV to CR0", &[0x41, 0x0f, 0x22, 0xc0]),
];

fn stepped(code: &[u8], registers: &mut Registers) -> (Outcome, u32) {
    let mut all = [0x90; 48];
    let mut length = 0;
    for part in [&ON[..], code, &OFF[..]] {
        all[length..length + part.len()].copy_from_slice(part);
        length += part.len();
    }
    STEPS.store(0, Ordering::Relaxed);
    STEPPING.store(true, Ordering::Relaxed);
    let outcome = kernel(&all[..length], registers);
    STEPPING.store(false, Ordering::Relaxed);
    (outcome, STEPS.load(Ordering::Relaxed))
}

fn registers() -> Registers {
    let cr0: u64;
    // SAFETY: reads.
    unsafe { asm!("mov {}, cr0", out(reg) cr0) };
    let mut registers: Registers = [0; 16];
    // IA32_PAT, as it is.
    registers[1] = 0x277;
    let pat = crate::machine::read_msr(0x277);
    (registers[0], registers[2]) = (pat & 0xffff_ffff, pat >> 32);
    registers[6] = SCRATCH;
    registers[7] = 0x200_0000;
    registers[8] = cr0;
    registers
}

/// Every instruction is one step, whoever carries it out.
pub(crate) fn steps(_: &mut Chance) {
    let (outcome, usual) = stepped(&[0x90], &mut registers());
    if outcome != Outcome::Done || usual == 0 {
        fail!("single steps do not work: {outcome:?}, {usual}");
    }
    let mut missed = 0_u32;
    for (name, code) in PIECES {
        let mut registers = registers();
        let (outcome, count) = stepped(code, &mut registers);
        if outcome != Outcome::Done {
            fail!("a step over {name}: {outcome:?}");
        }
        if count != usual {
            say!("steps: {name}: {count} instead of {usual}");
            missed += 1;
        }
    }
    say!("steps: {} instructions, {missed} not counted right", PIECES.len());
}

/// DR7: breakpoint 0 on, for reads and writes of 8 bytes; the bit that is always set.
pub(super) const ACCESS: u64 = 0b10 | 0b1011 << 16 | 1 << 10;

pub(super) fn break_at(address: u64, dr7: u64) {
    // SAFETY: breakpoints of the attack's.
    unsafe {
        asm!("mov dr0, {}", "mov dr7, {}", in(reg) address, in(reg) dr7);
    }
}

/// A breakpoint on MOV SS before an exit (CVE-2018-8897).
pub(crate) fn breakpoints(_: &mut Chance) {
    let mut seen = 0_u32;
    let call: [u8; 3] = if is_amd() { [0x0f, 0x01, 0xd9] } else { [0x0f, 0x01, 0xc1] };
    let after: [&[u8]; 8] = [
        &[0x0f, 0xa2],
        &[0xe4, 0x80],
        &[0xe6, 0x80],
        &call,
        &[0x0f, 0x0b],
        &[0xcc],
        &[0xf1],
        &[0x8b, 0x06],
    ];
    // SAFETY: memory nobody else uses: a selector.
    unsafe { (SCRATCH as *mut u64).write_volatile(0x10) };
    for code in after {
        break_at(SCRATCH, ACCESS);
        let mut all = [0x90; 8];
        // MOV SS, [RDI], then what exits or faults.
        all[..2].copy_from_slice(&[0x8e, 0x17]);
        all[2..2 + code.len()].copy_from_slice(code);
        let mut registers: Registers = [0; 16];
        registers[6] = 0x200_0000;
        registers[7] = SCRATCH;
        let outcome = kernel(&all, &mut registers);
        if outcome != Outcome::Done && !outcome.is(&[1, 3, 6]) {
            fail!("MOV SS on a breakpoint, then {code:02x?}: {outcome:?}");
        }
        seen += u32::from(outcome.is(&[1]));
    }
    break_at(0, 1 << 10);
    say!("breakpoints: {seen} hit by MOV SS");
}
