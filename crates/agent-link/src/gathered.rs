//! A stream that writes what several tasks have to say at once: a call's headers, its message and its end
//! come from different tasks, and each write of its own would cost a packet and two exits of the VM.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that wait at most; more are written first.
const MOST: usize = 64 << 10;
/// So many bytes at once are worth a write of their own rather than a copy.
const LARGE: usize = 16 << 10;
/// Parts of one write at most; HTTP/2 has two of them, a frame's head and what is in it.
const PARTS: usize = 4;

/// Writes when it is flushed for the second time in a row: between the first and that, the tasks that are ready
/// to run have had their turn.
#[derive(Debug)]
pub(crate) struct Gathered<S> {
    stream: S,
    /// Written by the tasks, from `sent` on not yet by us.
    waiting: Vec<u8>,
    sent: usize,
    /// The others have had their turn since the first flush.
    yielded: bool,
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, waiting: Vec::new(), sent: 0, yielded: false }
    }

    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.waiting.len() {
            let rest = &self.waiting[self.sent..];
            match ready!(Pin::new(&mut self.stream).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.sent += written,
            }
        }
        self.emptied();
        Poll::Ready(Ok(()))
    }

    fn emptied(&mut self) {
        self.waiting.clear();
        (self.sent, self.yielded) = (0, false);
    }

    /// Writes what waits and these fewer than [`PARTS`] parts, uncopied; how many bytes of the parts.
    fn poll_pass(
        &mut self,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            let rest = &self.waiting[self.sent..];
            let mut all = [io::IoSlice::new(rest); PARTS];
            for (place, part) in all[1..].iter_mut().zip(parts) {
                *place = io::IoSlice::new(part);
            }
            // A part without bytes counts as one, too: what waits may be nothing.
            let all = &all[usize::from(rest.is_empty())..=parts.len()];
            let before = rest.len();
            match ready!(Pin::new(&mut self.stream).poll_write_vectored(context, all))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written if written <= before => self.sent += written,
                written => {
                    self.emptied();
                    return Poll::Ready(Ok(written - before));
                }
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        if bytes >= LARGE && parts.len() < PARTS && self.stream.is_write_vectored() {
            return self.poll_pass(context, parts);
        }
        if self.waiting.len() >= MOST {
            ready!(self.poll_send(context))?;
        }
        let before = self.waiting.len();
        for part in parts {
            self.waiting.extend_from_slice(part);
        }
        Poll::Ready(Ok(self.waiting.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.waiting.is_empty() {
            if !self.yielded {
                self.yielded = true;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            ready!(self.poll_send(context))?;
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Counts writes.
    #[derive(Default)]
    struct Counted {
        writes: Vec<usize>,
        /// All that was written, and whether several parts can be at once.
        bytes: Vec<u8>,
        vectored: bool,
    }

    impl AsyncWrite for Counted {
        fn poll_write(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
        }
        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            parts: &[io::IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            // It takes no more than that at once.
            let all = parts.iter().flat_map(|part| part.iter().copied());
            let before = self.bytes.len();
            self.bytes.extend(all.take(30_000));
            let taken = self.bytes.len() - before;
            self.writes.push(taken);
            Poll::Ready(Ok(taken))
        }
        fn is_write_vectored(&self) -> bool {
            self.vectored
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_comes_before_the_flush_is_one_write() {
        let mut stream = Gathered::new(Counted::default());
        stream.write_all(b"headers").await.unwrap();
        stream.write_all(b"message").await.unwrap();
        assert!(stream.stream.writes.is_empty());
        stream.flush().await.unwrap();
        assert_eq!(stream.stream.writes, [14]);
        stream.flush().await.unwrap();
        assert_eq!(stream.stream.writes, [14]);
    }

    #[tokio::test]
    async fn what_is_large_is_written_with_what_waits_before_it() {
        for vectored in [false, true] {
            let mut stream = Gathered::new(Counted { vectored, ..Counted::default() });
            let large: Vec<u8> = (0..50_000u32).map(|number| (number % 249) as u8).collect();
            let mut expected = Vec::new();
            for head in [&b"first"[..], b"", b"third"] {
                stream.write_all(head).await.unwrap();
                let parts = [io::IoSlice::new(b"head"), io::IoSlice::new(&large)];
                let all = [head, b"head", &large].concat();
                let mut written = 0;
                while written < 4 + large.len() {
                    // As HTTP/2 does: what is left of both.
                    let left = if written < 4 {
                        vec![io::IoSlice::new(&parts[0][written..]), parts[1]]
                    } else {
                        vec![io::IoSlice::new(&parts[1][written - 4..])]
                    };
                    written += stream.write_vectored(&left).await.unwrap();
                }
                expected.extend(all);
            }
            stream.flush().await.unwrap();
            assert!(stream.stream.bytes == expected);
            // The first write has what waited and the start of what is large.
            assert_eq!(stream.stream.writes[0], 30_000);
            let copied = stream.stream.writes.len();
            assert!(!vectored || copied <= 9, "{copied}");
        }
    }

    #[tokio::test]
    async fn much_is_written_before_it_is_flushed_and_nothing_is_lost() {
        let (near, mut far) = tokio::io::duplex(1000);
        let sent: Vec<u8> = (0..1_000_000u32).map(|number| (number % 251) as u8).collect();
        let expected = sent.clone();
        let sending = tokio::spawn(async move {
            let mut stream = Gathered::new(near);
            for (index, part) in sent.chunks(7777).enumerate() {
                stream.write_all(part).await.unwrap();
                if index % 5 == 0 {
                    stream.flush().await.unwrap();
                }
            }
            stream.shutdown().await.unwrap();
        });
        let mut got = Vec::new();
        far.read_to_end(&mut got).await.unwrap();
        sending.await.unwrap();
        assert!(got == expected);
    }
}
