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

/// A device reached through I/O ports.
pub trait PortDevice {
    /// The guest reads `data.len()` (1, 2 or 4) bytes at `offset` from the start of the region the
    /// bus gave the device. Every byte of `data` is written.
    fn read(&mut self, offset: u16, data: &mut [u8]);

    /// The guest writes `data.len()` (1, 2 or 4) bytes.
    fn write(&mut self, offset: u16, data: &[u8]);
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
