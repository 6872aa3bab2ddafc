//! The network device (virtio 1.2, 5.1) and the switch that joins the guests' cards, and where the
//! machine has a card of its own that one too.

use super::{Broken, Chain, Device, DeviceKind, Session};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use spin::Mutex;

const FEATURE_MAC: u64 = 1 << 5;
const FEATURE_STATUS: u64 = 1 << 16;
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// `struct virtio_net_hdr` with num_buffers (5.1.6).
const HEADER: usize = 12;
const NUM_BUFFERS: usize = 10;
/// The longest frame: an MTU of 1500, header and a VLAN tag.
const FRAME_MOST: usize = 1518;
const FRAME_LEAST: usize = 14;
/// Frames kept for a card whose driver does not take them.
const INBOX: usize = 256;
const LINK_UP: u16 = 1;

/// An Ethernet address.
type Mac = [u8; 6];

/// A network card of the machine.
pub trait Uplink: Send {
    /// Sends a frame.
    fn send(&mut self, frame: &[u8]);

    /// A frame that came, if any.
    fn receive(&mut self) -> Option<Vec<u8>>;
}

struct Port {
    mac: Mac,
    inbox: Mutex<VecDeque<Vec<u8>>>,
    /// Tells the guest's processor that there is something.
    wake: Box<dyn Fn() + Send + Sync>,
}

/// The switch. A frame goes to the port with its destination, else to all others.
#[derive(Default)]
pub struct Switch {
    ports: Mutex<Vec<Arc<Port>>>,
    uplink: Mutex<Option<Box<dyn Uplink>>>,
}

/// One port of the switch.
pub struct SwitchPort {
    switch: Arc<Switch>,
    port: Arc<Port>,
}

impl Switch {
    /// Joins a card of the machine's.
    pub fn set_uplink(&self, uplink: Box<dyn Uplink>) {
        *self.uplink.lock() = Some(uplink);
    }

    /// Whether somebody has to call [`Self::poll`].
    #[must_use]
    pub fn has_uplink(&self) -> bool {
        self.uplink.lock().is_some()
    }

    /// A new port; `wake` is called when a frame came to it.
    pub fn join(self: &Arc<Self>, wake: impl Fn() + Send + Sync + 'static) -> SwitchPort {
        let mut ports = self.ports.lock();
        let number = u8::try_from(ports.len() + 1).unwrap_or(u8::MAX);
        let port = Arc::new(Port {
            // Locally administered (IEEE 802-2014 8.4).
            mac: [0x52, b'M', b'H', b'V', 0, number],
            inbox: Mutex::new(VecDeque::new()),
            wake: Box::new(wake),
        });
        ports.push(Arc::clone(&port));
        SwitchPort { switch: Arc::clone(self), port }
    }

    /// Passes a frame on; gives whether it may be for somebody beyond the guests.
    fn pass(&self, from: Option<&Arc<Port>>, frame: &[u8]) -> bool {
        let Some(Ok(to)) = frame.get(..6).map(Mac::try_from) else {
            return false;
        };
        let others: Vec<Arc<Port>> = {
            let ports = self.ports.lock();
            let other = |port: &&Arc<Port>| from.is_none_or(|from| !Arc::ptr_eq(from, port));
            ports.iter().filter(other).cloned().collect()
        };
        let known = others.iter().find(|port| port.mac == to);
        let targets = known.map_or(others.as_slice(), core::slice::from_ref);
        for port in targets {
            let mut inbox = port.inbox.lock();
            if inbox.len() < INBOX {
                inbox.push_back(frame.to_vec());
            }
            drop(inbox);
            (port.wake)();
        }
        known.is_none()
    }

    /// Brings frames of the machine's card to the guests.
    pub fn poll(&self) {
        for _ in 0..INBOX {
            let frame = match &mut *self.uplink.lock() {
                Some(uplink) => uplink.receive(),
                None => None,
            };
            match frame {
                Some(frame) => self.pass(None, &frame),
                None => return,
            };
        }
    }
}

impl SwitchPort {
    /// Sends a frame.
    pub(crate) fn send(&self, frame: &[u8]) {
        if !(FRAME_LEAST..=FRAME_MOST).contains(&frame.len()) {
            return;
        }
        if self.switch.pass(Some(&self.port), frame)
            && let Some(uplink) = &mut *self.switch.uplink.lock()
        {
            uplink.send(frame);
        }
    }

    /// Whether a frame waits.
    pub(crate) fn waits(&self) -> bool {
        !self.port.inbox.lock().is_empty()
    }

    /// The next frame that came.
    pub(crate) fn next(&self) -> Option<Vec<u8>> {
        self.port.inbox.lock().pop_front()
    }

    /// Its Ethernet address.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.port.mac
    }
}

/// The device.
pub struct Net {
    port: SwitchPort,
    chain: Chain,
    buffer: Vec<u8>,
}

impl Net {
    /// A card at `port`.
    #[must_use]
    pub fn new(port: SwitchPort) -> Self {
        Self { port, chain: Chain::default(), buffer: vec![0; FRAME_MOST] }
    }
}

impl Device for Net {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Net
    }

    fn features(&self) -> u64 {
        FEATURE_MAC | FEATURE_STATUS
    }

    fn queues(&self) -> usize {
        2
    }

    /// Address and status (5.1.4).
    fn config(&self) -> Vec<u8> {
        let mut bytes = self.port.mac().to_vec();
        bytes.extend_from_slice(&LINK_UP.to_le_bytes());
        bytes
    }

    fn ring(&mut self, index: usize, session: &mut Session<'_>) -> Result<(), Broken> {
        if index != TRANSMIT {
            return self.poll(session);
        }
        let mut chain = core::mem::take(&mut self.chain);
        while session.pop(TRANSMIT, &mut chain)? {
            let count = chain.read(session.ram, HEADER as u64, &mut self.buffer);
            if chain.readable() <= (HEADER + FRAME_MOST) as u64 {
                self.port.send(&self.buffer[..count]);
            }
            session.give_back(TRANSMIT, &chain, 0)?;
        }
        self.chain = chain;
        Ok(())
    }

    fn poll(&mut self, session: &mut Session<'_>) -> Result<(), Broken> {
        let mut chain = core::mem::take(&mut self.chain);
        while !self.port.port.inbox.lock().is_empty() && session.pop(RECEIVE, &mut chain)? {
            let frame = self.port.next().unwrap_or_default();
            let mut header = [0; HEADER];
            header[NUM_BUFFERS] = 1;
            // A buffer too small for the frame loses it, as a full one does.
            let mut written = chain.write(session.ram, 0, &header);
            written += chain.write(session.ram, HEADER as u64, &frame);
            session.give_back(RECEIVE, &chain, written as u32)?;
        }
        self.chain = chain;
        Ok(())
    }

    fn reset(&mut self) {
        self.port.port.inbox.lock().clear();
    }
}
