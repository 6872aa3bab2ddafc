//! Serves the two queues.

use super::{Shared, State};
use crate::scatter::Buffers;
use crate::{GuestMemory, Interrupts, Queue, QueueState, Source, Worker, WorkerError};
use std::any::Any;
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use vm_memory::GuestAddressSpace;

const MODE_CHANGED: u32 = 0x100;
/// Bytes of pixels after which a turn ends: the other queue, and whoever wants to stop the device, wait no
/// longer than for these and one command, whatever the driver has queued.
pub(super) const TURN_BYTES: u64 = 64 << 20;

pub(super) struct GpuWorker {
    pub(super) name: String,
    pub(super) shared: Arc<Shared>,
    pub(super) state: State,
    pub(super) memory: GuestMemory,
    pub(super) interrupts: Arc<dyn Interrupts>,
    pub(super) queues: Vec<Queue>,
}

impl Worker for GpuWorker {
    fn name(&self) -> &str {
        &self.name
    }

    fn sources(&self) -> Vec<Source> {
        let source =
            |descriptor, token| Source { descriptor, readable: true, writable: false, token };
        let queues = (0..).zip(&self.queues);
        let mut sources: Vec<Source> =
            queues.map(|(place, queue)| source(queue.kick.as_raw_fd(), place)).collect();
        sources.push(source(self.shared.mode_changed.as_raw_fd(), MODE_CHANGED));
        sources
    }

    fn ready(&mut self, token: u32) -> Result<(), WorkerError> {
        if token == MODE_CHANGED {
            // Nothing to take (another wake) is as good as taken.
            let _ = self.shared.mode_changed.read();
            self.interrupts.config_changed();
            return Ok(());
        }
        let memory = self.memory.memory();
        let Some(queue) = self.queues.get_mut(token as usize) else {
            return Ok(());
        };
        let (state, shared) = (&mut self.state, &self.shared);
        state.moved = 0;
        queue.serve_until(&memory, self.interrupts.as_ref(), |chain| {
            // A chain that makes no sense has no place for an answer.
            let Ok(buffers) = Buffers::of(chain, &memory) else {
                state.counters.refused.add(1);
                return Ok((0, ControlFlow::Continue(())));
            };
            let written = state.execute(&memory, shared.mode(), buffers);
            let over = state.moved >= TURN_BYTES;
            Ok((written, if over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }))
        })
    }

    fn stop(&mut self) -> Vec<QueueState> {
        self.queues.iter().map(Queue::state).collect()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
