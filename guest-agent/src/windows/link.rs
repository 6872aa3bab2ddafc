//! The connection to the host: messages through a descriptor that never blocks.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use proto::v1::{FromGuest, FromHost, from_guest};
use rustix::io::Errno;
use window_link::{Decoder, FrameError, encode};

/// Bytes read at once.
const READ: usize = 64 << 10;
/// From so many bytes on that the host has not taken, windows wait before more is told of them.
const FULL: usize = 256 << 10;
/// A host that leaves so many bytes does not read any more.
const MOST: usize = 16 << 20;

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The host has closed it.
    #[error("the host has closed it")]
    Closed,
    /// It is broken.
    #[error("{0}")]
    Stream(#[from] io::Error),
    /// What came is no message.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// The host speaks another version.
    #[error("the host speaks version {0} of the window protocol, this agent {own}", own = window_link::VERSION)]
    Version(u32),
    /// The first message was not the hello.
    #[error("the host's first message is no hello")]
    NoHello,
    /// It does not read.
    #[error("the host does not read: {0} bytes wait for it")]
    Slow(usize),
}

/// See the module.
#[derive(Debug)]
pub struct Link {
    stream: OwnedFd,
    decoder: Decoder<FromHost>,
    buffer: Vec<u8>,
    out: Vec<u8>,
    written: usize,
}

impl Link {
    /// Over a connected stream.
    ///
    /// # Errors
    /// It is no stream of this process.
    pub fn new(stream: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&stream, true)?;
        Ok(Self {
            stream,
            decoder: Decoder::default(),
            buffer: vec![0; READ],
            out: Vec::new(),
            written: 0,
        })
    }

    /// To wait for.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Puts a message behind those that wait to be written. One over the protocol's size is left out.
    pub fn send(&mut self, message: from_guest::Message) {
        let message = FromGuest { message: Some(message) };
        if let Err(error) = encode(&message, &mut self.out) {
            tracing::warn!(%error, "a message to the host is left out");
        }
    }

    /// Whether there is something to write.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.written < self.out.len()
    }

    /// Whether the host should take something before it is told more.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.out.len() - self.written > FULL
    }

    /// Writes what the stream takes.
    ///
    /// # Errors
    /// See [`Ended`].
    pub fn flush(&mut self) -> Result<(), Ended> {
        while self.written < self.out.len() {
            match rustix::io::write(&self.stream, &self.out[self.written..]) {
                Ok(0) => return Err(Ended::Closed),
                Ok(count) => self.written += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let waits = self.out.len() - self.written;
                    if waits > MOST {
                        return Err(Ended::Slow(waits));
                    }
                    if self.written > FULL {
                        self.out.drain(..self.written);
                        self.written = 0;
                    }
                    return Ok(());
                }
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(Ended::Closed),
                Err(error) => return Err(Ended::Stream(error.into())),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }

    /// Reads what has come; the messages then come from [`Link::take`]. False when nothing had come.
    ///
    /// # Errors
    /// See [`Ended`].
    pub fn read(&mut self) -> Result<bool, Ended> {
        loop {
            match rustix::io::read(&self.stream, &mut self.buffer[..]) {
                Ok(0) => return Err(Ended::Closed),
                Ok(count) => {
                    self.decoder.give(&self.buffer[..count]);
                    return Ok(true);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::CONNRESET) => return Err(Ended::Closed),
                Err(error) => return Err(Ended::Stream(error.into())),
            }
        }
    }

    /// The next message.
    ///
    /// # Errors
    /// It is none.
    pub fn take(&mut self) -> Result<Option<FromHost>, Ended> {
        Ok(self.decoder.take()?)
    }
}
