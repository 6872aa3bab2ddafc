//! The driver's way from reset to DRIVER_OK and back (virtio 1.2, 3.1 and 4.1.4.3), and pause.

use super::VirtioPci;
use super::registers::{Common, Field, Part};
use super::shared::NO_VECTOR;
use crate::{Interrupts, Queue, Running, Session, StartError};
use std::sync::atomic::Ordering::SeqCst;
use virtio_bindings::bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
    VIRTIO_F_RING_RESET, VIRTIO_F_VERSION_1,
};
use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::QueueT;
use vm_memory::{GuestAddress, GuestAddressSpace};
use vmm_sys_util::eventfd::EventFd;

/// What the driver set up for one queue.
pub(super) struct QueueSetup {
    pub(super) most: u16,
    pub(super) size: u16,
    pub(super) enabled: bool,
    pub(super) descriptors: u64,
    pub(super) driver: u64,
    pub(super) device: u64,
    pub(super) next_avail: u16,
    pub(super) next_used: u16,
    pub(super) kick: EventFd,
}

impl QueueSetup {
    pub(super) fn new(most: u16, kick: EventFd) -> Self {
        Self {
            most,
            size: most,
            enabled: false,
            descriptors: 0,
            driver: 0,
            device: 0,
            next_avail: 0,
            next_used: 0,
            kick,
        }
    }

    fn reset(&mut self) {
        self.size = self.most;
        self.enabled = false;
        self.descriptors = 0;
        self.driver = 0;
        self.device = 0;
        self.next_avail = 0;
        self.next_used = 0;
        // A ring left over from before must not reach the next driver.
        let _ = self.kick.read();
    }

    pub(super) fn describe(&self) -> String {
        if !self.enabled {
            return "off".to_owned();
        }
        format!(
            "{} entries at {:#x}, {:#x}, {:#x}",
            self.size, self.descriptors, self.driver, self.device
        )
    }
}

impl VirtioPci {
    pub(super) fn common(&self) -> Common {
        let half = |features: u64, select: u32| match select {
            0 => features as u32,
            1 => (features >> 32) as u32,
            _ => 0,
        };
        let mut common = Common {
            device_feature_select: self.device_feature_select,
            device_feature: half(self.offered, self.device_feature_select),
            driver_feature_select: self.driver_feature_select,
            driver_feature: half(self.driver_features, self.driver_feature_select),
            config_vector: self.shared.config_vector.load(SeqCst),
            // At most MOST_QUEUES.
            num_queues: self.queues.len() as u16,
            status: self.shared.status.load(SeqCst),
            generation: self.shared.generation.load(SeqCst),
            queue_select: self.queue_select,
            ..Common::default()
        };
        // A queue that does not exist has size 0 (virtio 1.2, 4.1.4.3.1).
        let index = usize::from(self.queue_select);
        if let (Some(queue), Some(vector)) =
            (self.queues.get(index), self.shared.queue_vectors.get(index))
        {
            common.queue_size = queue.size;
            common.queue_vector = vector.load(SeqCst);
            common.queue_enable = queue.enabled.into();
            common.queue_notify_offset = self.queue_select;
            common.queue_descriptors = queue.descriptors;
            common.queue_driver = queue.driver;
            common.queue_device = queue.device;
        }
        common
    }

    pub(super) fn write_common(&mut self, offset: u64, data: &[u8]) {
        let Some(field) = Field::writable(offset, data.len()) else {
            return;
        };
        let mut bytes = [0; 8];
        bytes[..data.len()].copy_from_slice(data);
        let value = u64::from_le_bytes(bytes);
        // `Field::writable` has matched the width.
        let (wide, short) = (value as u32, value as u16);
        match field {
            Field::DeviceFeatureSelect => self.device_feature_select = wide,
            Field::DriverFeatureSelect => self.driver_feature_select = wide,
            Field::DriverFeature => self.write_features(wide),
            Field::DeviceStatus => self.write_status(value as u8),
            Field::QueueSelect => self.queue_select = short,
            Field::ConfigVector => {
                let vector = self.existing_vector(short);
                self.shared.config_vector.store(vector, SeqCst);
            }
            Field::QueueVector => {
                let vector = self.existing_vector(short);
                if let Some(slot) = self.shared.queue_vectors.get(usize::from(self.queue_select)) {
                    slot.store(vector, SeqCst);
                }
            }
            Field::QueueReset => self.reset_queue(short),
            Field::QueueSize
            | Field::QueueEnable
            | Field::QueueDescriptors(_)
            | Field::QueueDriver(_)
            | Field::QueueDevice(_) => self.write_queue(field, value),
        }
    }

    /// A vector the device has not got reads back as none (virtio 1.2, 4.1.5.1.2).
    fn existing_vector(&self, vector: u16) -> u16 {
        if vector < self.shared.msix.vectors() { vector } else { NO_VECTOR }
    }

    fn write_features(&mut self, value: u32) {
        if self.shared.has(VIRTIO_CONFIG_S_FEATURES_OK) {
            return;
        }
        let part = match self.driver_feature_select {
            0 => Part::Low,
            1 => Part::High,
            _ => return,
        };
        self.driver_features = part.replace(self.driver_features, value.into());
    }

    /// A queue is set up before it is enabled, and enabled before DRIVER_OK (virtio 1.2, 4.1.5.1.3)
    /// or, where queues can be reset, later (2.6.1.2); anything else has no effect.
    fn write_queue(&mut self, field: Field, value: u64) {
        let late = self.shared.has(VIRTIO_CONFIG_S_DRIVER_OK);
        if late && !self.resets_queues() {
            return;
        }
        let Some(queue) = self.queues.get_mut(usize::from(self.queue_select)) else {
            return;
        };
        if queue.enabled {
            return;
        }
        match field {
            Field::QueueSize => {
                let size = value as u16;
                if size.is_power_of_two() && size <= queue.most {
                    queue.size = size;
                }
            }
            Field::QueueEnable => queue.enabled = value == 1,
            Field::QueueDescriptors(part) => {
                queue.descriptors = part.replace(queue.descriptors, value);
            }
            Field::QueueDriver(part) => queue.driver = part.replace(queue.driver, value),
            Field::QueueDevice(part) => queue.device = part.replace(queue.device, value),
            _ => {}
        }
        if late && queue.enabled {
            // The workers start again, now with it.
            self.stop();
            self.start();
        }
    }

    /// Whether the driver may reset single queues.
    fn resets_queues(&self) -> bool {
        self.shared.has(VIRTIO_CONFIG_S_FEATURES_OK)
            && self.driver_features & 1 << VIRTIO_F_RING_RESET != 0
    }

    /// One queue as after power-on (virtio 1.2, 2.6.1.1); the others go on where they stood, unless
    /// the device cannot work without this one. It has stopped when this returns.
    fn reset_queue(&mut self, value: u16) {
        let index = self.queue_select;
        let place = usize::from(index);
        if value != 1 || !self.resets_queues() || place >= self.queues.len() {
            return;
        }
        self.stop();
        self.device.reset_queue(index);
        if let (Some(queue), Some(vector)) =
            (self.queues.get_mut(place), self.shared.queue_vectors.get(place))
        {
            queue.reset();
            vector.store(NO_VECTOR, SeqCst);
        }
        self.start();
    }

    fn write_status(&mut self, value: u8) {
        if value == 0 {
            self.reset_device();
            return;
        }
        let before = self.shared.status.load(SeqCst);
        // Bits only ever get set (virtio 1.2, 2.1.1); NEEDS_RESET is the device's.
        let mut added = value & !before & !(VIRTIO_CONFIG_S_NEEDS_RESET as u8);
        if u32::from(added) & VIRTIO_CONFIG_S_FEATURES_OK != 0 && !self.features_agree() {
            added &= !(VIRTIO_CONFIG_S_FEATURES_OK as u8);
        }
        let features_ok = u32::from(before | added) & VIRTIO_CONFIG_S_FEATURES_OK != 0;
        if !features_ok {
            // No way to DRIVER_OK without agreed features (virtio 1.2, 3.1.1).
            added &= !(VIRTIO_CONFIG_S_DRIVER_OK as u8);
        }
        self.shared.status.fetch_or(added, SeqCst);
        if u32::from(added) & VIRTIO_CONFIG_S_DRIVER_OK != 0 {
            self.start();
        }
    }

    /// A subset of what is offered, with VERSION_1 in it (virtio 1.2, 6.1).
    fn features_agree(&self) -> bool {
        let version_1 = self.driver_features & 1 << VIRTIO_F_VERSION_1 != 0;
        let unknown = self.driver_features & !self.offered;
        if unknown != 0 || !version_1 {
            tracing::warn!(
                device = self.device.name(),
                "driver wants features {:#x}, offered are {:#x}: refused",
                self.driver_features,
                self.offered
            );
        }
        unknown == 0 && version_1
    }

    /// Status 0: everything as after power-on; the workers have stopped when this returns.
    pub(super) fn reset_device(&mut self) {
        self.stop();
        self.device.reset();
        self.shared.reset();
        self.driver_features = 0;
        self.device_feature_select = 0;
        self.driver_feature_select = 0;
        self.queue_select = 0;
        for queue in &mut self.queues {
            queue.reset();
        }
    }

    /// Starts the workers if the driver is ready for them and the machine is not paused.
    fn start(&mut self) {
        let ready = self.shared.has(VIRTIO_CONFIG_S_DRIVER_OK)
            && !self.shared.has(VIRTIO_CONFIG_S_NEEDS_RESET);
        if !ready || self.paused || self.running.is_some() {
            return;
        }
        let running =
            self.session().and_then(|session| Running::start(self.device.as_mut(), session));
        match running {
            Ok(running) => {
                self.running = Some(running);
                // What the driver made available before, or while nobody listened.
                for queue in self.queues.iter().filter(|queue| queue.enabled) {
                    let _ = queue.kick.write(1);
                }
            }
            Err(error) if self.waits_for_queue() => {
                tracing::debug!(device = self.device.name(), %error, "waits for a queue");
            }
            Err(error) => {
                tracing::warn!(device = self.device.name(), %error, "device needs reset");
                self.shared.needs_reset();
            }
        }
    }

    /// A queue that was reset may be enabled again, which starts the device again.
    fn waits_for_queue(&self) -> bool {
        self.resets_queues() && self.queues.iter().any(|queue| !queue.enabled)
    }

    /// Stops the workers, keeping where the queues stand.
    pub(super) fn stop(&mut self) {
        let Some(running) = self.running.take() else {
            return;
        };
        for state in running.finish(self.device.as_mut()) {
            if let Some(queue) = self.queues.get_mut(usize::from(state.index)) {
                queue.next_avail = state.next_avail;
                queue.next_used = state.next_used;
            }
        }
    }

    /// Stops the device's work until [`Self::resume`]; the guest does not notice. Call it while no
    /// processor runs.
    pub fn pause(&mut self) {
        self.paused = true;
        self.stop();
    }

    /// Goes on after [`Self::pause`].
    pub fn resume(&mut self) {
        self.paused = false;
        self.start();
    }

    fn session(&self) -> Result<Session, StartError> {
        let mut queues = Vec::new();
        for (index, setup) in (0..).zip(&self.queues) {
            if setup.enabled {
                queues.push(self.queue(index, setup)?);
            }
        }
        Ok(Session {
            memory: self.memory.clone(),
            features: self.driver_features,
            queues,
            interrupts: self.shared.clone(),
        })
    }

    fn queue(&self, index: u16, setup: &QueueSetup) -> Result<Queue, StartError> {
        let refused = |reason: String| StartError { device: "queue", reason };
        let invalid = |error: virtio_queue::Error| {
            refused(format!("queue {index} ({}): {error}", setup.describe()))
        };
        let mut ring = virtio_queue::Queue::new(setup.most).map_err(invalid)?;
        ring.try_set_size(setup.size).map_err(invalid)?;
        ring.try_set_desc_table_address(GuestAddress(setup.descriptors)).map_err(invalid)?;
        ring.try_set_avail_ring_address(GuestAddress(setup.driver)).map_err(invalid)?;
        ring.try_set_used_ring_address(GuestAddress(setup.device)).map_err(invalid)?;
        ring.set_event_idx(self.driver_features & 1 << VIRTIO_RING_F_EVENT_IDX != 0);
        ring.set_next_avail(setup.next_avail);
        ring.set_next_used(setup.next_used);
        ring.set_ready(true);
        if !ring.is_valid(&*self.memory.memory()) {
            return Err(refused(format!(
                "queue {index} ({}) does not lie in guest memory",
                setup.describe()
            )));
        }
        let kick = setup
            .kick
            .try_clone()
            .map_err(|error| refused(format!("queue {index}: its doorbell: {error}")))?;
        Ok(Queue::new(index, ring, kick))
    }
}
