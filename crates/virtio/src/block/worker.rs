//! The worker of one queue.
//!
//! A request that the page cache can answer is carried out at once on the worker's own thread. One
//! that has to wait for the disk goes to the pool if others could go on meanwhile.

use super::limit::Limiter;
use super::pool::Pool;
use super::request::{Disk, Request};
use crate::{
    Chain, GuestMemory, Interrupts, MemoryGuard, Queue, QueueState, Source, Worker, WorkerError,
};
use disk::Wait;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use virtio_queue::QueueT;
use vm_memory::GuestAddressSpace;
use vmm_sys_util::eventfd::EventFd;

const KICK: u32 = 0;
const DONE: u32 = 1;

/// The driver hears of finished requests after so many, or so many bytes, even while more are
/// being worked on.
const NOTIFY_REQUESTS: u32 = 16;
const NOTIFY_BYTES: u64 = 128 * 1024;

pub(super) struct BlockWorker {
    pub(super) name: String,
    pub(super) queue: Queue,
    pub(super) memory: GuestMemory,
    pub(super) interrupts: Arc<dyn Interrupts>,
    pub(super) disk: Arc<Disk>,
    pub(super) limiter: Arc<Mutex<Limiter>>,
    pub(super) pool: Pool,
    pub(super) finished: Arc<Finished>,
    /// Requests the pool has.
    pub(super) in_flight: usize,
    /// The limit allows no request before.
    pub(super) held_until: Option<Instant>,
}

/// Requests the pool is done with.
pub(super) struct Finished {
    requests: Mutex<Vec<(u16, u32)>>,
    changed: Condvar,
    event: EventFd,
}

impl Finished {
    pub(super) fn new(event: EventFd) -> Self {
        Self { requests: Mutex::default(), changed: Condvar::new(), event }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(u16, u32)>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, head: u16, written: u32) {
        self.lock().push((head, written));
        self.changed.notify_one();
        // Fails only when the counter is full: the signal stands already.
        let _ = self.event.write(1);
    }
}

/// Finished requests the driver has not been told of.
#[derive(Default)]
struct Untold {
    requests: u32,
    bytes: u64,
}

impl BlockWorker {
    /// Takes requests until there are none, the limit holds, or the ring has been gone round.
    fn serve(&mut self) -> Result<(), WorkerError> {
        let memory = self.memory.memory();
        let most = usize::from(self.queue.ring.size());
        let mut untold = Untold::default();
        self.queue.disable_kicks(&memory)?;
        for _ in 0..most {
            // A driver may hand out the same buffers again and again; no more than a ring full at
            // a time. The next finished one brings us back here.
            if self.in_flight >= most {
                return self.tell(&memory, untold);
            }
            let now = Instant::now();
            let earliest = self.lock_limiter().earliest(now);
            if earliest.is_some() {
                self.held_until = earliest;
                return self.tell(&memory, untold);
            }
            let Some(chain) = self.queue.pop(&memory)? else {
                break;
            };
            self.begin(chain, &memory, &mut untold)?;
            if untold.requests >= NOTIFY_REQUESTS || untold.bytes >= NOTIFY_BYTES {
                self.tell(&memory, std::mem::take(&mut untold))?;
            }
        }
        self.tell(&memory, untold)?;
        if self.queue.enable_kicks(&memory)? {
            self.queue.ring_again();
        }
        Ok(())
    }

    fn lock_limiter(&self) -> MutexGuard<'_, Limiter> {
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(
        &mut self,
        chain: Chain,
        memory: &MemoryGuard,
        untold: &mut Untold,
    ) -> Result<(), WorkerError> {
        let head = chain.head_index();
        let Ok(request) = Request::parse(chain.clone(), memory) else {
            self.disk.counters.requests.add(1);
            self.disk.counters.refused.add(1);
            untold.requests += 1;
            return self.queue.add_used(memory, head, 0);
        };
        let bytes = request.bytes();
        self.lock_limiter().charge(bytes);
        let done = if request.is_slow(&self.disk) {
            None
        } else {
            request.carry_out(&self.disk, Wait::No)
        };
        let written = match done {
            Some(written) => written,
            // Alone, it loses nothing by waiting here, and saves the way to another thread.
            None if self.in_flight == 0 && !self.queue.more(memory)? => {
                carry_out_waiting(chain, memory, &self.disk)
            }
            None => {
                let (disk, finished) = (self.disk.clone(), self.finished.clone());
                // The chain is read again over there: nothing of what was checked here counts.
                let memory = memory.clone();
                let job = Box::new(move || {
                    finished.push(head, carry_out_waiting(chain, &memory, &disk));
                });
                self.in_flight += 1;
                if let Err(job) = self.pool.run(job) {
                    job();
                }
                return Ok(());
            }
        };
        untold.requests += 1;
        untold.bytes += bytes;
        self.queue.add_used(memory, head, written)
    }

    fn tell(&mut self, memory: &MemoryGuard, untold: Untold) -> Result<(), WorkerError> {
        if untold.requests > 0 {
            self.queue.notify(memory, self.interrupts.as_ref())?;
        }
        Ok(())
    }

    /// Gives back what the pool is done with.
    fn collect(&mut self) -> Result<(), WorkerError> {
        let finished = std::mem::take(&mut *self.finished.lock());
        self.in_flight -= finished.len();
        let memory = self.memory.memory();
        let untold = Untold { requests: finished.len() as u32, bytes: 0 };
        for (head, written) in finished {
            self.queue.add_used(&memory, head, written)?;
        }
        self.tell(&memory, untold)
    }
}

/// Carries out a request from its chain, however long it takes.
fn carry_out_waiting(chain: Chain, memory: &MemoryGuard, disk: &Disk) -> u32 {
    // A panic must not lose the request: the worker waits for it when it stops.
    catch_unwind(AssertUnwindSafe(|| match Request::parse(chain, memory) {
        Ok(request) => request.carry_out(disk, Wait::Yes).unwrap_or(0),
        Err(_) => {
            disk.counters.refused.add(1);
            0
        }
    }))
    .unwrap_or(0)
}

impl Worker for BlockWorker {
    fn name(&self) -> &str {
        &self.name
    }

    fn sources(&self) -> Vec<Source> {
        let source =
            |descriptor, token| Source { descriptor, readable: true, writable: false, token };
        let mut sources = vec![source(self.finished.event.as_raw_fd(), DONE)];
        if self.held_until.is_none() {
            sources.push(source(self.queue.kick.as_raw_fd(), KICK));
        }
        sources
    }

    fn deadline(&self) -> Option<Instant> {
        self.held_until
    }

    fn ready(&mut self, token: u32) -> Result<(), WorkerError> {
        if token == DONE {
            // Nothing to take means that somebody took it.
            let _ = self.finished.event.read();
            self.collect()?;
        } else {
            self.queue.take_kick();
        }
        if self.held_until.is_some() {
            return Ok(());
        }
        self.serve()
    }

    fn timeout(&mut self) -> Result<(), WorkerError> {
        self.held_until = None;
        self.serve()
    }

    fn stop(&mut self) -> Vec<QueueState> {
        {
            let mut finished = self.finished.lock();
            while finished.len() < self.in_flight {
                let waited = self.finished.changed.wait(finished);
                finished = waited.unwrap_or_else(PoisonError::into_inner);
            }
        }
        if let Err(error) = self.collect() {
            tracing::warn!(worker = self.name, %error, "finished requests could not be given back");
        }
        vec![self.queue.state()]
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}
