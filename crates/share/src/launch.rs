//! How the process is started: one message with what it needs to know and what it needs to have.

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The longest message.
pub const MOST_BYTES: usize = 64 << 10;
/// How long the process may take until it serves.
const PATIENCE: Duration = Duration::from_secs(10);
/// What it says when it does.
const READY: &str = "ready";
/// Descriptors of [`Handed`].
const DESCRIPTORS: usize = 5;

/// What the process needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// The VM's name, for the log.
    pub vm: String,
    /// The share's tag, for the log.
    pub tag: String,
    /// What the guest's agent proves itself with ([`agent_link::Token`]).
    pub token: String,
    /// The guest changes nothing.
    pub read_only: bool,
    /// The names in the folder that the guest is to see; without, all.
    #[serde(with = "crate::name_list")]
    pub only: Option<Vec<Vec<u8>>>,
}

/// What it needs to have.
#[derive(Debug)]
pub struct Handed<F = OwnedFd> {
    /// The folder, open as a path.
    pub folder: F,
    /// A pidfd of the VM process.
    pub vm: F,
    /// The listening Unix socket to which the VM process brings the guest's connections.
    pub guest: F,
    /// The listening Unix socket at which it is asked ([`crate::ask`]).
    pub control: F,
    /// A file whose lock (flock) it holds by having it.
    pub lock: F,
}

impl<F> Handed<F> {
    fn into_list(self) -> [F; DESCRIPTORS] {
        [self.folder, self.vm, self.guest, self.control, self.lock]
    }

    fn from_list(list: [F; DESCRIPTORS]) -> Self {
        let [folder, vm, guest, control, lock] = list;
        Self { folder, vm, guest, control, lock }
    }
}

/// The process does not serve.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// It cannot be started or spoken to.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// It said why.
    #[error("{0}")]
    Refused(String),
    /// The message would be too long.
    #[error(
        "the names of the files take {0} bytes; allowed: {MOST_BYTES}; share their folder instead"
    )]
    Long(usize),
}

fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> LaunchError {
    move |error| LaunchError::System { what, error: error.into() }
}

/// Starts `program` in a process group of its own, with `log` as its standard error, and waits until it
/// serves.
///
/// # Errors
/// It does not; no process is left then.
pub fn start(
    program: &Path,
    spec: &Spec,
    handed: Handed<BorrowedFd<'_>>,
    log: File,
) -> Result<Child, LaunchError> {
    let text = serde_json::to_vec(spec).map_err(io::Error::from).map_err(system("say"))?;
    if text.len() > MOST_BYTES {
        return Err(LaunchError::Long(text.len()));
    }
    let (own, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(system("cannot make a socket"))?;
    let mut command = Command::new(program);
    command.current_dir("/").stdin(Stdio::from(theirs)).stdout(Stdio::null()).stderr(log);
    let mut child = command.process_group(0).spawn().map_err(system("cannot be started"))?;
    // The command holds the other end of the socket.
    drop(command);
    match introduce(&own, &text, handed) {
        Ok(()) => Ok(child),
        Err(error) => {
            let _ = child.kill().and_then(|()| child.wait());
            Err(error)
        }
    }
}

fn introduce(
    socket: &OwnedFd,
    text: &[u8],
    handed: Handed<BorrowedFd<'_>>,
) -> Result<(), LaunchError> {
    let descriptors = handed.into_list();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(system("hand over")(io::Error::from(io::ErrorKind::OutOfMemory)));
    }
    sendmsg(socket, &[IoSlice::new(text)], &mut ancillary, SendFlags::NOSIGNAL)
        .map_err(system("it took no specification"))?;
    let patience = Some(PATIENCE);
    rustix::net::sockopt::set_socket_timeout(socket, rustix::net::sockopt::Timeout::Recv, patience)
        .map_err(system("wait"))?;
    let mut said = vec![0; 1024];
    let clone = socket.as_fd().try_clone_to_owned().map_err(system("wait"))?;
    let count = File::from(clone).read(&mut said).map_err(system("it does not answer"))?;
    match String::from_utf8_lossy(&said[..count]) {
        said if said == READY => Ok(()),
        said if said.is_empty() => {
            Err(LaunchError::Refused("it ended; its log says more".to_owned()))
        }
        said => Err(LaunchError::Refused(said.into_owned())),
    }
}

/// The process's side: takes what it is given on standard input.
pub(crate) fn receive(socket: impl AsFd) -> io::Result<(Spec, Handed)> {
    let mut text = vec![0; MOST_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut text)];
    let received = recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors: Vec<OwnedFd> = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let count = descriptors.len();
    let list = descriptors
        .try_into()
        .map_err(|_| wrong(format!("{count} descriptors instead of {DESCRIPTORS}")))?;
    let spec = serde_json::from_slice(&text[..received.bytes])?;
    Ok((spec, Handed::from_list(list)))
}

/// Tells whoever started it how it went.
pub(crate) fn answer(socket: impl AsFd, outcome: Result<(), &str>) {
    let said = match outcome {
        Ok(()) => READY,
        Err(reason) => reason,
    };
    // It may have gone away, which changes nothing.
    let _ = rustix::net::send(socket, said.as_bytes(), SendFlags::NOSIGNAL);
}
