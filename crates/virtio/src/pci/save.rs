//! The transport's saved state.

use super::VirtioPci;
use super::registers::VIRTIO_BAR;
use crate::{DeviceId, RestoreError};
use pci::{ConfigState, MsixState, StateError};
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering::SeqCst;
use virtio_bindings::bindings::virtio_config::VIRTIO_CONFIG_S_FEATURES_OK;

const VERSION: u32 = 1;

/// A paused virtio function.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PciState {
    version: u32,
    kind: u16,
    config: ConfigState,
    msix: MsixState,
    status: u8,
    generation: u8,
    isr: u8,
    config_vector: u16,
    driver_features: u64,
    device_feature_select: u32,
    driver_feature_select: u32,
    queue_select: u16,
    queues: Vec<QueueSetupState>,
    device: serde_json::Value,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct QueueSetupState {
    size: u16,
    enabled: bool,
    vector: u16,
    descriptors: u64,
    driver: u64,
    device: u64,
    next_avail: u16,
    next_used: u16,
}

/// A saved state does not fit this function.
#[derive(Debug, thiserror::Error)]
pub enum PciStateError {
    /// Configuration space or MSI-X.
    #[error("{device}: {source}")]
    Pci {
        /// Which device.
        device: String,
        /// What does not fit.
        source: StateError,
    },
    /// A field of the transport.
    #[error("{device}: saved {field} is {found}, allowed here is {allowed}")]
    Field {
        /// Which device.
        device: String,
        /// Which field.
        field: &'static str,
        /// Its value.
        found: u64,
        /// What is allowed.
        allowed: u64,
    },
    /// The device itself.
    #[error(transparent)]
    Device(#[from] RestoreError),
}

impl VirtioPci {
    /// Everything that a function made the same way needs to go on; only while paused.
    ///
    /// # Panics
    /// When not paused: that is a mistake of the caller.
    #[must_use]
    pub fn save(&self) -> PciState {
        assert!(self.paused, "saved while running");
        PciState {
            version: VERSION,
            kind: self.device.id() as u16,
            config: self.config.save(),
            msix: self.shared.msix.save(),
            status: self.shared.status.load(SeqCst),
            generation: self.shared.generation.load(SeqCst),
            isr: self.shared.isr.load(SeqCst),
            config_vector: self.shared.config_vector.load(SeqCst),
            driver_features: self.driver_features,
            device_feature_select: self.device_feature_select,
            driver_feature_select: self.driver_feature_select,
            queue_select: self.queue_select,
            queues: (self.queues.iter().zip(&self.shared.queue_vectors))
                .map(|(queue, vector)| QueueSetupState {
                    size: queue.size,
                    enabled: queue.enabled,
                    vector: vector.load(SeqCst),
                    descriptors: queue.descriptors,
                    driver: queue.driver,
                    device: queue.device,
                    next_avail: queue.next_avail,
                    next_used: queue.next_used,
                })
                .collect(),
            device: self.device.save(),
        }
    }

    /// Takes a saved state. The function is paused afterwards; [`Self::resume`] goes on.
    ///
    /// # Errors
    /// The state is of another device or version; the function is then reset.
    pub fn restore(&mut self, state: &PciState) -> Result<(), PciStateError> {
        self.pause();
        self.reset_device();
        let restored = self.try_restore(state);
        if restored.is_err() {
            self.reset_device();
        }
        restored
    }

    fn try_restore(&mut self, state: &PciState) -> Result<(), PciStateError> {
        let device = self.device.name().to_owned();
        let field = |field, found, allowed| {
            Err(PciStateError::Field { device: device.clone(), field, found, allowed })
        };
        let kind: DeviceId = self.device.id();
        if state.version != VERSION {
            return field("version", state.version.into(), VERSION.into());
        }
        if state.kind != kind as u16 {
            return field("device type", state.kind.into(), kind as u64);
        }
        if state.queues.len() != self.queues.len() {
            return field("number of queues", state.queues.len() as u64, self.queues.len() as u64);
        }
        // Before FEATURES_OK the driver may have written anything.
        let agreed = u32::from(state.status) & VIRTIO_CONFIG_S_FEATURES_OK != 0;
        if agreed && state.driver_features & !self.offered != 0 {
            return field("feature set", state.driver_features, self.offered);
        }
        for (saved, queue) in state.queues.iter().zip(&self.queues) {
            if !saved.size.is_power_of_two() || saved.size > queue.most {
                return field("queue size", saved.size.into(), queue.most.into());
            }
        }
        let in_pci = |source| PciStateError::Pci { device: device.clone(), source };
        self.config.restore(&state.config).map_err(in_pci)?;
        self.shared.msix.restore(&state.msix).map_err(in_pci)?;
        self.device.restore(&state.device)?;
        self.shared.status.store(state.status, SeqCst);
        self.shared.generation.store(state.generation, SeqCst);
        self.shared.isr.store(state.isr, SeqCst);
        self.shared.config_vector.store(state.config_vector, SeqCst);
        self.driver_features = state.driver_features;
        self.device_feature_select = state.device_feature_select;
        self.driver_feature_select = state.driver_feature_select;
        self.queue_select = state.queue_select;
        let setups = self.queues.iter_mut().zip(&self.shared.queue_vectors);
        for (saved, (queue, vector)) in state.queues.iter().zip(setups) {
            queue.size = saved.size;
            queue.enabled = saved.enabled;
            queue.descriptors = saved.descriptors;
            queue.driver = saved.driver;
            queue.device = saved.device;
            queue.next_avail = saved.next_avail;
            queue.next_used = saved.next_used;
            vector.store(saved.vector, SeqCst);
        }
        tracing::debug!(device, bar = ?self.config.bar_address(VIRTIO_BAR), "restored");
        Ok(())
    }
}
