//! Chipset devices as bus handlers: each access takes the device's lock, tells it the time, and
//! tells the timer thread when its deadline moved.

use super::bus::{Bus, Handler, Overlap};
use super::lines::SharedRouter;
use super::timers::{SharedDevice, Timers};
use chipset::{Device, MemoryDevice, PortDevice, PortRange};
use std::sync::{Arc, PoisonError};

/// Ports of a device, from `first` on.
struct Ports {
    device: SharedDevice,
    timers: Arc<Timers>,
    first: u16,
}

/// Lets `action` at the device at the present time.
fn access(device: &SharedDevice, timers: &Timers, action: impl FnOnce(&mut dyn Device)) {
    let mut device = device.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(timed) = device.timed() {
        timed.advance(timers.clock().now());
    }
    action(&mut *device);
    let deadline = device.timed().and_then(|timed| timed.deadline());
    drop(device);
    timers.consider(deadline);
}

fn port(first: u16, offset: u64) -> u16 {
    // An access begins inside its region, and regions of ports end at 0xffff.
    first.wrapping_add(offset as u16)
}

impl Handler for Ports {
    fn read(&self, offset: u64, data: &mut [u8]) {
        access(&self.device, &self.timers, |device| match device.ports() {
            Some(ports) => ports.read(port(self.first, offset), data),
            None => data.fill(0xff),
        });
    }

    fn write(&self, offset: u64, data: &[u8]) {
        access(&self.device, &self.timers, |device| {
            if let Some(ports) = device.ports() {
                ports.write(port(self.first, offset), data);
            }
        });
    }
}

/// Puts one run of the device's ports on the bus.
pub(super) fn claim_port_range(
    bus: &Bus,
    device: &SharedDevice,
    timers: &Arc<Timers>,
    range: PortRange,
) -> Result<(), Overlap> {
    let handler =
        Ports { device: Arc::clone(device), timers: Arc::clone(timers), first: range.first };
    bus.claim(range.first.into(), range.count.into(), Arc::new(handler))
}

/// Puts all of the device's ports on the bus.
pub(super) fn claim_ports(
    bus: &Bus,
    device: &SharedDevice,
    timers: &Arc<Timers>,
) -> Result<(), Overlap> {
    let ranges = match device.lock().unwrap_or_else(PoisonError::into_inner).ports() {
        Some(ports) => ports.ranges().to_vec(),
        None => Vec::new(),
    };
    for range in ranges {
        claim_port_range(bus, device, timers, range)?;
    }
    Ok(())
}

/// The 8259 pair, which lives in the router.
pub(super) struct PicPorts {
    pub(super) router: SharedRouter,
    pub(super) first: u16,
}

impl Handler for PicPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut router = self.router.lock().unwrap_or_else(PoisonError::into_inner);
        router.pic.read(port(self.first, offset), data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut router = self.router.lock().unwrap_or_else(PoisonError::into_inner);
        router.pic.write(port(self.first, offset), data);
    }
}

/// The IOAPIC, which lives in the router.
pub(super) struct IoApicRegisters(pub(super) SharedRouter);

impl Handler for IoApicRegisters {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut router = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        router.ioapic.read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut router = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        router.ioapic.write(offset, data);
    }
}

/// A port that takes any byte and answers the last one (POST codes, port 0x80, which guests also
/// write to wait).
#[derive(Default)]
pub(super) struct Scratch(std::sync::atomic::AtomicU8);

impl Handler for Scratch {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(self.0.load(std::sync::atomic::Ordering::Relaxed));
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        if let Some(byte) = data.first() {
            self.0.store(*byte, std::sync::atomic::Ordering::Relaxed);
        }
    }
}
