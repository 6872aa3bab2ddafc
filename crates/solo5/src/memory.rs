//! Guest memory as a tender needs it.

use units::GuestPhysical;

/// The guest's RAM: one piece from address 0 on. The guest may write to it at the same time.
pub trait GuestMemory {
    /// Whether all of `length` bytes from `address` on are RAM.
    fn holds(&self, address: GuestPhysical, length: u64) -> bool;

    /// Copies guest memory at `address` into `into`; false when not all of it is RAM.
    fn read(&self, address: GuestPhysical, into: &mut [u8]) -> bool;

    /// Copies `bytes` to `address`; false when not all of it is RAM.
    fn write(&self, address: GuestPhysical, bytes: &[u8]) -> bool;
}

impl<M: GuestMemory + ?Sized> GuestMemory for &M {
    fn holds(&self, address: GuestPhysical, length: u64) -> bool {
        (**self).holds(address, length)
    }

    fn read(&self, address: GuestPhysical, into: &mut [u8]) -> bool {
        (**self).read(address, into)
    }

    fn write(&self, address: GuestPhysical, bytes: &[u8]) -> bool {
        (**self).write(address, bytes)
    }
}
