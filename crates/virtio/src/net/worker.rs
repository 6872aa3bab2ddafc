//! Moves frames between the queues and the other end of the cable.

use super::Counters;
use super::backend::{Backend, Frame, LinkDown, Next, Offloads};
use super::header::{self, HEADER_BYTES, NUM_BUFFERS, feature};
use crate::scatter::{Buffers, MAX_ENTRIES, Writable};
use crate::{
    GuestMemory, Interrupts, Mapped, MemoryGuard, Queue, QueueState, Source, Worker, WorkerError,
};
use std::any::Any;
use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use virtio_queue::QueueT;
use vm_memory::GuestAddressSpace;

/// Frames of the guest sent together.
const BATCH: usize = 64;
/// Bytes of the guest sent together, so that a batch of the longest frames stays a batch.
const BATCH_BYTES: usize = 512 * 1024;
/// Frames in each direction before the thread looks whether it is told to stop.
const PATIENCE: usize = 512;
/// Frames for the guest before it is told.
const TELL_AFTER: usize = 64;

/// Buffers of the usual size that hold the longest frame, and some more.
const USUAL_BUFFERS: usize = 64;

const BACKEND: u32 = 0;
const RX: u32 = 1;
const TX: u32 = 2;
const CONTROL: u32 = 3;

pub(super) struct NetWorker {
    pub(super) name: String,
    pub(super) features: u64,
    pub(super) backend: Box<dyn Backend>,
    pub(super) link: Arc<AtomicBool>,
    pub(super) counters: Counters,
    pub(super) memory: GuestMemory,
    pub(super) interrupts: Arc<dyn Interrupts>,
    pub(super) rx: Queue,
    pub(super) tx: Queue,
    pub(super) control: Option<Queue>,
    /// A frame for which the guest had too little room, header included.
    pub(super) stash: Vec<u8>,
    /// The guest must give buffers before more is received.
    pub(super) starved: bool,
    /// The other end must take bytes before more is sent.
    pub(super) blocked: bool,
}

/// A frame of the guest, waiting to be sent.
struct Outgoing<'m> {
    head: u16,
    /// Where the ring stood before it.
    before: u16,
    /// `None` when there is something wrong with it.
    frame: Option<Frame<'m>>,
}

/// Buffers taken from the ring and not used yet, in its order.
struct Window<'m> {
    /// The heads of their chains, and how many bytes each holds.
    buffers: VecDeque<(u16, usize)>,
    /// All their bytes.
    room: Writable<'m>,
    /// Where a chain is collected.
    next: Buffers<'m>,
}

/// What became of an attempt to give the guest a frame.
enum Delivery {
    Done,
    /// There was none.
    Nothing,
    /// The guest has not enough buffers.
    Starved,
}

impl NetWorker {
    fn up(&self) -> bool {
        self.link.load(Ordering::Relaxed)
    }

    fn merges(&self) -> bool {
        self.features & feature::MRG_RXBUF != 0
    }

    /// Takes the cable out.
    fn unplug(&mut self, down: &LinkDown) {
        tracing::error!(device = self.name, reason = %down, "network link is down");
        self.link.store(false, Ordering::Relaxed);
        self.stash = Vec::new();
        self.blocked = false;
        if self.features & feature::STATUS != 0 {
            self.interrupts.config_changed();
        }
    }

    /// Sends what the guest has for us; afterwards either the queue is empty and kicks are on, or
    /// the other end is full, or our own bell has been rung.
    fn transmit(&mut self) -> Result<(), WorkerError> {
        let memory = self.memory.memory();
        self.tx.disable_kicks(&memory)?;
        let mut count = 0;
        while !self.blocked {
            let sent = self.transmit_batch(&memory)?;
            count += sent;
            if sent == 0 && !self.blocked && !self.tx.enable_kicks(&memory)? {
                break;
            }
            if count >= PATIENCE {
                // Full eventfd counters wake as well.
                let _ = self.tx.kick.write(1);
                break;
            }
        }
        self.tx.notify(&memory, self.interrupts.as_ref())
    }

    fn transmit_batch(&mut self, memory: &MemoryGuard) -> Result<usize, WorkerError> {
        let ring = self.tx.map(memory)?;
        let mut batch = Vec::new();
        let mut bytes = 0;
        while batch.len() < BATCH && bytes < BATCH_BYTES {
            let before = self.tx.ring.next_avail();
            let mut buffers = Buffers::default();
            let Some(head) = self.tx.take(&ring, &mut buffers)? else {
                break;
            };
            let mut data = buffers.readable;
            let checked = data
                .take()
                .ok_or("a frame without a whole header")
                .and_then(|header| header::check(header, data.len(), self.features))
                .and_then(|header| match data.pieces() {
                    0..MAX_ENTRIES => Ok(header),
                    _ => Err("a frame in too many pieces for one call"),
                });
            let frame = match checked {
                Ok(header) => {
                    bytes += data.len();
                    Some(Frame { header, data })
                }
                Err(why) => {
                    tracing::debug!(device = self.name, why, "frame of the guest dropped");
                    None
                }
            };
            batch.push(Outgoing { head, before, frame });
        }
        let heads: Vec<(u16, u16, Option<usize>)> = batch
            .iter()
            .map(|it| (it.head, it.before, it.frame.as_ref().map(|f| f.data.len())))
            .collect();
        let frames: Vec<Frame<'_>> = batch.into_iter().filter_map(|it| it.frame).collect();
        let mut taken = frames.len();
        if self.up() && !frames.is_empty() {
            match self.backend.send(&frames) {
                Ok(sent) => {
                    taken = sent.taken;
                    self.blocked = sent.pending;
                    self.counters.refused.add(sent.refused as u64);
                }
                Err(down) => self.unplug(&down),
            }
        }
        let mut used = Vec::with_capacity(heads.len());
        for (head, before, length) in heads {
            match length {
                None => self.counters.refused.add(1),
                Some(_) if taken == 0 => {
                    self.tx.ring.set_next_avail(before);
                    break;
                }
                Some(length) => {
                    taken -= 1;
                    self.counters.frames_from_guest.add(1);
                    self.counters.bytes_from_guest.add(length as u64);
                }
            }
            used.push((head, 0));
        }
        self.tx.give(&ring, &used)?;
        Ok(used.len())
    }

    /// Gives the guest what came for it, as long as it has room.
    fn receive(&mut self) -> Result<(), WorkerError> {
        let memory = self.memory.memory();
        let ring = self.rx.map(&memory)?;
        let mut window = Window {
            buffers: VecDeque::with_capacity(USUAL_BUFFERS),
            room: Writable::with_room(USUAL_BUFFERS),
            next: Buffers::default(),
        };
        let mut left = PATIENCE;
        while left > 0 && self.up() {
            left -= 1;
            match self.deliver(&ring, &mut window)? {
                Delivery::Done => {}
                Delivery::Nothing => break,
                // The ring stands behind the window now, so this means further buffers.
                Delivery::Starved if self.rx.enable_kicks(&memory)? => {}
                Delivery::Starved => {
                    self.starved = true;
                    break;
                }
            }
            if left.is_multiple_of(TELL_AFTER) {
                self.rx.notify(&memory, self.interrupts.as_ref())?;
            }
        }
        if left == 0 {
            // Frames already read do not make the descriptor readable.
            let _ = self.rx.kick.write(1);
        }
        // Looked at and not used: back to the ring. Not truncated: no more than it has entries.
        let unused = window.buffers.len() as u16;
        self.rx.ring.set_next_avail(self.rx.ring.next_avail().wrapping_sub(unused));
        self.rx.notify(&memory, self.interrupts.as_ref())
    }

    /// One frame.
    fn deliver<'m>(
        &mut self,
        ring: &Mapped<'m>,
        window: &mut Window<'m>,
    ) -> Result<Delivery, WorkerError> {
        let next = if self.stash.is_empty() {
            match self.backend.next() {
                Ok(next) => next,
                Err(down) => {
                    self.unplug(&down);
                    return Ok(Delivery::Nothing);
                }
            }
        } else {
            Next::Frame(self.stash.len())
        };
        let (wanted, exact) = match next {
            Next::Nothing => return Ok(Delivery::Nothing),
            Next::Frame(length) => (length, true),
            Next::Unknown(length) => (length, false),
        };
        while window.room.len() < wanted
            && (self.merges() || window.buffers.is_empty())
            && self.receive_buffer(ring, window)?
        {}
        let more_may_come =
            self.merges() && window.buffers.len() < usize::from(self.rx.ring.size());
        if window.buffers.is_empty() || (exact && window.room.len() < wanted && more_may_come) {
            return Ok(Delivery::Starved);
        }
        let room = &mut window.room;
        let mut rest = Vec::new();
        let length = if self.stash.is_empty() {
            match self.backend.receive(room, &mut rest) {
                Ok(length) => length,
                Err(down) => {
                    self.unplug(&down);
                    return Ok(Delivery::Nothing);
                }
            }
        } else {
            let stash = std::mem::take(&mut self.stash);
            rest.extend_from_slice(&stash[room.copy_from(&stash)..]);
            stash.len()
        };
        if length <= HEADER_BYTES {
            return Ok(Delivery::Nothing);
        }
        if rest.is_empty() {
            self.publish(ring, window, length)?;
        } else if exact || !self.merges() {
            // No driver that keeps the rules gets here: its buffers can never hold this frame.
            self.counters.dropped.add(1);
        } else {
            // It is off the wire already: kept whole until the guest has room.
            self.stash.resize(length - rest.len(), 0);
            room.copy_to(&mut self.stash);
            self.stash.append(&mut rest);
        }
        Ok(Delivery::Done)
    }

    /// Gives the guest the first `length` bytes of the window, all at once.
    fn publish(
        &mut self,
        ring: &Mapped<'_>,
        window: &mut Window<'_>,
        length: usize,
    ) -> Result<(), WorkerError> {
        let mut used = Vec::new();
        let (mut left, mut gone) = (length, 0);
        while left > 0 {
            let Some((head, bytes)) = window.buffers.pop_front() else {
                break;
            };
            gone += bytes;
            let part = left.min(bytes);
            left -= part;
            // Not truncated: no more than the longest frame.
            used.push((head, part as u32));
        }
        // Not truncated: no more than the ring has entries.
        let count = used.len() as u16;
        window.room.copy_from_at(NUM_BUFFERS, &count.to_le_bytes());
        window.room.skip(gone);
        self.counters.frames_to_guest.add(1);
        self.counters.bytes_to_guest.add((length - HEADER_BYTES) as u64);
        self.rx.give(ring, &used)
    }

    /// Takes one more buffer into the window; false when the guest has no more.
    fn receive_buffer<'m>(
        &mut self,
        ring: &Mapped<'m>,
        window: &mut Window<'m>,
    ) -> Result<bool, WorkerError> {
        let Some(head) = self.rx.take(ring, &mut window.next)? else {
            return Ok(false);
        };
        let room = &window.next.writable;
        if room.len() < HEADER_BYTES {
            // virtio 1.2, 5.1.6.3.1
            return Err(WorkerError {
                what: format!(
                    "receive buffer of {} bytes: less than a header of {HEADER_BYTES}",
                    room.len()
                ),
            });
        }
        window.room.append(room);
        window.buffers.push_back((head, room.len()));
        Ok(true)
    }

    /// Commands of the driver (virtio 1.2, 5.1.6.5).
    fn commands(&mut self) -> Result<(), WorkerError> {
        let memory = self.memory.memory();
        let Some(mut control) = self.control.take() else {
            return Ok(());
        };
        let result = self.answer_commands(&memory, &mut control);
        self.control = Some(control);
        result
    }

    fn answer_commands(
        &mut self,
        memory: &MemoryGuard,
        control: &mut Queue,
    ) -> Result<(), WorkerError> {
        // A driver gets no more than a ring full of answers before the stop signal is looked at.
        for _ in 0..=control.ring.size() {
            let Some(chain) = control.pop(memory)? else {
                if control.enable_kicks(memory)? {
                    continue;
                }
                return control.notify(memory, self.interrupts.as_ref());
            };
            let head = chain.head_index();
            let mut buffers = Buffers::of(chain, memory)?;
            let done = buffers.readable.take::<2>().is_some_and(|[class, command]| {
                let argument = buffers.readable.take::<8>().map(u64::from_le_bytes);
                self.command(class, command, argument)
            });
            let answer = if done { CONTROL_OK } else { CONTROL_ERROR };
            let written = buffers.writable.copy_from(&[answer]);
            control.add_used(memory, head, written as u32)?;
        }
        // Full eventfd counters wake as well.
        let _ = control.kick.write(1);
        control.notify(memory, self.interrupts.as_ref())
    }

    /// One command; true when it was carried out.
    fn command(&mut self, class: u8, command: u8, argument: Option<u64>) -> bool {
        match (class, command, argument) {
            // The guest gets all frames anyway, whatever it would filter.
            (CONTROL_RX, 0..=1, _) => self.features & feature::CTRL_RX != 0,
            (CONTROL_OFFLOADS, 0, Some(wanted)) => {
                self.features & feature::CTRL_GUEST_OFFLOADS != 0
                    && wanted & !self.features == 0
                    && self.backend.set_offloads(offloads(wanted)).is_ok()
            }
            _ => false,
        }
    }
}

/// VIRTIO_NET_CTRL_RX (virtio 1.2, 5.1.6.5.1), of which commands 0 and 1 come with CTRL_RX.
const CONTROL_RX: u8 = 0;
/// VIRTIO_NET_CTRL_GUEST_OFFLOADS (virtio 1.2, 5.1.6.5.8).
const CONTROL_OFFLOADS: u8 = 5;
/// VIRTIO_NET_OK and VIRTIO_NET_ERR (virtio 1.2, 5.1.6.5).
const CONTROL_OK: u8 = 0;
const CONTROL_ERROR: u8 = 1;

/// What a set of features says the guest can take.
pub(super) fn offloads(features: u64) -> Offloads {
    Offloads {
        checksum: features & feature::GUEST_CSUM != 0,
        tso4: features & feature::GUEST_TSO4 != 0,
        tso6: features & feature::GUEST_TSO6 != 0,
        ecn: features & feature::GUEST_ECN != 0,
    }
}

impl Worker for NetWorker {
    fn name(&self) -> &str {
        &self.name
    }

    fn sources(&self) -> Vec<Source> {
        let source = |descriptor, readable, writable, token| Source {
            descriptor,
            readable,
            writable,
            token,
        };
        let mut sources = vec![
            source(self.rx.kick.as_raw_fd(), true, false, RX),
            source(self.tx.kick.as_raw_fd(), true, false, TX),
        ];
        if self.up() {
            let backend = self.backend.descriptor().as_raw_fd();
            sources.push(source(backend, !self.starved, self.blocked, BACKEND));
        }
        if let Some(control) = &self.control {
            sources.push(source(control.kick.as_raw_fd(), true, false, CONTROL));
        }
        sources
    }

    fn ready(&mut self, token: u32) -> Result<(), WorkerError> {
        match token {
            BACKEND => {
                if self.blocked {
                    match self.backend.send(&[]) {
                        Ok(sent) => self.blocked = sent.pending,
                        Err(down) => self.unplug(&down),
                    }
                    if !self.blocked {
                        self.transmit()?;
                    }
                }
                if !self.starved {
                    self.receive()?;
                }
                Ok(())
            }
            RX => {
                self.rx.take_kick();
                self.starved = false;
                self.receive()
            }
            TX => {
                self.tx.take_kick();
                self.transmit()
            }
            _ => {
                if let Some(control) = &self.control {
                    control.take_kick();
                }
                self.commands()
            }
        }
    }

    fn stop(&mut self) -> Vec<QueueState> {
        let mut states = vec![self.rx.state(), self.tx.state()];
        states.extend(self.control.as_ref().map(Queue::state));
        states
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
