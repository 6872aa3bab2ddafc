//! Vector registers that XCR0 hides for a while: the guest's own are still there when it shows them again,
//! and never another's. Two guests that do so on one processor watch each other.

use crate::machine::{Chance, cpuid, exit_to_root, fail, say, tsc};
use core::arch::asm;

/// CPUID 1 ECX: XSAVE and AVX.
const XSAVE_AND_AVX: u32 = 1 << 26 | 1 << 28;
/// CR4: OSFXSR and OSXSAVE.
const CR4: u64 = 1 << 9 | 1 << 18;
/// XCR0: x87 and SSE, and with AVX.
const HIDDEN: u32 = 0b011;
const SHOWN: u32 = 0b111;
const ROUNDS: u32 = 60;
/// Ticks a guest stays as it is: some of the monitor's turns.
const WHILE: u64 = 400_000;

/// YMM0 to YMM15.
type Vectors = [[u64; 4]; 16];

fn set_xcr0(value: u32) {
    // SAFETY: a legal value; the program itself uses no vectors.
    unsafe { asm!("xsetbv", in("ecx") 0, in("eax") value, in("edx") 0, options(nostack)) };
}

fn load(from: &Vectors) {
    // SAFETY: reads 512 bytes; the program itself uses no vectors.
    unsafe {
        asm!(
            ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
            "vmovups ymm\\n, [rdi + 32 * \\n]",
            ".endr",
            in("rdi") from.as_ptr(),
            options(nostack)
        );
    }
}

fn stored() -> Vectors {
    let mut vectors = Vectors::default();
    // SAFETY: 512 bytes that are this function's; the program itself uses no vectors.
    unsafe {
        asm!(
            ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
            "vmovups [rdi + 32 * \\n], ymm\\n",
            ".endr",
            in("rdi") vectors.as_mut_ptr(),
            options(nostack)
        );
    }
    vectors
}

/// Hides and shows them, with other values each time.
pub(crate) fn hidden(chance: &mut Chance) {
    if cpuid(1, 0)[2] & XSAVE_AND_AVX != XSAVE_AND_AVX {
        say!("vectors: the processor has no AVX");
        return;
    }
    // SAFETY: adds the use of instructions.
    unsafe {
        asm!("mov {0}, cr4", "or {0}, {1}", "mov cr4, {0}", out(reg) _, in(reg) CR4, options(nostack));
    }
    set_xcr0(SHOWN);
    let mut expected = Vectors::default();
    // Both guests draw the same numbers; the time makes them differ.
    let own = tsc();
    for round in 0..ROUNDS {
        let found = stored();
        if found != expected {
            fail!("vectors in round {round}: {:x?} instead of {:x?}", found[0], expected[0]);
        }
        for word in expected.as_flattened_mut() {
            *word = chance.word() ^ own;
        }
        load(&expected);
        set_xcr0(HIDDEN);
        let until = tsc() + WHILE;
        while tsc() < until {
            exit_to_root();
        }
        set_xcr0(SHOWN);
    }
    say!("vectors: kept for {ROUNDS} rounds");
}
