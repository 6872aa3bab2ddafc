//! The driver's side of one split virtqueue (virtio 1.2, 2.7).

use super::eventfd;
use crate::{GuestMemory, Queue, QueueState};
use std::sync::atomic::{Ordering, fence};
use virtio_bindings::bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE, VRING_USED_F_NO_NOTIFY,
};
use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::{Queue as SplitQueue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};
use vmm_sys_util::eventfd::EventFd;

/// A request the device gave back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// Its head.
    pub head: u16,
    /// How much the device says it wrote.
    pub length: u32,
    /// The writable buffers' bytes, joined, whole (also past `length`).
    pub data: Vec<u8>,
}

/// A request the device has.
#[derive(Clone, Debug)]
struct InFlight {
    descriptors: Vec<u16>,
    /// Address and length of the buffers the device writes to.
    writable: Vec<(u64, u32)>,
}

/// One ring.
pub struct Ring {
    memory: GuestMemory,
    index: u16,
    base: u64,
    size: u16,
    event_idx: bool,
    kick: EventFd,
    state: QueueState,
    available: u16,
    used: u16,
    free: Vec<u16>,
    /// Per head.
    in_flight: Vec<Option<InFlight>>,
}

impl Ring {
    /// An empty ring at `base`, which is a multiple of 16.
    #[must_use]
    pub fn new(memory: &GuestMemory, index: u16, base: u64, size: u16, features: u64) -> Self {
        let mut ring = Self {
            memory: memory.clone(),
            index,
            base,
            size,
            event_idx: features & 1 << VIRTIO_RING_F_EVENT_IDX != 0,
            kick: eventfd(),
            state: QueueState { index, next_avail: 0, next_used: 0 },
            available: 0,
            used: 0,
            free: Vec::new(),
            in_flight: Vec::new(),
        };
        ring.reset();
        ring
    }

    /// Descriptors in the table.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Address of the descriptor table.
    #[must_use]
    pub fn descriptors(&self) -> u64 {
        self.base
    }

    /// Address of the available ring.
    #[must_use]
    pub fn available_ring(&self) -> u64 {
        self.base + 16 * u64::from(self.size)
    }

    /// Address of the used ring.
    #[must_use]
    pub fn used_ring(&self) -> u64 {
        (self.available_ring() + 6 + 2 * u64::from(self.size)).next_multiple_of(4)
    }

    /// Empty again, as a driver makes it before it enables the queue.
    pub fn reset(&mut self) {
        let end = self.used_ring() + 6 + 8 * u64::from(self.size);
        let zeros = vec![0; usize::try_from(end - self.base).unwrap()];
        self.memory.memory().write_slice(&zeros, GuestAddress(self.base)).unwrap();
        self.state = QueueState { index: self.index, next_avail: 0, next_used: 0 };
        self.available = 0;
        self.used = 0;
        self.free = (0..self.size).rev().collect();
        self.in_flight = vec![None; usize::from(self.size)];
    }

    /// The device's end of the ring.
    pub(crate) fn queue(&self) -> Queue {
        let mut ring = SplitQueue::new(self.size).unwrap();
        ring.try_set_desc_table_address(GuestAddress(self.descriptors())).unwrap();
        ring.try_set_avail_ring_address(GuestAddress(self.available_ring())).unwrap();
        ring.try_set_used_ring_address(GuestAddress(self.used_ring())).unwrap();
        ring.set_event_idx(self.event_idx);
        ring.set_next_avail(self.state.next_avail);
        ring.set_next_used(self.state.next_used);
        ring.set_ready(true);
        assert!(ring.is_valid(&*self.memory.memory()));
        Queue::new(self.index, ring, self.kick.try_clone().unwrap())
    }

    pub(super) fn set_state(&mut self, state: QueueState) {
        self.state = state;
    }

    /// Writes one descriptor as it is.
    ///
    /// # Panics
    /// When the index is outside the table.
    pub fn write_descriptor(
        &mut self,
        index: u16,
        address: u64,
        length: u32,
        flags: u16,
        next: u16,
    ) {
        assert!(index < self.size);
        let raw = RawDescriptor::from(Descriptor::new(address, length, flags, next));
        let at = GuestAddress(self.descriptors() + 16 * u64::from(index));
        self.memory.memory().write_obj(raw, at).unwrap();
    }

    /// Makes a request of `(address, length, writable)` buffers available; its head.
    ///
    /// # Panics
    /// When the ring is full.
    pub fn add(&mut self, buffers: &[(u64, u32, bool)]) -> u16 {
        let indices: Vec<u16> =
            buffers.iter().map(|_| self.free.pop().expect("room in the ring")).collect();
        for (n, &(address, length, writable)) in buffers.iter().enumerate() {
            let next = indices.get(n + 1).copied();
            let mut flags = 0;
            if next.is_some() {
                flags |= VRING_DESC_F_NEXT as u16;
            }
            if writable {
                flags |= VRING_DESC_F_WRITE as u16;
            }
            self.write_descriptor(indices[n], address, length, flags, next.unwrap_or(0));
        }
        let head = indices[0];
        let writable = buffers.iter().filter(|b| b.2).map(|&(a, l, _)| (a, l)).collect();
        self.in_flight[usize::from(head)] = Some(InFlight { descriptors: indices, writable });
        self.publish(head);
        head
    }

    /// Puts `head` into the available ring, whatever it is.
    pub fn publish(&mut self, head: u16) {
        let entry = self.available_ring() + 4 + 2 * u64::from(self.available % self.size);
        let memory = self.memory.memory();
        memory.write_obj(head.to_le(), GuestAddress(entry)).unwrap();
        // The device goes as far as this index only; the entry above must be there first.
        fence(Ordering::SeqCst);
        self.set_available(self.available.wrapping_add(1));
    }

    /// Sets the available index, whatever it is.
    pub fn set_available(&mut self, index: u16) {
        self.available = index;
        let at = GuestAddress(self.available_ring() + 2);
        self.memory.memory().write_obj(index.to_le(), at).unwrap();
    }

    /// The doorbell.
    #[must_use]
    pub fn doorbell(&self) -> &EventFd {
        &self.kick
    }

    /// Rings.
    pub fn kick(&self) {
        self.kick.write(1).unwrap();
    }

    /// Whether the device wants to hear of new requests (without EVENT_IDX).
    #[must_use]
    pub fn wants_kicks(&self) -> bool {
        // What was published must be out before the flag is read (virtio 1.2, 2.7.13.4.1).
        fence(Ordering::SeqCst);
        let at = GuestAddress(self.used_ring());
        let flags: u16 = self.memory.memory().load(at, Ordering::Relaxed).unwrap();
        u32::from(u16::from_le(flags)) & VRING_USED_F_NO_NOTIFY == 0
    }

    /// The next request given back, if there is one, with what the device wrote.
    ///
    /// # Panics
    /// As [`Self::take_used_head`].
    pub fn take_used(&mut self) -> Option<Used> {
        let (head, length, request) = self.take_used_parts()?;
        let memory = self.memory.memory();
        let mut data = Vec::new();
        for (address, length) in request.writable {
            let start = data.len();
            data.resize(start + length as usize, 0);
            memory.read_slice(&mut data[start..], GuestAddress(address)).unwrap();
        }
        Some(Used { head, length, data })
    }

    /// The head of the next request given back, and how much the device says it wrote.
    ///
    /// # Panics
    /// When the device gave back something that was not its to give.
    pub fn take_used_head(&mut self) -> Option<(u16, u32)> {
        let (head, length, _) = self.take_used_parts()?;
        Some((head, length))
    }

    /// Takes one entry off the used ring; asks for an interrupt at the one after it.
    fn take_used_parts(&mut self) -> Option<(u16, u32, InFlight)> {
        let memory = self.memory.memory();
        let at = GuestAddress(self.used_ring() + 2);
        // The event index written last time must be out before the index is read, else the
        // interrupt for an entry in between is missed (virtio 1.2, 2.7.7.1).
        fence(Ordering::SeqCst);
        let index = u16::from_le(memory.load(at, Ordering::Acquire).unwrap());
        if index == self.used {
            return None;
        }
        let entry = self.used_ring() + 4 + 8 * u64::from(self.used % self.size);
        let head: u32 = u32::from_le(memory.read_obj(GuestAddress(entry)).unwrap());
        let length: u32 = u32::from_le(memory.read_obj(GuestAddress(entry + 4)).unwrap());
        self.used = self.used.wrapping_add(1);
        if self.event_idx {
            let event = GuestAddress(self.available_ring() + 4 + 2 * u64::from(self.size));
            memory.write_obj(self.used.to_le(), event).unwrap();
        }
        let slot = self.in_flight.get_mut(head as usize);
        let request =
            slot.expect("a head inside the ring").take().expect("a request that was in flight");
        self.free.extend(&request.descriptors);
        Some((u16::try_from(head).unwrap(), length, request))
    }
}
