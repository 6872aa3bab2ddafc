//! Bytes between the two queues of a port and the end.

use super::{CHUNK, ConsoleEnd, Counters, MOST_CHUNKS};
use crate::scatter::Buffers;
use crate::{Chain, Interrupts, MemoryGuard, Queue, QueueState, Source, WorkerError};
use std::io;
use std::os::fd::AsRawFd;

/// The queues of one port, and what they lead to.
pub(super) struct Lane<E: ConsoleEnd + ?Sized> {
    pub(super) receive: Option<Queue>,
    pub(super) transmit: Option<Queue>,
    /// The driver has given no buffers for input; the end is not read until it does.
    pub(super) starved: bool,
    /// Output the end has not taken all of: [`Self::written`] bytes are gone.
    pub(super) pending: Option<Chain>,
    pub(super) written: usize,
    /// `None` when the worker that had it died: the guest talks to nobody.
    pub(super) end: Option<Box<E>>,
    /// The end gives nothing any more.
    pub(super) ended: bool,
    pub(super) counters: Counters,
}

impl<E: ConsoleEnd + ?Sized> Lane<E> {
    pub(super) fn new(
        [receive, transmit]: [Option<Queue>; 2],
        end: Option<Box<E>>,
        written: usize,
        counters: Counters,
    ) -> Self {
        Self {
            receive,
            transmit,
            starved: true,
            pending: None,
            written,
            end,
            ended: false,
            counters,
        }
    }

    /// Moves input to the guest.
    pub(super) fn feed(
        &mut self,
        memory: &MemoryGuard,
        interrupts: &dyn Interrupts,
    ) -> Result<(), WorkerError> {
        let (Some(queue), Some(end)) = (&mut self.receive, &mut self.end) else {
            return Ok(());
        };
        if self.ended {
            return Ok(());
        }
        let mut moved = false;
        for _ in 0..MOST_CHUNKS {
            let Some(chain) = queue.pop(memory)? else {
                // Until the driver rings with new buffers, input waits in the end.
                self.starved = !queue.enable_kicks(memory)?;
                if self.starved {
                    break;
                }
                continue;
            };
            self.starved = false;
            let head = chain.head_index();
            let Ok(buffers) = Buffers::of(chain, memory) else {
                self.counters.requests.add(1);
                self.counters.refused.add(1);
                queue.add_used(memory, head, 0)?;
                moved = true;
                continue;
            };
            let mut bytes = [0; CHUNK];
            let room = buffers.writable.len().min(CHUNK);
            let count = match end.receive(&mut bytes[..room]) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    queue.put_back();
                    break;
                }
                Err(_) => 0,
            };
            if count == 0 && room > 0 {
                self.ended = true;
                queue.put_back();
                break;
            }
            // `count` is at most CHUNK.
            buffers.writable.copy_from(&bytes[..count]);
            queue.add_used(memory, head, count as u32)?;
            self.counters.requests.add(1);
            self.counters.to_guest.add(count as u64);
            moved = true;
        }
        if moved { queue.notify(memory, interrupts) } else { Ok(()) }
    }

    /// Moves the guest's output to the end.
    pub(super) fn drain(
        &mut self,
        memory: &MemoryGuard,
        interrupts: &dyn Interrupts,
    ) -> Result<(), WorkerError> {
        let Some(mut queue) = self.transmit.take() else {
            return Ok(());
        };
        let result = self.drain_queue(&mut queue, memory, interrupts);
        self.transmit = Some(queue);
        result
    }

    fn drain_queue(
        &mut self,
        queue: &mut Queue,
        memory: &MemoryGuard,
        interrupts: &dyn Interrupts,
    ) -> Result<(), WorkerError> {
        let mut moved = false;
        for _ in 0..MOST_CHUNKS {
            let chain = match self.pending.take() {
                Some(chain) => chain,
                None => match queue.pop(memory)? {
                    Some(chain) => chain,
                    None if queue.enable_kicks(memory)? => continue,
                    None => break,
                },
            };
            let head = chain.head_index();
            match self.say(chain.clone(), memory) {
                Said::All => {
                    self.written = 0;
                    self.counters.requests.add(1);
                    queue.add_used(memory, head, 0)?;
                    moved = true;
                }
                Said::Some => self.pending = Some(chain),
                Said::None => {
                    self.pending = Some(chain);
                    break;
                }
            }
        }
        if moved {
            queue.notify(memory, interrupts)?;
        }
        // With output pending, the end wakes us when it takes more.
        if self.pending.is_none() && queue.more(memory)? {
            queue.ring_again();
        }
        Ok(())
    }

    /// One chunk of a request.
    fn say(&mut self, chain: Chain, memory: &MemoryGuard) -> Said {
        let Ok(mut buffers) = Buffers::of(chain, memory) else {
            self.counters.refused.add(1);
            return Said::All;
        };
        buffers.readable.skip(self.written);
        let mut bytes = [0; CHUNK];
        let count = buffers.readable.copy_to(&mut bytes);
        if count == 0 {
            return Said::All;
        }
        let taken = match self.end.as_mut().map(|end| end.send(&bytes[..count])) {
            Some(Ok(taken)) => taken,
            Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => return Said::None,
            // Nobody listens: the guest must not hang on it.
            Some(Err(_)) | None => count,
        };
        self.written += taken;
        self.counters.from_guest.add(taken as u64);
        if taken == buffers.readable.len() { Said::All } else { Said::Some }
    }

    /// The end has something, or takes something again.
    pub(super) fn end_ready(
        &mut self,
        memory: &MemoryGuard,
        interrupts: &dyn Interrupts,
    ) -> Result<(), WorkerError> {
        self.feed(memory, interrupts)?;
        if self.pending.is_some() { self.drain(memory, interrupts) } else { Ok(()) }
    }

    /// What is waited for at the end: bytes while there is room for them, room while there are bytes.
    pub(super) fn end_source(&self, token: u32) -> Option<Source> {
        self.end.as_ref().map(|end| Source {
            descriptor: end.descriptor().as_raw_fd(),
            readable: !self.starved && !self.ended,
            writable: self.pending.is_some(),
            token,
        })
    }

    /// The places of the queues. The next lane takes a request that is under way again, and goes on after
    /// [`Self::written`] bytes of it.
    pub(super) fn stop(&mut self) -> Vec<QueueState> {
        if let (Some(queue), true) = (&mut self.transmit, self.pending.take().is_some()) {
            queue.put_back();
        }
        [&self.receive, &self.transmit].into_iter().flatten().map(Queue::state).collect()
    }
}

/// A doorbell of a queue.
pub(super) fn kick_source(queue: Option<&Queue>, token: u32) -> Option<Source> {
    queue.map(|queue| Source {
        descriptor: queue.kick.as_raw_fd(),
        readable: true,
        writable: false,
        token,
    })
}

/// How much of a request's rest was taken.
enum Said {
    All,
    Some,
    None,
}
