//! The clients of a console: sockets, and for `run` the process's own standard input and output.

use super::control::accept;
use super::stream::{Backlog, Outcome, read_some};
use crate::{Console, MachineError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;

/// Output a slow client may leave lying before it loses the oldest.
const BACKLOG_LIMIT: usize = 256 << 10;
const MOST_CLIENTS: usize = 16;
/// Standard output may be a blocking terminal or pipe: no more than this at once, and only when it
/// is ready, so that the write does not wait (a pipe that is ready takes `PIPE_BUF`, 4096).
const STDOUT_CHUNK: usize = 512;
/// How long the end of the process waits for standard output to take more.
const PATIENCE: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// A console and whoever is attached to it.
pub(super) struct Terminal {
    pub(super) console: Arc<Console>,
    pub(super) listener: UnixListener,
    pub(super) clients: Vec<TerminalClient>,
}

pub(super) struct TerminalClient {
    stream: UnixStream,
    backlog: Backlog,
    /// Typed, but the guest has no room yet.
    waiting: Vec<u8>,
    closed: bool,
}

impl Terminal {
    pub(super) fn new(console: Arc<Console>, path: &Path) -> Result<Self, MachineError> {
        Ok(Self { console, listener: super::control::listen(path)?, clients: Vec::new() })
    }

    /// Someone attaches: shows the end of what was printed, and has the keyboard from now on.
    pub(super) fn accept(&mut self) {
        let Some(stream) = accept(&self.listener) else {
            return;
        };
        if self.clients.len() >= MOST_CLIENTS {
            tracing::warn!(limit = MOST_CLIENTS, "too many console clients");
            return;
        }
        let mut client = TerminalClient {
            stream,
            backlog: Backlog::default(),
            waiting: Vec::new(),
            closed: false,
        };
        client.backlog.push(&self.console.recent());
        client.writable();
        self.clients.push(client);
    }

    /// Spreads what the guest printed.
    pub(super) fn spread(&mut self, output: &[u8]) {
        for client in &mut self.clients {
            client.backlog.push_bounded(output, BACKLOG_LIMIT);
            client.writable();
        }
    }

    /// The guest has room for input again.
    pub(super) fn room(&mut self) {
        if let Some(client) = self.clients.last_mut() {
            client.offer(&self.console);
        }
    }

    /// Client `index` typed or hung up. Only the newest client's keyboard counts.
    pub(super) fn readable(&mut self, index: usize) {
        let newest = index + 1 == self.clients.len();
        if let Some(client) = self.clients.get_mut(index) {
            if read_some(&mut client.stream, &mut client.waiting) == Outcome::Closed {
                client.closed = true;
            }
            if newest {
                client.offer(&self.console);
            } else {
                client.waiting.clear();
            }
        }
    }

    /// Drops clients that hung up.
    pub(super) fn sweep(&mut self) {
        self.clients.retain(|client| !client.closed);
    }
}

impl TerminalClient {
    fn offer(&mut self, console: &Console) {
        let taken = console.offer_input(&self.waiting);
        self.waiting.drain(..taken);
    }

    pub(super) fn writable(&mut self) {
        if self.backlog.flush(&mut self.stream, usize::MAX) == Outcome::Closed {
            self.closed = true;
        }
    }

    pub(super) fn wants_write(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// While the guest takes no input, the client's stays in its socket.
    pub(super) fn wants_read(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl AsFd for TerminalClient {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// The process's own standard input and output as a client of the first console.
pub(super) struct Standard {
    input: Option<File>,
    output: File,
    backlog: Backlog,
    waiting: Vec<u8>,
}

impl Standard {
    /// Takes standard input and output over. `typed` was read already. A terminal is left as it is:
    /// raw mode and the escape key are the caller's.
    pub(super) fn new(typed: Vec<u8>) -> Result<Self, MachineError> {
        let duplicate = |fd: BorrowedFd<'_>| {
            fd.try_clone_to_owned()
                .map(File::from)
                .map_err(|e| MachineError::system("cannot duplicate standard input", e))
        };
        let input = duplicate(std::io::stdin().as_fd())?;
        Ok(Self {
            input: Some(input),
            output: duplicate(std::io::stdout().as_fd())?,
            backlog: Backlog::default(),
            waiting: typed,
        })
    }

    /// The input, while it is wanted.
    pub(super) fn input(&self) -> Option<BorrowedFd<'_>> {
        self.input.as_ref().filter(|_| self.waiting.is_empty()).map(AsFd::as_fd)
    }

    /// The output, while something waits for it.
    pub(super) fn output(&self) -> Option<BorrowedFd<'_>> {
        (!self.backlog.is_empty()).then(|| self.output.as_fd())
    }

    /// Someone types, or the input ended, which ends nothing else.
    pub(super) fn readable(&mut self, console: &Console) {
        let Some(input) = &mut self.input else {
            return;
        };
        if read_some(input, &mut self.waiting) == Outcome::Closed {
            self.input = None;
        }
        self.offer(console);
    }

    pub(super) fn offer(&mut self, console: &Console) {
        let taken = console.offer_input(&self.waiting);
        self.waiting.drain(..taken);
    }

    /// Output of the guest. Unlike a socket's client, standard output loses nothing while the
    /// machine runs slower than it; a stopped terminal loses the oldest.
    pub(super) fn push(&mut self, output: &[u8]) {
        self.backlog.push_bounded(output, 16 * BACKLOG_LIMIT);
    }

    pub(super) fn writable(&mut self) {
        if self.backlog.flush(&mut self.output, STDOUT_CHUNK) == Outcome::Closed {
            self.backlog = Backlog::default();
        }
    }

    /// Writes the rest; a reader that takes nothing for a while loses it.
    pub(super) fn finish(&mut self) {
        while !self.backlog.is_empty() {
            let mut wait = [PollFd::new(&self.output, PollFlags::OUT)];
            match poll(&mut wait, Some(&PATIENCE)) {
                Ok(0) => return,
                Ok(_) | Err(rustix::io::Errno::INTR) => self.writable(),
                Err(_) => return,
            }
        }
    }
}
