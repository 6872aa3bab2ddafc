//! Moves packets between the queues and the connections, on one thread, round by round so that
//! neither queue starves the other.

use super::connection::{Key, Phase};
use super::hub::Hub;
use super::packet::{HEADER_BYTES, HOST_CID, Header, STREAM, operation};
use crate::scatter::{self, Buffers, Readable, Writable};
use crate::{
    GuestMemory, Interrupts, Mapped, MemoryGuard, Queue, QueueState, Source, Worker, WorkerError,
};
use std::any::Any;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Instant;
use virtio_queue::QueueT;
use vm_memory::GuestAddressSpace;

/// Chains of the guest looked at, and turns given to connections, before the other queue's turn.
const BATCH: usize = 64;
/// Rounds before the thread looks whether it is told to stop.
const ROUNDS: usize = 16;
/// Receive buffers gathered for one read at most.
const GATHER: usize = 64;

/// VIRTIO_VSOCK_EVENT_TRANSPORT_RESET (virtio 1.2, 5.10.6.7).
const TRANSPORT_RESET: u32 = 0;

const SOCKETS: u32 = 0;
const RX: u32 = 1;
const TX: u32 = 2;
const EVENT: u32 = 3;

pub(super) struct VsockWorker {
    pub(super) name: String,
    pub(super) guest_cid: u64,
    pub(super) hub: Hub,
    pub(super) memory: GuestMemory,
    pub(super) interrupts: Arc<dyn Interrupts>,
    pub(super) rx: Queue,
    pub(super) tx: Queue,
    /// Some transports (vhost-user under QEMU) keep the event queue to themselves.
    pub(super) event: Option<Queue>,
    /// The guest must still hear that connections from before are gone.
    pub(super) announce_reset: bool,
}

/// What came of one connection's turn.
#[derive(PartialEq, Eq)]
enum Turn {
    /// Packets went out.
    Sent,
    /// A connection had its turn, but there was nothing to send.
    Quiet,
    /// Nobody has anything for the guest, or the guest has no buffer.
    Over,
}

impl VsockWorker {
    /// Works until there is nothing to do, or long enough: then rings its own bell.
    fn run(&mut self) -> Result<(), WorkerError> {
        let memory = self.memory.memory();
        for _ in 0..ROUNDS {
            self.hub.accept();
            let taken = self.take_from_guest(&memory)?;
            let given = self.give_to_guest(&memory)?;
            if !taken && !given && !self.listen(&memory)? {
                return Ok(());
            }
        }
        // Full eventfd counters wake as well.
        let _ = self.tx.kick.write(1);
        Ok(())
    }

    /// Asks the driver to ring for what could be worked on; true when there is more already.
    fn listen(&mut self, memory: &MemoryGuard) -> Result<bool, WorkerError> {
        let mut more = false;
        if self.hub.waits_for_buffers() {
            more |= self.rx.enable_kicks(memory)?;
        } else {
            self.rx.disable_kicks(memory)?;
        }
        if self.hub.choked() {
            self.tx.disable_kicks(memory)?;
        } else {
            more |= self.tx.enable_kicks(memory)?;
        }
        Ok(more)
    }

    fn take_from_guest(&mut self, memory: &MemoryGuard) -> Result<bool, WorkerError> {
        let ring = self.tx.map(memory)?;
        let mut buffers = Buffers::default();
        let mut taken = 0;
        while taken < BATCH && !self.hub.choked() {
            let Some(head) = self.tx.take(&ring, &mut buffers)? else {
                break;
            };
            taken += 1;
            self.packet(&mut buffers.readable);
            self.tx.give(&ring, &[(head, 0)])?;
        }
        if taken > 0 {
            self.tx.notify(memory, self.interrupts.as_ref())?;
        }
        Ok(taken > 0)
    }

    /// One packet of the guest.
    fn packet(&mut self, data: &mut Readable<'_>) {
        let counters = &self.hub.counters;
        counters.packets_from_guest.add(1);
        let Some(header) = data.take::<HEADER_BYTES>() else {
            counters.refused.add(1);
            return;
        };
        let header = Header::parse(&header);
        if header.source_cid != self.guest_cid {
            // It speaks for somebody else; an answer would reach the wrong one.
            counters.refused.add(1);
            return;
        }
        if header.destination_cid != HOST_CID || header.kind != STREAM {
            counters.refused.add(1);
            if header.operation != operation::RESET {
                self.hub.owe_reset(header.reset());
            }
            return;
        }
        let key = Key { guest: header.source_port, host: header.destination_port };
        let length = header.length as usize;
        let whole = length <= data.len();
        data.truncate(length);
        counters.bytes_from_guest.add(data.len() as u64);
        match (self.hub.find(key), header.operation) {
            (Some(slot), _) if whole => self.known(slot, &header, data),
            (Some(slot), _) => {
                self.hub.counters.refused.add(1);
                self.hub.reset(slot);
            }
            (None, operation::RESET) => {}
            (None, operation::REQUEST) if self.hub.connect(key, &header) => {}
            (None, _) => self.hub.owe_reset(header.reset()),
        }
    }

    /// A packet of a connection that exists.
    fn known(&mut self, slot: usize, header: &Header, data: &mut Readable<'_>) {
        if header.operation == operation::RESET {
            self.hub.remove(slot);
            return;
        }
        let Some(connection) = self.hub.get(slot) else {
            return;
        };
        let phase = connection.phase;
        let mut verdict = connection.take_credit(header).map_err(|why| why.0);
        if verdict.is_ok() {
            match (phase, header.operation) {
                (Phase::Requested(key), operation::RESPONSE) => self.hub.establish(slot, key),
                (Phase::Established(_), operation::DATA) => {
                    verdict = connection.send(data).map_err(|why| why.0);
                }
                (Phase::Established(_), operation::SHUTDOWN) => {
                    if connection.guest_close(header.flags) {
                        self.hub.close(slot);
                        return;
                    }
                }
                (Phase::Established(_), operation::CREDIT_UPDATE) => connection.credit_told(),
                (Phase::Established(_), operation::CREDIT_REQUEST) => {
                    connection.owe_credit_update();
                }
                _ => verdict = Err("a packet that does not fit the state of the connection"),
            }
        }
        match verdict {
            Ok(()) => self.hub.schedule(slot),
            Err(why) => {
                self.hub.counters.refused.add(1);
                tracing::debug!(?phase, operation = header.operation, why, "vsock: reset");
                self.hub.reset(slot);
            }
        }
    }

    fn give_to_guest(&mut self, memory: &MemoryGuard) -> Result<bool, WorkerError> {
        let ring = self.rx.map(memory)?;
        let mut first = Buffers::default();
        let (mut any, mut sent) = (false, false);
        for _ in 0..BATCH {
            let turn = self.turn(&ring, &mut first)?;
            if turn == Turn::Over {
                break;
            }
            any = true;
            sent |= turn == Turn::Sent;
        }
        if sent {
            self.rx.notify(memory, self.interrupts.as_ref())?;
        }
        Ok(any)
    }

    /// Resets first, then the connection whose turn it is. `first` is room for one buffer.
    fn turn<'m>(
        &mut self,
        ring: &Mapped<'m>,
        first: &mut Buffers<'m>,
    ) -> Result<Turn, WorkerError> {
        if !self.hub.waits_for_buffers() {
            return Ok(Turn::Over);
        }
        let before = self.rx.ring.next_avail();
        let Some(head) = self.receive(ring, first)? else {
            return Ok(Turn::Over);
        };
        if let Some(header) = self.hub.next_reset() {
            self.answer(ring, head, &first.writable, &header)?;
            return Ok(Turn::Sent);
        }
        let guest_cid = self.guest_cid;
        while let Some(slot) = self.hub.next_turn() {
            let Some(connection) = self.hub.get(slot) else {
                continue;
            };
            if let Some(header) = connection.next_owed(guest_cid) {
                self.answer(ring, head, &first.writable, &header)?;
                self.hub.after_turn(slot);
                return Ok(Turn::Sent);
            }
            if connection.wants_read() {
                let sent = self.deliver(ring, slot, head, first)?;
                self.hub.after_turn(slot);
                return Ok(if sent { Turn::Sent } else { Turn::Quiet });
            }
        }
        self.rx.ring.set_next_avail(before);
        Ok(Turn::Over)
    }

    /// The next buffer of the guest, to hold one packet: the head of its chain.
    fn receive<'m>(
        &mut self,
        ring: &Mapped<'m>,
        buffer: &mut Buffers<'m>,
    ) -> Result<Option<u16>, WorkerError> {
        let head = self.rx.take(ring, buffer)?;
        let bytes = buffer.writable.len();
        if head.is_some() && bytes <= HEADER_BYTES {
            return Err(WorkerError {
                what: format!(
                    "receive buffer of {bytes} bytes: no room for data behind the header of 44"
                ),
            });
        }
        Ok(head)
    }

    fn answer(
        &mut self,
        ring: &Mapped<'_>,
        head: u16,
        space: &Writable<'_>,
        header: &Header,
    ) -> Result<(), WorkerError> {
        space.copy_from(&header.bytes());
        self.hub.counters.packets_to_guest.add(1);
        self.rx.give(ring, &[(head, HEADER_BYTES as u32)])
    }

    /// One read of a socket straight into as many of the guest's buffers as it may fill, from the
    /// one at `head` on, which `buffer` holds; true when something came.
    fn deliver<'m>(
        &mut self,
        ring: &Mapped<'m>,
        slot: usize,
        head: u16,
        buffer: &mut Buffers<'m>,
    ) -> Result<bool, WorkerError> {
        let wanted = self.hub.get(slot).map_or(0, |connection| connection.wish());
        let start = self.rx.ring.next_avail().wrapping_sub(1);
        // Where the headers go, and the data behind them.
        let (mut fronts, mut room) = (Writable::new(), Writable::new());
        // Per packet: its buffer, and the bytes of data it holds.
        let mut packets: Vec<(u16, usize)> = Vec::with_capacity(GATHER);
        let mut next = Some(head);
        while let Some(head) = next.take() {
            buffer.writable.move_to(HEADER_BYTES, &mut fronts);
            let data = &mut buffer.writable;
            data.truncate(wanted - room.len());
            if room.pieces() + data.pieces() > scatter::MAX_ENTRIES && !packets.is_empty() {
                break;
            }
            room.append(data);
            packets.push((head, data.len()));
            if room.len() < wanted && packets.len() < GATHER {
                next = self.receive(ring, buffer)?;
            }
        }
        let count = self.read(slot, &mut room);
        let mut left = count;
        let mut headers = Vec::with_capacity(packets.len() * HEADER_BYTES);
        let mut used = Vec::with_capacity(packets.len());
        for (head, capacity) in packets {
            let connection = self.hub.get(slot);
            let header = connection.and_then(|it| it.header(self.guest_cid, operation::DATA));
            let (Some(mut header), 1..) = (header, left) else {
                break;
            };
            let length = left.min(capacity);
            left -= length;
            // Not truncated: a read is at most `LARGE_READ`.
            header.length = length as u32;
            headers.extend_from_slice(&header.bytes());
            used.push((head, (HEADER_BYTES + length) as u32));
        }
        fronts.copy_from(&headers);
        self.rx.ring.set_next_avail(start.wrapping_add(used.len() as u16));
        self.rx.give(ring, &used)?;
        self.hub.counters.packets_to_guest.add(used.len() as u64);
        self.hub.counters.bytes_to_guest.add(count as u64);
        Ok(count > 0)
    }

    /// One read of a connection's socket; how many bytes came.
    fn read(&mut self, slot: usize, room: &mut Writable<'_>) -> usize {
        let Some(connection) = self.hub.get(slot) else {
            return 0;
        };
        match room.read_from(connection.socket.as_fd()) {
            Ok(0) => connection.host_done(),
            Ok(count) => {
                connection.delivered(count, room.len());
                return count;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                connection.readable = false;
            }
            Err(_) => {
                connection.host_deaf();
                connection.host_done();
            }
        }
        0
    }

    /// After a restore: tells the guest that its connections are gone.
    fn announce(&mut self) -> Result<(), WorkerError> {
        let Some(event) = &mut self.event else {
            self.announce_reset = false;
            return Ok(());
        };
        if !self.announce_reset {
            return Ok(());
        }
        let memory = self.memory.memory();
        let Some(chain) = event.pop(&memory)? else {
            event.enable_kicks(&memory)?;
            return Ok(());
        };
        let head = chain.head_index();
        let buffers = Buffers::of(chain, &memory)?;
        let written = buffers.writable.copy_from(&TRANSPORT_RESET.to_le_bytes());
        self.announce_reset = false;
        event.add_used(&memory, head, written as u32)?;
        event.notify(&memory, self.interrupts.as_ref())
    }
}

impl Worker for VsockWorker {
    fn name(&self) -> &str {
        &self.name
    }

    fn sources(&self) -> Vec<Source> {
        let source =
            |descriptor, token| Source { descriptor, readable: true, writable: false, token };
        let mut sources = vec![
            source(self.hub.descriptor(), SOCKETS),
            source(self.rx.kick.as_raw_fd(), RX),
            source(self.tx.kick.as_raw_fd(), TX),
        ];
        if let Some(event) = &self.event {
            sources.push(source(event.kick.as_raw_fd(), EVENT));
        }
        sources
    }

    fn deadline(&self) -> Option<Instant> {
        self.hub.deadline()
    }

    fn ready(&mut self, token: u32) -> Result<(), WorkerError> {
        match token {
            SOCKETS => self.hub.take_events()?,
            RX => self.rx.take_kick(),
            TX => self.tx.take_kick(),
            _ => {
                if let Some(event) = &self.event {
                    event.take_kick();
                }
            }
        }
        self.announce()?;
        self.run()
    }

    fn timeout(&mut self) -> Result<(), WorkerError> {
        self.hub.expire(Instant::now());
        self.run()
    }

    fn stop(&mut self) -> Vec<QueueState> {
        let mut states = vec![self.rx.state(), self.tx.state()];
        states.extend(self.event.as_ref().map(Queue::state));
        states
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
