//! Guest memory as the loader sees it.

use units::GuestPhysical;

/// There is no RAM where something was to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRam;

/// The RAM of a guest that does not run.
pub trait Ram {
    /// Writes `bytes` at `address`.
    ///
    /// # Errors
    /// Not all of it is RAM.
    fn write(&self, address: GuestPhysical, bytes: &[u8]) -> Result<(), NoRam>;
}

#[cfg(feature = "std")]
impl Ram for vm_memory::GuestMemoryMmap {
    fn write(&self, address: GuestPhysical, bytes: &[u8]) -> Result<(), NoRam> {
        use vm_memory::{Bytes, GuestAddress};
        self.write_slice(bytes, GuestAddress(address.0)).map_err(|_| NoRam)
    }
}
