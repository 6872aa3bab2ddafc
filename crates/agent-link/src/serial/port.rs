//! A virtio-serial port of this machine, and the one line that this process has on it: the kernel lets only
//! one program open a port.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use rustix::fs::{Mode, OFlags, open};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, Interest, ReadBuf};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::runtime::Handle;

use super::{Line, call};
use crate::PORT;

/// Lines of this process, by port.
static LINES: Mutex<BTreeMap<PathBuf, Held>> = Mutex::new(BTreeMap::new());

/// A line, and what carries it: a thread of its own, which waits for nothing else. The kernel may wait for a folder of
/// the host that comes over the line, and with the kernel any other thread of this process.
#[derive(Clone)]
struct Held {
    line: Line,
    carrier: Handle,
}

impl Held {
    fn take(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let port = File::from(open(path, flags, Mode::empty())?);
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let begin = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (line, carrying) = {
                let _there = runtime.enter();
                call(Port::new(port)?)
            };
            Ok((Self { line, carrier: runtime.handle().clone() }, runtime, carrying))
        };
        let carry = move || match begin() {
            Ok((held, runtime, carrying)) => {
                let _ = tell.send(Ok(held));
                let ended = runtime.block_on(carrying);
                tracing::debug!(?ended, "the line has ended");
            }
            Err(error) => {
                let _ = tell.send(Err(error));
            }
        };
        std::thread::Builder::new().name("serial line".to_owned()).spawn(carry)?;
        told.recv().unwrap_or_else(|_| Err(io::ErrorKind::NotConnected.into()))
    }

    /// The one at the port at `path`.
    fn at(path: &Path) -> io::Result<Self> {
        let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
        match lines.get(path).filter(|held| !held.line.is_closed()) {
            Some(held) => Ok(held.clone()),
            None => {
                // Two cannot have the port at once.
                lines.remove(path);
                let held = Self::take(path)?;
                lines.insert(path.to_owned(), held.clone());
                Ok(held)
            }
        }
    }
}

/// A new connection over the serial port at `path` to the agents' port of the host.
///
/// # Errors
/// There is no such serial port, another program has it, or nobody is at its other end.
pub(crate) async fn connect(path: &Path) -> io::Result<DuplexStream> {
    let held = Held::at(path)?;
    held.line.open(PORT).await
}

/// A new connection over the serial port at `path` to this port of the host, as a socket that a kernel can take over.
/// When either side ends it, it ends both ways.
///
/// # Errors
/// There is no such serial port, another program has it, or nobody is at its other end.
pub async fn socket(path: &Path, port: u32) -> io::Result<UnixStream> {
    let Held { line, carrier } = Held::at(path)?;
    let channel = line.open(port).await?;
    let (near, far) = std::os::unix::net::UnixStream::pair()?;
    near.set_nonblocking(true)?;
    far.set_nonblocking(true)?;
    carrier.spawn(async move { bridge(channel, UnixStream::from_std(far)?).await });
    UnixStream::from_std(near)
}

/// Carries bytes both ways until either side ends.
async fn bridge(channel: DuplexStream, socket: UnixStream) -> io::Result<u64> {
    let (mut from_channel, mut to_channel) = tokio::io::split(channel);
    let (mut from_socket, mut to_socket) = socket.into_split();
    tokio::select! {
        ended = tokio::io::copy(&mut from_channel, &mut to_socket) => ended,
        ended = tokio::io::copy(&mut from_socket, &mut to_channel) => ended,
    }
}

/// An open port, waited for as a pipe is; reading nothing means that the host has let go of it. But a read gives what is
/// left of one of the driver's buffers (drivers/char/virtio_console.c, `fill_readbuf`) while more of them wait, and the
/// driver wakes nobody for those: unlike with a pipe, only a read that would block says that nothing is left. So
/// `Receiver`'s own way to read, which takes a short read for the last, will not do.
struct Port {
    reading: pipe::Receiver,
    writing: pipe::Sender,
}

impl Port {
    /// Takes a port that is open, in non-blocking mode.
    fn new(port: File) -> io::Result<Self> {
        let writing = pipe::Sender::from_file_unchecked(port.try_clone()?)?;
        Ok(Self { reading: pipe::Receiver::from_file_unchecked(port)?, writing })
    }

    /// The host was away, if only for a moment: what says so stays, and with it the port seems to have something to
    /// read for ever.
    fn was_left(&self, context: &mut Context<'_>) -> bool {
        let asked = pin!(self.reading.ready(Interest::READABLE)).poll(context);
        matches!(asked, Poll::Ready(Ok(ready)) if ready.is_read_closed())
    }
}

impl AsyncRead for Port {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.reading.poll_read_ready(context))?;
            match self.reading.try_read(into.initialize_unfilled()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.was_left(context) {
                        return Poll::Ready(Ok(()));
                    }
                }
                read => return Poll::Ready(read.map(|count| into.advance(count))),
            }
        }
    }
}

impl AsyncWrite for Port {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.writing.poll_write_ready(context))?;
            match self.writing.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::os::fd::OwnedFd;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A port and the host's end of it: as the driver does, these sockets give one piece with a read, and call only
    /// when one comes.
    fn port() -> (Port, OwnedFd) {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (near, far) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        (Port::new(File::from(near)).unwrap(), far)
    }

    async fn soon<T>(work: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(60), work).await.expect("it takes too long")
    }

    #[tokio::test]
    async fn what_a_short_read_leaves_is_read_without_another_call() {
        let (mut port, host) = port();
        let mut got = Vec::<u8>::new();
        let mut bytes = vec![0; 16 << 10];
        for round in 0..20 {
            for piece in 0..10 {
                rustix::io::write(&host, &[round * 10 + piece; 4096]).unwrap();
            }
            while got.len() < (usize::from(round) + 1) * 10 * 4096 {
                let count = soon(port.read(&mut bytes)).await.unwrap();
                got.extend(&bytes[..count]);
            }
        }
        assert!(got.chunks(4096).zip(0..).all(|(piece, number)| piece == [number; 4096]));
    }

    #[tokio::test]
    async fn a_full_port_is_written_to_again_when_the_host_has_read() {
        let (mut port, host) = port();
        let reading = std::thread::spawn(move || {
            let (mut bytes, mut count) = (vec![0; 1 << 16], 0);
            while count < 4 << 20 {
                match rustix::io::read(&host, &mut bytes) {
                    Ok(more) => count += more,
                    Err(rustix::io::Errno::AGAIN) => std::thread::sleep(Duration::from_millis(1)),
                    Err(error) => panic!("{error}"),
                }
            }
        });
        soon(async {
            for _ in 0..1024 {
                port.write_all(&[7; 4096]).await.unwrap();
            }
            port.flush().await.unwrap();
        })
        .await;
        reading.join().unwrap();
    }

    #[tokio::test]
    async fn what_is_no_port_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        for path in [&file, &folder.path().join("none")] {
            assert!(socket(path, PORT).await.is_err() && connect(path).await.is_err());
        }
    }

    #[tokio::test]
    async fn a_host_that_goes_is_an_end() {
        let (mut port, host) = port();
        rustix::io::write(&host, b"last").unwrap();
        drop(host);
        let mut bytes = [0; 100];
        assert_eq!(soon(port.read(&mut bytes)).await.unwrap(), 4);
        assert_eq!(soon(port.read(&mut bytes)).await.unwrap(), 0);
        assert!(soon(port.write_all(b"to nobody")).await.is_err());
    }

    #[tokio::test]
    async fn a_host_that_was_away_for_a_moment_is_an_end_and_no_wait_without_rest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("port");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut port = Port::new(File::from(open(&path, flags, Mode::empty()).unwrap())).unwrap();
        let host = || File::options().write(true).open(&path).unwrap();
        drop(host());
        // The runtime hears of it.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let _back = host();
        assert_eq!(soon(port.read(&mut [0; 10])).await.unwrap(), 0);
    }
}
