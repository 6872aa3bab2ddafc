//! The log of a VM process: one line per event, `SECONDS LEVEL target: message key=value`, to
//! `vm.log`. Small on purpose: this process has no room for a logging framework.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// A log grown to this is renamed to `NAME.1` when a process starts.
const LIMIT: u64 = 4 << 20;
/// A line is cut off here: a guest must not write the log full by one event.
const LONGEST_LINE: usize = 2048;
/// Bytes one process may write, so that a guest that provokes warnings cannot fill the disk.
const MOST_BYTES: u64 = 16 << 20;

/// Writes events of `level` and above.
pub(super) struct Log {
    file: Mutex<File>,
    level: Level,
    written: AtomicU64,
}

impl Log {
    /// Appends to the file at `path`.
    pub(super) fn open(path: &Path, level: Level) -> std::io::Result<Self> {
        if std::fs::metadata(path).is_ok_and(|m| m.len() > LIMIT) {
            let mut old = PathBuf::from(path).into_os_string();
            old.push(".1");
            std::fs::rename(path, old)?;
        }
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        Ok(Self { file: Mutex::new(file), level, written: AtomicU64::new(0) })
    }

    /// The file, for what is written outside of events.
    pub(super) fn descriptor(&self) -> std::io::Result<std::os::fd::OwnedFd> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(file.try_clone()?.into())
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level && metadata.is_event()
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(self.level.into())
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        // Spans are not enabled; any id does.
        Id::from_u64(1)
    }
    fn record(&self, _span: &Id, _values: &Record<'_>) {}
    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}
    fn enter(&self, _span: &Id) {}
    fn exit(&self, _span: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::with_capacity(128));
        let now =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let metadata = event.metadata();
        // Writing to a string does not fail.
        let _ = write!(
            line.0,
            "{}.{:03} {} {}:",
            now.as_secs(),
            now.subsec_millis(),
            metadata.level(),
            metadata.target()
        );
        event.record(&mut line);
        let mut line = line.0;
        if line.len() > LONGEST_LINE {
            let end = (0..=LONGEST_LINE).rev().find(|at| line.is_char_boundary(*at));
            line.truncate(end.unwrap_or(0));
        }
        line.push('\n');
        let before = self.written.fetch_add(line.len() as u64, Ordering::Relaxed);
        if before < MOST_BYTES {
            let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
            // A log that cannot be written must not stop the guest.
            let _ = file.write_all(line.as_bytes());
        }
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let start = self.0.len();
        let _ = if field.name() == "message" {
            write!(self.0, " {value:?}")
        } else {
            write!(self.0, " {}={value:?}", field.name())
        };
        // One event is one line, whatever a value holds.
        if self.0[start..].contains(['\n', '\r']) {
            let clean = self.0[start..].replace(['\n', '\r'], " ");
            self.0.truncate(start);
            self.0.push_str(&clean);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_bounded_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm.log");
        let log = Log::open(&path, Level::INFO).unwrap();
        tracing::subscriber::with_default(log, || {
            tracing::info!(port = 5, "two\nlines");
            tracing::debug!("not logged");
            tracing::warn!("{}", "x".repeat(10_000));
        });
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].contains(" INFO ") && lines[0].ends_with("two lines port=5"));
        assert_eq!(lines[1].len(), LONGEST_LINE);
    }
}
