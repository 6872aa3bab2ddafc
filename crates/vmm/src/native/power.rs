//! The ACPI power management block on the port bus: it moves when the guest moves it.

use super::adapters::claim_port_range;
use super::bus::Bus;
use super::timers::{SharedDevice, Timers};
use chipset::{AcpiPm, PortDevice};
use std::sync::{Arc, Mutex, PoisonError};

pub(super) struct PowerManagement {
    pub(super) device: Arc<Mutex<AcpiPm>>,
    ports: Arc<Bus>,
    timers: Arc<Timers>,
    /// Where the block is on the bus.
    placed: Mutex<Option<u16>>,
}

impl PowerManagement {
    /// The device without a place yet.
    pub(super) fn new(device: AcpiPm, ports: Arc<Bus>, timers: Arc<Timers>) -> Self {
        Self { device: Arc::new(Mutex::new(device)), ports, timers, placed: Mutex::new(None) }
    }

    pub(super) fn shared(&self) -> SharedDevice {
        Arc::clone(&self.device) as SharedDevice
    }

    /// Follows the chipset's base register.
    pub(super) fn place(&self, base: Option<u16>) {
        let mut placed = self.placed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = placed.take() {
            self.ports.release(old.into());
        }
        let mut device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        device.set_base(base);
        let Some(base) = base else { return };
        let range = device.ranges().iter().copied().find(|r| r.first == base);
        drop(device);
        let Some(range) = range else { return };
        match claim_port_range(&self.ports, &self.shared(), &self.timers, range) {
            Ok(()) => *placed = Some(base),
            Err(error) => tracing::warn!(%error, "power management ports are not decoded"),
        }
    }

    /// Where it is now.
    pub(super) fn base(&self) -> Option<u16> {
        *self.placed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
