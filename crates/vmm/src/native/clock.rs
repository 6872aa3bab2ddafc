//! The machine's time: nanoseconds since it started, standing still while it is paused.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// See the module.
pub(super) struct Clock {
    state: Mutex<State>,
}

enum State {
    /// Runs: machine time is `elapsed` since then.
    Running { since: Instant, before: Duration },
    /// Stands still at this time.
    Stopped(Duration),
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock {
    /// A clock that stands at zero.
    pub(super) fn new() -> Self {
        Self { state: Mutex::new(State::Stopped(Duration::ZERO)) }
    }

    /// Lets it run.
    pub(super) fn run(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Stopped(before) = *state {
            *state = State::Running { since: Instant::now(), before };
        }
    }

    /// Stops it.
    pub(super) fn stop(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = State::Stopped(state.elapsed());
    }

    /// Nanoseconds since the machine started.
    pub(super) fn now(&self) -> u64 {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // 2^64 ns are 584 years.
        state.elapsed().as_nanos() as u64
    }

    /// When (host time) machine time `at` will come, `None` while it stands still.
    pub(super) fn instant(&self, at: u64) -> Option<Instant> {
        match *self.state.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Running { since, before } => {
                since.checked_add(Duration::from_nanos(at).saturating_sub(before))
            }
            State::Stopped(_) => None,
        }
    }
}

impl State {
    fn elapsed(&self) -> Duration {
        match *self {
            Self::Running { since, before } => before + since.elapsed(),
            Self::Stopped(at) => at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_clock_stands_still_and_goes_on_where_it_stood() {
        let clock = Clock::new();
        assert_eq!(clock.now(), 0);
        assert_eq!(clock.instant(5), None);
        clock.run();
        while clock.now() == 0 {
            std::hint::spin_loop();
        }
        clock.stop();
        let stood = clock.now();
        assert_eq!(clock.now(), stood);
        clock.run();
        assert!(clock.now() >= stood);
        assert!(clock.instant(u64::MAX).is_some());
    }
}
