//! Takes the guest's connections, hears for which user each is, and serves each on a thread of its own;
//! answers whoever started the process.

use crate::MOST_CONNECTIONS;
use crate::connection::{self, Counters};
use crate::control::{Reply, Request};
use crate::launch::Spec;
use agent_link::{Direction, Role, Token, admit, receive};
use plan9::{Guard, Names, Options, Owner, most_handles};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

/// Connections at once that have not proven themselves.
const MOST_STRANGERS: usize = 8;
/// The longest question.
const MOST_QUESTION: u64 = 64 << 10;
/// Refusals are logged one in this time, with how many there were.
const LOG_PAUSE: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(crate) struct Server {
    vm: String,
    tag: String,
    token: Token,
    folder: OwnedFd,
    read_only: bool,
    only: Option<Names>,
    connections: AtomicUsize,
    counters: Arc<Counters>,
    quiet: Mutex<Quiet>,
}

/// When a refusal was logged last, and how many were not since.
#[derive(Debug, Default)]
struct Quiet {
    last: Option<Instant>,
    passed_over: u64,
}

/// One more or fewer connection.
struct Counted(Arc<Server>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Server {
    pub(crate) fn new(spec: Spec, folder: OwnedFd) -> io::Result<Self> {
        let token = spec.token.parse().map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidInput, "the token is not one of an agent")
        })?;
        Ok(Self {
            vm: spec.vm,
            tag: spec.tag,
            token,
            folder,
            read_only: spec.read_only,
            only: spec.only.map(Names::new),
            connections: AtomicUsize::new(0),
            counters: Arc::default(),
            quiet: Mutex::default(),
        })
    }

    /// Logs a refusal, unless there are too many.
    fn refused(&self, reason: &str) {
        let mut quiet = self.quiet.lock().unwrap_or_else(PoisonError::into_inner);
        if quiet.last.is_some_and(|last| last.elapsed() < LOG_PAUSE) {
            quiet.passed_over += 1;
            return;
        }
        let more = std::mem::take(&mut quiet.passed_over);
        quiet.last = Some(Instant::now());
        drop(quiet);
        let reason = reason.replace(char::is_control, "\u{fffd}");
        tracing::warn!(vm = self.vm, tag = self.tag, reason, more, "a connection is turned away");
    }

    /// Serves the guest.
    pub(crate) async fn accept(self: Arc<Self>, listener: UnixListener) {
        let mut strangers = VecDeque::new();
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let hearing = tokio::spawn(Arc::clone(&self).hear(stream));
                    strangers.push_back(hearing.abort_handle());
                }
                Err(error) => {
                    self.refused(&error.to_string());
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            strangers.retain(|stranger: &tokio::task::AbortHandle| !stranger.is_finished());
            // Those that only hold the line give way to those that come.
            if strangers.len() > MOST_STRANGERS
                && let Some(oldest) = strangers.pop_front()
            {
                oldest.abort();
            }
        }
    }

    async fn hear(self: Arc<Self>, mut stream: UnixStream) {
        let refusal = match receive(&mut stream, &self.token).await {
            Err(refusal) => return self.refused(&refusal.to_string()),
            Ok(hello) => match (hello.role, hello.direction) {
                (Role::System, Direction::Share { user, group }) => {
                    let before = self.connections.fetch_add(1, Ordering::Relaxed);
                    let counted = Counted(Arc::clone(&self));
                    if before < MOST_CONNECTIONS {
                        self.begin(stream, Owner::new(user, group), counted).await;
                        return;
                    }
                    format!("the folder is mounted {MOST_CONNECTIONS} times already")
                }
                _ => "only the system agent mounts a folder here".to_owned(),
            },
        };
        // It may have gone away, which is all the same now.
        let _ = stream.write_all(format!("no {refusal}\n").as_bytes()).await;
        self.refused(&refusal);
    }

    /// Lets it in and serves it on a thread of its own: file systems make a caller wait.
    async fn begin(self: &Arc<Self>, mut stream: UnixStream, owner: Owner, counted: Counted) {
        let begun = async {
            let options = Options {
                read_only: self.read_only,
                max_handles: most_handles(MOST_CONNECTIONS as u64),
                owner: Some(owner),
                only: self.only.clone(),
            };
            let mut guard = Guard::new(self.folder.as_fd().try_clone_to_owned()?, options)?;
            admit(&mut stream).await?;
            let stream = stream.into_std()?;
            let flags = rustix::fs::fcntl_getfl(&stream)?;
            rustix::fs::fcntl_setfl(&stream, flags - rustix::fs::OFlags::NONBLOCK)?;
            let server = Arc::clone(self);
            std::thread::Builder::new().name("9p".to_owned()).spawn(move || {
                let _counted = counted;
                let ended = connection::serve(&stream, &mut guard, &server.counters);
                match ended {
                    Ok(()) => tracing::debug!(tag = server.tag, "a mount has ended"),
                    Err(error) => server.refused(&format!("while mounted: {error}")),
                }
            })?;
            Ok::<_, io::Error>(())
        };
        if let Err(error) = begun.await {
            self.refused(&error.to_string());
        }
    }

    /// Answers questions.
    pub(crate) async fn accept_questions(self: Arc<Self>, listener: UnixListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let server = Arc::clone(&self);
                    tokio::spawn(async move {
                        if let Err(error) = server.reply(stream).await {
                            tracing::debug!(%error, "a question is left without an answer");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot take a question");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn reply(&self, mut stream: UnixStream) -> io::Result<()> {
        let mut line = String::new();
        BufReader::new((&mut stream).take(MOST_QUESTION)).read_line(&mut line).await?;
        let reply = match serde_json::from_str(&line) {
            Ok(request) => self.do_as_asked(&request),
            Err(error) => Reply::Refused { message: format!("not understood: {error}") },
        };
        let mut text = serde_json::to_vec(&reply)?;
        text.push(b'\n');
        stream.write_all(&text).await
    }

    fn do_as_asked(&self, request: &Request) -> Reply {
        let refused = |message: &str| Reply::Refused { message: message.to_owned() };
        match (request, &self.only) {
            (Request::Status, _) => Reply::Status {
                connections: self.connections.load(Ordering::Relaxed),
                requests: self.counters.requests.load(Ordering::Relaxed),
                refused: self.counters.refused.load(Ordering::Relaxed),
                left_out: self.counters.left_out.load(Ordering::Relaxed),
            },
            (Request::Give { name }, Some(only)) if only.give(name) => Reply::Done,
            (Request::Give { .. }, Some(_)) => refused("there are too many names"),
            (Request::Give { .. }, None) => refused("the whole folder is shared"),
        }
    }
}
