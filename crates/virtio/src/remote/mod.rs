//! A device whose back end is another process, attached over vhost-user (QEMU
//! docs/interop/vhost-user): this side is the front-end. The process works on guest memory by
//! itself: it maps the memory's file, is rung by the driver's doorbells, and rings for an interrupt, which
//! reaches the driver past us where the engine has a way for that.
//!
//! The process handles what a hostile guest says, so it is not trusted with our time: every message
//! has a deadline, and when it is gone the device asks for a reset while the VM goes on.

#[cfg(test)]
mod tests;
mod worker;

use crate::{
    Device, DeviceId, Interrupts, Queue, RING_FEATURES, Session, StartError, Worker, config,
};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use vhost::vhost_user::{
    Frontend, VhostUserFrontend, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_queue::QueueT;
use vm_memory::{GuestAddress, GuestAddressSpace, GuestMemoryBackend};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use worker::{RemoteQueue, RemoteWorker};

/// How long the process may take to answer a message.
const PATIENCE: Duration = Duration::from_secs(10);

/// Feature bits that belong to the device type (virtio 1.2, 6).
const DEVICE_FEATURES: u64 = (1 << 24) - 1;
/// VIRTIO_F_VERSION_1 (virtio 1.2, 6).
const VERSION_1: u64 = 1 << 32;

/// The process cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// It does not answer as it should.
    #[error("{device}: cannot {tried} the process behind it: {error}")]
    Protocol {
        /// The device.
        device: String,
        /// What was asked.
        tried: &'static str,
        /// What happened.
        error: vhost::Error,
    },
    /// It is too old.
    #[error("{device}: the process behind it speaks no virtio 1.0")]
    Legacy {
        /// The device.
        device: String,
    },
    /// The socket cannot be set up.
    #[error("{device}: cannot set up its socket: {error}")]
    Socket {
        /// The device.
        device: String,
        /// What the system said.
        error: std::io::Error,
    },
}

/// What a device is, apart from what the process says.
pub struct RemoteOptions {
    /// Its type.
    pub id: DeviceId,
    /// Its name, unique in the VM.
    pub name: String,
    /// The greatest size of each queue.
    pub queue_sizes: Vec<u16>,
    /// Its configuration space, which the driver cannot change.
    pub config: Vec<u8>,
}

/// The device.
pub struct RemoteDevice {
    options: RemoteOptions,
    frontend: Frontend,
    /// What the process offers.
    offered: u64,
}

impl RemoteDevice {
    /// Attaches to the process at the other end of `socket`.
    ///
    /// # Errors
    /// It does not answer, or not as vhost-user wants.
    pub fn attach(options: RemoteOptions, socket: UnixStream) -> Result<Self, RemoteError> {
        socket
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| socket.set_write_timeout(Some(PATIENCE)))
            .map_err(|error| RemoteError::Socket { device: options.name.clone(), error })?;
        let failed = |tried| {
            let device = options.name.clone();
            move |error| RemoteError::Protocol { device, tried, error }
        };
        let mut frontend = Frontend::from_stream(socket, options.queue_sizes.len() as u64);
        frontend.set_owner().map_err(failed("greet"))?;
        let offered = frontend.get_features().map_err(failed("ask"))?;
        if offered & VERSION_1 == 0 {
            return Err(RemoteError::Legacy { device: options.name });
        }
        if offered & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() != 0 {
            let protocol = frontend.get_protocol_features().map_err(failed("ask"))?;
            let wanted = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK;
            frontend.set_protocol_features(protocol & wanted).map_err(failed("agree with"))?;
        }
        Ok(Self { options, frontend, offered })
    }

    fn protocol(&self) -> bool {
        self.offered & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() != 0
    }

    /// Tells the process about memory and features.
    fn prepare(&mut self, session: &Session) -> Result<(), String> {
        let mut features = session.features & self.features() | VERSION_1;
        if self.protocol() {
            features |= VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        }
        let tell = |error: vhost::Error| format!("the process behind it refused: {error}");
        self.frontend.set_features(features).map_err(tell)?;
        let memory = session.memory.memory();
        let regions = memory
            .iter()
            .map(VhostUserMemoryRegionInfo::from_guest_region)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| "guest memory has no file another process could map".to_owned())?;
        self.frontend.set_mem_table(&regions).map_err(tell)?;
        Ok(())
    }

    /// Hands one queue to the process.
    fn hand_over(
        &mut self,
        queue: Queue,
        memory: &crate::MemoryGuard,
        interrupts: &dyn Interrupts,
    ) -> Result<RemoteQueue, String> {
        let index = usize::from(queue.index);
        // The process finds an address by the region of ours it lies in.
        let ours = |address: u64| {
            memory
                .get_host_address(GuestAddress(address))
                .map(|pointer| pointer as u64)
                .map_err(|_| format!("ring of queue {index} outside memory"))
        };
        let ring = &queue.ring;
        let place = VringConfigData {
            queue_max_size: ring.max_size(),
            queue_size: ring.size(),
            flags: 0,
            desc_table_addr: ours(ring.desc_table())?,
            used_ring_addr: ours(ring.used_ring())?,
            avail_ring_addr: ours(ring.avail_ring())?,
            log_addr: None,
        };
        // Straight to the driver where that can be: our thread would wake for each interrupt.
        let (call, direct) = match interrupts.descriptor(queue.index) {
            Some(event) => (event_of(event), true),
            None => {
                let event = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK);
                (event.map_err(|error| error.to_string())?, false)
            }
        };
        let protocol = self.protocol();
        let frontend = &mut self.frontend;
        let mut tell = || {
            frontend.set_vring_num(index, ring.size())?;
            frontend.set_vring_addr(index, &place)?;
            frontend.set_vring_base(index, ring.next_avail())?;
            frontend.set_vring_call(index, &call)?;
            frontend.set_vring_kick(index, &queue.kick)?;
            if protocol {
                frontend.set_vring_enable(index, true)?;
            }
            Ok(())
        };
        tell().map_err(|error: vhost::Error| {
            format!("the process behind it refused queue {index}: {error}")
        })?;
        Ok(RemoteQueue { queue, call: (!direct).then_some(call) })
    }
}

#[allow(unsafe_code)]
fn event_of(descriptor: OwnedFd) -> EventFd {
    // SAFETY: the descriptor is an eventfd (`Interrupts::descriptor`) and given away by its owner.
    unsafe { EventFd::from_raw_fd(descriptor.into_raw_fd()) }
}

impl Device for RemoteDevice {
    fn id(&self) -> DeviceId {
        self.options.id
    }

    fn name(&self) -> &str {
        &self.options.name
    }

    fn features(&self) -> u64 {
        self.offered & (DEVICE_FEATURES | RING_FEATURES)
    }

    fn queue_sizes(&self) -> Vec<u16> {
        self.options.queue_sizes.clone()
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config::read(&self.options.config, offset, data);
    }

    fn start(&mut self, session: Session) -> Result<Vec<Box<dyn Worker>>, StartError> {
        let fail = |reason| StartError { device: "vhost-user", reason };
        self.prepare(&session).map_err(fail)?;
        let memory = session.memory.memory();
        let queues = session
            .queues
            .into_iter()
            .map(|queue| self.hand_over(queue, &memory, session.interrupts.as_ref()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(fail)?;
        Ok(vec![Box::new(RemoteWorker {
            name: self.options.name.clone(),
            frontend: self.frontend.clone(),
            protocol: self.protocol(),
            memory: session.memory,
            interrupts: session.interrupts,
            queues,
        })])
    }
}
