//! A virtqueue in a worker's hands: taking chains, giving them back, deciding about interrupts.
//!
//! `virtio-queue` walks the ring. Here its errors become [`WorkerError`]s, so that no worker can
//! mistake a broken ring for an empty one and spin on it.

mod mapped;

use crate::{Interrupts, MemoryGuard, WorkerError};
pub use mapped::Mapped;
use std::ops::ControlFlow;
use std::sync::atomic::{Ordering, fence};
use virtio_bindings::bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC, VRING_AVAIL_F_NO_INTERRUPT,
};
use virtio_queue::{DescriptorChain, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

/// Ring features every device offers (virtio 1.2, 6): the queue code does the work.
pub const RING_FEATURES: u64 = 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// A request: one descriptor chain of the driver.
pub type Chain = DescriptorChain<MemoryGuard>;

/// One virtqueue handed to a worker.
#[derive(Debug)]
pub struct Queue {
    /// Its index on the device.
    pub index: u16,
    /// The ring, validated by the transport.
    pub ring: virtio_queue::Queue,
    /// Signalled when the driver rings.
    pub kick: EventFd,
    /// The used index at the last [`Self::notify`].
    told: u16,
    /// The available index as last read by [`Self::take`].
    seen: u16,
}

/// Where a queue stood when its worker stopped; enough to go on later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct QueueState {
    /// Its index on the device.
    pub index: u16,
    /// Next available entry to take.
    pub next_avail: u16,
    /// Next used entry to fill.
    pub next_used: u16,
}

impl Queue {
    /// A queue whose ring stands where the transport (or a saved state) put it.
    #[must_use]
    pub fn new(index: u16, ring: virtio_queue::Queue, kick: EventFd) -> Self {
        let (told, seen) = (ring.next_used(), ring.next_avail());
        Self { index, ring, kick, told, seen }
    }

    /// Takes the ring of the doorbell off the eventfd.
    pub fn take_kick(&self) {
        // Nothing to take (another reader, a spurious wake) is as good as taken.
        let _ = self.kick.read();
    }

    /// The next request, `None` when the driver has no more.
    ///
    /// # Errors
    /// The available index is further ahead than the queue is long, or cannot be read.
    pub fn pop(&mut self, memory: &MemoryGuard) -> Result<Option<Chain>, WorkerError> {
        // The index is read first: seen as ahead, it stays ahead, so that no chain then means a
        // broken ring and not a race with the driver.
        if !self.more(memory)? {
            return Ok(None);
        }
        match self.ring.iter(memory.clone()).map(|mut iter| iter.next()) {
            Ok(Some(chain)) => Ok(Some(chain)),
            Ok(None) => Err(WorkerError {
                what: format!("queue {}: available entry cannot be read", self.index),
            }),
            Err(error) => Err(self.broken("take from", &error)),
        }
    }

    /// Answers requests that can be answered at once: `answer` says how many bytes it wrote. Takes
    /// no more than the ring is long, so that the worker's other events get their turn; what is
    /// left rings again.
    ///
    /// # Errors
    /// The ring is broken, or `answer` said so.
    pub fn serve(
        &mut self,
        memory: &MemoryGuard,
        interrupts: &dyn Interrupts,
        mut answer: impl FnMut(Chain) -> Result<u32, WorkerError>,
    ) -> Result<(), WorkerError> {
        self.serve_until(memory, interrupts, |chain| {
            Ok((answer(chain)?, ControlFlow::Continue(())))
        })
    }

    /// As [`Self::serve`], for requests that can take long: `answer` also says whether this turn is to go on.
    ///
    /// # Errors
    /// As [`Self::serve`].
    pub fn serve_until(
        &mut self,
        memory: &MemoryGuard,
        interrupts: &dyn Interrupts,
        mut answer: impl FnMut(Chain) -> Result<(u32, ControlFlow<()>), WorkerError>,
    ) -> Result<(), WorkerError> {
        self.take_kick();
        self.disable_kicks(memory)?;
        for _ in 0..self.ring.size() {
            let Some(chain) = self.pop(memory)? else {
                break;
            };
            let head = chain.head_index();
            let (written, turn) = answer(chain)?;
            self.add_used(memory, head, written)?;
            if turn.is_break() {
                break;
            }
        }
        self.notify(memory, interrupts)?;
        if self.enable_kicks(memory)? {
            self.ring_again();
        }
        Ok(())
    }

    /// Rings the queue for the worker itself: it looks again after its other events.
    pub fn ring_again(&self) {
        // Fails only when the counter is full: it rings already.
        let _ = self.kick.write(1);
    }

    /// Puts the last taken request back: the next [`Self::pop`] gives it again. Only valid when no
    /// other request was taken since.
    pub fn put_back(&mut self) {
        self.ring.go_to_previous_position();
    }

    /// Gives a request back to the driver with `length` bytes written to its writable buffers.
    ///
    /// # Errors
    /// The head is outside the ring, or the ring outside memory.
    pub fn add_used(
        &mut self,
        memory: &MemoryGuard,
        head: u16,
        length: u32,
    ) -> Result<(), WorkerError> {
        self.ring
            .add_used(&**memory, head, length)
            .map_err(|error| self.broken("give back to", &error))
    }

    /// Gives several requests back at once: the driver sees either none or all of them, as it must
    /// when they hold one frame together (virtio 1.2, 5.1.6.4).
    ///
    /// # Errors
    /// As for [`Self::add_used`].
    pub fn add_used_together(
        &mut self,
        memory: &MemoryGuard,
        used: &[(u16, u32)],
    ) -> Result<(), WorkerError> {
        let Some((&(last_head, last_length), first)) = used.split_last() else {
            return Ok(());
        };
        let size = self.ring.size();
        let mut position = self.ring.next_used();
        for &(head, length) in first {
            // Elements of 8 bytes behind flags and index (virtio 1.2, 2.7.8).
            let element = 4 + 8 * u64::from(position.checked_rem(size).unwrap_or(0));
            let entry = u64::from(u32::from(head)) | u64::from(length) << 32;
            self.ring
                .used_ring()
                .checked_add(element)
                .filter(|_| head < size)
                .and_then(|at| memory.write_obj(entry.to_le(), GuestAddress(at)).ok())
                .ok_or_else(|| self.broken("give back to", &format!("head {head}")))?;
            position = position.wrapping_add(1);
        }
        // The index becomes visible with the last one.
        self.ring.set_next_used(position);
        self.add_used(memory, last_head, last_length)
    }

    /// Interrupts the driver if it wants to know about what was given back since the last call
    /// (virtio 1.2, 2.7.7 and 2.7.10).
    ///
    /// # Errors
    /// The ring cannot be read.
    pub fn notify(
        &mut self,
        memory: &MemoryGuard,
        interrupts: &dyn Interrupts,
    ) -> Result<(), WorkerError> {
        let now = self.ring.next_used();
        let before = std::mem::replace(&mut self.told, now);
        if now == before {
            return Ok(());
        }
        // The used index must be out before the driver's wish is read (virtio 1.2, 2.7.7.2).
        fence(Ordering::SeqCst);
        let wanted = if self.ring.event_idx_enabled() {
            let event = self.used_event(memory)?;
            now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(before)
        } else {
            !self.interrupts_suppressed(memory)?
        };
        if wanted {
            interrupts.queue(self.index);
        }
        Ok(())
    }

    /// Asks the driver not to ring while the worker looks at the queue anyway.
    ///
    /// # Errors
    /// The ring cannot be written.
    pub fn disable_kicks(&mut self, memory: &MemoryGuard) -> Result<(), WorkerError> {
        self.ring.disable_notification(&**memory).map_err(|error| self.broken("silence", &error))
    }

    /// Asks the driver to ring again. True when requests came meanwhile: look once more before
    /// waiting.
    ///
    /// # Errors
    /// The ring cannot be written.
    pub fn enable_kicks(&mut self, memory: &MemoryGuard) -> Result<bool, WorkerError> {
        self.ring.enable_notification(&**memory).map_err(|error| self.broken("listen to", &error))
    }

    /// Where the queue stands.
    #[must_use]
    pub fn state(&self) -> QueueState {
        QueueState {
            index: self.index,
            next_avail: self.ring.next_avail(),
            next_used: self.ring.next_used(),
        }
    }

    /// Whether the driver has made more available.
    ///
    /// # Errors
    /// The ring cannot be read.
    pub fn more(&self, memory: &MemoryGuard) -> Result<bool, WorkerError> {
        self.ring
            .avail_idx(&**memory, Ordering::Acquire)
            .map(|index| index.0 != self.ring.next_avail())
            .map_err(|error| self.broken("read the index of", &error))
    }

    /// The used index after which the driver wants an interrupt: behind the available ring (virtio
    /// 1.2, 2.7.6).
    fn used_event(&self, memory: &MemoryGuard) -> Result<u16, WorkerError> {
        let offset = 4 + 2 * u64::from(self.ring.size());
        let at = GuestAddress(self.ring.avail_ring().wrapping_add(offset));
        memory
            .load::<u16>(at, Ordering::Relaxed)
            .map(u16::from_le)
            .map_err(|error| self.broken("read the event index of", &error))
    }

    /// VIRTQ_AVAIL_F_NO_INTERRUPT (virtio 1.2, 2.7.7), valid without EVENT_IDX.
    fn interrupts_suppressed(&self, memory: &MemoryGuard) -> Result<bool, WorkerError> {
        memory
            .load::<u16>(GuestAddress(self.ring.avail_ring()), Ordering::Relaxed)
            .map(|flags| u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT != 0)
            .map_err(|error| self.broken("read the flags of", &error))
    }

    fn broken(&self, tried: &str, error: &dyn std::fmt::Display) -> WorkerError {
        WorkerError { what: format!("queue {}: cannot {tried} the ring: {error}", self.index) }
    }
}
