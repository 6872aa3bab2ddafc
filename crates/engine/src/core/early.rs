//! How much before its timer a halted vCPU's thread wakes.
//!
//! A sleeping thread comes late: the kernel's timer interrupt, its scheduler and the way back to user space lie between
//! the moment that was asked for and the next instruction. The thread therefore asks for a moment so much earlier as it
//! was late the last times, and waits for the rest awake, at most [`MOST`]. KVM does the same inside the kernel
//! (`lapic_timer_advance_ns`).

use std::time::Duration;

/// The longest that is waited awake. A processor that takes longer to wake sleeps deeper than is worth waiting for.
const MOST: Duration = Duration::from_micros(5);
/// The share of a difference that one wake-up changes.
const SHARE: u64 = 4;

/// What one thread has learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Early {
    ticks: u64,
    most: u64,
}

impl Early {
    /// For a counter of `frequency` ticks in a second.
    pub(super) const fn new(frequency: u64) -> Self {
        Self { ticks: 0, most: frequency / (1_000_000 / MOST.as_micros() as u64) }
    }

    /// Ticks to wake earlier by.
    pub(super) const fn ticks(self) -> u64 {
        self.ticks
    }

    /// Ticks that may be waited awake.
    pub(super) const fn most(self) -> u64 {
        self.most
    }

    /// A wake-up came `late` ticks after the moment that was asked for.
    pub(super) fn woke(&mut self, late: u64) {
        let late = late.min(self.most);
        if late > self.ticks {
            self.ticks += (late - self.ticks).div_ceil(SHARE);
        } else {
            self.ticks -= (self.ticks - late).div_ceil(SHARE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Early;

    #[test]
    fn it_comes_to_what_wake_ups_take() {
        let mut early = Early::new(1_000_000_000);
        assert_eq!(early.ticks(), 0);
        for _ in 0..40 {
            early.woke(3000);
        }
        assert_eq!(early.ticks(), 3000);
        for _ in 0..40 {
            early.woke(200);
        }
        assert_eq!(early.ticks(), 200);
    }

    #[test]
    fn one_long_delay_is_not_learnt_whole_and_never_more_than_the_most() {
        let mut early = Early::new(2_000_000_000);
        early.woke(u64::MAX);
        assert_eq!(early.ticks(), 2500);
        for _ in 0..40 {
            early.woke(u64::MAX);
        }
        assert_eq!((early.ticks(), early.most()), (10_000, 10_000));
        let mut still = Early::new(3);
        still.woke(7);
        assert_eq!(still.ticks(), 0);
    }
}
