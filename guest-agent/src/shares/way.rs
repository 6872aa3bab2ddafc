//! The connection of one mount to the share's process on the host.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use agent_link::{Address, Direction, Hello, PORT, Proof, Role, introduce, serial};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio_vsock::{VsockAddr, VsockStream};

use crate::user::User;

/// How long the host may take to let a mount in.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the host is and what it is shown.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) address: Address,
    pub(super) proof: Proof,
}

/// A connection that a kernel can take over.
#[derive(Debug)]
pub(super) enum Way {
    Vsock(VsockStream),
    Unix(UnixStream),
}

impl Host {
    /// Connects to the share at `port`, for `user`.
    pub(super) async fn connect(&self, port: u32, user: &User) -> io::Result<Way> {
        let connecting = async {
            let mut way = match &self.address {
                Address::Vsock { cid, .. } => {
                    Way::Vsock(VsockStream::connect(VsockAddr::new(*cid, port)).await?)
                }
                Address::Unix(path) => Way::Unix(UnixStream::connect(beside(path, port)?).await?),
                Address::Serial(path) => Way::Unix(serial::socket(path, port).await?),
            };
            let direction = Direction::Share { user: user.number, group: user.group };
            let hello = Hello { role: Role::System, direction, proof: self.proof.clone() };
            introduce(&mut way, &hello).await?;
            Ok(way)
        };
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the host does not answer");
        tokio::time::timeout(PATIENCE, connecting).await.map_err(late)?
    }
}

/// The socket of another port, beside that of the agents' (`NAME_PORT`).
fn beside(agents: &std::path::Path, port: u32) -> io::Result<PathBuf> {
    let name = agents.to_str().and_then(|path| path.strip_suffix(&PORT.to_string()));
    let name = name.ok_or_else(|| {
        let what = format!("{} is not the agents' port of a VM", agents.display());
        io::Error::new(io::ErrorKind::InvalidInput, what)
    })?;
    Ok(format!("{name}{port}").into())
}

impl AsRawFd for Way {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Vsock(stream) => stream.as_raw_fd(),
            Self::Unix(stream) => stream.as_raw_fd(),
        }
    }
}

impl AsFd for Way {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Vsock(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl AsyncRead for Way {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Vsock(stream) => Pin::new(stream).poll_read(context, into),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, into),
        }
    }
}

impl AsyncWrite for Way {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Vsock(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Vsock(stream) => Pin::new(stream).poll_flush(context),
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Vsock(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_link::{Token, admit, receive};
    use tokio::net::UnixListener;

    #[tokio::test]
    async fn a_mount_says_which_share_and_for_whom() {
        let folder = tempfile::tempdir().unwrap();
        let token = Token::random().unwrap();
        let listener = UnixListener::bind(folder.path().join("vsock.sock_20000")).unwrap();
        let agents = folder.path().join(format!("vsock.sock_{PORT}"));
        let proof = token.proof(Role::System);
        let host = Host { address: Address::Unix(agents), proof };
        let user = User { group: 100, ..User::find("root").unwrap() };
        let (way, heard) = tokio::join!(host.connect(20000, &user), async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let hello = receive(&mut stream, &token).await.unwrap();
            admit(&mut stream).await.unwrap();
            hello
        });
        assert!(way.is_ok());
        assert_eq!(heard.direction, Direction::Share { user: 0, group: 100 });
        assert!(host.connect(20001, &user).await.is_err());
        assert!(beside(std::path::Path::new("/run/host"), 1).is_err());
    }
}
