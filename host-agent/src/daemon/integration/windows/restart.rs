//! When another compositor may be started after some have died.

use std::time::{Duration, Instant};

/// A compositor that lived so long did not die of its start or of what its guest does.
const LONG: Duration = Duration::from_secs(60);
/// Pause after the second that died soon; doubled with each further one.
const FIRST: Duration = Duration::from_millis(250);
/// Longest pause.
const LONGEST: Duration = Duration::from_secs(30);

/// Those that have died one soon after the other.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    soon: u32,
    not_before: Option<Instant>,
}

impl Restarts {
    /// One that was started at `started` has died.
    pub(super) fn note(&mut self, now: Instant, started: Instant) {
        if now.saturating_duration_since(started) >= LONG {
            *self = Self::default();
            return;
        }
        // The first may be anything, such as a person who ended it.
        let doubled =
            self.soon.checked_sub(1).map(|times| FIRST.saturating_mul(1 << times.min(16)));
        self.soon = self.soon.saturating_add(1);
        self.not_before = doubled.and_then(|pause| now.checked_add(pause.min(LONGEST)));
    }

    /// How long the next one is to wait yet; none when it need not.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        let left = self.not_before?.saturating_duration_since(now);
        (left > Duration::ZERO).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_die_soon_are_followed_later_and_later() {
        let begin = Instant::now();
        let mut restarts = Restarts::default();
        assert_eq!(restarts.wait(begin), None);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            restarts.note(begin, begin);
            pauses.push(restarts.wait(begin).unwrap_or_default());
        }
        assert_eq!(pauses[..4], [0, 250, 500, 1000].map(Duration::from_millis));
        assert_eq!(pauses[11], LONGEST);
        assert_eq!(restarts.wait(begin + LONGEST), None);
    }

    #[test]
    fn one_that_lived_long_starts_the_count_anew() {
        let begin = Instant::now();
        let mut restarts = Restarts::default();
        for _ in 0..5 {
            restarts.note(begin, begin);
        }
        restarts.note(begin + LONG, begin);
        assert_eq!(restarts.wait(begin + LONG), None);
    }
}
