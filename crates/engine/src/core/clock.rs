//! The time-stamp counter as a clock. Deadlines of guests' timers come as counts of it; the kernel's timers
//! want durations.

use crate::CpuidEntry;
use std::arch::x86_64::_rdtsc;
use std::time::{Duration, Instant};

/// How long the counter is watched when nobody tells its frequency.
const WATCH: Duration = Duration::from_millis(10);
/// Where the kernel names the clock it keeps time by.
const SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
/// CPUID's leaf for power management, and its bit in EDX for a counter whose rate never changes (APM 3, E.4.6).
const POWER: u32 = 0x8000_0007;
const INVARIANT: u32 = 1 << 8;
const NANOSECONDS: u128 = 1_000_000_000;

/// The counter now.
#[inline]
pub(super) fn tsc() -> u64 {
    // SAFETY: reading the counter changes nothing; user space may (the kernel and the core leave
    // CR4.TSD clear).
    unsafe { _rdtsc() }
}

/// Whether this system's kernel keeps time by the counter. It does so only while the counter has proved steady, on
/// processors that promise nothing of the kind, too (`Documentation/virt/kvm/x86/timekeeping.rst`).
pub(super) fn is_steady() -> bool {
    std::fs::read_to_string(SOURCE).is_ok_and(|name| name.trim_end() == "tsc")
}

/// Adds the promise of a steady counter to what a guest's CPUID may say. Without it Linux may count a port's reads
/// instead, each of which leaves the guest.
pub(super) fn promise_steadiness(entries: &mut [CpuidEntry]) {
    for entry in entries.iter_mut().filter(|entry| entry.leaf == POWER) {
        entry.edx |= INVARIANT;
    }
}

/// The counter's pace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clock {
    /// Ticks in a second.
    frequency: u64,
}

impl Clock {
    /// A counter of `frequency` ticks in a second; watched for a moment when that is 0.
    pub(super) fn new(frequency: u64) -> Self {
        if frequency != 0 {
            return Self { frequency };
        }
        let begin = both();
        std::thread::sleep(WATCH);
        Self::between(begin, both())
    }

    fn between((tsc, time): (u64, Instant), (later_tsc, later): (u64, Instant)) -> Self {
        let passed = later.saturating_duration_since(time).as_nanos().max(1);
        let ticks = u128::from(later_tsc.saturating_sub(tsc).max(1));
        let frequency = u64::try_from(ticks * NANOSECONDS / passed).unwrap_or(u64::MAX);
        Self { frequency: frequency.max(1) }
    }

    /// Ticks in a second.
    pub(super) fn frequency(self) -> u64 {
        self.frequency
    }

    /// The time from count `now` to count `then`, rounded up; nothing when it has come. A count that is
    /// further away than can be said is as far as can be said.
    pub(super) fn until(self, then: u64, now: u64) -> Duration {
        let ticks = u128::from(then.saturating_sub(now));
        let nanoseconds = (ticks * NANOSECONDS).div_ceil(u128::from(self.frequency));
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

/// Counter and time at the same moment, as well as can be had: of several tries the one in which the
/// fewest ticks went by.
fn both() -> (u64, Instant) {
    let tries = (0..16).map(|_| {
        let before = tsc();
        let time = Instant::now();
        let after = tsc();
        (after.saturating_sub(before), (before, time))
    });
    tries.min_by_key(|(took, _)| *took).map_or_else(|| (tsc(), Instant::now()), |(_, both)| both)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_rounded_up_and_never_negative() {
        let clock = Clock { frequency: 3_000_000_000 };
        assert_eq!(clock.until(4, 0), Duration::from_nanos(2));
        assert_eq!(clock.until(3_000_000_000, 0), Duration::from_secs(1));
        assert_eq!(clock.until(5, 5), Duration::ZERO);
        assert_eq!(clock.until(5, 6), Duration::ZERO);
        assert_eq!(Clock { frequency: 1 }.until(u64::MAX, 0), Duration::from_nanos(u64::MAX));
    }

    #[test]
    fn only_the_leaf_that_is_there_promises_a_steady_counter() {
        let entry = |leaf| CpuidEntry { leaf, edx: 1, ..CpuidEntry::default() };
        let mut entries = [entry(1), entry(POWER), entry(POWER + 1)];
        promise_steadiness(&mut entries);
        assert_eq!(entries.map(|entry| entry.edx), [1, 1 | INVARIANT, 1]);
    }

    #[test]
    fn the_pace_is_ticks_by_time() {
        let now = Instant::now();
        let clock = Clock::between((1000, now), (26_001_000, now + Duration::from_millis(10)));
        assert_eq!(clock.frequency(), 2_600_000_000);
        assert_eq!(Clock::between((5, now), (5, now)).frequency(), NANOSECONDS as u64);
        assert_eq!(Clock::new(7).frequency(), 7);
    }

    #[test]
    fn a_watched_counter_agrees_with_the_kernels_time() {
        let clock = Clock::new(0);
        let (begin, time) = both();
        std::thread::sleep(Duration::from_millis(20));
        let (end, later) = both();
        let (said, passed) = (clock.until(end, begin), later - time);
        let off = said.abs_diff(passed);
        assert!(off < passed / 50, "{said:?} for {passed:?}");
    }
}
