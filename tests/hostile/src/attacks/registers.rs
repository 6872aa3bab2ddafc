//! Model-specific, control, extended control and debug registers: every number, many values.

use crate::machine::{Chance, SCRATCH, cpuid, fail, is_amd, read_msr, say, write_msr};
use crate::traps::{Outcome, Registers, kernel};
use core::arch::asm;

const GENERAL_PROTECTION: u8 = 13;
const INVALID_OPCODE: u8 = 6;
const RDMSR: &[u8] = &[0x0f, 0x32];
const WRMSR: &[u8] = &[0x0f, 0x30];
/// The ranges MSRs are in (SDM 4, APM 2 appendix A), with a bit on both sides.
const RANGES: [core::ops::Range<u32>; 5] = [
    0..0x2010,
    0x3fff_fff0..0x4000_0200,
    0xbfff_fff0..0xc000_2010,
    0xc000_fff0..0xc001_2010,
    0xffff_fff0..0xffff_ffff,
];
/// Sends interrupts: an attack of its own. Its neighbours in time: the counter itself.
const COMMAND: u32 = 0x830;
const TSC: u32 = 0x10;
/// No guest may set these: microcode, VMX and SVM, SMM, clocks and power (SDM 4 table 2-2, APM 2
/// appendix A).
const DANGEROUS: [u32; 12] = [
    0x3a,
    0x79,
    0x9b,
    0x9e,
    0x480,
    0x491,
    0xc001_0111,
    0xc001_0112,
    0xc001_0114,
    0xc001_0117,
    0xc001_0020,
    0xc001_0061,
];

fn access(code: &[u8], index: u32, value: u64) -> (Outcome, u64) {
    let mut registers: Registers = [0; 16];
    registers[0] = value & 0xffff_ffff;
    registers[1] = u64::from(index);
    registers[2] = value >> 32;
    let outcome = kernel(code, &mut registers);
    if outcome != Outcome::Done && outcome != Outcome::Fault(GENERAL_PROTECTION) {
        fail!("MSR {index:#x}: {outcome:?}");
    }
    (outcome, registers[2] << 32 | registers[0] & 0xffff_ffff)
}

/// Every number, read and written.
pub(crate) fn msr(chance: &mut Chance) {
    let (mut numbers, mut readable, mut writable) = (0_u32, 0_u32, 0_u32);
    for index in RANGES.into_iter().flatten() {
        numbers += 1;
        let (outcome, value) = access(RDMSR, index, 0);
        let exists = outcome == Outcome::Done;
        readable += u32::from(exists);
        if index == COMMAND || index == TSC {
            continue;
        }
        let mut values = [value, 0, u64::MAX, chance.nasty(), 1 << chance.below(64)];
        if !exists {
            values[0] = 1;
        }
        let mut done = false;
        for value in values {
            done |= access(WRMSR, index, value).0 == Outcome::Done;
        }
        writable += u32::from(done);
        if done && DANGEROUS.contains(&index) {
            fail!("MSR {index:#x} can be written");
        }
        if exists {
            let _ = access(WRMSR, index, value);
        }
    }
    say!("msr: {numbers} numbers, {readable} can be read, {writable} written");
}

/// MOV to CRn from RAX.
fn set(register: u8) -> [u8; 4] {
    // REX.R reaches CR8.
    let rex = if register == 8 { 0x44 } else { 0x40 };
    [rex, 0x0f, 0x22, 0xc0 | (register & 7) << 3]
}

fn legal(outcome: Outcome, what: &str, value: u64) -> u32 {
    if outcome != Outcome::Done && !outcome.is(&[GENERAL_PROTECTION, INVALID_OPCODE]) {
        fail!("{what} with {value:#x}: {outcome:?}");
    }
    u32::from(outcome == Outcome::Done)
}

fn values(chance: &mut Chance, now: u64) -> impl Iterator<Item = u64> + '_ {
    (0..64).map(move |bit| now ^ 1 << bit).chain((0..64).map(|bit| 1 << bit)).chain((0..200).map(
        move |round| match round % 4 {
            0 => now ^ chance.nasty(),
            1 => now ^ 1 << chance.below(24) ^ 1 << chance.below(24) ^ 1 << chance.below(24),
            2 => chance.below(1 << 24),
            _ => chance.word(),
        },
    ))
}

/// CR0, CR4, CR8, EFER and XCR0.
pub(crate) fn control(chance: &mut Chance) {
    const EFER: u32 = 0xc000_0080;
    const OSXSAVE: u64 = 1 << 18;
    let (cr0, cr4): (u64, u64);
    // SAFETY: reads.
    unsafe { asm!("mov {}, cr0", "mov {}, cr4", out(reg) cr0, out(reg) cr4) };
    let mut taken = [0_u32; 5];
    let attempt = |code: &[u8], index: u64, value: u64| {
        let mut registers: Registers = [0; 16];
        registers[0] = value;
        registers[1] = index;
        registers[2] = value >> 32;
        kernel(code, &mut registers)
    };
    // QEMU's processor lets 64-bit code turn protection, paging and PAE off, and CR0 and CR4 be what it
    // then refuses to run; what comes of that is only this guest's end.
    let careful = |value: u64, may: u64, must: u64| {
        if is_amd() { value & may | must } else { value }
    };
    for value in values(chance, cr0).map(|value| careful(value, !(1 << 29), 1 << 31 | 1)) {
        taken[0] += legal(attempt(&set(0), 0, value), "CR0", value);
        // SAFETY: as it was.
        unsafe { asm!("mov cr0, {}", in(reg) cr0) };
    }
    for value in values(chance, cr4).map(|value| careful(value, 0x77_1fff, 1 << 5)) {
        taken[1] += legal(attempt(&set(4), 0, value), "CR4", value);
        // SAFETY: as it was.
        unsafe { asm!("mov cr4, {}", in(reg) cr4) };
    }
    for value in values(chance, 0) {
        taken[2] += legal(attempt(&set(8), 0, value), "CR8", value);
    }
    // SAFETY: as it was.
    unsafe { asm!("mov cr8, {}", in(reg) 0_u64) };
    let efer = read_msr(EFER);
    for value in values(chance, efer) {
        taken[3] += legal(attempt(WRMSR, u64::from(EFER), value), "EFER", value);
        write_msr(EFER, efer);
    }
    if cpuid(1, 0)[2] & 1 << 26 != 0 {
        // SAFETY: XSAVE is there.
        unsafe { asm!("mov cr4, {}", in(reg) (cr4 | OSXSAVE)) };
        const XSETBV: &[u8] = &[0x0f, 0x01, 0xd1];
        for value in values(chance, 1) {
            taken[4] += legal(attempt(XSETBV, 0, value), "XCR0", value);
            let index = value ^ value >> 32;
            if index as u32 != 0 && attempt(XSETBV, index, value) == Outcome::Done {
                fail!("XCR{index} was set to {value:#x}");
            }
        }
        let _ = attempt(XSETBV, 0, 1);
        // SAFETY: as it was.
        unsafe { asm!("mov cr4, {}", in(reg) cr4) };
    }
    // Control registers there are none of.
    for register in [1, 5, 6, 7] {
        let outcome = attempt(&set(register), 0, 0);
        if !outcome.is(&[INVALID_OPCODE]) {
            fail!("MOV to CR{register}: {outcome:?}");
        }
    }
    say!("control: CR0, CR4, CR8, EFER, XCR0 took {taken:?}");
}

/// DR0 to DR7, breakpoints on code, data and ports.
pub(crate) fn debug(chance: &mut Chance) {
    let mut taken = 0;
    for register in 0..8_u8 {
        for value in values(chance, 0x400) {
            let code = [0x0f, 0x23, 0xc0 | register << 3, 0x90, 0x48, 0x8b, 0x07, 0xe6, 0x80];
            let mut registers: Registers = [0; 16];
            registers[0] = value;
            registers[7] = SCRATCH;
            match kernel(&code, &mut registers) {
                Outcome::Done => taken += 1,
                // A breakpoint that was set before, or the register is guarded.
                outcome if outcome.is(&[1, GENERAL_PROTECTION, INVALID_OPCODE]) => {}
                outcome => fail!("DR{register} with {value:#x}: {outcome:?}"),
            }
        }
        // SAFETY: no breakpoints.
        unsafe { asm!("mov dr7, {}", in(reg) 0x400_u64) };
    }
    say!("debug-registers: {taken} values taken, on {}", if is_amd() { "AMD" } else { "Intel" });
}
