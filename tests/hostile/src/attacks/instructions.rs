//! Random bytes as instructions.

use crate::machine::{Chance, SCRATCH, USER, fail, flush, interrupts, page_directories, say};
use crate::traps::{self, INTERRUPTS_ON, Outcome, Registers, TICK, interruptible, user};

const ROUNDS: u32 = 20_000;

/// The timer takes the processor off code that does not end; interrupts are on in attempts that ask for them.
pub(super) fn timer(on: bool) {
    interrupts(false);
    traps::keep_ticks_apart(on);
    // SAFETY: registers of the local APIC, mapped one to one.
    unsafe {
        let register = |offset: u64| (0xfee0_0000 + offset) as *mut u32;
        register(0xf0).write_volatile(0x1ff);
        register(0x3e0).write_volatile(0b1011);
        register(0x320).write_volatile(if on { 1 << 17 | u32::from(TICK) } else { 1 << 16 });
        register(0x380).write_volatile(if on { 4_000_000 } else { 0 });
    }
}

fn registers(chance: &mut Chance, base: u64) -> Registers {
    let mut registers: Registers = [0; 16];
    for register in &mut registers {
        *register = match chance.below(3) {
            0 => base + chance.below(0x8000),
            1 => chance.nasty(),
            _ => chance.below(64),
        };
    }
    registers
}

fn code(chance: &mut Chance) -> [u8; 12] {
    const USUAL: [u8; 16] = [
        0x0f, 0x66, 0xf3, 0xf2, 0xf0, 0x67, 0x48, 0x2e, 0x0f, 0x01, 0xae, 0xc7, 0xe4, 0x6e, 0x22,
        0x20,
    ];
    // MOV to a segment register there is none of: QEMU 10 takes it, as one to the task register, and
    // ends itself at the next exception.
    const MOV_TO_SEGMENT: u8 = 0x8e;
    [(); 12].map(|()| match chance.below(3) {
        0 => USUAL[chance.below(16) as usize],
        _ => match chance.word() as u8 {
            MOV_TO_SEGMENT => 0x90,
            byte => byte,
        },
    })
}

/// In user mode, with the right to use ports and without.
pub(crate) fn user_bytes(chance: &mut Chance) {
    timer(true);
    let (mut done, mut faults, mut endless) = (0_u32, 0_u32, 0_u32);
    for _ in 0..ROUNDS {
        let mut registers = registers(chance, USER + 0x8000);
        match user(&code(chance), INTERRUPTS_ON, &mut registers) {
            Outcome::Done => done += 1,
            Outcome::Fault(_) => faults += 1,
            Outcome::Endless => endless += 1,
        }
        // SAFETY: what the code may have left in the task's flags is the kernel's own again.
        unsafe { core::arch::asm!("mov dr7, {}", in(reg) 0x400_u64) };
    }
    timer(false);
    say!("user-bytes: {done} came back, {faults} faulted, {endless} were taken off");
    if faults == 0 || done == 0 {
        fail!("random bytes behave too well");
    }
}

/// In kernel mode, where they may ruin this guest: what is printed is how far it came. Left out are HLT
/// and CLI, with which it would sleep for good, and writes to ports that end the machine.
pub(crate) fn bytes(chance: &mut Chance) {
    let mut worse = 0_u32;
    // Nothing beyond memory but the local APIC's page: the core does not carry out all there is.
    for large in (8..2048).filter(|large| *large != 0xfee0_0000 >> 21) {
        // SAFETY: what this maps is nobody's.
        unsafe { (&raw mut page_directories[large / 512][large % 512]).write_volatile(0) };
    }
    flush();
    timer(true);
    for round in 0..ROUNDS {
        let mut registers = registers(chance, SCRATCH + 0x8000);
        let mut code = code(chance);
        for byte in &mut code {
            if matches!(*byte, 0xf4 | 0xfa | 0xe6 | 0xe7 | 0xee | 0xef | 0x9d) {
                *byte = 0x90;
            }
        }
        if interruptible(&code, &mut registers) == Outcome::Endless {
            worse += 1;
        }
        if round % 5000 == 0 {
            say!("bytes: round {round}");
        }
    }
    timer(false);
    say!("bytes: {worse} were taken off");
}
