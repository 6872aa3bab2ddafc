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
use std::sync::{Arc, Mutex, OnceLock, Weak};
use units::Bytes;
use vm_memory::mmap::MmapRegion;
use vm_memory::{Bytes as _, VolatileMemory};

/// See the module.
pub(super) struct WindowMemory(Arc<Memory>);

/// The memory, made when someone first looks at it: where the engine gives memory of its own, a guest that
/// shows no windows takes none.
struct Memory {
    partition: Weak<dyn Partition>,
    size: Bytes,
    made: OnceLock<Option<Made>>,
}

struct Made {
    region: MmapRegion,
    memory: Arc<Allocation>,
}

impl Memory {
    /// `None` when there is not so much; the log says so.
    fn made(&self) -> Option<&Made> {
        let make = || {
            self.make()
                .inspect_err(|error| tracing::error!(%error, "the guest has no window memory"))
                .ok()
        };
        self.made.get_or_init(make).as_ref()
    }

    fn make(&self) -> Result<Made, MachineError> {
        let partition = self.partition.upgrade();
        let partition = partition.ok_or_else(|| part("window memory")(&"the VM has ended"))?;
        let memory = partition.allocate("window-memory", self.size, false);
        let memory = memory.map_err(|error| part("window memory")(&error))?;
        Ok(Made { region: map_part(&memory, 0, self.size)?, memory })
    }
}

// SAFETY: the mapping is page-aligned (made by mmap), readable and writable, and lives as long as the
// value, with what it maps. All access in this process goes through vm-memory's volatile slices, which
// make no Rust references into it. Memory that is not there is at no address and of no file: an engine that
// maps any memory has it from the start (`WindowMemory::new`), another one looks at the file.
unsafe impl HostMapping for Memory {
    fn address(&self) -> usize {
        self.made().map_or(0, |made| made.region.as_ptr() as usize)
    }
    fn size(&self) -> Bytes {
        self.size
    }
    fn backing(&self) -> Option<(&Arc<File>, u64)> {
        self.made().map(|made| (made.memory.file(), made.memory.offset()))
    }
}

/// The function's hold on it.
struct Shown(Arc<Memory>);

impl SharedBytes for Shown {
    fn size(&self) -> u64 {
        self.0.size.0
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        // The function has looked that it is inside; what is not reads as it came.
        if let (Ok(offset), Some(made)) = (usize::try_from(offset), self.0.made()) {
            let _ = made.region.as_volatile_slice().read_slice(data, offset);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let (Ok(offset), Some(made)) = (usize::try_from(offset), self.0.made()) {
            let _ = made.region.as_volatile_slice().write_slice(data, offset);
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
    pub(super) fn new(
        partition: &Arc<dyn Partition>,
        mib: u64,
    ) -> Result<Option<Self>, MachineError> {
        let size = Bytes::mib(mib).0.next_multiple_of(partition.memory_granule().0);
        if size == 0 {
            return Ok(None);
        }
        let made = OnceLock::new();
        let memory = Memory { partition: Arc::downgrade(partition), size: Bytes(size), made };
        if partition.maps_any_memory() {
            // Pages of it cost nothing until they are used.
            let _ = memory.made.set(Some(memory.make()?));
        }
        Ok(Some(Self(Arc::new(memory))))
    }

    /// The file, for the compositor; `None` when there is not so much memory.
    pub(super) fn file(&self) -> Option<FilePart<'_>> {
        let Made { memory, .. } = self.0.made()?;
        Some(FilePart { file: memory.file().as_fd(), offset: memory.offset(), length: self.0.size })
    }

    /// For the engine.
    pub(super) fn mapping(&self) -> Arc<dyn HostMapping> {
        Arc::clone(&self.0) as _
    }

    /// The function that shows it to the guest.
    ///
    /// # Errors
    /// A size that no BAR can have.
    pub(super) fn function(&self) -> Result<pci::SharedFunction, MachineError> {
        let shown = Shown(Arc::clone(&self.0));
        let function = SharedMemory::new(shown).map_err(|error| part("window memory")(&error))?;
        Ok(Arc::new(Mutex::new(function)))
    }
}
