//! Window memory: what the guest draws its windows in, a PCI function of the guest and a file that the
//! compositor maps. The engine maps it where the guest puts the BAR, so that no access of the guest's exits.
#![allow(unsafe_code)]

use super::motherboard::part;
use crate::MachineError;
use crate::sealed::sealed_file;
use engine::HostMapping;
use pci::{SharedBytes, SharedMemory};
use std::fs::File;
use std::sync::{Arc, Mutex};
use units::Bytes;
use vm_memory::mmap::{MmapRegion, MmapRegionBuilder};
use vm_memory::{Bytes as _, FileOffset, VolatileMemory};

/// See the module.
pub(super) struct WindowMemory {
    file: Arc<File>,
    region: Arc<MmapRegion>,
}

/// The engine's hold on it.
struct Mapped(Arc<MmapRegion>);

// SAFETY: the mapping is page-aligned (made by mmap), readable and writable, and lives as long as the
// value. The file behind it is sealed against shrinking. All access in this process goes through
// vm-memory's volatile slices, which make no Rust references into it.
unsafe impl HostMapping for Mapped {
    fn address(&self) -> usize {
        self.0.as_ptr() as usize
    }
    fn size(&self) -> Bytes {
        Bytes(self.0.len() as u64)
    }
}

/// The function's hold on it.
struct Shown(Arc<MmapRegion>);

impl SharedBytes for Shown {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        // The function has looked that it is inside; what is not reads as it came.
        if let Ok(offset) = usize::try_from(offset) {
            let _ = self.0.as_volatile_slice().read_slice(data, offset);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Ok(offset) = usize::try_from(offset) {
            let _ = self.0.as_volatile_slice().write_slice(data, offset);
        }
    }
}

impl WindowMemory {
    /// The BAR of the function that decodes it.
    pub(super) const BAR: u8 = SharedMemory::<Shown>::BAR;

    /// Memory of so many MiB, all zero; `None` for none.
    ///
    /// # Errors
    /// The kernel refused.
    pub(super) fn new(mib: u64) -> Result<Option<Self>, MachineError> {
        let size = Bytes::mib(mib).0;
        let length = usize::try_from(size).unwrap_or(usize::MAX);
        if length == 0 {
            return Ok(None);
        }
        let file = Arc::new(sealed_file("window-memory", size, false)?);
        let region = MmapRegionBuilder::new(length)
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_SHARED | libc::MAP_NORESERVE)
            .with_file_offset(FileOffset::from_arc(Arc::clone(&file), 0))
            .build()
            .map_err(|error| part("window memory")(&error))?;
        Ok(Some(Self { file, region: Arc::new(region) }))
    }

    /// The file, for the compositor.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// For the engine.
    pub(super) fn mapping(&self) -> Arc<dyn HostMapping> {
        Arc::new(Mapped(Arc::clone(&self.region)))
    }

    /// The function that shows it to the guest.
    ///
    /// # Errors
    /// A size that no BAR can have.
    pub(super) fn function(&self) -> Result<pci::SharedFunction, MachineError> {
        let shown = Shown(Arc::clone(&self.region));
        let function = SharedMemory::new(shown).map_err(|error| part("window memory")(&error))?;
        Ok(Arc::new(Mutex::new(function)))
    }
}
