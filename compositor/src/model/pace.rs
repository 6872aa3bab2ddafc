//! How fast a guest may have windows opened: each costs the desktop more than the guest.

use std::time::Duration;

/// Windows that may be opened at once after a while without.
const BURST: u32 = 100;
/// Until one more may be.
pub(super) const INTERVAL: Duration = Duration::from_millis(50);

/// Windows that may be opened now.
#[derive(Debug)]
pub(super) struct Openings {
    left: u32,
    /// Since the last one was added.
    passed: Duration,
}

impl Default for Openings {
    fn default() -> Self {
        Self { left: BURST, passed: Duration::ZERO }
    }
}

impl Openings {
    /// So much time has passed.
    pub(super) fn pass(&mut self, time: Duration) {
        self.passed = self.passed.saturating_add(time).min(INTERVAL * BURST);
        while self.passed >= INTERVAL {
            self.passed -= INTERVAL;
            self.left = (self.left + 1).min(BURST);
        }
    }

    /// One is opened; false where it has to wait.
    pub(super) fn take(&mut self) -> bool {
        let any = self.left > 0;
        self.left = self.left.saturating_sub(1);
        any
    }
}
