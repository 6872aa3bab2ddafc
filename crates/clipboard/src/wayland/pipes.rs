//! Content through pipes: read up to a limit, written as the other end takes it, each within a time. Tasks
//! of tokio do it; a pipe that stands still holds no thread.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, fstat};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::time::{Duration, timeout};

use crate::{FetchError, limits};

/// Everything until the other end closes. Its other end is gone when this fails.
pub(super) async fn take(
    from: OwnedFd,
    most: usize,
    still: Duration,
) -> Result<Vec<u8>, FetchError> {
    let failed = |error: io::Error| FetchError::Failed(format!("read the content: {error}"));
    let mut from = pipe::Receiver::from_owned_fd(from).map_err(failed)?;
    let all = async {
        let mut bytes = Vec::new();
        loop {
            let mut piece = [0; 16 << 10];
            let read = timeout(still, from.read(&mut piece)).await;
            match read.map_err(|_| FetchError::Late)?.map_err(failed)? {
                0 => return Ok(bytes),
                read if bytes.len() + read > most => return Err(FetchError::Large(most)),
                read => bytes.extend(&piece[..read]),
            }
        }
    };
    timeout(limits::FETCH, all).await.unwrap_or(Err(FetchError::Late))
}

/// Writes everything and closes. The descriptor is another program's: a pipe or a socket, else it gets
/// nothing, because a file would block.
pub(super) async fn give(into: OwnedFd, bytes: &[u8], still: Duration) -> io::Result<()> {
    match FileType::from_raw_mode(fstat(&into)?.st_mode) {
        FileType::Fifo => write(pipe::Sender::from_owned_fd(into)?, bytes, still).await,
        FileType::Socket => {
            let into = std::os::unix::net::UnixStream::from(into);
            into.set_nonblocking(true)?;
            write(UnixStream::from_std(into)?, bytes, still).await
        }
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

async fn write(mut into: impl AsyncWrite + Unpin, bytes: &[u8], still: Duration) -> io::Result<()> {
    let all = async {
        let mut left = bytes;
        while !left.is_empty() {
            match timeout(still, into.write(left)).await?? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => left = &left[written..],
            }
        }
        Ok(())
    };
    timeout(limits::GIVE, all).await?
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};
    use std::io::Write as _;

    const STILL: Duration = Duration::from_millis(100);

    fn pair() -> (OwnedFd, OwnedFd) {
        pipe_with(PipeFlags::CLOEXEC).unwrap()
    }

    #[tokio::test]
    async fn what_is_written_is_read_up_to_the_limit() {
        let bytes: Vec<u8> = (0..300_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        for (most, enough) in [(300_000, true), (299_999, false), (1, false)] {
            let (read, write) = pair();
            let (read, written) = tokio::join!(
                take(read, most, limits::FETCH_STILL),
                give(write, &bytes, limits::GIVE_STILL)
            );
            if enough {
                assert!(read.as_ref() == Ok(&bytes) && written.is_ok());
            } else {
                assert_eq!(read, Err(FetchError::Large(most)));
            }
            if most == 1 {
                // More than a pipe holds: the writer hears that nobody reads any more.
                assert_eq!(written.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
            }
        }
    }

    #[tokio::test]
    async fn an_end_that_stands_still_is_left() {
        let (read, write) = pair();
        assert_eq!(take(read, 10, STILL).await, Err(FetchError::Late));
        drop(write);
        let (read, write) = pair();
        let error = give(write, &[0; 1 << 20], STILL).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(read);
    }

    #[tokio::test]
    async fn a_socket_is_as_good_as_a_pipe() {
        use std::io::Read as _;
        let (mut read, write) = std::os::unix::net::UnixStream::pair().unwrap();
        give(write.into(), b"content", STILL).await.unwrap();
        let mut came = Vec::new();
        read.read_to_end(&mut came).unwrap();
        assert_eq!(came, b"content");
    }

    #[tokio::test]
    async fn a_file_gets_nothing() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"mine").unwrap();
        assert!(give(file.try_clone().unwrap().into(), b"theirs", STILL).await.is_err());
        assert_eq!(file.metadata().unwrap().len(), 4);
    }
}
