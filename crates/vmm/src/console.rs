//! One console of the guest: what it prints goes to a log, to every client of a socket and, for
//! `run`, to standard output; what the newest client types goes to the guest.
//!
//! [`Console`] is the guest's side, called by device threads; it never waits for a client. The
//! process's loop owns the clients, fetches output with [`Console::drain`] and
//! brings input with [`Console::offer_input`].

use crate::MachineError;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Input the guest has not taken yet; what a client types beyond it waits in the client's socket.
const INPUT_LIMIT: usize = 4096;
/// Output waiting for the loop; beyond it the guest's thread writes the log itself and clients
/// lose the oldest part.
const PENDING_LIMIT: usize = 256 << 10;
/// What a new client is shown of the past, enough for a prompt.
const RECENT_LIMIT: usize = 2048;
/// The log is renamed to `NAME.1` when it has grown to this.
const LOG_LIMIT: u64 = 8 << 20;

/// Called when input came for a guest that had none.
type Wake = Box<dyn Fn() + Send>;

/// See the module.
pub struct Console {
    state: Mutex<State>,
    work: EventFd,
}

struct State {
    pending: Vec<u8>,
    /// How much of `pending` is in the log already.
    logged: usize,
    recent: VecDeque<u8>,
    input: VecDeque<u8>,
    /// A client was told to wait for room.
    refused: bool,
    wake: Option<Wake>,
    log: Log,
}

/// What [`Console::drain`] found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Output since the last call.
    pub output: Vec<u8>,
    /// Clients that were refused input may offer it again.
    pub room: bool,
}

impl Console {
    /// A console that logs to `log`, which is appended to.
    ///
    /// # Errors
    /// The log cannot be opened, or there are no descriptors left.
    pub fn new(log: &Path) -> Result<Self, MachineError> {
        Ok(Self {
            state: Mutex::new(State {
                pending: Vec::new(),
                logged: 0,
                recent: VecDeque::new(),
                input: VecDeque::new(),
                refused: false,
                wake: None,
                log: Log::open(log, LOG_LIMIT)
                    .map_err(|e| MachineError::file("cannot open console log", log, e))?,
            }),
            work: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)
                .map_err(|e| MachineError::system("cannot make an event descriptor", e))?,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest prints. Never waits for a client.
    pub fn output(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut state = self.state();
        let was_empty = state.pending.is_empty();
        if state.pending.len() + bytes.len() > PENDING_LIMIT {
            state.write_log();
            let excess = (state.pending.len() + bytes.len() - PENDING_LIMIT)
                .max(PENDING_LIMIT / 2)
                .min(state.pending.len());
            state.pending.drain(..excess);
            state.logged -= excess;
        }
        state.pending.extend_from_slice(bytes);
        drop(state);
        if was_empty {
            self.signal();
        }
    }

    /// The guest takes up to `most` bytes of input; the rest keeps waiting.
    pub fn take_input(&self, most: usize) -> Vec<u8> {
        let mut state = self.state();
        let count = most.min(state.input.len());
        let taken = state.input.drain(..count).collect();
        if count > 0 && std::mem::take(&mut state.refused) {
            drop(state);
            self.signal();
        }
        taken
    }

    /// Sets what is called when input has come. It must not call back into this console; it may
    /// signal a thread that does.
    pub fn on_input(&self, wake: impl Fn() + Send + 'static) {
        let mut state = self.state();
        if !state.input.is_empty() {
            wake();
        }
        state.wake = Some(Box::new(wake));
    }

    /// A client types: takes what fits and says how much that was.
    pub fn offer_input(&self, bytes: &[u8]) -> usize {
        let mut state = self.state();
        let count = bytes.len().min(INPUT_LIMIT - state.input.len());
        state.input.extend(&bytes[..count]);
        state.refused |= count < bytes.len();
        if count > 0
            && let Some(wake) = &state.wake
        {
            wake();
        }
        count
    }

    /// For the loop, when [`Self::as_fd`] is readable: fetches the output and writes the log.
    pub fn drain(&self) -> Drained {
        // Not readable is no error: the caller may come without being called.
        let _ = self.work.read();
        let mut state = self.state();
        state.write_log();
        state.logged = 0;
        let output = std::mem::take(&mut state.pending);
        let keep = output.len().min(RECENT_LIMIT);
        let drop_old = (state.recent.len() + keep).saturating_sub(RECENT_LIMIT);
        state.recent.drain(..drop_old);
        state.recent.extend(&output[output.len() - keep..]);
        Drained { output, room: !state.refused }
    }

    /// The last of what was drained, for a new client.
    pub fn recent(&self) -> Vec<u8> {
        self.state().recent.iter().copied().collect()
    }

    fn signal(&self) {
        // Full only after 2^64 - 2 signals.
        let _ = self.work.write(1);
    }
}

impl AsFd for Console {
    /// Readable when [`Console::drain`] has something.
    fn as_fd(&self) -> BorrowedFd<'_> {
        crate::descriptor::borrow(&self.work)
    }
}

impl State {
    fn write_log(&mut self) {
        if self.logged < self.pending.len() {
            self.log.append(&self.pending[self.logged..]);
            self.logged = self.pending.len();
        }
    }
}

/// The log of a console: bounded by renaming it to `NAME.1`.
struct Log {
    path: PathBuf,
    file: File,
    length: u64,
    limit: u64,
    broken: bool,
}

impl Log {
    fn open(path: &Path, limit: u64) -> std::io::Result<Self> {
        let file = Self::file(path)?;
        let length = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, length, limit, broken: false })
    }

    fn file(path: &Path) -> std::io::Result<File> {
        OpenOptions::new().append(true).create(true).mode(0o600).open(path)
    }

    /// A log that cannot be written (disk full) must not stop the guest: said once, then tried
    /// again with every write.
    fn append(&mut self, bytes: &[u8]) {
        let result = self.rotate().and_then(|()| self.file.write_all(bytes));
        match result {
            Ok(()) => {
                self.length += bytes.len() as u64;
                self.broken = false;
            }
            Err(error) if !self.broken => {
                tracing::warn!(path = %self.path.display(), %error, "console log cannot be written");
                self.broken = true;
            }
            Err(_) => {}
        }
    }

    fn rotate(&mut self) -> std::io::Result<()> {
        if self.length < self.limit {
            return Ok(());
        }
        let mut old = self.path.clone().into_os_string();
        old.push(".1");
        std::fs::rename(&self.path, old)?;
        self.file = Self::file(&self.path)?;
        self.length = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    fn console() -> (tempfile::TempDir, Console) {
        let dir = tempfile::tempdir().unwrap();
        let console = Console::new(&dir.path().join("console.log")).unwrap();
        (dir, console)
    }

    #[test]
    fn output_reaches_the_log_and_the_loop_once() {
        let (dir, console) = console();
        console.output(b"hello ");
        console.output(b"world");
        assert_eq!(console.drain().output, b"hello world");
        assert_eq!(console.drain().output, b"");
        assert_eq!(console.recent(), b"hello world");
        let log = std::fs::read(dir.path().join("console.log")).unwrap();
        assert_eq!(log, b"hello world");
    }

    #[test]
    fn a_flood_nobody_drains_is_logged_whole_and_bounded_in_memory() {
        let (dir, console) = console();
        let chunk = vec![b'x'; 10_000];
        for _ in 0..100 {
            console.output(&chunk);
        }
        let drained = console.drain().output;
        assert!(drained.len() <= PENDING_LIMIT);
        let log = std::fs::metadata(dir.path().join("console.log")).unwrap();
        assert_eq!(log.len(), 1_000_000);
    }

    #[test]
    fn input_beyond_the_limit_waits_with_the_client() {
        let (_dir, console) = console();
        let woken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&woken);
        console.on_input(move || {
            count.fetch_add(1, Relaxed);
        });
        assert_eq!(console.offer_input(&[b'a'; 5000]), INPUT_LIMIT);
        assert_eq!(woken.load(Relaxed), 1);
        assert_eq!(console.offer_input(b"b"), 0);
        assert!(!console.drain().room);
        assert_eq!(console.take_input(16), [b'a'; 16]);
        assert!(console.drain().room);
        assert_eq!(console.offer_input(b"b"), 1);
    }

    #[test]
    fn a_log_that_has_grown_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::open(&path, 10).unwrap();
        log.append(b"0123456789");
        log.append(b"next");
        assert_eq!(std::fs::read(&path).unwrap(), b"next");
        assert_eq!(std::fs::read(dir.path().join("log.1")).unwrap(), b"0123456789");
    }
}
