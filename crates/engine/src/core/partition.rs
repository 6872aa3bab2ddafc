//! One partition of the core's.

use super::Shared;
use super::calls::PartitionNumber;
use super::clock;
use super::convert;
use super::doorbell::Doorbells;
use super::error::CoreError;
use super::memory::{self, Mappings};
use super::pool::{GRANULE, Slot};
use super::processor::CoreProcessor;
use super::sleep::Sleeper;
use crate::{
    Access, Allocation, CpuidEntry, Doorbell, EngineError, HostMapping, InterruptFd, Msi,
    Partition, Processor,
};
use hypervisor_abi::{CpuidRow, MAX_CPUID_ROWS, MAX_VCPUS};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use units::{Bytes, GuestPhysical};

/// What everyone who uses the partition shares; the last one ends it.
pub(super) struct Handle {
    pub(super) shared: Arc<Shared>,
    pub(super) number: PartitionNumber,
    slot: Mutex<Slot>,
    sleepers: [Sleeper; MAX_VCPUS],
    pub(super) doorbells: Arc<Doorbells>,
}

impl Handle {
    /// The partition's own transfer slot.
    pub(super) fn slot(&self) -> MutexGuard<'_, Slot> {
        // What a panic left there is overwritten by the next call.
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn sleeper(&self, index: u32) -> &Sleeper {
        // Indices are checked when a processor is made.
        &self.sleepers[index as usize % MAX_VCPUS]
    }

    /// vCPUs with a bit in `woken` have something to do.
    #[inline]
    pub(super) fn wake(&self, mut woken: u64) {
        while woken != 0 {
            self.sleeper(woken.trailing_zeros()).wake();
            woken &= woken - 1;
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let Self { shared, number, .. } = self;
        if let Err(error) = shared.calls.destroy_partition(*number, shared.owner) {
            tracing::warn!(%error, "the VM's partition stays until this process has ended");
        }
    }
}

/// A partition with its memory.
pub(super) struct CorePartition {
    processors: u32,
    created: Mutex<Vec<bool>>,
    mappings: Mutex<Mappings>,
    // Below what holds memory of its own, because fields are dropped in this order.
    handle: Arc<Handle>,
}

impl CorePartition {
    pub(super) fn new(
        shared: Arc<Shared>,
        number: PartitionNumber,
        processors: u32,
    ) -> Result<Self, EngineError> {
        let slot = shared.pool.slot(number.0);
        let slot = slot.ok_or(CoreError::Information { field: "partition", value: number.0 })?;
        let handle = Handle {
            shared,
            number,
            slot: Mutex::new(slot),
            sleepers: [const { Sleeper::new() }; MAX_VCPUS],
            doorbells: Arc::default(),
        };
        Ok(Self {
            processors,
            created: Mutex::new(vec![false; processors as usize]),
            mappings: Mutex::default(),
            handle: Arc::new(handle),
        })
    }

    fn mappings(&self) -> MutexGuard<'_, Mappings> {
        // The table changes in one statement after the core agreed.
        self.mappings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Partition for CorePartition {
    fn allocate(
        &self,
        name: &'static str,
        size: Bytes,
        _huge_pages: bool,
    ) -> Result<Arc<Allocation>, EngineError> {
        // The pool is one piece: its pages are as large as its alignment lets them be.
        memory::allocate(&self.handle, name, size).map(Arc::new)
    }

    fn memory_granule(&self) -> Bytes {
        Bytes(GRANULE)
    }

    fn maps_any_memory(&self) -> bool {
        false
    }

    fn map(
        &self,
        guest: GuestPhysical,
        mapping: Arc<dyn HostMapping>,
        access: Access,
    ) -> Result<(), EngineError> {
        self.mappings().map(&self.handle, guest, mapping, access)
    }

    fn unmap(&self, guest: GuestPhysical) -> Result<(), EngineError> {
        self.mappings().unmap(&self.handle, guest)
    }

    fn supported_cpuid(&self) -> Result<Vec<CpuidEntry>, EngineError> {
        let calls = &self.handle.shared.calls;
        self.handle.shared.pool.common_slot(|slot| {
            let count =
                calls.supported_cpuid(slot.offset(), MAX_CPUID_ROWS).map_err(CoreError::from)?;
            let count = usize::try_from(count).map_or(MAX_CPUID_ROWS, |n| n.min(MAX_CPUID_ROWS));
            let row = |row| convert::cpuid_from(&slot.read::<CpuidRow>(row));
            let mut entries: Vec<_> = (0..count).map(row).collect();
            if self.handle.shared.steady {
                clock::promise_steadiness(&mut entries);
            }
            Ok(entries)
        })
    }

    fn create_processor(&self, index: u32) -> Result<Box<dyn Processor>, EngineError> {
        let mut created = self.created.lock().unwrap_or_else(PoisonError::into_inner);
        let place = usize::try_from(index)
            .ok()
            .and_then(|index| created.get_mut(index))
            .filter(|taken| !**taken)
            .ok_or(EngineError::ProcessorIndex { index, limit: self.processors })?;
        let processor = CoreProcessor::new(Arc::clone(&self.handle), index)?;
        *place = true;
        Ok(Box::new(processor))
    }

    fn inject(&self, msi: Msi) -> Result<(), EngineError> {
        let Handle { shared, number, .. } = &*self.handle;
        let woken = shared.calls.inject(*number, msi.address, msi.data).map_err(CoreError::from)?;
        self.handle.wake(woken);
        Ok(())
    }

    /// Nothing: the core reports the end of every level-triggered interrupt.
    fn set_line_routes(&self, _pins: &[Option<Msi>]) -> Result<(), EngineError> {
        Ok(())
    }

    fn interrupt_fd(&self) -> Result<Option<Box<dyn InterruptFd>>, EngineError> {
        Ok(None)
    }

    fn doorbell(
        &self,
        doorbell: Doorbell,
        event: BorrowedFd<'_>,
    ) -> Result<Option<Box<dyn Send + Sync>>, EngineError> {
        self.handle.doorbells.add(doorbell, event).map(Some)
    }

    fn dirty_pages(&self, guest: GuestPhysical) -> Result<Vec<u64>, EngineError> {
        self.mappings().dirty_pages(&self.handle, guest)
    }

    fn statistics(&self) -> Vec<(String, u64)> {
        let free = self.handle.shared.calls.unreserved().map(|(free, _)| free.0);
        free.map(|free| ("core.pool_free".to_owned(), free)).into_iter().collect()
    }
}
