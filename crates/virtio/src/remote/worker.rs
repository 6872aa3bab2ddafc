//! Notices when the process is gone, and passes interrupts on that do not reach the driver without us.

use crate::{GuestMemory, Interrupts, Queue, QueueState, Source, Worker, WorkerError};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use std::any::Any;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use vhost::VhostBackend;
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use virtio_queue::QueueT;
use vm_memory::GuestAddressSpace;
use vmm_sys_util::eventfd::EventFd;

/// A queue the process works on.
pub(super) struct RemoteQueue {
    pub(super) queue: Queue,
    /// Rung by the process for an interrupt that is to be passed on.
    pub(super) call: Option<EventFd>,
}

pub(super) struct RemoteWorker {
    pub(super) name: String,
    pub(super) frontend: Frontend,
    /// Queues are switched on and off by message.
    pub(super) protocol: bool,
    pub(super) memory: GuestMemory,
    pub(super) interrupts: Arc<dyn Interrupts>,
    pub(super) queues: Vec<RemoteQueue>,
}

/// The socket; the queues' tokens are their places.
const SOCKET: u32 = u32::MAX;

impl RemoteWorker {
    /// The process says nothing unasked: a readable socket means that it is gone, or mad.
    #[allow(unsafe_code)]
    fn socket(&self) -> Result<(), WorkerError> {
        // SAFETY: the descriptor belongs to `frontend`, which lives as long as `self`.
        let socket = unsafe { BorrowedFd::borrow_raw(self.frontend.as_raw_fd()) };
        let mut byte = [0; 1];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match rustix::net::recv(socket, &mut byte, flags) {
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Ok((0, _)) | Err(_) => {
                Err(WorkerError { what: format!("{}: the process behind it is gone", self.name) })
            }
            Ok(_) => Err(WorkerError {
                what: format!("{}: the process behind it speaks unasked", self.name),
            }),
        }
    }

    /// An interrupt, if the process has rung for one to be passed on. It has looked whether the driver wants it.
    fn pass_on(&self, queue: &RemoteQueue) {
        if queue.call.as_ref().is_some_and(|call| call.read().is_ok()) {
            self.interrupts.queue(queue.queue.index);
        }
    }

    /// Takes a queue back from the process; where it stands.
    fn take_back(&self, queue: &Queue) -> QueueState {
        let index = usize::from(queue.index);
        let mut frontend = self.frontend.clone();
        let memory = self.memory.memory();
        // With the process gone, what it gave back is all that is known to be done.
        let used = queue.ring.used_idx(&*memory, Ordering::Acquire);
        let used_before = used.map_or(queue.ring.next_used(), |index| index.0);
        if self.protocol {
            // As for the base: a process that is gone has stopped, too.
            let _ = frontend.set_vring_enable(index, false);
        }
        match frontend.get_vring_base(index) {
            Ok(base) => {
                let used = queue.ring.used_idx(&*memory, Ordering::Acquire);
                QueueState {
                    index: queue.index,
                    // Not truncated: ring indices have 16 bits.
                    next_avail: base as u16,
                    next_used: used.map_or(used_before, |index| index.0),
                }
            }
            Err(error) => {
                tracing::debug!(device = self.name, %error, "queue not taken back");
                QueueState { index: queue.index, next_avail: used_before, next_used: used_before }
            }
        }
    }
}

impl Worker for RemoteWorker {
    fn name(&self) -> &str {
        &self.name
    }

    fn sources(&self) -> Vec<Source> {
        let source =
            |descriptor, token| Source { descriptor, readable: true, writable: false, token };
        let mut sources = vec![source(self.frontend.as_raw_fd(), SOCKET)];
        for (token, queue) in (0..).zip(&self.queues) {
            sources.extend(queue.call.as_ref().map(|call| source(call.as_raw_fd(), token)));
        }
        sources
    }

    fn ready(&mut self, token: u32) -> Result<(), WorkerError> {
        if token == SOCKET {
            return self.socket();
        }
        if let Some(queue) = self.queues.get(token as usize) {
            self.pass_on(queue);
        }
        Ok(())
    }

    fn stop(&mut self) -> Vec<QueueState> {
        let states = self.queues.iter().map(|it| self.take_back(&it.queue));
        let states: Vec<QueueState> = states.collect();
        for queue in &self.queues {
            self.pass_on(queue);
        }
        states
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
