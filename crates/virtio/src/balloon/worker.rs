//! Serves the balloon's queues.

use super::{Counters, MemoryReclaim, STATISTICS, Shared};
use crate::scatter::Buffers;
use crate::{
    Chain, GuestMemory, Interrupts, MemoryGuard, Queue, QueueState, Source, Worker, WorkerError,
};
use std::any::Any;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use units::{Bytes, GuestPhysical, PAGE_SIZE};
use vm_memory::GuestAddressSpace;

/// What a queue is for (virtio 1.2, 5.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    Inflate,
    Deflate,
    Statistics,
    Reporting,
}

/// Page numbers looked at together, so that neighbours go back in one call.
const BATCH: usize = 1024;
/// Free ranges in one report at most; a driver reports as many as its queue has entries.
const MAX_RANGES: usize = 1024;
/// Bytes of one statistic: tag and value, packed (virtio 1.2, 5.5.6.3).
const STATISTIC_BYTES: usize = 10;

const TARGET: u32 = 0x100;
const STATISTICS_WANTED: u32 = 0x101;

pub(super) struct BalloonWorker {
    pub(super) name: String,
    pub(super) shared: Arc<Shared>,
    pub(super) counters: Counters,
    pub(super) reclaim: Box<dyn MemoryReclaim>,
    /// The driver says what it fills free pages with.
    pub(super) poisons: bool,
    pub(super) memory: GuestMemory,
    pub(super) interrupts: Arc<dyn Interrupts>,
    pub(super) queues: Vec<(Named, Queue)>,
    /// The driver's buffer, kept until new statistics are wanted (virtio 1.2, 5.5.6.3).
    pub(super) statistics_buffer: Option<u16>,
}

impl BalloonWorker {
    fn serve(&mut self, place: usize) -> Result<(), WorkerError> {
        let memory = self.memory.memory();
        let Some((named, queue)) = self.queues.get_mut(place) else {
            return Ok(());
        };
        let named = *named;
        // A ring full at a time, so that a driver that never stops cannot keep the thread.
        for _ in 0..virtio_queue::QueueT::size(&queue.ring) {
            let Some((_, queue)) = self.queues.get_mut(place) else {
                break;
            };
            let Some(chain) = queue.pop(&memory)? else {
                if queue.enable_kicks(&memory)? {
                    continue;
                }
                return queue.notify(&memory, self.interrupts.as_ref());
            };
            let head = chain.head_index();
            match named {
                Named::Inflate => self.inflate(chain, &memory)?,
                Named::Deflate => {
                    let pages = Buffers::of(chain, &memory)?.readable.len() / 4;
                    self.counters.deflated.add(pages as u64 * PAGE_SIZE);
                }
                Named::Reporting => self.report(chain),
                Named::Statistics => {
                    self.take_statistics(chain, &memory)?;
                    // Given back when the next ones are wanted.
                    if let Some(old) = self.statistics_buffer.replace(head) {
                        self.give_back(place, &memory, old)?;
                    }
                    continue;
                }
            }
            self.give_back(place, &memory, head)?;
        }
        if let Some((_, queue)) = self.queues.get_mut(place) {
            // Full eventfd counters wake as well.
            let _ = queue.kick.write(1);
            queue.notify(&memory, self.interrupts.as_ref())?;
        }
        Ok(())
    }

    fn give_back(
        &mut self,
        place: usize,
        memory: &MemoryGuard,
        head: u16,
    ) -> Result<(), WorkerError> {
        match self.queues.get_mut(place) {
            Some((_, queue)) => queue.add_used(memory, head, 0),
            None => Ok(()),
        }
    }

    /// Pages the guest does without, as page numbers (virtio 1.2, 5.5.6).
    fn inflate(&mut self, chain: Chain, memory: &MemoryGuard) -> Result<(), WorkerError> {
        let mut list = Buffers::of(chain, memory)?.readable;
        list.truncate(MAX_LIST);
        let mut bytes = [0; 4 * BATCH];
        loop {
            let count = list.copy_to(&mut bytes);
            list.skip(count);
            let mut pages: Vec<u32> = bytes[..count]
                .chunks_exact(4)
                .map(|number| u32::from_le_bytes([number[0], number[1], number[2], number[3]]))
                .collect();
            pages.sort_unstable();
            pages.dedup();
            for run in pages.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
                let start = u64::from(run[0]) * PAGE_SIZE;
                let length = run.len() as u64 * PAGE_SIZE;
                self.release(start, length, |counters, length| counters.inflated.add(length));
            }
            if list.is_empty() {
                return Ok(());
            }
        }
    }

    /// Gives one range back. Page by page if it is not RAM as a whole: the pages next to a wrong
    /// one are good.
    fn release(&self, start: u64, length: u64, count: impl Fn(&Counters, u64)) {
        let release = |start, length| self.reclaim.release(GuestPhysical(start), Bytes(length));
        if release(start, length).is_ok() {
            count(&self.counters, length);
            return;
        }
        let Some(end) = start.checked_add(length).filter(|_| length <= MAX_SPLIT) else {
            self.counters.refused.add(1);
            return;
        };
        for page in (start..end).step_by(PAGE_SIZE as usize) {
            match release(page, PAGE_SIZE) {
                Ok(()) => count(&self.counters, PAGE_SIZE),
                Err(error) => {
                    self.counters.refused.add(1);
                    tracing::debug!(device = self.name, %error, "page not given back");
                }
            }
        }
    }

    /// Free ranges, as the buffers of the request themselves (virtio 1.2, 5.5.6.7).
    fn report(&mut self, chain: Chain) {
        if self.poisons && self.shared.poison.load(Ordering::Relaxed) != 0 {
            // The guest expects its filling there later; a page given back is full of zeros.
            return;
        }
        for range in chain.take(MAX_RANGES) {
            let start = range.addr().0.checked_next_multiple_of(PAGE_SIZE);
            let end = range.addr().0.checked_add(u64::from(range.len()));
            let (Some(start), Some(end)) = (start, end) else {
                self.counters.refused.add(1);
                continue;
            };
            let length = (end & !(PAGE_SIZE - 1)).saturating_sub(start);
            if length == 0 {
                continue;
            }
            self.release(start, length, |counters, length| counters.reported.add(length));
        }
    }

    fn take_statistics(&mut self, chain: Chain, memory: &MemoryGuard) -> Result<(), WorkerError> {
        let mut list = Buffers::of(chain, memory)?.readable;
        let statistics = self.shared.statistics.lock();
        let mut statistics = statistics.unwrap_or_else(PoisonError::into_inner);
        // There are no more kinds than names; a driver that repeats itself is cut short.
        for _ in 0..STATISTICS.len() {
            let Some(bytes) = list.take::<STATISTIC_BYTES>() else {
                break;
            };
            let mut value = [0; 8];
            value.copy_from_slice(&bytes[2..]);
            let tag = u16::from_le_bytes([bytes[0], bytes[1]]);
            if let Some(name) = STATISTICS.get(usize::from(tag)) {
                statistics.insert(name, u64::from_le_bytes(value));
            }
        }
        Ok(())
    }

    /// Gives the driver its statistics buffer back, which asks for new ones.
    fn ask_for_statistics(&mut self) -> Result<(), WorkerError> {
        let memory = self.memory.memory();
        let place = self.queues.iter().position(|(named, _)| *named == Named::Statistics);
        if let (Some(place), Some(head)) = (place, self.statistics_buffer.take()) {
            self.give_back(place, &memory, head)?;
            self.queues[place].1.notify(&memory, self.interrupts.as_ref())?;
        }
        Ok(())
    }
}

/// Bytes of page numbers after which the rest of one request is not looked at, so that it ends in
/// reasonable time: hundreds of times what drivers send.
const MAX_LIST: usize = 1 << 20;
/// The longest range looked at page by page: what one batch of page numbers can name.
const MAX_SPLIT: u64 = BATCH as u64 * PAGE_SIZE;

impl Worker for BalloonWorker {
    fn name(&self) -> &str {
        &self.name
    }

    fn sources(&self) -> Vec<Source> {
        let source =
            |descriptor, token| Source { descriptor, readable: true, writable: false, token };
        let mut sources = vec![
            source(self.shared.target_changed.as_raw_fd(), TARGET),
            source(self.shared.statistics_wanted.as_raw_fd(), STATISTICS_WANTED),
        ];
        for (token, (_, queue)) in (0..).zip(&self.queues) {
            sources.push(source(queue.kick.as_raw_fd(), token));
        }
        sources
    }

    fn ready(&mut self, token: u32) -> Result<(), WorkerError> {
        match token {
            TARGET => {
                // Nothing to take is as good as taken.
                let _ = self.shared.target_changed.read();
                self.interrupts.config_changed();
                Ok(())
            }
            STATISTICS_WANTED => {
                let _ = self.shared.statistics_wanted.read();
                self.ask_for_statistics()
            }
            place => {
                let place = place as usize;
                if let Some((_, queue)) = self.queues.get(place) {
                    queue.take_kick();
                }
                self.serve(place)
            }
        }
    }

    fn stop(&mut self) -> Vec<QueueState> {
        // The driver gets its buffer back now, since nobody knows of it later; it answers with
        // fresh statistics, which the next worker keeps.
        if let Err(error) = self.ask_for_statistics() {
            tracing::debug!(device = self.name, %error, "statistics buffer not given back");
        }
        self.queues.iter().map(|(_, queue)| queue.state()).collect()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
