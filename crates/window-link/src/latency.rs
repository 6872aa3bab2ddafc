//! When a key on its way to its pixels came past which place in this process: a measuring mode.
//!
//! On only where the log wants the target [`TARGET`] (`MACROHARD_LOG=info,latency=trace`). Off, a place that is
//! passed costs one load of a byte. One key is on its way at a time, from place to place in their order: [`begin`]
//! forgets the one before, and [`end`] writes one line to the log, so that what is measured does not wait for it.

use rustix::time::{ClockId, clock_gettime};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What the log has to want.
pub const TARGET: &str = "latency";

/// A key is on its way.
static RUNS: AtomicBool = AtomicBool::new(false);
static WAY: Mutex<Vec<(&'static str, u64)>> = Mutex::new(Vec::new());

/// Nanoseconds of the clock that all processes of a machine share (`CLOCK_MONOTONIC`).
#[must_use]
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let now = Duration::try_from(now).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// A key comes in at `place`, where anybody wants to know.
pub fn begin(place: &'static str) {
    if tracing::enabled!(target: TARGET, tracing::Level::TRACE) {
        let mut way = WAY.lock().unwrap_or_else(PoisonError::into_inner);
        way.clear();
        way.push((place, now()));
        RUNS.store(true, Ordering::Relaxed);
    }
}

/// Whether a key is on its way.
#[must_use]
pub fn runs() -> bool {
    RUNS.load(Ordering::Relaxed)
}

/// It, or what came of it, is at `place`, after it was at `before`.
pub fn pass(before: &str, place: &'static str) {
    if runs() {
        note(before, place);
    }
}

/// As [`pass`], and it leaves.
pub fn end(before: &str, place: &'static str) {
    if let Some(way) = runs().then(|| note(before, place)).flatten() {
        RUNS.store(false, Ordering::Relaxed);
        let line: Vec<String> = way.iter().map(|(place, at)| format!("{place}={at}")).collect();
        tracing::trace!(target: TARGET, "way {}", line.join(" "));
    }
}

/// The way so far, where it has come to `place` just now.
fn note(before: &str, place: &'static str) -> Option<Vec<(&'static str, u64)>> {
    let mut way = WAY.lock().unwrap_or_else(PoisonError::into_inner);
    let comes = way.last().is_some_and(|(passed, _)| *passed == before);
    comes.then(|| {
        way.push((place, now()));
        way.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::{TARGET, begin, end, pass, runs};
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// The only test here: the way is the whole process's.
    #[test]
    fn a_way_is_one_line_and_without_a_log_that_wants_it_there_is_none() {
        begin("heard");
        assert!(!runs(), "nobody wants to know");

        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(format!("warn,{TARGET}=trace"))
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::callsite::rebuild_interest_cache();
            begin("forgotten");
            begin("heard");
            pass("heard", "injected");
            pass("heard", "injected");
            // What was sent before there was damage is of something else.
            end("damaged", "sent");
            pass("injected", "damaged");
            end("damaged", "sent");
            end("damaged", "sent");
        });
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let (_, line) = text.trim().split_once("way ").unwrap();
        let places: Vec<(&str, u64)> = line
            .split(' ')
            .map(|part| part.split_once('=').unwrap())
            .map(|(place, at)| (place, at.parse().unwrap()))
            .collect();
        let names: Vec<&str> = places.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["heard", "injected", "damaged", "sent"]);
        assert!(places.is_sorted_by_key(|(_, at)| *at), "{line}");
    }
}
