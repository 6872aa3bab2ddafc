//! The pool: the memory that the core shares with root, as a device of the kernel's (`/dev/dax0.0`). Its
//! first 2 MiB are mapped for good (information page, run pages, transfer area); guests' memory is mapped
//! piece by piece by whoever was given it ([`crate::Allocation`]).

use super::error::CoreError;
use crate::EngineError;
use hypervisor_abi::{
    CpuidRow, InformationPage, MAX_PARTITIONS, MAX_RUN_PAGES, POOL_HEAD_SIZE, RUN_PAGES_OFFSET,
    RunPage, SIGNATURE, StatisticsRecord, TRANSFER_OFFSET, TRANSFER_SLOT, VERSION, VcpuState,
};
use rustix::fs::{FlockOperation, flock};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::fs::File;
use std::ptr::{NonNull, null_mut};
use std::sync::{Arc, Mutex, PoisonError};
use units::PAGE_SIZE;

/// Pieces of the device are mapped in multiples of this (its `align`).
pub(super) const GRANULE: u64 = 2 << 20;

/// The pool's head, mapped, and the file behind it.
pub(super) struct Pool {
    file: Arc<File>,
    head: Head,
    information: InformationPage,
    /// One call without a partition at a time ([`Self::common_slot`]).
    common: Mutex<()>,
}

impl Pool {
    /// The pool that `file` is; `None` when it is something else.
    pub(super) fn of(file: File) -> Result<Option<Self>, EngineError> {
        let file = Arc::new(file);
        let head = Head::map(&file)?;
        let page = head.0.as_ptr().cast::<InformationPage>();
        // SAFETY: the head is mapped and larger; any bytes are a value.
        let information = unsafe { page.read_volatile() };
        if information.signature != SIGNATURE {
            return Ok(None);
        }
        check(&information)?;
        Ok(Some(Self { file, head, information, common: Mutex::default() }))
    }

    pub(super) fn information(&self) -> &InformationPage {
        &self.information
    }

    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Where a pool address lies in the file.
    pub(super) fn offset_of(&self, address: u64) -> Option<u64> {
        let offset = address.checked_sub(self.information.pool_start)?;
        (offset < self.information.pool_size).then_some(offset)
    }

    /// The pool address of `offset` in `file`, if that is the pool.
    pub(super) fn address_of(&self, file: &Arc<File>, offset: u64) -> Option<u64> {
        let own = Arc::ptr_eq(file, &self.file) && offset < self.information.pool_size;
        own.then(|| self.information.pool_start + offset)
    }

    /// The run page at this offset from the pool's start.
    pub(super) fn run_page(&self, offset: u64) -> Option<NonNull<RunPage>> {
        let place = offset.checked_sub(RUN_PAGES_OFFSET)?;
        if !place.is_multiple_of(PAGE_SIZE) || place / PAGE_SIZE >= MAX_RUN_PAGES as u64 {
            return None;
        }
        NonNull::new(self.head.at(offset).cast())
    }

    /// The transfer slot of a partition: its own, so that nobody else's calls write there.
    pub(super) fn slot(&self, partition: u64) -> Option<Slot> {
        (partition < MAX_PARTITIONS as u64).then(|| {
            let offset = partition * TRANSFER_SLOT;
            Slot { offset, address: self.head.at(TRANSFER_OFFSET + offset) }
        })
    }

    /// Does `work` with the slot of calls without a partition, which all processes share.
    pub(super) fn common_slot<T>(
        &self,
        work: impl FnOnce(&mut Slot) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let _own = self.common.lock().unwrap_or_else(PoisonError::into_inner);
        flock(&*self.file, FlockOperation::LockExclusive)
            .map_err(|error| EngineError::call("flock of the pool", error.into()))?;
        let mut slot = Slot { offset: 0, address: self.head.at(TRANSFER_OFFSET) };
        let done = work(&mut slot);
        // A lock that stays would be seen at once, by the next call.
        let _ = flock(&*self.file, FlockOperation::Unlock);
        done
    }
}

/// The mapping of the pool's head.
struct Head(NonNull<u8>);

// SAFETY: memory any thread may use; who uses which part is `Pool`'s business.
unsafe impl Send for Head {}
// SAFETY: as above.
unsafe impl Sync for Head {}

impl Head {
    fn map(file: &File) -> Result<Self, EngineError> {
        // SAFETY: a fresh mapping at a place the kernel picks.
        let address = unsafe {
            mmap(
                null_mut(),
                POOL_HEAD_SIZE as usize,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                0,
            )
        }
        .map_err(|error| EngineError::call("mmap", error.into()))?;
        let address = NonNull::new(address.cast());
        Ok(Self(address.ok_or(EngineError::call("mmap", rustix::io::Errno::INVAL.into()))?))
    }

    /// Where `offset`, which lies in the head, is mapped.
    fn at(&self, offset: u64) -> *mut u8 {
        assert!(offset < POOL_HEAD_SIZE, "outside the pool's head");
        self.0.as_ptr().wrapping_add(offset as usize)
    }
}

impl Drop for Head {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this size; the pool, which all users hold, is gone.
        if let Err(error) = unsafe { munmap(self.0.as_ptr().cast(), POOL_HEAD_SIZE as usize) } {
            tracing::warn!(%error, "the pool's head stays mapped");
        }
    }
}

/// The core writes it, but whoever can map the pool can too.
fn check(information: &InformationPage) -> Result<(), CoreError> {
    let InformationPage { version, pool_start, pool_size, .. } = *information;
    // A core of the same major version with a lower minor one lacks calls.
    if version >> 16 != VERSION >> 16 || version < VERSION {
        return Err(CoreError::Version { found: version });
    }
    let bad = |field, value| Err(CoreError::Information { field, value });
    if !pool_start.is_multiple_of(GRANULE) {
        return bad("pool start", pool_start);
    }
    let end = pool_start.checked_add(pool_size);
    if !pool_size.is_multiple_of(GRANULE) || pool_size <= POOL_HEAD_SIZE || end.is_none() {
        return bad("pool size", pool_size);
    }
    Ok(())
}

/// Structures of the interface, all of whose bit patterns are values, without padding.
///
/// # Safety
/// Any bytes are a value.
pub(super) unsafe trait Plain: Copy {}

// SAFETY: numbers only.
unsafe impl Plain for VcpuState {}
// SAFETY: numbers only.
unsafe impl Plain for CpuidRow {}
// SAFETY: numbers only.
unsafe impl Plain for StatisticsRecord {}

/// A part of the transfer area. Other processes could write it: what is read is copied first.
#[derive(Debug)]
pub(super) struct Slot {
    offset: u64,
    address: *mut u8,
}

// SAFETY: the memory is mapped as long as the pool, which every holder of a slot keeps; it is only used
// through `&mut self`.
unsafe impl Send for Slot {}

impl Slot {
    /// Where it lies in the transfer area.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// How many values of `T` have room.
    #[cfg(test)]
    pub(super) const fn room<T: Plain>() -> usize {
        TRANSFER_SLOT as usize / size_of::<T>()
    }

    fn place<T>(&self, index: usize) -> *mut T {
        assert!((index + 1) * size_of::<T>() <= TRANSFER_SLOT as usize, "outside the slot");
        self.address.cast::<T>().wrapping_add(index)
    }

    /// The value in place `index` of a list.
    pub(super) fn read<T: Plain>(&mut self, index: usize) -> T {
        // SAFETY: inside the slot, which is mapped and page-aligned; any bytes are a value.
        unsafe { self.place::<T>(index).read_volatile() }
    }

    /// Sets the value in place `index` of a list.
    pub(super) fn write<T: Plain>(&mut self, index: usize, value: T) {
        // SAFETY: as above.
        unsafe { self.place::<T>(index).write_volatile(value) };
    }

    /// The first `words` 64-bit words.
    pub(super) fn words(&mut self, words: usize) -> Vec<u64> {
        // SAFETY: as above.
        (0..words).map(|index| unsafe { self.place::<u64>(index).read_volatile() }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_core::{information, pool_file};
    use super::*;

    #[test]
    fn a_pool_is_known_by_its_first_page() {
        let pool = Pool::of(pool_file(&information(), 8 << 20)).unwrap().unwrap();
        assert_eq!(pool.offset_of(information().pool_start + 4096), Some(4096));
        assert_eq!(pool.offset_of(information().pool_start - 1), None);
        assert_eq!(pool.offset_of(information().pool_start + (8 << 20)), None);
        let strange = InformationPage { signature: *b"MHVCORE2", ..information() };
        assert!(Pool::of(pool_file(&strange, 8 << 20)).unwrap().is_none());
    }

    #[test]
    fn a_core_of_another_time_is_refused_with_both_versions() {
        let refused = |version| {
            let page = InformationPage { version, ..information() };
            Pool::of(pool_file(&page, 8 << 20)).err().map(|error| error.to_string())
        };
        let text = refused(0x0003_0003).unwrap();
        assert!(text.contains("version 3.3"), "{text}");
        assert!(refused(VERSION - 1).is_some(), "a call is missing there");
        assert_eq!(refused(VERSION + 1), None);
    }

    #[test]
    fn an_impossible_page_is_refused_by_field() {
        for page in [
            InformationPage { pool_start: 4096, ..information() },
            InformationPage { pool_size: POOL_HEAD_SIZE, ..information() },
            InformationPage { pool_start: 0u64.wrapping_sub(GRANULE), ..information() },
        ] {
            let Err(error) = Pool::of(pool_file(&page, 8 << 20)) else { panic!("accepted") };
            assert!(error.to_string().contains("which no core writes"), "{error}");
        }
    }

    #[test]
    fn run_pages_and_slots_lie_in_the_head() {
        let pool = Pool::of(pool_file(&information(), 8 << 20)).unwrap().unwrap();
        assert!(pool.run_page(RUN_PAGES_OFFSET).is_some());
        assert!(pool.run_page(TRANSFER_OFFSET - PAGE_SIZE).is_some());
        for bad in [0, RUN_PAGES_OFFSET + 8, TRANSFER_OFFSET, u64::MAX] {
            assert!(pool.run_page(bad).is_none(), "{bad:#x}");
        }
        assert!(pool.slot(MAX_PARTITIONS as u64).is_none());
        let mut slot = pool.slot(MAX_PARTITIONS as u64 - 1).unwrap();
        let last = Slot::room::<CpuidRow>() - 1;
        slot.write(last, CpuidRow { leaf: 7, ..CpuidRow::default() });
        assert_eq!(slot.read::<CpuidRow>(last).leaf, 7);
        assert_eq!(pool.slot(62).unwrap().read::<CpuidRow>(last).leaf, 0);
        let beyond = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            slot.read::<CpuidRow>(last + 1)
        }));
        assert!(beyond.is_err());
    }

    #[test]
    fn the_common_slot_is_one_processes_at_a_time() {
        let file = pool_file(&information(), 8 << 20);
        let other = File::options()
            .read(true)
            .write(true)
            .open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file)))
            .unwrap();
        let pool = Pool::of(file).unwrap().unwrap();
        let taken = || flock(&other, FlockOperation::NonBlockingLockExclusive);
        pool.common_slot(|slot| {
            assert_eq!(slot.offset(), 0);
            assert!(taken().is_err());
            Ok(())
        })
        .unwrap();
        taken().unwrap();
    }
}
