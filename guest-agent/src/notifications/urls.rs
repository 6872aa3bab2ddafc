//! URLs on their way from a program of the session to the host's browser.
//!
//! `macrohard-guest-agent open-url URL`, which the guest's desktop starts as its browser, asks the session's
//! agent over a socket that only the user can open: one line with the URL, answered by one line, `ok` or
//! `no KIND REASON`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_link::Channel;
use proto::v1::OpenUrlRequest;
use proto::v1::host_client::HostClient;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tonic::Code;

use crate::parts::Connection;

/// Longest URL in bytes, as the protocol says.
const LONGEST: usize = 8192;
/// Longest answer.
const LONGEST_ANSWER: u64 = 1024;
/// Programs that ask at once.
const MOST: usize = 16;
/// How long a program may take for its line.
const PATIENCE: Duration = Duration::from_secs(5);
const NAME: &str = "macrohard-open-url.sock";

/// How it went when a URL was not opened.
#[derive(Debug, thiserror::Error)]
pub enum NotOpened {
    /// The host's policy, or the person, said no.
    #[error("the host refuses it: {0}")]
    Refused(String),
    /// The host tried, or could not be asked.
    #[error("{0}")]
    Failed(String),
}

/// Where the session's agent listens.
#[must_use]
pub fn socket() -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?);
    folder.is_absolute().then(|| folder.join(NAME))
}

/// Has the host open `url`.
///
/// # Errors
/// It did not.
pub async fn open(url: &str) -> Result<(), NotOpened> {
    let failed = |message: String| NotOpened::Failed(message);
    if url.len() > LONGEST || url.contains(['\n', '\0']) {
        return Err(failed(format!("not a URL of one line and at most {LONGEST} bytes")));
    }
    let path = socket().ok_or_else(|| failed("XDG_RUNTIME_DIR is not set".to_owned()))?;
    let mut stream = UnixStream::connect(&path).await.map_err(|error| {
        failed(format!("no agent with a connection to the host at {}: {error}", path.display()))
    })?;
    let lost = |error: io::Error| failed(format!("the agent went away: {error}"));
    stream.write_all(format!("{url}\n").as_bytes()).await.map_err(lost)?;
    let mut answer = String::new();
    stream.take(LONGEST_ANSWER).read_to_string(&mut answer).await.map_err(lost)?;
    match answer.trim_end().split_once(' ') {
        None if answer == "ok\n" => Ok(()),
        Some(("no", reason)) => match reason.split_once(' ') {
            Some(("refused", reason)) => Err(NotOpened::Refused(reason.to_owned())),
            Some((_, reason)) => Err(failed(reason.to_owned())),
            None => Err(failed(reason.to_owned())),
        },
        _ => Err(failed("the agent went away before it answered".to_owned())),
    }
}

/// The socket's file, which goes with the one who listens.
struct Listening {
    path: PathBuf,
    listener: UnixListener,
}

impl Listening {
    /// In place of whoever did before.
    fn at(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Self { path: path.to_owned(), listener: UnixListener::bind(path)? })
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Answers programs of the session for as long as the host is there.
pub(super) async fn serve(connection: &Connection) {
    let Some(path) = socket() else {
        tracing::debug!("URLs are not taken: XDG_RUNTIME_DIR is not set");
        return;
    };
    let listening = match Listening::at(&path) {
        Ok(listening) => listening,
        Err(error) => {
            tracing::warn!(%error, "URLs are not taken: cannot listen at {}", path.display());
            return;
        }
    };
    let mut answering = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = answering.join_next() => {}
            accepted = listening.listener.accept(), if answering.len() < MOST => match accepted {
                Ok((stream, _)) => {
                    answering.spawn(answer(stream, connection.host.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a program with a URL");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

async fn answer(stream: UnixStream, mut host: HostClient<Channel>) {
    // The folder is the user's alone; this holds where it is not.
    let own = rustix::process::getuid().as_raw();
    if stream.peer_cred().is_ok_and(|peer| peer.uid() != own && peer.uid() != 0) {
        return;
    }
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    let mut limited = (&mut stream).take(LONGEST as u64 + 1);
    let reading = limited.read_line(&mut line);
    if !matches!(tokio::time::timeout(PATIENCE, reading).await, Ok(Ok(_))) {
        return;
    }
    let Some(url) = line.strip_suffix('\n') else {
        return;
    };
    let said = match host.open_url(OpenUrlRequest { url: url.to_owned() }).await {
        Ok(_) => "ok\n".to_owned(),
        Err(status) => {
            let kind = match status.code() {
                Code::PermissionDenied | Code::InvalidArgument | Code::ResourceExhausted => {
                    "refused"
                }
                _ => "failed",
            };
            let reason = super::text::line(status.message(), 512);
            tracing::info!(reason, "a URL was not opened");
            format!("no {kind} {reason}\n")
        }
    };
    // A program that went away has its reasons.
    let _ = stream.write_all(said.as_bytes()).await;
}
