//! Memory of our own that the X server may read (MIT-SHM by descriptor): the only mapping here.

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// Tells segments apart whose addresses or descriptors are used again.
static SERIAL: AtomicU64 = AtomicU64::new(1);

/// Zeroed memory behind a descriptor.
#[derive(Debug)]
pub struct Segment {
    descriptor: OwnedFd,
    start: NonNull<u8>,
    length: usize,
    serial: u64,
}

// SAFETY: the mapping belongs to this object alone, and is reached through its references only.
unsafe impl Send for Segment {}

impl Segment {
    /// Of `length` bytes, at least 1.
    ///
    /// # Errors
    /// The system has no such memory.
    pub fn new(length: usize) -> io::Result<Self> {
        let length = length.max(1);
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let descriptor = rustix::fs::memfd_create("window-content", flags)?;
        rustix::fs::ftruncate(&descriptor, length as u64)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&descriptor, seals)?;
        // SAFETY: a new mapping of a whole file at a place of the kernel's choice.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &descriptor,
                0,
            )
        }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { descriptor, start, length, serial: SERIAL.fetch_add(1, Ordering::Relaxed) })
    }

    /// For the X server, which gets it for reading only.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// No other segment of this process has it.
    #[must_use]
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: mapped with this length as long as `self` lives, and sealed, so that the file is as long as it;
        // only `bytes_mut` writes, which borrows all of it. The X server reads.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }

    /// The bytes, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as `bytes`. The X server may read while this writes: it then shows a mix of two frames of this
        // same window.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length; no reference outlives `self`. A failure leaves it mapped,
        // which harms nobody.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.length) };
    }
}
