//! The agent's end of a terminal.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
// A stream of bytes with a descriptor that can be polled, as a pipe's ends are.
use tokio::net::unix::pipe::{Receiver, Sender};

/// errno(3): input or output error.
const EIO: i32 = 5;
/// VEOF of a terminal as it is made: Ctrl-D (termios(3)).
const END_OF_INPUT: u8 = 4;

/// What programs write.
#[derive(Debug)]
pub(super) struct Screen(Receiver);

/// What is typed, and the size.
#[derive(Debug)]
pub(super) struct Keyboard {
    bytes: Sender,
    terminal: OwnedFd,
}

/// A terminal of that size: both halves of this end, and the end for the program.
pub(super) fn open(size: Winsize) -> io::Result<(Screen, Keyboard, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = openpt(flags)?;
    grantpt(&terminal)?;
    unlockpt(&terminal)?;
    let name = ptsname(&terminal, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let end = rustix::fs::open(name, flags, Mode::empty())?;
    tcsetwinsize(&terminal, size)?;
    rustix::io::ioctl_fionbio(&terminal, true)?;
    let screen = Screen(Receiver::from_owned_fd_unchecked(terminal.try_clone()?)?);
    let bytes = Sender::from_owned_fd_unchecked(terminal.try_clone()?)?;
    Ok((screen, Keyboard { bytes, terminal }, end))
}

impl Screen {
    /// Some bytes; none when no program holds the other end.
    pub(super) async fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.0.read(into).await {
            // What a terminal says when its other end is closed.
            Err(error) if error.raw_os_error() == Some(EIO) => Ok(0),
            done => done,
        }
    }
}

impl Keyboard {
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes.write_all(bytes).await
    }

    /// What a person types for it.
    pub(super) async fn end_input(&mut self) -> io::Result<()> {
        self.write(&[END_OF_INPUT]).await
    }

    pub(super) fn resize(&self, size: Winsize) -> io::Result<()> {
        Ok(tcsetwinsize(&self.terminal, size)?)
    }
}
