//! The thread that wakes devices when their time comes, and does what devices may not do under
//! their own lock (pushing console input).

use super::clock::Clock;
use chipset::Device;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

/// A device as the buses share it.
pub(super) type SharedDevice = Arc<Mutex<dyn Device>>;

/// Something to do after a [`Timers::wake`].
pub(super) type Chore = Box<dyn Fn() + Send>;

pub(super) struct Timers {
    clock: Arc<Clock>,
    /// The machine time the thread waits for; `u64::MAX` for none.
    armed: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    woken: bool,
    quit: bool,
}

impl Timers {
    pub(super) fn new(clock: Arc<Clock>) -> Self {
        Self {
            clock,
            armed: AtomicU64::new(0),
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
        }
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// A device's deadline may have become `deadline`.
    pub(super) fn consider(&self, deadline: Option<u64>) {
        if deadline.is_some_and(|at| at < self.armed.load(Ordering::Acquire)) {
            self.wake();
        }
    }

    /// Makes the thread look at every device and do its chores.
    pub(super) fn wake(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).woken = true;
        self.changed.notify_one();
    }

    /// Ends the thread.
    pub(super) fn quit(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).quit = true;
        self.changed.notify_one();
    }

    /// The thread's body.
    pub(super) fn run(&self, devices: &[SharedDevice], chores: &[Chore]) {
        loop {
            // From here on a changed deadline wakes us.
            self.armed.store(u64::MAX, Ordering::Release);
            for chore in chores {
                chore();
            }
            let now = self.clock.now();
            let next = devices.iter().filter_map(|d| advance(d, now)).min();
            self.armed.store(next.unwrap_or(u64::MAX), Ordering::Release);
            if !self.wait(next.and_then(|at| self.clock.instant(at))) {
                return;
            }
        }
    }

    /// False when the thread is to end.
    fn wait(&self, until: Option<Instant>) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if state.quit {
                return false;
            }
            if std::mem::take(&mut state.woken) {
                return true;
            }
            state = match until {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return true;
                    }
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

/// Tells the device the time; answers its next deadline.
fn advance(device: &SharedDevice, now: u64) -> Option<u64> {
    let mut device = device.lock().unwrap_or_else(PoisonError::into_inner);
    let timed = device.timed()?;
    timed.advance(now);
    timed.deadline()
}
