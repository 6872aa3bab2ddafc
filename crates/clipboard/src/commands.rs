//! Commands to a backend's thread, which sleeps in `poll` on its display's socket: each one also makes an
//! event descriptor readable.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::timeout;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::{Boxed, FetchError, limits};

/// Where commands are given.
#[derive(Debug)]
pub(crate) struct Outbox<T> {
    queue: Sender<T>,
    bell: Arc<OwnedFd>,
}

/// Where the thread takes them.
#[derive(Debug)]
pub(crate) struct Inbox<T> {
    queue: Receiver<T>,
    bell: Arc<OwnedFd>,
}

/// Both ends.
pub(crate) fn commands<T>() -> io::Result<(Outbox<T>, Inbox<T>)> {
    let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let (sender, receiver) = channel();
    Ok((Outbox { queue: sender, bell: Arc::clone(&bell) }, Inbox { queue: receiver, bell }))
}

impl<T> Clone for Outbox<T> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), bell: Arc::clone(&self.bell) }
    }
}

impl<T> Outbox<T> {
    /// Gives a command; a thread that has ended drops it, with whoever waits for its answer.
    pub(crate) fn send(&self, command: T) {
        if self.queue.send(command).is_ok() {
            // Fails only when the counter is full: then it rings anyway.
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }
}

impl<T> Inbox<T> {
    /// The next command, if there is one.
    pub(crate) fn take(&self) -> Option<T> {
        self.queue.try_recv().ok()
    }

    /// Sleeps until the display says something, a command comes or it is time.
    pub(crate) fn wait(&self, display: BorrowedFd<'_>, until: Option<Instant>) -> io::Result<()> {
        let limit = until.map(|until| {
            // A millisecond more: not to wake just before it is time.
            let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 })
        });
        let mut both = [
            PollFd::new(&display, PollFlags::IN),
            PollFd::from_borrowed_fd(self.bell.as_fd(), PollFlags::IN),
        ];
        match poll(&mut both, limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if both[1].revents().contains(PollFlags::IN) {
            let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        }
        Ok(())
    }
}

/// What the thread answers, within a limit: it may wait for its display.
pub(crate) fn answer_of<T: Send + 'static>(
    answered: oneshot::Receiver<Result<T, FetchError>>,
) -> Boxed<Result<T, FetchError>> {
    Box::pin(async move {
        match timeout(limits::FETCH + limits::FETCH_STILL, answered).await {
            Ok(Ok(answer)) => answer,
            // The thread has ended: the display is gone with all it offered.
            Ok(Err(_)) => Err(FetchError::Gone),
            Err(_) => Err(FetchError::Late),
        }
    })
}
