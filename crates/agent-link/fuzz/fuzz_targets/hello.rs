//! First lines of a guest's connections, as the host hears them: none is let in without the token.
//! Run: `cargo +nightly fuzz run hello` in `crates/agent-link`.
#![no_main]

use std::pin::Pin;
use std::task::{Context, Poll};

use agent_link::{Hello, MAX_LINE, Token, receive};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What the guest says, and how much the host answers.
struct Said<'a>(&'a [u8], usize);

impl AsyncRead for Said<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let count = self.0.len().min(into.remaining());
        into.put_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Said<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.1 += bytes.len();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(line) = std::str::from_utf8(bytes)
        && let Ok(hello) = line.parse::<Hello>()
    {
        assert_eq!(hello.to_string(), line);
    }
    let token: Token = "7".repeat(64).parse().expect("64 digits");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let mut said = Said(bytes, 0);
    assert!(runtime.block_on(receive(&mut said, &token)).is_err());
    assert!(said.1 < 8 * MAX_LINE, "the answer has {} bytes", said.1);
});
