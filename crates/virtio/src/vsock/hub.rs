//! All connections and what drives them, apart from the queues: lives in the worker while the
//! driver runs and in the device while it does not, so a pause costs no connection.

use super::Counters;
use super::connection::{Connection, Greeting, Key, Phase};
use super::host::{HostPorts, Listener};
use super::packet::Header;
use crate::WorkerError;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Connections of one guest, both directions.
pub(super) const MAX_CONNECTIONS: usize = 512;
/// Of these, so many may be half-open; host programs beyond wait in the listen backlog.
pub(super) const MAX_HALF_OPEN: usize = 64;
/// Resets for connections that do not exist, waiting for room; then the guest's packets wait.
const MAX_RESETS: usize = 64;
/// How long a program may take to say which port it wants, and a guest to answer.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a guest may take to confirm that a connection is over, and a program to read its rest.
const FAREWELL: Duration = Duration::from_secs(60);
/// How long a guest that tells its credit by itself may take until it is asked.
const CREDIT: Duration = Duration::from_millis(20);
/// Bytes promised to all connections together, before the floor of each.
const WINDOW_BUDGET: u64 = 8 << 20;
/// The least and the most one connection is promised.
const WINDOW: std::ops::RangeInclusive<u64> = (16 << 10)..=(256 << 10);
/// Where ports for host programs begin: above what services use.
const FIRST_HOST_PORT: u32 = 1 << 30;

/// The listener's place among the events.
const LISTENER: u64 = u64::MAX;

pub(super) struct Hub {
    epoll: OwnedFd,
    listener: Listener,
    ports: Arc<dyn HostPorts>,
    /// Programs may wait at the listener (edge-triggered: true until there are none).
    acceptable: bool,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    by_key: HashMap<Key, usize>,
    half_open: usize,
    /// Connections the guest must hear of, each once, in turn.
    run_queue: VecDeque<usize>,
    resets: VecDeque<Header>,
    timers: BTreeSet<(Instant, usize)>,
    promised: u64,
    next_port: u32,
    guest_cid: u64,
    pub(super) counters: Counters,
}

impl Hub {
    pub(super) fn new(
        listener: Listener,
        ports: Arc<dyn HostPorts>,
        guest_cid: u64,
        counters: Counters,
    ) -> rustix::io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let edge = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), edge)?;
        Ok(Self {
            epoll,
            listener,
            ports,
            acceptable: false,
            connections: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::new(),
            half_open: 0,
            run_queue: VecDeque::new(),
            resets: VecDeque::new(),
            timers: BTreeSet::new(),
            promised: 0,
            next_port: FIRST_HOST_PORT,
            guest_cid,
            counters,
        })
    }

    /// Readable when [`Self::take_events`] has something to do.
    pub(super) fn descriptor(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// Looks at what the sockets have to say.
    pub(super) fn take_events(&mut self) -> Result<(), WorkerError> {
        let mut space = Vec::with_capacity(64);
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let buffer = rustix::buffer::spare_capacity(&mut space);
        match epoll::wait(&self.epoll, buffer, Some(&at_once)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                return Err(WorkerError {
                    what: format!("waiting for the host's sockets failed: {error}"),
                });
            }
        }
        for event in space {
            // Copied: the fields of the packed event cannot be borrowed.
            let (data, flags) = (event.data, event.flags);
            if data.u64() == LISTENER {
                self.acceptable = true;
            } else if let Ok(slot) = usize::try_from(data.u64()) {
                self.socket_event(slot, flags);
            }
        }
        Ok(())
    }

    fn socket_event(&mut self, slot: usize, flags: EventFlags) {
        let Some(connection) = self.get(slot) else {
            return;
        };
        if flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR)
        {
            connection.readable = true;
            connection.emptied = false;
        }
        let gone = flags.intersects(EventFlags::HUP | EventFlags::ERR);
        match connection.phase {
            Phase::Greeting => self.greet(slot),
            Phase::Requested(_) if gone => self.reset(slot),
            Phase::Requested(_) => {}
            Phase::Established(_) => {
                if gone {
                    connection.host_deaf();
                } else if flags.contains(EventFlags::OUT) {
                    connection.flush();
                }
                self.schedule(slot);
            }
            Phase::Draining => {
                connection.flush();
                if gone || connection.drained() {
                    self.remove(slot);
                }
            }
        }
    }

    /// Takes in waiting programs as long as there is room for half-open ones.
    pub(super) fn accept(&mut self) {
        while self.acceptable && self.half_open < MAX_HALF_OPEN && self.live() < MAX_CONNECTIONS {
            let Some(socket) = self.listener.accept() else {
                self.acceptable = false;
                return;
            };
            if let Some(slot) = self.insert(socket, Phase::Greeting) {
                self.set_deadline(slot, Some(Instant::now() + HANDSHAKE));
                self.greet(slot);
            }
        }
    }

    fn greet(&mut self, slot: usize) {
        let Some(connection) = self.get(slot) else {
            return;
        };
        match connection.greeting() {
            Greeting::Incomplete => {}
            Greeting::Wrong => {
                self.counters.refused.add(1);
                self.remove(slot);
            }
            Greeting::Port(guest) => {
                let key = self.free_key(guest);
                if let Some(connection) = self.get(slot) {
                    connection.request(key);
                }
                self.by_key.insert(key, slot);
                self.set_deadline(slot, Some(Instant::now() + HANDSHAKE));
                self.schedule(slot);
            }
        }
    }

    /// A host port no connection to `guest` uses. There are far more ports than connections.
    fn free_key(&mut self, guest: u32) -> Key {
        loop {
            let key = Key { guest, host: self.next_port };
            self.next_port = match self.next_port.wrapping_add(1) {
                port if port < FIRST_HOST_PORT || port == u32::MAX => FIRST_HOST_PORT,
                port => port,
            };
            if !self.by_key.contains_key(&key) {
                return key;
            }
        }
    }

    /// The guest asks for a host port; false when nobody is there or there is no room.
    pub(super) fn connect(&mut self, key: Key, header: &Header) -> bool {
        if self.live() >= MAX_CONNECTIONS {
            tracing::warn!(port = key.host, "vsock: more than {MAX_CONNECTIONS} connections");
            return false;
        }
        let socket = match self.ports.connect(key.host) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::debug!(port = key.host, %error, "vsock: nobody listens for the guest");
                return false;
            }
        };
        let Some(slot) = self.insert(socket, Phase::Established(key)) else {
            return false;
        };
        self.by_key.insert(key, slot);
        if let Some(connection) = self.get(slot) {
            connection.accept(header);
        }
        self.counters.connections.add(1);
        self.schedule(slot);
        true
    }

    fn live(&self) -> usize {
        self.connections.len() - self.free.len()
    }

    fn insert(&mut self, socket: OwnedFd, phase: Phase) -> Option<usize> {
        let share = WINDOW_BUDGET.saturating_sub(self.promised) / 16;
        let window = share.clamp(*WINDOW.start(), *WINDOW.end());
        let slot = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        let edges = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        if let Err(error) = epoll::add(&self.epoll, &socket, EventData::new_u64(slot as u64), edges)
        {
            tracing::warn!(%error, "vsock: cannot watch a socket");
            self.free.push(slot);
            return None;
        }
        self.promised += window;
        // Not truncated: the clamp is far below 32 bits.
        let connection = Connection::new(socket, phase, window as u32);
        self.half_open += usize::from(connection.half_open());
        self.connections[slot] = Some(connection);
        Some(slot)
    }

    pub(super) fn get(&mut self, slot: usize) -> Option<&mut Connection> {
        self.connections.get_mut(slot)?.as_mut()
    }

    pub(super) fn find(&self, key: Key) -> Option<usize> {
        self.by_key.get(&key).copied()
    }

    /// Forgets a connection; its socket closes (and so leaves the epoll).
    pub(super) fn remove(&mut self, slot: usize) {
        self.set_deadline(slot, None);
        let Some(connection) = self.connections.get_mut(slot).and_then(Option::take) else {
            return;
        };
        if let Some(key) = connection.key() {
            self.by_key.remove(&key);
        }
        self.half_open -= usize::from(connection.half_open());
        self.promised -= u64::from(connection.window);
        if connection.queued {
            self.run_queue.retain(|&queued| queued != slot);
        }
        self.free.push(slot);
    }

    /// Forgets a connection and tells the guest.
    pub(super) fn reset(&mut self, slot: usize) {
        let guest_cid = self.guest_cid;
        let header = self
            .get(slot)
            .and_then(|connection| connection.header(guest_cid, super::packet::operation::RESET));
        if let Some(header) = header {
            self.owe_reset(header);
        }
        self.remove(slot);
    }

    /// The guest closed: it is told so, and the host program gets the rest of its bytes.
    pub(super) fn close(&mut self, slot: usize) {
        let guest_cid = self.guest_cid;
        let Some(connection) = self.connections.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        if connection.drained() {
            self.reset(slot);
            return;
        }
        let header = connection.header(guest_cid, super::packet::operation::RESET);
        let key = connection.key();
        connection.phase = Phase::Draining;
        connection.leaving = true;
        if let Some(key) = key {
            self.by_key.remove(&key);
        }
        if let Some(header) = header {
            self.owe_reset(header);
        }
        self.set_deadline(slot, Some(Instant::now() + FAREWELL));
    }

    /// The guest answered a request: the program is told, and data flows.
    pub(super) fn establish(&mut self, slot: usize, key: Key) {
        self.set_deadline(slot, None);
        if let Some(connection) = self.get(slot) {
            connection.establish(key);
            self.half_open -= 1;
            self.counters.connections.add(1);
        }
    }

    pub(super) fn owe_reset(&mut self, header: Header) {
        self.resets.push_back(header);
    }

    /// True when no more packets of the guest may be looked at, because each may cost a reset and
    /// the guest takes none.
    pub(super) fn choked(&self) -> bool {
        self.resets.len() >= MAX_RESETS
    }

    pub(super) fn next_reset(&mut self) -> Option<Header> {
        self.resets.pop_front()
    }

    /// Puts a connection in the run queue if it has something for the guest. One that only waits
    /// for credit does so for a while.
    pub(super) fn schedule(&mut self, slot: usize) {
        let Some(connection) = self.get(slot) else {
            return;
        };
        if connection.runnable() {
            if !std::mem::replace(&mut connection.queued, true) {
                self.run_queue.push_back(slot);
            }
        } else if connection.deadline.is_none() && connection.trusts() {
            self.set_deadline(slot, Some(Instant::now() + CREDIT));
        }
    }

    /// The connection whose turn it is.
    pub(super) fn next_turn(&mut self) -> Option<usize> {
        let slot = self.run_queue.pop_front()?;
        if let Some(connection) = self.get(slot) {
            connection.queued = false;
        }
        Some(slot)
    }

    /// True when the guest must give buffers for anything to go on.
    pub(super) fn waits_for_buffers(&self) -> bool {
        !self.run_queue.is_empty() || !self.resets.is_empty()
    }

    /// A connection that had its turn: again later, or only the guest's farewell is missing.
    pub(super) fn after_turn(&mut self, slot: usize) {
        let Some(connection) = self.get(slot) else {
            return;
        };
        if connection.host_gone() && !connection.leaving {
            connection.leaving = true;
            self.set_deadline(slot, Some(Instant::now() + FAREWELL));
        }
        self.schedule(slot);
    }

    fn set_deadline(&mut self, slot: usize, deadline: Option<Instant>) {
        let Some(connection) = self.connections.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        if let Some(old) = std::mem::replace(&mut connection.deadline, deadline) {
            self.timers.remove(&(old, slot));
        }
        if let Some(deadline) = deadline {
            self.timers.insert((deadline, slot));
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timers.first().map(|&(deadline, _)| deadline)
    }

    /// Gives up on connections that took too long before `now`.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(&(deadline, slot)) = self.timers.first() {
            if deadline > now {
                return;
            }
            match self.get(slot).map(|connection| (connection.phase, connection.leaving)) {
                Some((Phase::Established(_), false)) => {
                    self.set_deadline(slot, None);
                    if let Some(connection) = self.get(slot) {
                        connection.ask();
                    }
                    self.schedule(slot);
                    continue;
                }
                // The guest may still answer a request; it must know that nobody waits.
                Some((Phase::Requested(_), _)) => self.reset(slot),
                _ => self.remove(slot),
            }
            self.counters.expired.add(1);
        }
    }

    /// The driver is gone: so are all connections. The listener stays.
    pub(super) fn forget_all(&mut self) {
        for slot in 0..self.connections.len() {
            self.remove(slot);
        }
        self.run_queue.clear();
        self.resets.clear();
    }

    pub(super) fn open(&self) -> usize {
        self.live()
    }
}
