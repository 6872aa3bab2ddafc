//! Interrupts in every form, to itself and to the second processor; the local APIC's registers; HLT with
//! interrupts off.

use crate::machine::{Chance, fail, interrupts, pause, read_msr, say, tsc, write_msr};
use crate::second;
use crate::traps::{Outcome, Registers, count, count_all, kernel};
use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

const APIC: u64 = 0xfee0_0000;
const APIC_BASE: u32 = 0x1b;
const SPURIOUS: u64 = 0xf0;
const COMMAND: u64 = 0x300;
const COMMAND_HIGH: u64 = 0x310;
const ENABLED: u32 = 0x1ff;
/// Shorthands of the command (SDM 3A 11.6.1).
const TO_SELF: u32 = 1 << 18;
const TO_ALL: u32 = 2 << 18;
const TO_OTHERS: u32 = 3 << 18;
const NMI: u32 = 4 << 8;
const ASSERT: u32 = 1 << 14;

fn write(offset: u64, value: u32) {
    // SAFETY: a register of the local APIC, mapped one to one.
    unsafe { ((APIC + offset) as *mut u32).write_volatile(value) };
}

fn send(destination: u32, command: u32) {
    write(COMMAND_HIGH, destination << 24);
    write(COMMAND, command);
}

/// Takes what waits.
fn open() {
    interrupts(true);
    for _ in 0..20 {
        pause();
    }
    interrupts(false);
}

fn spin() {
    for _ in 0..100 {
        pause();
    }
}

fn bombard() {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let vector = 0x40 + NEXT.fetch_add(1, Ordering::Relaxed) % 0x40;
    send(0, ASSERT | vector);
    send(0, ASSERT | NMI);
}

/// Both processors send each other and themselves as much as they can.
pub(crate) fn storm(_: &mut Chance) {
    write(SPURIOUS, ENABLED);
    second::start(bombard);
    for round in 0..20_000_u32 {
        send(0, TO_SELF | ASSERT | (0x90 + round % 8));
        send(1, ASSERT | (0xa0 + round % 0x20));
        if round % 16 == 0 {
            send(0, TO_ALL | ASSERT | 0xd0);
            send(0, TO_OTHERS | ASSERT | NMI);
            open();
        }
    }
    open();
    second::expect_progress("a storm of interrupts");
    let (nmis, broadcast) = (count(2), count(0xd0));
    if nmis == 0 || broadcast == 0 || count(0x97) == 0 {
        fail!("interrupts were lost: {nmis} NMIs, {broadcast} to all");
    }
    // The second one is quiet from here on.
    second::start(spin);
    say!("storm: {} interrupts, {nmis} NMIs", count_all());
}

/// Every delivery mode, vector and destination.
pub(crate) fn commands(chance: &mut Chance) {
    const INIT: u32 = 5;
    const STARTUP: u32 = 6;
    write(SPURIOUS, ENABLED);
    second::start(spin);
    let mut sent = 0_u32;
    for mode in 0..8_u32 {
        for vector in 0..256_u32 {
            // As interrupts these have no error code, which their entries expect.
            if mode < 2 && matches!(vector, 17 | 21 | 29 | 30) {
                continue;
            }
            for (shorthand, destination) in
                [(0, 0), (0, 1), (0, 0xff), (0, 7), (TO_SELF, 0), (TO_ALL, 0), (TO_OTHERS, 0)]
            {
                let to_self = shorthand == TO_SELF || shorthand == TO_ALL;
                let reaches_own = to_self || shorthand == 0 && matches!(destination, 0 | 0xff);
                // Logical destinations, levels and triggers as they come.
                let more = chance.word() as u32 & (1 << 11 | 1 << 14 | 1 << 15);
                if mode == INIT && (reaches_own || vector % 32 != 0 || more & 1 << 11 != 0) {
                    continue;
                }
                send(destination, shorthand | more | mode << 8 | vector);
                sent += 1;
                if mode == INIT {
                    send(1, STARTUP << 8 | 8);
                    second::expect_progress("INIT and SIPI");
                }
            }
            open();
        }
    }
    second::start(spin);
    second::expect_progress("every interrupt command");
    say!("commands: {sent} sent");
}

/// Registers of the local APIC in both modes, read and written with any width and value.
pub(crate) fn registers(chance: &mut Chance) {
    let base = read_msr(APIC_BASE);
    let write_dx: [&[u8]; 4] =
        [&[0x88, 0x07], &[0x66, 0x89, 0x07], &[0x89, 0x07], &[0x48, 0x89, 0x07]];
    let read_dx: [&[u8]; 4] =
        [&[0x8a, 0x07], &[0x66, 0x8b, 0x07], &[0x8b, 0x07], &[0x48, 0x8b, 0x07]];
    let mut made = 0_u32;
    let mut attempt = |code: &[u8], registers: &mut Registers| {
        made += 1;
        let outcome = kernel(code, registers);
        if outcome != Outcome::Done && !outcome.is(&[13, 14]) {
            fail!("{code:02x?} with {:#x} at {:#x}: {outcome:?}", registers[0], registers[7]);
        }
        outcome
    };
    for round in 0..6000_u64 {
        let offset = if round < 0x1000 { round } else { chance.below(64) * 16 };
        let mut registers: Registers = [0; 16];
        registers[0] = chance.nasty();
        registers[7] = APIC + offset;
        let width = chance.below(4) as usize;
        // The command sends only fixed interrupts here.
        if offset & 0xff8 == 0x300 {
            registers[0] &= !0x700;
        }
        attempt(write_dx[width], &mut registers);
        attempt(read_dx[width], &mut registers);
        if round % 64 == 0 {
            open();
        }
    }
    // Other places and modes, allowed or not.
    for round in 0..500_u64 {
        let value = match round % 3 {
            0 => base ^ 1 << chance.below(64),
            1 => chance.nasty(),
            _ => base ^ chance.below(16) << 8,
        };
        let mut registers: Registers = [0; 16];
        registers[0] = value & 0xffff_ffff;
        registers[1] = u64::from(APIC_BASE);
        registers[2] = value >> 32;
        attempt(&[0x0f, 0x30], &mut registers);
        let _ = attempt(&[0x8b, 0x07], &mut {
            let mut registers: Registers = [0; 16];
            registers[7] = APIC + 0x20;
            registers
        });
        // Through "disabled" every mode is left.
        write_msr(APIC_BASE, base & !0xc00);
        write_msr(APIC_BASE, base);
    }
    write_msr(APIC_BASE, base | 0xc00);
    for round in 0..4000_u64 {
        let index = if round < 0x100 { round } else { chance.below(0x40) };
        if index == 0x30 {
            continue;
        }
        let mut registers: Registers = [0; 16];
        registers[0] = chance.nasty();
        registers[1] = 0x800 + index;
        registers[2] = if round % 2 == 0 { 0 } else { chance.nasty() };
        attempt(&[0x0f, 0x30], &mut registers);
        attempt(&[0x0f, 0x32], &mut registers);
        if round % 64 == 0 {
            open();
        }
    }
    write_msr(APIC_BASE, base & !0xc00);
    write_msr(APIC_BASE, base);
    write(SPURIOUS, ENABLED);
    write(0x320, 1 << 16);
    write(0x80, 0);
    let before = count(0x91);
    send(0, TO_SELF | ASSERT | 0x91);
    open();
    if count(0x91) == before {
        fail!("the local APIC is dead after {made} accesses");
    }
    say!("apic: {made} accesses");
}

fn wake_the_first() {
    let wait = || {
        let start = tsc();
        while tsc() - start < 5_000_000 {
            pause();
        }
    };
    wait();
    send(0, ASSERT | 0x93);
    wait();
    send(0, ASSERT | NMI);
}

/// HLT with interrupts off: interrupts do not wake it, an NMI does.
pub(crate) fn halt(_: &mut Chance) {
    write(SPURIOUS, ENABLED);
    second::start(wake_the_first);
    let (nmis, interrupts_before) = (count(2), count(0x93));
    // SAFETY: the second processor wakes this one.
    unsafe { asm!("cli", "hlt") };
    if count(2) == nmis || count(0x93) != interrupts_before {
        fail!("HLT with interrupts off ended without an NMI");
    }
    open();
    if count(0x93) == interrupts_before {
        fail!("the interrupt that waited was lost");
    }
    second::start(spin);
    say!("halt: woken by an NMI alone");
}
