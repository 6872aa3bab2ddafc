//! What a run of all tests counts and says at its end.
//!
//! A run takes most of an hour, and its reader may have only its last lines: what failed, and why, is said
//! once more there. A whole machine under emulation, or a test that waits for other programs, may fail on
//! a machine that is busy with something else; what fails is therefore run once more by itself. When it
//! fails again it has failed. When it passes it is called unstable, which is a fault to mend too, but
//! not one of the change that is being tested.

use crate::failure::Result;
use std::time::{Duration, Instant};

/// How long a run may have taken when something is still run a second time.
const PATIENCE: Duration = Duration::from_secs(3900);

/// Tests by how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) skipped: u64,
}

impl Count {
    pub(super) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Report {
    count: Count,
    /// Name and reason.
    failed: Vec<(String, String)>,
    /// Name and why it failed at first.
    unstable: Vec<(String, String)>,
    start: Instant,
}

impl Report {
    pub(super) fn new() -> Self {
        Self {
            count: Count::default(),
            failed: Vec::new(),
            unstable: Vec::new(),
            start: Instant::now(),
        }
    }

    /// One test that is a whole step.
    pub(super) fn check(&mut self, name: &str, work: impl FnOnce() -> Result) {
        let start = Instant::now();
        match work() {
            Ok(()) => self.passed(name, start.elapsed()),
            Err(failure) => {
                println!("FAILED  {name}: {failure}");
                self.failed(name, failure.to_string());
                self.count.failed += 1;
            }
        }
    }

    /// One test with a whole machine, which is run once more when it fails.
    pub(super) fn check_machine(&mut self, name: &str, work: impl Fn() -> Result) {
        let start = Instant::now();
        let result = work();
        self.ended(name, result, start.elapsed(), work);
    }

    /// As [`Self::check_machine`], with the first try made already.
    pub(super) fn ended(
        &mut self,
        name: &str,
        result: Result,
        took: Duration,
        again: impl FnOnce() -> Result,
    ) {
        match result {
            Ok(()) => self.passed(name, took),
            Err(failure) if self.may_repeat() => {
                println!("AGAIN   {name}: {failure}");
                let failures = self.count.failed;
                self.check(name, again);
                if self.count.failed == failures {
                    self.unstable(name, failure.to_string());
                }
            }
            Err(failure) => self.check(name, || Err(failure)),
        }
    }

    /// Tests that were counted elsewhere.
    pub(super) fn add(&mut self, count: Count) {
        self.count.add(count);
    }

    pub(super) fn skip(&mut self, name: &str, why: &str) {
        println!("SKIPPED {name}: {why}");
        self.count.skipped += 1;
    }

    /// Keeps the reason of a failure that is counted by the caller.
    pub(super) fn failed(&mut self, name: &str, why: String) {
        self.failed.push((name.to_owned(), why));
    }

    /// Keeps what failed at first and then passed.
    pub(super) fn unstable(&mut self, name: &str, why: String) {
        self.unstable.push((name.to_owned(), why));
    }

    /// Whether there is time for another try.
    pub(super) fn may_repeat(&self) -> bool {
        self.start.elapsed() < PATIENCE
    }

    fn passed(&mut self, name: &str, took: Duration) {
        self.count.passed += 1;
        println!("ok      {name} ({} s)", took.as_secs());
    }

    /// Prints the closing lines; whether nothing failed.
    pub(super) fn close(&self) -> bool {
        for (name, why) in &self.unstable {
            println!("UNSTABLE {name}: passed when run once more; at first: {why}");
        }
        for (name, why) in &self.failed {
            println!("FAILED  {name}: {why}");
        }
        let Count { passed, failed, skipped } = self.count;
        println!("{passed} passed, {failed} failed, {skipped} skipped");
        failed == 0
    }
}

#[cfg(test)]
mod tests {
    use super::{Count, Report};
    use crate::failure::Failure;
    use std::cell::Cell;

    #[test]
    fn what_fails_twice_has_failed_and_what_passes_then_is_unstable() {
        let mut report = Report::new();
        report.check_machine("good", || Ok(()));
        report.check_machine("bad", || Err(Failure::new("broken".to_owned())));
        let tries = Cell::new(0);
        report.check_machine("sometimes", || {
            tries.set(tries.get() + 1);
            if tries.get() == 1 { Err(Failure::new("busy".to_owned())) } else { Ok(()) }
        });
        assert_eq!(report.count, Count { passed: 2, failed: 1, skipped: 0 });
        assert_eq!(report.failed, [("bad".to_owned(), "broken".to_owned())]);
        assert_eq!(report.unstable, [("sometimes".to_owned(), "busy".to_owned())]);
        assert!(!report.close());
    }

    #[test]
    fn a_step_without_a_machine_has_one_try() {
        let mut report = Report::new();
        let mut tries = 0;
        report.check("formatting", || {
            tries += 1;
            Err(Failure::new("not formatted".to_owned()))
        });
        assert_eq!((tries, report.count.failed), (1, 1));
    }
}
