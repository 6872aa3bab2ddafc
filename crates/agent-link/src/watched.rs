//! A stream whose end can be waited for, also while another owns it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

/// Resolves when the stream it belongs to has been closed and dropped.
#[derive(Clone, Debug)]
pub struct Gone(watch::Receiver<()>);

/// See [`watch`].
#[derive(Debug)]
pub struct Watched<S> {
    stream: S,
    _alive: watch::Sender<()>,
}

/// Hands the stream back with something that tells of its end.
pub fn watch<S>(stream: S) -> (Watched<S>, Gone) {
    let (alive, gone) = watch::channel(());
    (Watched { stream, _alive: alive }, Gone(gone))
}

impl Gone {
    /// Waits for the end.
    pub async fn wait(&mut self) {
        // Nothing is ever sent: an error says that the sender has gone.
        while self.0.changed().await.is_ok() {}
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.0.has_changed().is_err()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
