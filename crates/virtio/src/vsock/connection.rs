//! One stream between a Unix socket of the host and a port of the guest: phase, credit both ways,
//! what the guest is owed. Knows no queue; the multiplexer moves the packets.

use super::packet::{CLOSED, Header, NO_MORE_RECEIVE, NO_MORE_SEND, STREAM, operation};
use crate::scatter::Readable;
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

/// The two ports that name a connection; both CIDs are fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) guest: u32,
    pub(super) host: u32,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// A host program connected and has not yet said which port it wants.
    Greeting,
    /// The guest was, or is to be, asked; it has not answered.
    Requested(Key),
    /// Data flows.
    Established(Key),
    /// The guest has closed; bytes it sent before still have to reach the host program.
    Draining,
}

/// A packet without data the guest is still to get, in the order they are sent.
#[derive(Clone, Copy, Debug, Default)]
struct Owed {
    request: bool,
    response: bool,
    credit_update: bool,
    credit_request: bool,
    shutdown: bool,
}

/// The guest did what the protocol forbids on this connection; it gets a reset.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Violation(pub(super) &'static str);

pub(super) struct Connection {
    pub(super) socket: OwnedFd,
    pub(super) phase: Phase,
    /// When the multiplexer loses patience; it keeps its timers in step.
    pub(super) deadline: Option<Instant>,
    /// The deadline is the last: the guest's farewell, or a program's reading of its rest.
    pub(super) leaving: bool,
    /// In the multiplexer's run queue.
    pub(super) queued: bool,
    /// The socket may have bytes or an end of file for us (edge-triggered: true until EAGAIN).
    pub(super) readable: bool,
    /// The last read got all there was: the next one most likely only finds that nothing is left.
    pub(super) emptied: bool,
    /// How many bytes the next read asks for; follows what the host program sends.
    appetite: usize,
    owed: Owed,
    /// `NO_MORE_*` as the guest said.
    guest_closed: u32,
    /// `NO_MORE_*` on the host's side.
    host_closed: u32,
    /// Bytes of the guest the socket did not take yet; never more than `window`, plus the greeting.
    unsent: VecDeque<u8>,
    /// Bytes we promised to hold.
    pub(super) window: u32,
    /// Bytes from the guest, wrapping: all, those passed on, and those passed on as last told.
    received: u32,
    forwarded: u32,
    announced: u32,
    /// Bytes to the guest, wrapping: all, and those taken as last told; and what it can hold.
    sent: u32,
    peer_forwarded: u32,
    peer_window: u32,
    /// The guest was asked for its credit and has not answered.
    asked: bool,
    /// It tells its credit without being asked.
    volunteers: bool,
}

/// The smallest read for which gathering buffers pays.
const SMALL_READ: usize = 4096;
/// The largest data packet batch of one turn, so that connections share the queue fairly.
pub(super) const LARGE_READ: usize = 64 * 1024;

/// Less than this is not worth a packet to a guest that tells by itself when it has more: a Linux
/// guest does at the latest when 64 KiB are left of what it last told.
const LITTLE_CREDIT: usize = 16 * 1024;

impl Connection {
    pub(super) fn new(socket: OwnedFd, phase: Phase, window: u32) -> Self {
        Self {
            socket,
            phase,
            deadline: None,
            leaving: false,
            queued: false,
            readable: false,
            emptied: false,
            appetite: SMALL_READ,
            owed: Owed::default(),
            guest_closed: 0,
            host_closed: 0,
            unsent: VecDeque::new(),
            window,
            received: 0,
            forwarded: 0,
            announced: 0,
            sent: 0,
            peer_forwarded: 0,
            peer_window: 0,
            asked: false,
            volunteers: false,
        }
    }

    /// The ports, once known and as long as the guest knows them.
    pub(super) fn key(&self) -> Option<Key> {
        match self.phase {
            Phase::Requested(key) | Phase::Established(key) => Some(key),
            Phase::Greeting | Phase::Draining => None,
        }
    }

    /// True while it counts against the limit of half-open ones.
    pub(super) fn half_open(&self) -> bool {
        matches!(self.phase, Phase::Greeting | Phase::Requested(_))
    }

    /// A host program asked for a port: the guest is to be asked.
    pub(super) fn request(&mut self, key: Key) {
        self.phase = Phase::Requested(key);
        self.owed.request = true;
    }

    /// The guest asked for a port the host listens on, telling its credit in `header`.
    pub(super) fn accept(&mut self, header: &Header) {
        self.peer_window = header.window;
        self.owed.response = true;
    }

    /// Takes the credit every packet carries (virtio 1.2, 5.10.6.3).
    pub(super) fn take_credit(&mut self, header: &Header) -> Result<(), Violation> {
        let in_flight = self.sent.wrapping_sub(self.peer_forwarded);
        if self.sent.wrapping_sub(header.forwarded) > in_flight {
            return Err(Violation("it acknowledged bytes never sent"));
        }
        self.peer_window = header.window;
        self.peer_forwarded = header.forwarded;
        if self.credit() > 0 {
            self.owed.credit_request = false;
        }
        Ok(())
    }

    /// The guest told its credit, which is all the packet was for.
    pub(super) fn credit_told(&mut self) {
        self.volunteers |= !std::mem::take(&mut self.asked);
    }

    /// Bytes the guest can take now.
    pub(super) fn credit(&self) -> usize {
        let in_flight = self.sent.wrapping_sub(self.peer_forwarded);
        self.peer_window.saturating_sub(in_flight) as usize
    }

    /// The guest asked how much it may send.
    pub(super) fn owe_credit_update(&mut self) {
        self.owed.credit_update = true;
    }

    /// The guest accepted: tells the host program, in the words of the protocol.
    pub(super) fn establish(&mut self, key: Key) {
        self.phase = Phase::Established(key);
        self.unsent.extend(format!("OK {}\n", key.host).bytes());
        self.flush();
    }

    /// Passes `data` of the guest on; what the socket does not take now is kept.
    pub(super) fn send(&mut self, data: &mut Readable<'_>) -> Result<(), Violation> {
        if self.guest_closed & NO_MORE_SEND != 0 {
            return Err(Violation("it sent after it said it would not"));
        }
        let held = self.received.wrapping_sub(self.forwarded) as usize;
        if data.len() > (self.window as usize).saturating_sub(held) {
            return Err(Violation("it sent more than its credit"));
        }
        // Not truncated: no more than the window, which is 32 bits wide.
        let length = data.len() as u32;
        self.received = self.received.wrapping_add(length);
        if self.host_closed & NO_MORE_RECEIVE != 0 {
            // Nobody reads; the guest is being told. Taken, so that it can go on to its end.
            self.pass(length);
            return Ok(());
        }
        if self.unsent.is_empty() {
            match data.send_to(self.socket.as_fd()) {
                Ok(sent) => {
                    self.pass(sent as u32);
                    data.skip(sent);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => {
                    self.host_deaf();
                    return Ok(());
                }
            }
        }
        if !data.is_empty() {
            let mut rest = vec![0; data.len()];
            data.copy_to(&mut rest);
            self.unsent.extend(rest);
        }
        Ok(())
    }

    /// Tries again to hand the host program what it did not take.
    pub(super) fn flush(&mut self) {
        while !self.unsent.is_empty() {
            let mut data = Readable::new();
            let (front, back) = self.unsent.as_slices();
            data.push_bytes(front);
            data.push_bytes(back);
            match data.send_to(self.socket.as_fd()) {
                Ok(sent) => {
                    self.unsent.drain(..sent);
                    self.settle();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.host_deaf(),
            }
        }
        // A stalled stream must not keep its buffer for ever.
        self.unsent = VecDeque::new();
        if self.guest_closed & NO_MORE_SEND != 0 {
            // Fails only when the program is gone, which the socket tells by itself.
            let _ = shutdown(&self.socket, Shutdown::Write);
        }
    }

    /// True when everything the guest sent has left.
    pub(super) fn drained(&self) -> bool {
        self.unsent.is_empty()
    }

    /// All but what is still kept has been passed on. (The greeting is no data of the guest, so
    /// while it is kept the count may lag behind, never run ahead.)
    fn settle(&mut self) {
        let kept = self.unsent.len() as u32;
        let held = self.received.wrapping_sub(self.forwarded);
        self.pass(held.saturating_sub(kept));
    }

    fn pass(&mut self, count: u32) {
        self.forwarded = self.forwarded.wrapping_add(count);
        // The guest's view of our room; when half of it is gone it wants to know better.
        let used = self.received.wrapping_sub(self.announced);
        if used > self.window / 2 && self.forwarded != self.announced {
            self.owed.credit_update = true;
        }
    }

    /// The host program takes no more data.
    pub(super) fn host_deaf(&mut self) {
        self.unsent = VecDeque::new();
        self.settle();
        self.host_close(NO_MORE_RECEIVE);
        if self.guest_closed & NO_MORE_RECEIVE != 0 {
            self.host_done();
        }
    }

    /// The host program sends no more data.
    pub(super) fn host_done(&mut self) {
        self.readable = false;
        self.host_close(NO_MORE_SEND);
    }

    fn host_close(&mut self, direction: u32) {
        if self.host_closed & direction == 0 {
            self.host_closed |= direction;
            self.owed.shutdown = true;
        }
    }

    /// True when the host program is gone for good and the guest knows: only its answer is missing.
    pub(super) fn host_gone(&self) -> bool {
        self.host_closed == CLOSED && !self.owed.shutdown
    }

    /// The guest will receive or send no more; true when that is both, and the end.
    pub(super) fn guest_close(&mut self, flags: u32) -> bool {
        self.guest_closed |= flags & CLOSED;
        if self.guest_closed & NO_MORE_RECEIVE != 0 {
            // The host program's next write fails, as it should.
            let _ = shutdown(&self.socket, Shutdown::Read);
            if self.host_closed & NO_MORE_RECEIVE != 0 {
                self.host_done();
            }
        }
        if self.unsent.is_empty() {
            self.flush();
        }
        self.guest_closed == CLOSED
    }

    /// True when waiting for more credit than the guest has left pays: it empties a nearly full
    /// buffer anyway, and tells.
    fn awaits_credit(&self) -> bool {
        let credit = self.credit();
        credit == 0
            || (self.volunteers && credit < LITTLE_CREDIT && self.sent != self.peer_forwarded)
    }

    /// True while host bytes wait for a guest that was not asked for its credit.
    pub(super) fn trusts(&self) -> bool {
        self.volunteers && self.readable && self.key().is_some() && self.awaits_credit()
    }

    /// It took too long to tell its credit: from now on it is asked.
    pub(super) fn ask(&mut self) {
        if self.trusts() {
            self.volunteers = false;
            self.owed.credit_request = true;
            self.asked = true;
        }
    }

    /// True while host bytes can go to the guest now.
    pub(super) fn wants_read(&self) -> bool {
        matches!(self.phase, Phase::Established(_))
            && self.readable
            && self.host_closed & NO_MORE_SEND == 0
            && self.guest_closed & NO_MORE_RECEIVE == 0
            && !self.owed.response
            && !self.awaits_credit()
    }

    /// True when the guest must get a packet without data, or data.
    pub(super) fn runnable(&self) -> bool {
        let owed = &self.owed;
        self.key().is_some()
            && (owed.request
                || owed.response
                || owed.credit_update
                || owed.credit_request
                || owed.shutdown
                || self.wants_read())
    }

    /// Takes the next packet without data the guest is owed.
    pub(super) fn next_owed(&mut self, guest_cid: u64) -> Option<Header> {
        let owed = &mut self.owed;
        let mut flags = 0;
        let operation = if std::mem::take(&mut owed.request) {
            operation::REQUEST
        } else if matches!(self.phase, Phase::Requested(_)) {
            return None;
        } else if std::mem::take(&mut owed.response) {
            operation::RESPONSE
        } else if std::mem::take(&mut owed.credit_request) {
            operation::CREDIT_REQUEST
        } else if std::mem::take(&mut owed.shutdown) {
            flags = self.host_closed;
            operation::SHUTDOWN
        } else if std::mem::take(&mut owed.credit_update) {
            operation::CREDIT_UPDATE
        } else {
            return None;
        };
        let mut header = self.header(guest_cid, operation)?;
        header.flags = flags;
        Some(header)
    }

    /// A header for this connection; it carries our credit, so nothing else needs to.
    pub(super) fn header(&mut self, guest_cid: u64, operation: u16) -> Option<Header> {
        let key = self.key()?;
        self.announced = self.forwarded;
        self.owed.credit_update = false;
        Some(Header {
            source_cid: super::packet::HOST_CID,
            destination_cid: guest_cid,
            source_port: key.host,
            destination_port: key.guest,
            length: 0,
            kind: STREAM,
            operation,
            flags: 0,
            window: self.window,
            forwarded: self.forwarded,
        })
    }

    /// How many bytes to ask the socket for.
    pub(super) fn wish(&self) -> usize {
        let wish = if self.emptied { SMALL_READ } else { self.appetite };
        wish.min(self.credit())
    }

    /// `count` bytes went to the guest out of `asked`; the next read asks for what fits the flow.
    pub(super) fn delivered(&mut self, count: usize, asked: usize) {
        // Not truncated: never more than the 32-bit credit.
        self.sent = self.sent.wrapping_add(count as u32);
        self.emptied = count < asked;
        self.appetite = if self.emptied {
            // Down slowly: programs that write much at a time are heard of before they are done.
            count.max(self.appetite - self.appetite / 4).max(SMALL_READ)
        } else {
            (self.appetite * 2).min(LARGE_READ)
        };
        if self.credit() == 0 && self.readable && !self.volunteers {
            self.owed.credit_request = true;
            self.asked = true;
        }
    }

    /// Reads the greeting `CONNECT port\n` without taking a byte behind it.
    pub(super) fn greeting(&self) -> Greeting {
        let mut line = [0; GREETING_BYTES];
        let peek = rustix::net::recv(
            &self.socket,
            &mut line[..],
            rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT,
        );
        let count = match peek {
            Ok((0, _)) => return Greeting::Wrong,
            Ok((count, _)) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Greeting::Incomplete,
            Err(_) => return Greeting::Wrong,
        };
        let Some(end) = line[..count].iter().position(|&byte| byte == b'\n') else {
            return if count == GREETING_BYTES { Greeting::Wrong } else { Greeting::Incomplete };
        };
        // The bytes were just seen there, and nobody else reads this socket.
        let taken = rustix::io::read(&self.socket, &mut line[..=end]);
        if taken != Ok(end + 1) {
            return Greeting::Wrong;
        }
        std::str::from_utf8(&line[..end])
            .ok()
            .and_then(|line| line.strip_prefix("CONNECT "))
            .and_then(|port| port.trim_end().parse().ok())
            .map_or(Greeting::Wrong, Greeting::Port)
    }
}

/// Longest greeting looked at: `CONNECT 4294967295` and its end of line, with room to spare.
const GREETING_BYTES: usize = 32;

/// What a host program has said so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// Nothing that ends in a newline yet.
    Incomplete,
    /// The guest's port it wants.
    Port(u32),
    /// Something else, or it is gone.
    Wrong,
}
