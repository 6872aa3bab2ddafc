//! Lines in the log about what a guest can do again and again: a flood of it is not one of lines.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines within `WINDOW`.
const MOST: u64 = 30;
const WINDOW: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    since: Option<Instant>,
    lines: u64,
    kept: u64,
}

impl Seldom {
    /// Nothing was written yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(State { since: None, lines: 0, kept: 0 }))
    }

    /// Whether a line may be written now, of which there are 30 in a minute; how many were kept back since the
    /// last.
    pub fn due(&self) -> Option<u64> {
        self.due_at(Instant::now())
    }

    fn due_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.since.is_none_or(|since| now.duration_since(since) >= WINDOW) {
            (state.since, state.lines) = (Some(now), 0);
        }
        if state.lines >= MOST {
            state.kept += 1;
            return None;
        }
        state.lines += 1;
        Some(std::mem::take(&mut state.kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_some_lines_and_a_count() {
        let (seldom, start) = (Seldom::default(), Instant::now());
        let due = (0..10_000).filter(|_| seldom.due_at(start).is_some()).count();
        assert_eq!(due as u64, MOST);
        assert_eq!(seldom.due_at(start + WINDOW), Some(10_000 - MOST));
        assert_eq!(seldom.due_at(start + WINDOW), Some(0));
    }
}
