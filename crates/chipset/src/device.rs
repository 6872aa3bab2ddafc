//! What a device is to the bus it sits on.

use alloc::sync::Arc;

/// An interrupt line into the interrupt controllers. Edge-triggered devices pulse it.
pub trait Line: Send + Sync {
    /// Drives the line.
    fn set(&self, high: bool);

    /// Low, then high, then low: one edge.
    fn pulse(&self) {
        self.set(false);
        self.set(true);
        self.set(false);
    }
}

/// A line made of a closure.
pub struct LineFn<F>(pub F);

impl<F: Fn(bool) + Send + Sync> Line for LineFn<F> {
    fn set(&self, high: bool) {
        (self.0)(high);
    }
}

impl<L: Line + ?Sized> Line for Arc<L> {
    fn set(&self, high: bool) {
        (**self).set(high);
    }
}

/// A device of the chipset. Each ability is asked for; a device without one answers `None`.
pub trait Device: Send {
    /// Short fixed name for logs, `inspect` and saved state, e.g. `uart0`.
    fn name(&self) -> &'static str;

    /// Back to the state after power-on.
    fn reset(&mut self);

    /// Its I/O ports, if it has any.
    fn ports(&mut self) -> Option<&mut dyn PortDevice> {
        None
    }

    /// Its memory-mapped registers, if it has any.
    fn memory(&mut self) -> Option<&mut dyn MemoryDevice> {
        None
    }

    /// Its timers, if it has any.
    fn timed(&mut self) -> Option<&mut dyn Timed> {
        None
    }
}

/// A run of I/O ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// The first port.
    pub first: u16,
    /// How many ports follow it, itself included; at least 1.
    pub count: u16,
}

impl PortRange {
    /// `count` ports from `first`.
    #[must_use]
    pub const fn new(first: u16, count: u16) -> Self {
        Self { first, count }
    }

    /// Whether `port` is one of them.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        port.wrapping_sub(self.first) < self.count
    }
}

/// A device reached through I/O ports. Ports are absolute: most PC devices own several separate
/// ranges (the 8259 pair has three), and what a register means depends on the port alone.
pub trait PortDevice {
    /// The ports it answers. Asked when the device is put on the bus, and again after anything
    /// that moves it (a base register in PCI configuration space).
    fn ranges(&self) -> &[PortRange];

    /// The guest reads `data.len()` (1, 2 or 4) bytes at `port`, which is in [`Self::ranges`]
    /// (later bytes of a wide access may lie past the end). Every byte of `data` is written; bytes
    /// nobody drives read as 0xff.
    fn read(&mut self, port: u16, data: &mut [u8]);

    /// The guest writes `data.len()` (1, 2 or 4) bytes at `port`.
    fn write(&mut self, port: u16, data: &[u8]);
}

/// Splits a wide read into byte reads at ascending ports, as the ISA bus does for 8-bit devices.
pub(crate) fn read_bytes(port: u16, data: &mut [u8], mut read: impl FnMut(u16) -> u8) {
    let mut at = port;
    for byte in data {
        *byte = read(at);
        at = at.wrapping_add(1);
    }
}

/// Splits a wide write into byte writes at ascending ports.
pub(crate) fn write_bytes(port: u16, data: &[u8], mut write: impl FnMut(u16, u8)) {
    let mut at = port;
    for &byte in data {
        write(at, byte);
        at = at.wrapping_add(1);
    }
}

/// Where bytes go that the guest sends: a serial line, a debug console.
pub trait ByteSink: Send {
    /// Takes `bytes`, all of them, without waiting for anyone.
    fn write(&mut self, bytes: &[u8]);

    /// The device has room for input again after it refused some. Called under the device's own
    /// lock: only note it, and push later.
    fn input_wanted(&mut self) {}
}

/// A byte sink made of a closure.
pub struct SinkFn<F>(pub F);

impl<F: FnMut(&[u8]) + Send> ByteSink for SinkFn<F> {
    fn write(&mut self, bytes: &[u8]) {
        (self.0)(bytes);
    }
}

/// Reads guest-physical memory on behalf of a device.
pub trait GuestBytes: Send {
    /// Fills `into` from guest-physical `address` on and says how many bytes were there before
    /// RAM ended.
    fn read(&self, address: u64, into: &mut [u8]) -> usize;
}

/// A device reached through guest-physical memory.
pub trait MemoryDevice {
    /// The guest reads 1 to 8 bytes at `offset` from the start of the device's region.
    fn read(&mut self, offset: u64, data: &mut [u8]);

    /// The guest writes 1 to 8 bytes.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// A device that acts by itself as time passes. Time is nanoseconds since the machine started,
/// standing still while it is paused; the bus tells it, the device never asks a clock.
pub trait Timed {
    /// Time has come to `now` (never goes back): raise what fell due. Called before any access that
    /// may depend on time, and at or after [`Self::deadline`].
    fn advance(&mut self, now: u64);

    /// When [`Self::advance`] is needed next, if at all.
    fn deadline(&self) -> Option<u64>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_contains_its_ports_and_no_other() {
        let range = PortRange::new(0xfffe, 2);
        assert!(range.contains(0xfffe) && range.contains(0xffff));
        assert!(!range.contains(0xfffd) && !range.contains(0));
    }
}
