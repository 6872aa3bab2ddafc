//! virtio-net (virtio 1.2, 5.1): a network card whose cable ends at a [`Backend`]: a tap interface
//! ([`Tap`]) or a socket that speaks frames behind their length ([`Stream`]), such as a passt
//! process has.
//!
//! One worker moves all frames. With a tap they go straight between the kernel and guest memory,
//! checksums and segmentation left to the kernel; over a socket many frames go in one call. A
//! backend that fails takes the link down, which the guest sees; the VM goes on.
//!
//! Every header of the guest is checked and rebuilt ([`header`]) before the kernel sees it.

mod backend;
mod header;
mod stream;
mod tap;
#[cfg(test)]
mod tests;
mod worker;

pub use backend::{Backend, Frame, LinkDown, Next, Offloads, Sent};
pub use header::HEADER_BYTES;
pub use stream::Stream;
pub use tap::{Tap, TapError};

use crate::device::Counter;
use crate::{Device, DeviceId, Queue, RING_FEATURES, Session, StartError, Worker, config};
use header::feature;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use worker::NetWorker;

/// Entries of the receive and the transmit queue.
const QUEUE_SIZE: u16 = 256;
/// Entries of the control queue.
const CONTROL_SIZE: u16 = 64;

/// VIRTIO_NET_S_LINK_UP (virtio 1.2, 5.1.4).
const STATUS_LINK_UP: u16 = 1;

/// The address belongs to a group, so no card can have it (IEEE 802, 8.2.2).
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "network card {device}: address {address} is a group's; clear the lowest bit of its first byte"
)]
pub struct AddressError {
    /// Which card.
    pub device: String,
    /// The address given.
    pub address: String,
}

#[derive(Clone, Default)]
struct Counters {
    frames_from_guest: Counter,
    frames_to_guest: Counter,
    bytes_from_guest: Counter,
    bytes_to_guest: Counter,
    refused: Counter,
    dropped: Counter,
}

/// The device.
pub struct Net {
    name: String,
    mac: [u8; 6],
    mtu: Option<u16>,
    offloads: bool,
    described: String,
    link: Arc<AtomicBool>,
    counters: Counters,
    /// Here while no worker has it.
    backend: Option<Box<dyn Backend>>,
}

impl Net {
    /// A card with the address `mac` whose cable ends at `backend`.
    ///
    /// # Errors
    /// The address is a group's.
    pub fn new(name: &str, mac: [u8; 6], backend: Box<dyn Backend>) -> Result<Self, AddressError> {
        if mac[0] & 1 != 0 {
            return Err(AddressError { device: name.to_owned(), address: text(mac) });
        }
        Ok(Self {
            name: name.to_owned(),
            mac,
            mtu: backend.mtu(),
            offloads: backend.offloads(),
            described: backend.describe(),
            link: Arc::new(AtomicBool::new(true)),
            counters: Counters::default(),
            backend: Some(backend),
        })
    }

    /// False once the backend has failed.
    #[must_use]
    pub fn link_is_up(&self) -> bool {
        self.link.load(Ordering::Relaxed)
    }

    /// Configuration space (virtio 1.2, 5.1.4).
    fn config(&self) -> [u8; 12] {
        let mut config = [0; 12];
        config[..6].copy_from_slice(&self.mac);
        let status = if self.link_is_up() { STATUS_LINK_UP } else { 0 };
        config[6..8].copy_from_slice(&status.to_le_bytes());
        // One pair of queues, read only by drivers with MQ.
        config[8..10].copy_from_slice(&1u16.to_le_bytes());
        config[10..12].copy_from_slice(&self.mtu.unwrap_or(0).to_le_bytes());
        config
    }
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

impl Device for Net {
    fn id(&self) -> DeviceId {
        DeviceId::Net
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn features(&self) -> u64 {
        let mut features = RING_FEATURES
            | feature::MAC
            | feature::STATUS
            | feature::MRG_RXBUF
            | feature::GUEST_CSUM
            | feature::CTRL_VQ
            | feature::CTRL_RX
            | feature::CTRL_GUEST_OFFLOADS;
        if self.mtu.is_some() {
            features |= feature::MTU;
        }
        if self.offloads {
            features |= feature::CSUM
                | feature::HOST_TSO4
                | feature::HOST_TSO6
                | feature::HOST_ECN
                | feature::GUEST_TSO4
                | feature::GUEST_TSO6
                | feature::GUEST_ECN;
        }
        features
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE, QUEUE_SIZE, CONTROL_SIZE]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config::read(&self.config(), offset, data);
    }

    fn start(&mut self, session: Session) -> Result<Vec<Box<dyn Worker>>, StartError> {
        let fail = |reason: String| StartError { device: "net", reason };
        let mut queues: [Option<Queue>; 3] = [None, None, None];
        for queue in session.queues {
            if let Some(place) = queues.get_mut(usize::from(queue.index)) {
                *place = Some(queue);
            }
        }
        let [Some(rx), Some(tx), control] = queues else {
            return Err(fail(
                "the driver must enable the receive and the transmit queue".to_owned(),
            ));
        };
        let mut backend = self
            .backend
            .take()
            .ok_or_else(|| fail("its last worker died with the backend".to_owned()))?;
        if let Err(error) = backend.set_offloads(worker::offloads(session.features)) {
            self.backend = Some(backend);
            return Err(fail(format!("the backend refused the offloads: {error}")));
        }
        // Frames the backend holds since a pause ring no bell.
        let _ = rx.kick.write(1);
        Ok(vec![Box::new(NetWorker {
            name: self.name.clone(),
            features: session.features,
            backend,
            link: self.link.clone(),
            counters: self.counters.clone(),
            memory: session.memory,
            interrupts: session.interrupts,
            rx,
            tx,
            control,
            stash: Vec::new(),
            starved: false,
            // There may be the end of a frame to send since a pause.
            blocked: self.link_is_up(),
        })])
    }

    fn stop(&mut self, workers: Vec<Box<dyn Worker>>) {
        for worker in workers {
            if let Ok(worker) = worker.into_any().downcast::<NetWorker>() {
                self.backend = Some(worker.backend);
            }
        }
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let c = &self.counters;
        vec![
            ("frames-from-guest", c.frames_from_guest.get()),
            ("frames-to-guest", c.frames_to_guest.get()),
            ("bytes-from-guest", c.bytes_from_guest.get()),
            ("bytes-to-guest", c.bytes_to_guest.get()),
            ("refused", c.refused.get()),
            ("dropped", c.dropped.get()),
        ]
    }

    fn inspect(&self) -> Vec<(&'static str, String)> {
        let link = if self.link_is_up() { "up" } else { "down" };
        vec![
            ("backend", self.described.clone()),
            ("mac", text(self.mac)),
            ("link", link.to_owned()),
        ]
    }
}
