//! Ports of every number and width, strings to and from them across limits, devices at their fastest.

use super::instructions::timer;
use crate::machine::{Chance, MEMORY_END, SCRATCH, USER, fail, interrupts, out8, say, tsc, window};
use crate::traps::{INTERRUPTS_ON, Outcome, Registers, interruptible, kernel, user};

const GENERAL_PROTECTION: u8 = 13;
const PAGE_FAULT: u8 = 14;
const STACK_FAULT: u8 = 12;

/// Ports whose writes end the machine: the tiny programs' and the debug exit, resets and power.
fn ends(port: u16) -> bool {
    matches!(port, 0xec | 0xf4 | 0x64 | 0x92 | 0xcf8..=0xcff | 0x600..=0x6ff)
        // A wider access may reach them.
        || matches!(port, 0xe9..=0xeb | 0xf1..=0xf3 | 0x61..=0x63 | 0x8f..=0x91 | 0xcf5..=0xcf7)
        || matches!(port, 0x5fd..=0x5ff)
}

/// IN and OUT of every port.
pub(crate) fn ports(chance: &mut Chance) {
    const IN: [&[u8]; 3] = [&[0xec], &[0x66, 0xed], &[0xed]];
    const OUT: [&[u8]; 3] = [&[0xee], &[0x66, 0xef], &[0xef]];
    let mut made = 0_u32;
    // Every port of the first kilobyte, then fewer.
    let all = (0..0x400).chain((0x400..=0xffff).step_by(61)).chain(0xfff8..=0xffff);
    for port in all {
        for width in 0..3 {
            let mut registers: Registers = [0; 16];
            registers[2] = port;
            registers[0] = chance.nasty();
            let mut outcome = kernel(IN[width], &mut registers);
            if outcome == Outcome::Done && !ends(port as u16) {
                registers[0] = chance.nasty();
                registers[2] = port | chance.word() << 16;
                outcome = kernel(OUT[width], &mut registers);
            }
            if outcome != Outcome::Done {
                fail!("port {port:#x}: {outcome:?}");
            }
            made += 1;
        }
    }
    // From a program, without the right to.
    let outcome = user(&[0xec], 0, &mut [0; 16]);
    if outcome != Outcome::Fault(GENERAL_PROTECTION) {
        fail!("a program reads a port: {outcome:?}");
    }
    say!("ports: {made} read and written");
}

/// INS and OUTS, with every prefix, over the ends of pages and of memory.
pub(crate) fn strings(chance: &mut Chance) {
    const OPCODES: [u8; 4] = [0x6c, 0x6d, 0x6e, 0x6f];
    const PREFIXES: [u8; 9] = [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0x48];
    let mut made = 0_u32;
    let mut endless = 0_u32;
    timer(true);
    for round in 0..1500_u32 {
        let mut code = [0x90_u8; 14];
        let mut at = 0;
        if round % 5 == 0 {
            code[at] = 0xfd;
            at += 1;
        }
        for _ in 0..chance.below(4) {
            code[at] = PREFIXES[chance.below(9) as usize];
            at += 1;
        }
        if round % 3 != 0 {
            code[at] = if round % 2 == 0 { 0xf3 } else { 0xf2 };
            at += 1;
        }
        code[at] = OPCODES[chance.below(4) as usize];
        code[13] = 0xfc;
        let target = match round % 6 {
            0 => SCRATCH + 0xff0 + chance.below(32),
            1 => window(MEMORY_END - 16 + chance.below(32), 2),
            // Read-only.
            2 => window(SCRATCH + 0xffc, 0),
            3 => 0x8000_0000_0000 - chance.below(8),
            4 => window(SCRATCH, 2) + 0x1000 - 1 - chance.below(8),
            _ => SCRATCH,
        };
        let mut registers: Registers = [0; 16];
        registers[0] = chance.word();
        registers[1] = match round % 7 {
            0 => 0,
            1 => 1 << 32,
            2 => (1 << 16) + 3,
            _ => chance.below(24),
        };
        // COM1's scratch register, the POST port, nothing.
        registers[2] = [0x3ff, 0x80, 0x1234][chance.below(3) as usize];
        (registers[6], registers[7]) = (target, target);
        let outcome = interruptible(&code, &mut registers);
        endless += u32::from(outcome == Outcome::Endless);
        let faults = [GENERAL_PROTECTION, PAGE_FAULT, STACK_FAULT, 6];
        if outcome != Outcome::Done && outcome != Outcome::Endless && !outcome.is(&faults) {
            fail!("{code:02x?} at {target:#x}: {outcome:?}");
        }
        made += 1;
        if round % 10 == 0 {
            let mut registers = registers;
            registers[7] = USER + 0x2ffc;
            registers[6] = registers[7];
            // The right to use ports (RFLAGS.IOPL 3).
            let outcome = user(&code, 3 << 12 | INTERRUPTS_ON, &mut registers);
            if outcome == Outcome::Fault(2) {
                fail!("a program met an NMI");
            }
        }
    }
    timer(false);
    say!("strings: {made} instructions, {endless} of them taken off");
}

/// The PIT, the RTC and the local APIC's timer as fast as they go, all interrupts to the first processor.
pub(crate) fn timers(_: &mut Chance) {
    const FOR: u64 = 100_000_000;
    // Leaves time between two interrupts on an emulated machine.
    const APIC_PERIOD: u32 = 3_000_000;
    // 8259s at 0x20 and 0x28, all lines open.
    for (port, value) in [
        (0x20, 0x11),
        (0xa0, 0x11),
        (0x21, 0x20),
        (0xa1, 0x28),
        (0x21, 4),
        (0xa1, 2),
        (0x21, 1),
        (0xa1, 1),
        (0x21, 0),
        (0xa1, 0),
    ] {
        out8(port, value);
    }
    // Channel 0, mode 2, every second tick of its clock.
    for (port, value) in [(0x43, 0x34), (0x40, 2), (0x40, 0)] {
        out8(port, value);
    }
    // The RTC's periodic interrupt, 8192 times a second (rate 3), and every other of its interrupts.
    for (index, value) in [(0x0a, 0x23), (0x0b, 0x72)] {
        out8(0x70, index);
        out8(0x71, value);
    }
    // SAFETY: registers of the local APIC, mapped one to one.
    unsafe {
        let register = |offset: u64| (0xfee0_0000 + offset) as *mut u32;
        register(0xf0).write_volatile(0x1ff);
        register(0x3e0).write_volatile(0b1011);
        register(0x320).write_volatile(1 << 17 | 0x90);
        register(0x380).write_volatile(APIC_PERIOD);
    }
    let start = tsc();
    while tsc() - start < FOR {
        interrupts(true);
        for _ in 0..50 {
            crate::machine::pause();
        }
        interrupts(false);
        // The 8259s' interrupts end here, seen or not; the RTC's when its reason is read.
        for (port, value) in [(0xa0, 0x20), (0x20, 0x20), (0x70, 0x0c)] {
            out8(port, value);
        }
        // SAFETY: reads a port.
        unsafe { core::arch::asm!("in al, 0x71", out("al") _) };
    }
    // SAFETY: as above.
    unsafe { (0xfee0_0320 as *mut u32).write_volatile(1 << 16) };
    for (port, value) in [(0x21, 0xff), (0xa1, 0xff), (0x43, 0x30), (0x70, 0x0b), (0x71, 2)] {
        out8(port, value);
    }
    let all = crate::traps::count_all();
    say!("timers: {all} interrupts, {} of the local APIC", crate::traps::count(0x90));
    if crate::traps::count(0x90) == 0 {
        fail!("no interrupt of the timer arrived");
    }
}
