//! The control socket: JSON lines, several clients, answered in order. Only the user who runs the
//! VM (and root) is heard.

use super::requests::{ClientId, Requests};
use super::stream::{Backlog, Outcome, read_some};
use crate::{EndingSlot, LifeCycle, MachineError};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use units::Bytes;
use vm_control::{Ending, LaunchSpec, Reply, Request, Status};

/// A request is a short document.
const LONGEST_REQUEST: usize = 64 << 10;
/// A client that lets this much of its answers wait is dropped.
const BACKLOG_LIMIT: usize = 2 * vm_control::MAX_LINE;
/// Clients at once; the daemon keeps one.
const MOST_CLIENTS: usize = 32;

/// What the requests are about.
pub(super) struct Subject {
    pub(super) life: LifeCycle,
    pub(super) ending: Arc<EndingSlot>,
    pub(super) spec: LaunchSpec,
    pub(super) started: Instant,
}

/// A client of the control socket.
pub(super) struct ControlClient {
    pub(super) id: ClientId,
    stream: UnixStream,
    line: Vec<u8>,
    replies: Backlog,
    /// A request of it is under way; those behind it wait, for answers come in order.
    waiting: bool,
    closed: bool,
}

/// Listens at `path`, which nobody but the owner can connect to.
pub(super) fn listen(path: &Path) -> Result<UnixListener, MachineError> {
    let failed = |e| MachineError::file("cannot listen at", path, e);
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// The next client waiting at `listener`, if it is the user's own.
pub(super) fn accept(listener: &UnixListener) -> Option<UnixStream> {
    let (stream, _) = listener.accept().ok()?;
    let peer = rustix::net::sockopt::socket_peercred(&stream).ok()?;
    let own = rustix::process::geteuid();
    if peer.uid != own && !peer.uid.is_root() {
        tracing::warn!(uid = peer.uid.as_raw(), "a client of another user was turned away");
        return None;
    }
    stream.set_nonblocking(true).ok()?;
    Some(stream)
}

impl ControlClient {
    /// The next client waiting, unless there are too many.
    pub(super) fn accept(listener: &UnixListener, present: usize, id: ClientId) -> Option<Self> {
        let stream = accept(listener)?;
        if present >= MOST_CLIENTS {
            tracing::warn!(limit = MOST_CLIENTS, "too many control clients");
            return None;
        }
        Some(Self {
            id,
            stream,
            line: Vec::new(),
            replies: Backlog::default(),
            waiting: false,
            closed: false,
        })
    }

    /// Whether it is to be dropped.
    pub(super) fn finished(&self) -> bool {
        self.closed && self.replies.is_empty() && !self.waiting
    }

    /// Whether answers wait to be written.
    pub(super) fn wants_write(&self) -> bool {
        !self.replies.is_empty()
    }

    /// Whether requests are read: not while the client leaves its answers lying, nor any number
    /// behind one that is under way.
    pub(super) fn wants_read(&self) -> bool {
        let room = !self.waiting || self.line.len() <= LONGEST_REQUEST;
        !self.closed && self.replies.is_empty() && room
    }

    /// Reads requests and answers them, or has them begun.
    pub(super) fn readable(&mut self, requests: &mut Requests) {
        if read_some(&mut self.stream, &mut self.line) == Outcome::Closed {
            self.closed = true;
        }
        self.go_on(requests);
    }

    /// The answer to the request that was under way.
    pub(super) fn answered(&mut self, reply: &Reply, requests: &mut Requests) {
        if std::mem::take(&mut self.waiting) {
            self.answer(reply, None);
            self.go_on(requests);
        }
    }

    /// Takes the requests that were read, up to one that takes time.
    fn go_on(&mut self, requests: &mut Requests) {
        while let Some(end) = self.line.iter().position(|b| *b == b'\n') {
            let request = request(&self.line[..end]);
            if self.waiting {
                // Nothing but the end of the VM is done before the one under way is.
                if !matches!(request, Ok(Request::Quit)) {
                    break;
                }
                self.waiting = false;
                let message = "the VM was ended before this was done".to_owned();
                self.answer(&Reply::Refused { message }, None);
            }
            self.line.drain(..=end);
            match request.map(|request| requests.begin(self.id, request)) {
                Ok(Some(reply)) => self.answer(&reply, requests.beside(&reply)),
                Err(reply) => self.answer(&reply, None),
                Ok(None) => self.waiting = true,
            }
        }
        if self.line.len() > LONGEST_REQUEST && !self.line.contains(&b'\n') {
            let message = format!("a request is longer than {LONGEST_REQUEST} bytes");
            self.answer(&Reply::Refused { message }, None);
            self.line.clear();
            self.closed = true;
        }
        self.writable();
    }

    /// A line with a file beside it, which cannot wait: a client that leaves its answers lying is let go.
    fn send(&mut self, line: &[u8], file: BorrowedFd<'_>) {
        self.writable();
        if !self.replies.is_empty() || passing::send(&self.stream, line, &[file]).is_err() {
            self.replies = Backlog::default();
            self.closed = true;
        }
    }

    fn answer(&mut self, reply: &Reply, beside: Option<BorrowedFd<'_>>) {
        match serde_json::to_vec(reply) {
            Ok(mut line) => {
                line.push(b'\n');
                match beside {
                    Some(file) => self.send(&line, file),
                    None => self.replies.push(&line),
                }
            }
            Err(error) => tracing::error!(%error, "a reply cannot be encoded"),
        }
        if self.replies.len() > BACKLOG_LIMIT {
            self.replies = Backlog::default();
            self.closed = true;
        }
    }

    /// Writes answers.
    pub(super) fn writable(&mut self) {
        if self.replies.flush(&mut self.stream, usize::MAX) == Outcome::Closed {
            self.replies = Backlog::default();
            self.closed = true;
        }
    }
}

impl AsFd for ControlClient {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// The request a line holds, or the answer to one that holds none.
fn request(line: &[u8]) -> Result<Request, Reply> {
    serde_json::from_slice(line).map_err(|error| Reply::Refused {
        message: format!(
            "the request is not understood ({error}); this process speaks version {}",
            vm_control::VERSION
        ),
    })
}

impl Subject {
    pub(super) fn handle(&self, request: &Request) -> Reply {
        let done = match request {
            Request::Status => return Reply::Status(self.status()),
            Request::Statistics => return self.statistics(),
            Request::Inspect => return self.inspect(),
            Request::WindowMemory => return self.window_memory(),
            Request::Pause => self.life.pause(),
            Request::Resume => self.life.resume(),
            Request::Reset => self.life.reset(),
            Request::PowerButton => self.life.press_power_button(),
            Request::Quit => {
                self.ending.end(Ending::Stopped);
                Ok(())
            }
            Request::Balloon { target } => match target.checked_mul(1 << 20) {
                Some(bytes) => self.life.set_balloon(Bytes(bytes)),
                None => Err(MachineError::Definition {
                    field: "balloon target".into(),
                    value: format!("{target} MiB"),
                    reason: format!("the VM has {} MiB", self.spec.definition.memory),
                }),
            },
        };
        match done {
            Ok(()) => {
                tracing::info!(?request, "done");
                Reply::Done
            }
            Err(error) => refused(&error),
        }
    }

    fn status(&self) -> Status {
        Status {
            version: vm_control::VERSION,
            name: self.spec.definition.name.clone(),
            phase: self.life.phase(),
            engine: self.life.machine().engine().to_owned(),
            pid: std::process::id(),
            uptime: self.started.elapsed().as_secs(),
            memory: self.spec.definition.memory,
            cpus: self.spec.definition.cpus,
        }
    }

    fn statistics(&self) -> Reply {
        match self.life.machine().statistics() {
            Ok(mut statistics) => {
                statistics.overhead += super::overhead::kib();
                Reply::Statistics(statistics)
            }
            Err(error) => refused(&error),
        }
    }

    fn window_memory(&self) -> Reply {
        let machine = self.life.machine();
        match machine.window_memory() {
            Some(part) => Reply::WindowMemory { offset: part.offset, length: part.length.0 },
            None => refused(&MachineError::Absent("window memory")),
        }
    }

    fn inspect(&self) -> Reply {
        match self.life.machine().inspect() {
            Ok(tree) => Reply::Inspect { tree },
            Err(error) => refused(&error),
        }
    }
}

fn refused(error: &MachineError) -> Reply {
    Reply::Refused { message: error.to_string() }
}
