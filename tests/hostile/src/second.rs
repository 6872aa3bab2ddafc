//! The second processor: started when an attack wants it, does what the first one says.

use crate::machine::{fail, interrupts, pause, tsc};
use crate::traps;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Where it starts: page 8.
const PAGE: u32 = 8;
/// Ticks of the counter it is given for an answer.
const PATIENCE: u64 = 10_000_000_000;
const ICR: u64 = 0xfee0_0300;
const INIT_OTHERS: u32 = 0x000c_4500;
const SIPI_OTHERS: u32 = 0x000c_4600;

/// What it does.
static ORDER: AtomicU64 = AtomicU64::new(0);
/// How often it began or went round.
static ROUNDS: AtomicU32 = AtomicU32::new(0);

unsafe extern "C" {
    static second_start: u8;
    static second_end: u8;
}

/// Writes the command of the local APIC in xAPIC mode.
pub(crate) fn send(command: u32) {
    // SAFETY: the register, mapped one to one.
    unsafe { (ICR as *mut u32).write_volatile(command) };
}

/// Starts it, or starts it again, to go round in `work` for good.
pub(crate) fn start(work: fn()) {
    ORDER.store(work as *const () as u64, Ordering::SeqCst);
    let from = &raw const second_start;
    // SAFETY: the page is free memory, and both symbols are of one piece of code.
    unsafe {
        let length = (&raw const second_end).offset_from(from) as usize;
        core::ptr::copy_nonoverlapping(from, (u64::from(PAGE) << 12) as *mut u8, length);
    }
    let before = rounds();
    send(INIT_OTHERS);
    let wait = |ticks| {
        let start = tsc();
        while tsc() - start < ticks && rounds() == before {
            pause();
        }
    };
    wait(1_000_000);
    send(SIPI_OTHERS | PAGE);
    wait(PATIENCE);
    if rounds() == before {
        fail!("the second processor does not start");
    }
}

/// How often it went round.
pub(crate) fn rounds() -> u32 {
    ROUNDS.load(Ordering::SeqCst)
}

/// Waits until it has gone round once more.
pub(crate) fn expect_progress(what: &str) {
    let (before, start) = (rounds(), tsc());
    while rounds() == before {
        if tsc() - start > PATIENCE {
            fail!("the second processor stands still after {what}");
        }
        pause();
    }
}

#[unsafe(no_mangle)]
extern "C" fn hostile_second() -> ! {
    traps::load(1);
    // SAFETY: the spurious-interrupt register: the local APIC takes interrupts.
    unsafe { (0xfee0_00f0 as *mut u32).write_volatile(0x1ff) };
    interrupts(true);
    loop {
        ROUNDS.fetch_add(1, Ordering::SeqCst);
        let order = ORDER.load(Ordering::SeqCst);
        // SAFETY: `start` stored a function.
        let work = unsafe { core::mem::transmute::<usize, fn()>(order as usize) };
        work();
    }
}
