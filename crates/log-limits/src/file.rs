//! Log files: when one is full it becomes `NAME.1`, in place of the one before, and a new one is begun.

use rustix::fs::{FileType, fstat, stat};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Bytes of a full one.
const FULL: u64 = 4 << 20;
/// Bytes written between two looks at the size.
const LOOK: u64 = 64 << 10;

/// Opens a log for adding to it, for its owner alone. One that is full (4 MiB) is begun anew.
///
/// # Errors
/// It cannot be opened, or the full one not be renamed.
pub fn open(path: &Path) -> io::Result<File> {
    open_within(path, FULL)
}

fn old(path: &Path) -> PathBuf {
    let mut old = path.as_os_str().to_owned();
    old.push(".1");
    old.into()
}

fn open_within(path: &Path, full: u64) -> io::Result<File> {
    match std::fs::metadata(path) {
        Ok(facts) if facts.is_file() && facts.len() >= full => {
            std::fs::rename(path, old(path))?;
        }
        _ => {}
    }
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Standard error of a process that lives long, which may be the log file at a path: then it is begun anew when
/// it is full. All that writes to standard error follows, messages of a panic included.
#[derive(Debug)]
pub struct StandardError {
    path: PathBuf,
    full: u64,
    since_look: AtomicU64,
    turn: Mutex<()>,
}

impl StandardError {
    /// Of a process whose standard error may be the file at `path`.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, full: FULL, since_look: AtomicU64::new(0), turn: Mutex::default() }
    }

    /// Of a process that was given a file as standard error, whichever it is. One that may not open files goes on
    /// as it is.
    #[must_use]
    pub fn as_given() -> Self {
        Self::new(std::fs::read_link("/proc/self/fd/2").unwrap_or_default())
    }

    /// Looks whether it is full.
    fn wrote(&self, bytes: usize) {
        let written = self.since_look.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        if written < LOOK.min(self.full) {
            return;
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.since_look.store(0, Ordering::Relaxed);
        // A log that cannot be begun anew goes on as it is.
        let _ = self.begin_anew_if_full(rustix::stdio::stderr(), |file| {
            rustix::stdio::dup2_stderr(file).map_err(Into::into)
        });
    }

    fn begin_anew_if_full(
        &self,
        now: impl std::os::fd::AsFd,
        replace: impl FnOnce(&File) -> io::Result<()>,
    ) -> io::Result<()> {
        let open = fstat(now)?;
        let is_file = FileType::from_raw_mode(open.st_mode) == FileType::RegularFile;
        let is = |path: &Path| {
            stat(path).is_ok_and(|it| (it.st_dev, it.st_ino) == (open.st_dev, open.st_ino))
        };
        let full = is(&self.path) && open.st_size as u64 >= self.full;
        // Under systemd it is the journal, and in a terminal the terminal. A client that was about to start
        // another daemon may have begun the log anew.
        if is_file && (full || is(&old(&self.path))) {
            replace(&open_within(&self.path, self.full)?)?;
        }
        Ok(())
    }
}

/// For a subscriber of events.
#[derive(Debug)]
pub struct Writer<'a>(&'a StandardError);

impl Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = io::stderr().write(bytes)?;
        self.0.wrote(count);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for StandardError {
    type Writer = Writer<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Writer(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_is_begun_anew_and_one_old_one_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shares.log");
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        for text in ["first ", "second", "third ", "fourth"] {
            open_within(&path, 10).unwrap().write_all(text.as_bytes()).unwrap();
        }
        assert_eq!(
            (read("shares.log"), read("shares.log.1")),
            ("third fourth".into(), "first second".into())
        );
        open_within(&path, 10).unwrap();
        assert_eq!(
            (read("shares.log"), read("shares.log.1")),
            (String::new(), "third fourth".into())
        );
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_process_goes_on_in_the_new_file_and_leaves_what_is_no_log_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("daemon.log");
        let log = StandardError { full: 10, ..StandardError::new(path.clone()) };
        let mut now = open_within(&path, 10).unwrap();
        let mut replaced = None;
        for _ in 0..3 {
            now.write_all(b"12345").unwrap();
            log.begin_anew_if_full(&now, |file| {
                replaced = Some(file.try_clone()?);
                Ok(())
            })
            .unwrap();
            if let Some(new) = replaced.take() {
                now = new;
            }
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "12345");
        assert_eq!(std::fs::metadata(folder.path().join("daemon.log.1")).unwrap().len(), 10);
        // One that somebody else has begun anew.
        let old = File::options().append(true).open(old(&path)).unwrap();
        log.begin_anew_if_full(&old, |file| file.try_clone()?.write_all(b"678")).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "12345678");
        // Another file, however long.
        let mut other = File::create(folder.path().join("other")).unwrap();
        other.write_all(&[b'x'; 100]).unwrap();
        log.begin_anew_if_full(&other, |_| panic!("not the log")).unwrap();
        let (pipe, _end) = rustix::pipe::pipe().unwrap();
        log.begin_anew_if_full(&pipe, |_| panic!("not the log")).unwrap();
    }
}
