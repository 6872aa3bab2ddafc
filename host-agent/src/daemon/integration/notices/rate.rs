//! How often something may happen, and how often its refusal is logged.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So many in any such span.
#[derive(Debug)]
pub(super) struct Rate {
    most: usize,
    span: Duration,
    taken: VecDeque<Instant>,
}

impl Rate {
    pub(super) fn new(most: usize, span: Duration) -> Self {
        Self { most, span, taken: VecDeque::with_capacity(most) }
    }

    /// Whether one more may happen now; then it counts.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        while self.taken.front().is_some_and(|then| now.duration_since(*then) >= self.span) {
            self.taken.pop_front();
        }
        let free = self.taken.len() < self.most;
        if free {
            self.taken.push_back(now);
        }
        free
    }
}

/// What of a guest is refused: counted, and logged without letting the guest fill the log.
#[derive(Debug)]
pub(super) struct Refusals {
    all: u64,
    unsaid: u64,
    rate: Rate,
}

impl Refusals {
    pub(super) fn new() -> Self {
        Self { all: 0, unsaid: 0, rate: Rate::new(5, Duration::from_secs(60)) }
    }

    pub(super) fn add(&mut self, vm: &str, what: &str, reason: &str, now: Instant) {
        self.all += 1;
        if self.rate.take(now) {
            let (all, unsaid) = (self.all, std::mem::take(&mut self.unsaid));
            tracing::warn!(vm, reason, all, unsaid, "{what} of the guest is refused");
        } else {
            self.unsaid += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_in_any_span_and_no_more() {
        let span = Duration::from_secs(10);
        let (mut rate, start) = (Rate::new(3, span), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let taken: Vec<bool> =
            [0, 4, 9, 9, 10, 10, 13, 14, 14].map(|seconds| rate.take(at(seconds))).into();
        assert_eq!(taken, [true, true, true, false, true, false, false, true, false]);
        assert!(rate.taken.len() <= 3);
    }

    #[test]
    fn every_refusal_counts_and_few_are_logged() {
        let (mut refusals, now) = (Refusals::new(), Instant::now());
        for _ in 0..100_000 {
            refusals.add("vm", "a test", "none", now);
        }
        assert_eq!((refusals.all, refusals.unsaid), (100_000, 100_000 - 5));
    }
}
