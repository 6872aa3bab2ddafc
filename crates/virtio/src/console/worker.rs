//! The data half: one lane.

use super::lane::{Lane, kick_source};
use super::{ConsoleEnd, TOKEN_END, TOKEN_RECEIVE, TOKEN_TRANSMIT};
use crate::{GuestMemory, Interrupts, QueueState, Source, Worker, WorkerError};
use std::any::Any;
use std::sync::Arc;
use vm_memory::GuestAddressSpace;

pub(super) struct ConsoleWorker {
    pub(super) name: String,
    pub(super) lane: Lane<dyn ConsoleEnd>,
    pub(super) memory: GuestMemory,
    pub(super) interrupts: Arc<dyn Interrupts>,
}

impl Worker for ConsoleWorker {
    fn name(&self) -> &str {
        &self.name
    }

    fn sources(&self) -> Vec<Source> {
        let Lane { receive, transmit, .. } = &self.lane;
        [
            kick_source(receive.as_ref(), TOKEN_RECEIVE),
            kick_source(transmit.as_ref(), TOKEN_TRANSMIT),
            self.lane.end_source(TOKEN_END),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn ready(&mut self, token: u32) -> Result<(), WorkerError> {
        let (memory, interrupts) = (self.memory.memory(), self.interrupts.as_ref());
        match token {
            TOKEN_RECEIVE => {
                self.lane.receive.iter().for_each(|queue| queue.take_kick());
                self.lane.feed(&memory, interrupts)
            }
            TOKEN_TRANSMIT => {
                self.lane.transmit.iter().for_each(|queue| queue.take_kick());
                self.lane.drain(&memory, interrupts)
            }
            _ => self.lane.end_ready(&memory, interrupts),
        }
    }

    fn stop(&mut self) -> Vec<QueueState> {
        self.lane.stop()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
