//! The guests' time stands while the machine sleeps. What the processors' time-stamp counters say behind a sleep is the
//! processors', the firmware's and root's affair: they may begin anew, go on, or be set again while root wakes. So the guests'
//! go on with the first thing that root's programs, which run them, want of the core.

use super::slots;
use crate::cpu::control;
use crate::sync::Lock;
use core::sync::atomic::{AtomicU64, Ordering};
use hypervisor_abi::MAX_PARTITIONS;
use units::Tsc;

/// The counter when the machine went to sleep, 0 while the guests' time goes on.
static STANDS_AT: AtomicU64 = AtomicU64::new(0);
static MOVES: Lock<()> = Lock::new(());

/// The machine was put to sleep at this time, and has not come back to root's programs yet.
pub fn stops(now: Tsc) {
    // It may stand since an earlier sleep.
    let _ = STANDS_AT.compare_exchange(0, now.0.max(1), Ordering::SeqCst, Ordering::SeqCst);
}

/// A program of root's wants something: the guests' time goes on if it stands.
#[inline]
pub fn goes_on() {
    if STANDS_AT.load(Ordering::Acquire) != 0 {
        move_all();
    }
}

#[cold]
fn move_all() {
    // Whoever comes second waits until all have been moved.
    let _moves = MOVES.lock();
    let stands_at = STANDS_AT.load(Ordering::SeqCst);
    if stands_at == 0 {
        return;
    }
    let by = stands_at.wrapping_sub(control::tsc().0);
    (1..MAX_PARTITIONS as u64)
        .filter_map(slots::get)
        .for_each(|partition| partition.move_clock(by));
    STANDS_AT.store(0, Ordering::Release);
}
