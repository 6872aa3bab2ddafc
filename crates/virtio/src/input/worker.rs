//! Fills the guest's buffers with events, and reads what lamps it wants lit.

use super::backlog::Event;
use super::codes::{EV_LED, LEDS};
use super::{Counters, Lamps, Shared};
use crate::scatter::Buffers;
use crate::{GuestMemory, Interrupts, Queue, QueueState, Source, Worker, WorkerError};
use std::any::Any;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use virtio_queue::QueueT;
use vm_memory::GuestAddressSpace;

/// Queues by index (virtio 1.2, 5.8.2).
const EVENTS: u16 = 0;
const HAPPENED: u32 = 0x100;

pub(super) struct InputWorker {
    pub(super) name: String,
    pub(super) shared: Arc<Shared>,
    pub(super) counters: Counters,
    pub(super) lamps: Option<Lamps>,
    pub(super) memory: GuestMemory,
    pub(super) interrupts: Arc<dyn Interrupts>,
    pub(super) queues: Vec<Queue>,
}

impl InputWorker {
    /// Gives the guest as many events as it has buffers for.
    fn deliver(&mut self) -> Result<(), WorkerError> {
        let Some(queue) = self.queues.iter_mut().find(|queue| queue.index == EVENTS) else {
            return Ok(());
        };
        let memory = self.memory.memory();
        let mut backlog = self.shared.backlog();
        queue.disable_kicks(&memory)?;
        let mut turns = queue.ring.size();
        while let Some(event) = backlog.next() {
            // A driver that only gives useless buffers must not keep the thread.
            if turns == 0 {
                queue.ring_again();
                break;
            }
            turns -= 1;
            let Some(chain) = queue.pop(&memory)? else {
                // It rings when it has more; what came meanwhile is looked at now.
                if queue.enable_kicks(&memory)? {
                    continue;
                }
                break;
            };
            let head = chain.head_index();
            let room = Buffers::of(chain, &memory);
            let room = room.map(|buffers| buffers.writable).unwrap_or_default();
            if room.len() < Event::BYTES {
                // Of no use: given back, and the event goes into the next.
                self.counters.refused.add(1);
                queue.add_used(&memory, head, 0)?;
                continue;
            }
            room.copy_from(&event.encode());
            queue.add_used(&memory, head, Event::BYTES as u32)?;
            self.counters.events.add(1);
            backlog.advance();
        }
        queue.notify(&memory, self.interrupts.as_ref())
    }

    /// 5.8.6.2: the guest's answers; only lamps mean something to a keyboard.
    fn hear(&mut self, place: usize) -> Result<(), WorkerError> {
        let memory = self.memory.memory();
        let Some(queue) = self.queues.get_mut(place) else {
            return Ok(());
        };
        let (lamps, counters, shared) = (&mut self.lamps, &self.counters, &self.shared);
        queue.serve(&memory, self.interrupts.as_ref(), |chain| {
            let event = Buffers::of(chain, &memory)
                .ok()
                .and_then(|mut buffers| buffers.readable.take().map(Event::decode));
            match (event, lamps.as_mut()) {
                (Some(Event { kind: EV_LED, code, value }), Some(lamps))
                    if LEDS.contains(&code) && value <= 1 =>
                {
                    lamps(shared.light(code, value == 1));
                }
                _ => counters.refused.add(1),
            }
            Ok(0)
        })
    }
}

impl Worker for InputWorker {
    fn name(&self) -> &str {
        &self.name
    }

    fn sources(&self) -> Vec<Source> {
        let source =
            |descriptor, token| Source { descriptor, readable: true, writable: false, token };
        let queues = (0..).zip(&self.queues);
        let mut sources: Vec<Source> =
            queues.map(|(place, queue)| source(queue.kick.as_raw_fd(), place)).collect();
        sources.push(source(self.shared.happened.as_raw_fd(), HAPPENED));
        sources
    }

    fn ready(&mut self, token: u32) -> Result<(), WorkerError> {
        if token == HAPPENED {
            // Nothing to take (another wake) is as good as taken.
            let _ = self.shared.happened.read();
            return self.deliver();
        }
        let place = token as usize;
        match self.queues.get(place) {
            Some(queue) if queue.index == EVENTS => {
                queue.take_kick();
                self.deliver()
            }
            _ => self.hear(place),
        }
    }

    fn stop(&mut self) -> Vec<QueueState> {
        self.queues.iter().map(Queue::state).collect()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
