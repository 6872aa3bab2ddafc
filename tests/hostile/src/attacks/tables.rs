//! Page tables and code that a second processor changes while the first one, and the core for it, reads
//! them.

use crate::machine::{Chance, MEMORY_END, SCRATCH, fail, page_window, say, window};
use crate::second;
use crate::traps::{Outcome, Registers, attempt, kernel};
use core::sync::atomic::{AtomicU64, Ordering};

const GENERAL_PROTECTION: u8 = 13;
const PAGE_FAULT: u8 = 14;
const INVALID_OPCODE: u8 = 6;
/// Pages of the window that change.
const FIRST: usize = 8;
const COUNT: usize = 8;
/// Where the code lies that changes.
const CODE: u64 = SCRATCH + 0x14_0000;
/// What an entry of the tables says by turns.
const ENTRIES: [u64; 10] = [
    SCRATCH | 3,
    (SCRATCH + 0x1000) | 3,
    SCRATCH | 1,
    0,
    MEMORY_END | 3,
    (MEMORY_END - 0x1000) | 3,
    0x100_0000 | 3,
    0xfee0_0000 | 3,
    1 << 51 | 3,
    1 << 45 | 3,
];
/// First bytes of instructions that read or write [rdi].
const OPCODES: [u8; 6] = [0x89, 0x01, 0x87, 0x8b, 0x03, 0x39];

fn change() {
    static CHANCE: AtomicU64 = AtomicU64::new(0x1234_5678_9abc_def1);
    let mut chance = Chance(CHANCE.load(Ordering::Relaxed));
    for _ in 0..64 {
        let place = FIRST + chance.below(COUNT as u64) as usize;
        let entry = ENTRIES[chance.below(ENTRIES.len() as u64) as usize];
        // SAFETY: entries that only this attack uses, and a byte of its code.
        unsafe {
            (&raw mut page_window[place]).write_volatile(entry);
            (CODE as *mut u8).write_volatile(OPCODES[chance.below(6) as usize]);
        }
    }
    CHANCE.store(chance.0, Ordering::Relaxed);
}

/// Instructions the core carries out, on addresses that lead elsewhere each time it looks.
pub(crate) fn races(chance: &mut Chance) {
    const FORMS: [&[u8]; 8] = [
        &[0xf3, 0x48, 0xa5],
        &[0xf3, 0xa4],
        &[0xf3, 0x6e],
        &[0xf3, 0x6d],
        &[0x48, 0x87, 0x07],
        &[0xf0, 0x01, 0x07],
        &[0x48, 0xab],
        &[0x48, 0x8b, 0x07],
    ];
    // SAFETY: memory of this attack's: the instruction and RET.
    unsafe { (CODE as *mut [u8; 3]).write_volatile([0x89, 0x07, 0xc3]) };
    let _ = window(SCRATCH, 2);
    second::start(change);
    let (mut done, mut faults) = (0_u32, 0_u32);
    for round in 0..20_000_u32 {
        let mut registers: Registers = [0; 16];
        // The pages after the window's own, often across two of them.
        let mut address = || {
            let page = FIRST as u64 + chance.below(COUNT as u64 - 1);
            (512 << 30) + page * 0x1000 + 0xfc0 + chance.below(0x80)
        };
        registers[6] = address();
        registers[7] = address();
        registers[1] = u64::from(round % 13);
        registers[2] = 0x80;
        for page in 0..COUNT as u64 {
            let linear = (512 << 30) + (FIRST as u64 + page) * 0x1000;
            // SAFETY: forgets a translation.
            unsafe { core::arch::asm!("invlpg [{}]", in(reg) linear) };
        }
        let outcome = if round % 3 == 0 {
            // This one the second processor writes while it runs.
            attempt(CODE, &mut registers)
        } else {
            kernel(FORMS[round as usize % FORMS.len()], &mut registers)
        };
        match outcome {
            Outcome::Done => done += 1,
            outcome if outcome.is(&[GENERAL_PROTECTION, PAGE_FAULT, INVALID_OPCODE]) => faults += 1,
            outcome => fail!("round {round}: {outcome:?}"),
        }
    }
    second::expect_progress("changing page tables");
    say!("tables: {done} done, {faults} faulted");
}
