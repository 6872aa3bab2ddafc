//! The innocent guest: fills memory with what only it knows, lives by its timer, looks after its memory
//! and prints how it gets on, until it is alone. Whoever reaches its memory, its timer or its processor
//! makes it fail or fall silent.

use crate::machine::{exit, fail, interrupts, is_amd, say, tsc, write_msr};
use crate::traps::{TICK, count};
use core::arch::asm;
use hypervisor_abi::GuestCall;

/// The memory it watches.
const FIRST: u64 = 4 << 20;
const LAST: u64 = 12 << 20;
/// Words looked at in a round.
const SLICE: u64 = 1 << 14;
/// Rounds after everybody else has ended.
const ROUNDS_ALONE: u32 = 10;
/// The timer's period in ticks of the counter.
const PERIOD: u32 = 2_000_000;
/// A line is printed every so many rounds.
const EVERY: u32 = 25;

const APIC_BASE: u32 = 0x1b;
const SPURIOUS: u32 = 0x80f;
const LVT_TIMER: u32 = 0x832;
const INITIAL_COUNT: u32 = 0x838;
const DIVIDE: u32 = 0x83e;
const PERIODIC: u64 = 1 << 17;
const DIVIDE_BY_1: u64 = 0b1011;

fn secret(address: u64) -> u64 {
    (address ^ 0x5ec2_e7f0_0d5e_c2e7).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// How many guests run, as the monitor says.
fn running() -> u64 {
    let (status, count): (u64, u64);
    let number = GuestCall::Ipc.number();
    // SAFETY: a call with numbers only. The monitor answers message 0.
    unsafe {
        if is_amd() {
            asm!("vmmcall", inout("rax") number => status, inout("rdi") 0_u64 => count, out("rsi") _);
        } else {
            asm!("vmcall", inout("rax") number => status, inout("rdi") 0_u64 => count, out("rsi") _);
        }
    }
    if status != 0 {
        fail!("the monitor does not say how many guests run: {status:#x}");
    }
    count
}

fn check(from: u64) -> u64 {
    let mut at = from;
    for _ in 0..SLICE {
        // SAFETY: memory nobody else uses.
        let found = unsafe { (at as *const u64).read_volatile() };
        if found != secret(at) {
            fail!("at {at:#x} is {found:#x}");
        }
        at += 8;
        if at == LAST {
            at = FIRST;
        }
    }
    at
}

/// Never comes back.
pub(crate) fn run() -> ! {
    let mut at = FIRST;
    while at < LAST {
        // SAFETY: memory nobody else uses.
        unsafe { (at as *mut u64).write_volatile(secret(at)) };
        at += 8;
    }
    let base = crate::machine::read_msr(APIC_BASE);
    write_msr(APIC_BASE, base | 3 << 10);
    write_msr(SPURIOUS, 0x1ff);
    write_msr(DIVIDE, DIVIDE_BY_1);
    write_msr(LVT_TIMER, PERIODIC | u64::from(TICK));
    write_msr(INITIAL_COUNT, u64::from(PERIOD));
    let (mut alone, mut rounds, mut from) = (0, 0, FIRST);
    let (mut last, mut longest) = (tsc(), 0);
    while alone < ROUNDS_ALONE {
        let before = count(TICK);
        interrupts(true);
        while count(TICK) == before {
            // SAFETY: the timer wakes it.
            unsafe { asm!("hlt") };
        }
        interrupts(false);
        let now = tsc();
        longest = (now - last).max(longest);
        last = now;
        from = check(from);
        rounds += 1;
        if rounds % EVERY == 0 {
            say!("innocent: round {rounds}");
        }
        if rounds % EVERY == 0 || alone > 0 {
            alone = if running() == 1 { alone + 1 } else { 0 };
        }
    }
    say!("figure longest_gap_mticks {}", longest / 1_000_000);
    say!("innocent: unharmed after {rounds} rounds");
    exit(0)
}
