//! Host memory that may become guest memory.

use units::Bytes;

/// What the guest may do with a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read, write, execute.
    ReadWrite,
    /// Read and execute; a write exits with [`crate::Exit::MemoryWrite`] (flash in read mode).
    ReadOnly,
}

/// A stretch of this process's memory that stays where it is.
///
/// # Safety
/// `address` is page-aligned, the `size` bytes from it are mapped readable and writable (or at
/// least readable for [`Access::ReadOnly`]) and stay so, at the same place, until the value is
/// dropped. The guest may change them at any time: nobody holds a Rust reference into them.
#[allow(unsafe_code)]
pub unsafe trait HostMapping: Send + Sync {
    /// Where the mapping starts in this process.
    fn address(&self) -> usize;
    /// Its length, a multiple of the page size.
    fn size(&self) -> Bytes;
}
