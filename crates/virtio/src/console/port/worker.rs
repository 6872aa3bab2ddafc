//! The data half: the port's lane, and the conversation about it.

use super::control::{Conversation, MESSAGE};
use super::listening::Listening;
use crate::console::lane::{Lane, kick_source};
use crate::scatter::Buffers;
use crate::{GuestMemory, Interrupts, MemoryGuard, Queue, QueueState, Source, Worker, WorkerError};
use std::any::Any;
use std::sync::Arc;
use vm_memory::GuestAddressSpace;

const TOKEN_RECEIVE: u32 = 0;
const TOKEN_TRANSMIT: u32 = 1;
const TOKEN_END: u32 = 2;
const TOKEN_TO_DRIVER: u32 = 3;
const TOKEN_FROM_DRIVER: u32 = 4;
const TOKEN_NOWHERE: u32 = 5;

pub(super) struct PortWorker {
    pub(super) name: String,
    /// The port's name.
    pub(super) port: String,
    pub(super) lane: Lane<Listening>,
    /// Input of port 0, of which there is none.
    pub(super) unused: Option<Queue>,
    /// Output of port 0.
    pub(super) nowhere: Option<Queue>,
    pub(super) to_driver: Option<Queue>,
    pub(super) from_driver: Option<Queue>,
    pub(super) conversation: Conversation,
    pub(super) memory: GuestMemory,
    pub(super) interrupts: Arc<dyn Interrupts>,
}

impl PortWorker {
    fn is_connected(&self) -> bool {
        self.lane.end.as_ref().is_some_and(|end| end.is_connected())
    }

    /// Hears what the driver says.
    fn listen(&mut self, memory: &MemoryGuard) -> Result<(), WorkerError> {
        let Some(queue) = &mut self.from_driver else {
            return Ok(());
        };
        let (conversation, counters) = (&mut self.conversation, &self.lane.counters);
        queue.serve(memory, self.interrupts.as_ref(), |chain| {
            let message = Buffers::of(chain, memory)
                .ok()
                .and_then(|mut buffers| buffers.readable.take::<MESSAGE>());
            if message.is_none_or(|message| conversation.hear(message).is_err()) {
                counters.refused.add(1);
            }
            Ok(0)
        })
    }

    /// Says what is to be said, as far as the driver has given buffers.
    fn speak(&mut self, memory: &MemoryGuard) -> Result<(), WorkerError> {
        let connected = self.is_connected();
        let Some(queue) = &mut self.to_driver else {
            return Ok(());
        };
        while let Some(message) = self.conversation.next(&self.port, connected) {
            let Some(chain) = queue.pop(memory)? else {
                if queue.enable_kicks(memory)? {
                    continue;
                }
                break;
            };
            let head = chain.head_index();
            let room = Buffers::of(chain, memory)
                .ok()
                .filter(|buffers| buffers.writable.len() >= message.len());
            match room {
                Some(buffers) => {
                    buffers.writable.copy_from(&message);
                    // A few bytes.
                    queue.add_used(memory, head, message.len() as u32)?;
                    self.conversation.said(connected);
                }
                None => {
                    self.lane.counters.refused.add(1);
                    queue.add_used(memory, head, 0)?;
                }
            }
        }
        queue.notify(memory, self.interrupts.as_ref())
    }

    /// What a kernel prints that takes port 0 for a console.
    fn swallow(&mut self, memory: &MemoryGuard) -> Result<(), WorkerError> {
        match &mut self.nowhere {
            Some(queue) => queue.serve(memory, self.interrupts.as_ref(), |_| Ok(0)),
            None => Ok(()),
        }
    }

    /// Input, once somebody in the guest reads it.
    fn feed(&mut self, memory: &MemoryGuard) -> Result<(), WorkerError> {
        if !self.conversation.is_opened() {
            return Ok(());
        }
        self.lane.feed(memory, self.interrupts.as_ref())
    }

    /// Output. What nobody waits for is dropped a few chunks at a time; no end says when more of it can be taken.
    fn drain(&mut self, memory: &MemoryGuard) -> Result<(), WorkerError> {
        self.lane.drain(memory, self.interrupts.as_ref())?;
        if self.lane.pending.is_some() && !self.is_connected() {
            self.lane.transmit.iter().for_each(Queue::ring_again);
        }
        Ok(())
    }

    /// The one at the host's end has gone: what nobody waits for any more is dropped, and the next who waits is
    /// taken.
    fn part(&mut self, memory: &MemoryGuard) -> Result<(), WorkerError> {
        self.drain(memory)?;
        if let Some(end) = &mut self.lane.end {
            end.accept();
        }
        Ok(())
    }
}

impl Worker for PortWorker {
    fn name(&self) -> &str {
        &self.name
    }

    fn sources(&self) -> Vec<Source> {
        let Lane { receive, transmit, .. } = &self.lane;
        let connected = self.is_connected();
        let end = self.lane.end_source(TOKEN_END).map(|source| Source {
            // Somebody who comes is always let in.
            readable: !connected || (source.readable && self.conversation.is_opened()),
            writable: connected && source.writable,
            ..source
        });
        [
            kick_source(receive.as_ref(), TOKEN_RECEIVE),
            kick_source(transmit.as_ref(), TOKEN_TRANSMIT),
            kick_source(self.to_driver.as_ref(), TOKEN_TO_DRIVER),
            kick_source(self.from_driver.as_ref(), TOKEN_FROM_DRIVER),
            kick_source(self.nowhere.as_ref(), TOKEN_NOWHERE),
            end,
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn ready(&mut self, token: u32) -> Result<(), WorkerError> {
        let memory = self.memory.memory();
        let connected = self.is_connected();
        match token {
            TOKEN_RECEIVE => {
                self.lane.receive.iter().for_each(Queue::take_kick);
                self.feed(&memory)?;
            }
            TOKEN_TRANSMIT => {
                self.lane.transmit.iter().for_each(Queue::take_kick);
                self.drain(&memory)?;
            }
            TOKEN_TO_DRIVER => self.to_driver.iter().for_each(Queue::take_kick),
            TOKEN_FROM_DRIVER => {
                self.listen(&memory)?;
                self.feed(&memory)?;
            }
            TOKEN_NOWHERE => self.swallow(&memory)?,
            _ if connected => {
                self.feed(&memory)?;
                if self.lane.pending.is_some() {
                    self.drain(&memory)?;
                }
            }
            _ => {
                if let Some(end) = &mut self.lane.end {
                    end.accept();
                }
            }
        }
        if connected && !self.is_connected() {
            self.part(&memory)?;
        }
        self.speak(&memory)
    }

    fn stop(&mut self) -> Vec<QueueState> {
        let mut states = self.lane.stop();
        let others = [&self.unused, &self.nowhere, &self.to_driver, &self.from_driver];
        states.extend(others.into_iter().flatten().map(Queue::state));
        states
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
