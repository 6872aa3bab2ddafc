//! virtio-vsock (virtio 1.2, 5.10): streams between programs of the guest and Unix sockets of the
//! host.
//!
//! - A host program connects to the device's socket, writes `CONNECT port\n`, reads
//!   `OK hostport\n`, and from then on talks to whoever listens on that port in the guest.
//! - A guest program that connects to port `P` of the host reaches whoever listens on the socket
//!   named like the device's with `_P` behind.
//!
//! One worker moves all data: straight from the socket into the guest's buffers and back. Bytes are
//! copied only when a host program does not read fast enough, and never more than the connection
//! was promised ([`hub`] keeps the sum bounded). `packet` is the wire, `connection` one stream,
//! `hub` all of them, `worker` the queues.
//!
//! Only streams; packets of any other type are answered with a reset.

mod connection;
mod host;
mod hub;
mod packet;
#[cfg(test)]
mod tests;
mod worker;

use crate::device::Counter;
use crate::{
    Device, DeviceId, Queue, RING_FEATURES, RestoreError, Session, StartError, Worker, config,
};
pub use host::HostPorts;
use host::{Beside, Listener};
use hub::Hub;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use worker::VsockWorker;

/// Entries of the receive queue. Linux fills it with pages, several times what a stream's credit
/// lets come: more of them would only wait in its caches' place.
const RX_QUEUE_SIZE: u16 = 128;
/// Entries of the transmit and the event queue.
const QUEUE_SIZE: u16 = 256;

/// VIRTIO_VSOCK_F_STREAM (virtio 1.2, 5.10.3).
const F_STREAM: u64 = 1 << 0;

/// The CIDs a guest may have: 0 and 1 are reserved, 2 is the host, the highest means "any"
/// (virtio 1.2, 5.10.4).
pub const GUEST_CIDS: std::ops::RangeInclusive<u64> = 3..=0xffff_fffe;

/// A vsock device cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum VsockError {
    /// No guest may have this address.
    #[error("vsock: context id {0} cannot be a guest's; choose one from 3 to 4294967294")]
    Cid(u64),
    /// The guest's ports would make names too long for a socket.
    #[error("vsock: {path:?} is too long for a socket; at most {limit} bytes")]
    PathTooLong {
        /// The path given.
        path: PathBuf,
        /// The longest that works.
        limit: usize,
    },
    /// The host refused.
    #[error("vsock: cannot {tried} {path:?}: {error}")]
    Socket {
        /// What was being done.
        tried: &'static str,
        /// With which socket.
        path: PathBuf,
        /// What the host said.
        error: std::io::Error,
    },
}

#[derive(Clone, Default)]
struct Counters {
    connections: Counter,
    expired: Counter,
    refused: Counter,
    packets_from_guest: Counter,
    packets_to_guest: Counter,
    bytes_from_guest: Counter,
    bytes_to_guest: Counter,
}

/// The device.
pub struct Vsock {
    name: String,
    guest_cid: u64,
    path: PathBuf,
    counters: Counters,
    /// Here while no worker has it.
    hub: Option<Hub>,
    announce_reset: bool,
}

impl Vsock {
    /// A device whose guest has the address `guest_cid`, listening at `path`. The guest's own
    /// connections go through `ports`, or straight to the sockets beside `path`.
    ///
    /// # Errors
    /// The address is no guest's, or the host does not let us listen there.
    pub fn new(
        name: &str,
        guest_cid: u64,
        path: &Path,
        ports: Option<Arc<dyn HostPorts>>,
    ) -> Result<Self, VsockError> {
        if !GUEST_CIDS.contains(&guest_cid) {
            return Err(VsockError::Cid(guest_cid));
        }
        let listener = Listener::bind(path)?;
        let counters = Counters::default();
        let ports = ports.unwrap_or_else(|| Arc::new(Beside(path.to_owned())));
        let hub = Hub::new(listener, ports, guest_cid, counters.clone()).map_err(|error| {
            VsockError::Socket { tried: "watch", path: path.to_owned(), error: error.into() }
        })?;
        Ok(Self {
            name: name.to_owned(),
            guest_cid,
            path: path.to_owned(),
            counters,
            hub: Some(hub),
            announce_reset: false,
        })
    }
}

impl Device for Vsock {
    fn id(&self) -> DeviceId {
        DeviceId::Vsock
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn features(&self) -> u64 {
        F_STREAM | RING_FEATURES
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![RX_QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config::read(&self.guest_cid.to_le_bytes(), offset, data);
    }

    fn start(&mut self, session: Session) -> Result<Vec<Box<dyn Worker>>, StartError> {
        let fail = |reason: &str| StartError { device: "vsock", reason: reason.to_owned() };
        let mut queues: [Option<Queue>; 3] = [None, None, None];
        for queue in session.queues {
            if let Some(place) = queues.get_mut(usize::from(queue.index)) {
                *place = Some(queue);
            }
        }
        let [Some(rx), Some(tx), event] = queues else {
            return Err(fail("the driver must enable the receive and the transmit queue"));
        };
        let hub = self.hub.take();
        let hub = hub.ok_or_else(|| fail("its last worker died with the host's sockets"))?;
        // Connections kept over a pause may have something to say before anybody rings.
        let _ = tx.kick.write(1);
        Ok(vec![Box::new(VsockWorker {
            name: self.name.clone(),
            guest_cid: self.guest_cid,
            hub,
            memory: session.memory,
            interrupts: session.interrupts,
            rx,
            tx,
            event,
            announce_reset: self.announce_reset,
        })])
    }

    fn stop(&mut self, workers: Vec<Box<dyn Worker>>) {
        for worker in workers {
            if let Ok(worker) = worker.into_any().downcast::<VsockWorker>() {
                self.announce_reset = worker.announce_reset;
                self.hub = Some(worker.hub);
            }
        }
    }

    fn reset(&mut self) {
        self.announce_reset = false;
        if let Some(hub) = &mut self.hub {
            hub.forget_all();
        }
    }

    fn save(&self) -> serde_json::Value {
        serde_json::json!({ "guest-cid": self.guest_cid })
    }

    fn restore(&mut self, state: &serde_json::Value) -> Result<(), RestoreError> {
        let saved = state.get("guest-cid").and_then(serde_json::Value::as_u64);
        if saved != Some(self.guest_cid) {
            return Err(RestoreError {
                device: self.name.clone(),
                reason: format!(
                    "found guest-cid {saved:?}, but this device's is {}",
                    self.guest_cid
                ),
            });
        }
        // Sockets do not travel in a snapshot (virtio 1.2, 5.10.6.7).
        self.announce_reset = true;
        Ok(())
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let c = &self.counters;
        vec![
            ("connections", c.connections.get()),
            ("expired", c.expired.get()),
            ("refused", c.refused.get()),
            ("packets-from-guest", c.packets_from_guest.get()),
            ("packets-to-guest", c.packets_to_guest.get()),
            ("bytes-from-guest", c.bytes_from_guest.get()),
            ("bytes-to-guest", c.bytes_to_guest.get()),
        ]
    }

    fn inspect(&self) -> Vec<(&'static str, String)> {
        let mut facts = vec![
            ("guest-cid", self.guest_cid.to_string()),
            ("socket", self.path.display().to_string()),
        ];
        if let Some(hub) = &self.hub {
            facts.push(("open-connections", hub.open().to_string()));
        }
        facts
    }
}
