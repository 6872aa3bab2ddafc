//! How connections that the agent has made reach the thread that speaks of windows.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::event::EventfdFlags;
use tokio::sync::watch;

/// See the module. Holds one connection at a time; a later one replaces one that was not taken.
#[derive(Debug)]
pub struct Mailbox {
    slot: Mutex<Option<OwnedFd>>,
    bell: OwnedFd,
    /// Counts the connections that are over.
    ended: watch::Sender<u64>,
}

impl Mailbox {
    /// An empty one.
    ///
    /// # Errors
    /// This process may have no more descriptors.
    pub fn new() -> io::Result<Self> {
        let bell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { slot: Mutex::default(), bell, ended: watch::Sender::new(0) })
    }

    /// Hands over a connection and waits until it is over. When this is dropped before, it is over too as soon
    /// as the other side says so.
    pub async fn serve(&self, stream: OwnedFd) {
        let mut ended = self.ended.subscribe();
        ended.mark_unchanged();
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
        // A counter that is full rings already.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        let _ = ended.changed().await;
    }

    /// Readable when there is something to take.
    #[must_use]
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Takes the connection.
    pub fn take(&self) -> Option<OwnedFd> {
        // It has not rung: nothing to reset.
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        self.slot.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The connection that was taken is over.
    pub fn over(&self) {
        self.ended.send_modify(|count| *count += 1);
    }
}
