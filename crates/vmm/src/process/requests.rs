//! Requests that wait for a machine, which may take as long as the host does: each on a thread of its
//! own, so that the process answers others meanwhile. A QEMU that hangs, or a disk that is dead, keeps
//! nobody from asking for the status or ending the VM.

use super::control::Subject;
use crate::MachineError;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use vm_control::{Reply, Request};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Requests under way at once, of clients that are gone included.
const MOST: usize = 32;
/// Stack of a request's thread: the deepest thing it does is to describe every device.
const STACK: usize = 256 << 10;

/// Names a client for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClientId(pub(super) u64);

/// The requests under way.
pub(super) struct Requests {
    subject: Arc<Subject>,
    under_way: usize,
    done: Receiver<(ClientId, Reply)>,
    sender: Sender<(ClientId, Reply)>,
    wake: Arc<EventFd>,
}

impl Requests {
    pub(super) fn new(subject: Arc<Subject>) -> Result<Self, MachineError> {
        let wake = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)
            .map_err(|e| MachineError::system("cannot make an event descriptor", e))?;
        let (sender, done) = channel();
        Ok(Self { subject, under_way: 0, done, sender, wake: Arc::new(wake) })
    }

    /// The file that goes beside an answer.
    pub(super) fn beside(&self, reply: &Reply) -> Option<BorrowedFd<'_>> {
        match reply {
            Reply::WindowMemory { .. } => {
                self.subject.life.machine().window_memory().map(|part| part.file)
            }
            _ => None,
        }
    }

    /// The answer, where it takes no time; else it comes from [`Self::take`].
    pub(super) fn begin(&mut self, client: ClientId, request: Request) -> Option<Reply> {
        if matches!(request, Request::Status | Request::Quit | Request::WindowMemory) {
            return Some(self.subject.handle(&request));
        }
        if self.under_way >= MOST {
            return Some(Reply::Refused {
                message: format!("{MOST} requests are under way: the machine does not answer"),
            });
        }
        let (subject, sender) = (Arc::clone(&self.subject), self.sender.clone());
        let wake = Arc::clone(&self.wake);
        let spawned = std::thread::Builder::new()
            .name("request".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                // Received as long as the process serves; the counter cannot overflow.
                let _ = sender.send((client, subject.handle(&request)));
                let _ = wake.write(1);
            });
        match spawned {
            Ok(_) => {
                self.under_way += 1;
                None
            }
            Err(error) => Some(Reply::Refused {
                message: format!("cannot start a thread for the request: {error}"),
            }),
        }
    }

    /// An answer that has come.
    pub(super) fn take(&mut self) -> Option<(ClientId, Reply)> {
        // Not readable is no error: it was read before.
        let _ = self.wake.read();
        let done = self.done.try_recv().ok()?;
        self.under_way -= 1;
        Some(done)
    }
}

impl AsFd for Requests {
    /// Readable when an answer has come.
    fn as_fd(&self) -> BorrowedFd<'_> {
        crate::descriptor::borrow(&self.wake)
    }
}
