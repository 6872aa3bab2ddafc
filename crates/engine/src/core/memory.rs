//! A partition's memory: what it has of the pool, and where the guest sees it.

use super::error::CoreError;
use super::partition::Handle;
use super::pool::GRANULE;
use crate::{Access, Allocation, EngineError, HostMapping};
use hypervisor_abi::{Fault, TRANSFER_SLOT};
use std::collections::BTreeMap;
use std::sync::Arc;
use units::{Bytes, GuestPhysical, PAGE_SIZE};

/// The largest pages of second-level tables: a piece that begins at a multiple of them can be mapped with
/// them.
const LARGEST_PAGE: u64 = 1 << 30;
/// Pages of which one call of the dirty log tells: a bit each in a transfer slot.
const LOGGED_AT_ONCE: u64 = TRANSFER_SLOT * 8;

/// Gives pages back.
struct Reserved {
    handle: Arc<Handle>,
    pool: u64,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let Self { handle, pool } = self;
        // What the guest still has ends with the partition.
        if let Err(error) = handle.shared.calls.release(handle.number, *pool)
            && error.fault() != Some(Fault::Busy)
        {
            tracing::warn!(%error, "pool memory stays with the VM");
        }
    }
}

/// Keeps `size` bytes of the pool for the partition.
pub(super) fn allocate(
    handle: &Arc<Handle>,
    purpose: &'static str,
    size: Bytes,
) -> Result<Allocation, EngineError> {
    let calls = &handle.shared.calls;
    if size.0 == 0 || !size.0.is_multiple_of(GRANULE) {
        return Err(EngineError::Mapping {
            guest: GuestPhysical(0),
            reason: "the pool gives memory in multiples of 2 MiB",
        });
    }
    let alignments = [LARGEST_PAGE, GRANULE];
    let first = usize::from(size.0 < LARGEST_PAGE);
    let mut kept = calls.reserve(handle.number, size, alignments[first]);
    if kept.is_err() && first == 0 {
        kept = calls.reserve(handle.number, size, GRANULE);
    }
    let pool = match kept {
        Ok(pool) => pool,
        Err(error) if error.fault() == Some(Fault::OutOfMemory) => {
            let (free, largest) = calls.unreserved().map_err(CoreError::from)?;
            return Err(CoreError::PoolFull { purpose, asked: size, free, largest }.into());
        }
        Err(error) => return Err(CoreError::from(error).into()),
    };
    let reserved = Reserved { handle: Arc::clone(handle), pool };
    calls.clear(handle.number, pool).map_err(CoreError::from)?;
    let offset = handle.shared.pool.offset_of(pool);
    let offset = offset.ok_or(CoreError::Information { field: "reserved memory", value: pool })?;
    let file = Arc::clone(handle.shared.pool.file());
    Ok(Allocation::new(file, offset, size, Box::new(reserved)))
}

/// What the guest sees where.
#[derive(Default)]
pub(super) struct Mappings(BTreeMap<u64, Arc<dyn HostMapping>>);

impl Mappings {
    pub(super) fn map(
        &mut self,
        handle: &Handle,
        guest: GuestPhysical,
        mapping: Arc<dyn HostMapping>,
        access: Access,
    ) -> Result<(), EngineError> {
        let refuse = |reason| Err(EngineError::Mapping { guest, reason });
        let size = mapping.size();
        if size.0 == 0 {
            return refuse("the mapping is empty");
        }
        if !(guest.0 | size.0).is_multiple_of(PAGE_SIZE) {
            return refuse("address and size must be multiples of 4096");
        }
        let Some(end) = guest.0.checked_add(size.0) else {
            return refuse("it reaches past the end of the address space");
        };
        let below = self.0.range(..end).next_back();
        if below.is_some_and(|(start, mapping)| start + mapping.size().0 > guest.0) {
            return refuse("something else is mapped there");
        }
        // Whether the pages are the partition's is the core's to say.
        let backing = mapping.backing();
        let pool = backing.and_then(|(file, offset)| handle.shared.pool.address_of(file, offset));
        let Some(pool) = pool else {
            return refuse("it is no memory of the core's pool");
        };
        let writable = access == Access::ReadWrite;
        let done = handle.shared.calls.map(handle.number, guest, pool, size, writable);
        done.map_err(CoreError::from)?;
        self.0.insert(guest.0, mapping);
        Ok(())
    }

    pub(super) fn unmap(
        &mut self,
        handle: &Handle,
        guest: GuestPhysical,
    ) -> Result<(), EngineError> {
        let size = self.size(guest)?;
        handle.shared.calls.unmap(handle.number, guest, size).map_err(CoreError::from)?;
        self.0.remove(&guest.0);
        Ok(())
    }

    fn size(&self, guest: GuestPhysical) -> Result<Bytes, EngineError> {
        let mapping = self.0.get(&guest.0);
        mapping
            .map(|mapping| mapping.size())
            .ok_or(EngineError::Mapping { guest, reason: "nothing is mapped there" })
    }

    /// A bit for each page of the mapping at `guest`. The core's first answer is "every page".
    pub(super) fn dirty_pages(
        &self,
        handle: &Handle,
        guest: GuestPhysical,
    ) -> Result<Vec<u64>, EngineError> {
        let pages = self.size(guest)?.0 / PAGE_SIZE;
        let mut slot = handle.slot();
        let mut bitmap = Vec::new();
        for first in (0..pages).step_by(LOGGED_AT_ONCE as usize) {
            let count = LOGGED_AT_ONCE.min(pages - first);
            let start = GuestPhysical(guest.0 + first * PAGE_SIZE);
            let calls = &handle.shared.calls;
            calls.dirty_log(handle.number, start, count, slot.offset()).map_err(CoreError::from)?;
            let mut words = slot.words(count.div_ceil(64) as usize);
            // The core writes whole bytes; bits of pages there are not are whatever lay there.
            if let Some(last) = words.last_mut()
                && !count.is_multiple_of(64)
            {
                *last &= (1 << (count % 64)) - 1;
            }
            bitmap.append(&mut words);
        }
        Ok(bitmap)
    }
}
