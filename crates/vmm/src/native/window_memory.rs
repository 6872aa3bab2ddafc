//! Window memory: what the guest draws its windows in, a PCI function of the guest and a file that the
//! compositor maps. The engine maps it where the guest puts the BAR, so that no access of the guest's exits.
#![allow(unsafe_code)]

use super::memory::map_part;
use super::motherboard::part;
use crate::{FilePart, MachineError};
use engine::{Allocation, HostMapping, Partition};
use pci::{SharedBytes, SharedMemory};
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use units::Bytes;
use vm_memory::mmap::MmapRegion;
use vm_memory::{Bytes as _, VolatileMemory};

/// See the module.
pub(super) struct WindowMemory {
    memory: Arc<Allocation>,
    region: Arc<MmapRegion>,
}

/// The engine's hold on it.
struct Mapped {
    region: Arc<MmapRegion>,
    memory: Arc<Allocation>,
}

// SAFETY: the mapping is page-aligned (made by mmap), readable and writable, and lives as long as the
// value, with what it maps. All access in this process goes through vm-memory's volatile slices, which
// make no Rust references into it.
unsafe impl HostMapping for Mapped {
    fn address(&self) -> usize {
        self.region.as_ptr() as usize
    }
    fn size(&self) -> Bytes {
        Bytes(self.region.len() as u64)
    }
    fn backing(&self) -> Option<(&Arc<File>, u64)> {
        Some((self.memory.file(), self.memory.offset()))
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

    /// Memory of so many MiB, all zero, as `partition` has it; `None` for none.
    ///
    /// # Errors
    /// There is not so much.
    pub(super) fn new(partition: &dyn Partition, mib: u64) -> Result<Option<Self>, MachineError> {
        let size = Bytes::mib(mib).0.next_multiple_of(partition.memory_granule().0);
        if size == 0 {
            return Ok(None);
        }
        let memory = partition.allocate("window-memory", Bytes(size), false);
        let memory = memory.map_err(|error| part("window memory")(&error))?;
        let region = Arc::new(map_part(&memory, 0, Bytes(size))?);
        Ok(Some(Self { memory, region }))
    }

    /// The file, for the compositor.
    pub(super) fn file(&self) -> FilePart<'_> {
        FilePart {
            file: self.memory.file().as_fd(),
            offset: self.memory.offset(),
            length: self.memory.size(),
        }
    }

    /// For the engine.
    pub(super) fn mapping(&self) -> Arc<dyn HostMapping> {
        let (region, memory) = (Arc::clone(&self.region), Arc::clone(&self.memory));
        Arc::new(Mapped { region, memory })
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
