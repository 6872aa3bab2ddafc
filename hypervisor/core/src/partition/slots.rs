//! The table of partitions, and who uses them: a partition ends when its last user lets go.
#![allow(unsafe_code)]

use super::Partition;
use crate::memory::Object;
use core::ops::Deref;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use hypervisor_abi::{Fault, MAX_PARTITIONS, Status};

struct Slot {
    /// Users, and [`ENDING`].
    users: AtomicU32,
    partition: AtomicPtr<Partition>,
}

/// Someone ends the partition, or it is not there yet.
const ENDING: u32 = 1 << 31;

static SLOTS: [Slot; MAX_PARTITIONS] = [const {
    Slot { users: AtomicU32::new(ENDING), partition: AtomicPtr::new(core::ptr::null_mut()) }
}; MAX_PARTITIONS];

/// The slot of a guest's partition.
#[inline]
fn slot(number: u64) -> Option<&'static Slot> {
    SLOTS.get(usize::try_from(number).ok().filter(|number| *number > 0)?)
}

/// A partition in use.
pub struct PartitionRef {
    slot: &'static Slot,
    partition: *const Partition,
}

impl Deref for PartitionRef {
    type Target = Partition;

    #[inline]
    fn deref(&self) -> &Partition {
        // SAFETY: a partition with users is not freed.
        unsafe { &*self.partition }
    }
}

impl Drop for PartitionRef {
    #[inline]
    fn drop(&mut self) {
        self.slot.users.fetch_sub(1, Ordering::Release);
    }
}

/// The partition with this number, 1 or more.
#[inline]
pub fn get(number: u64) -> Option<PartitionRef> {
    let slot = slot(number)?;
    if slot.users.fetch_add(1, Ordering::Acquire) & ENDING != 0 {
        slot.users.fetch_sub(1, Ordering::Release);
        return None;
    }
    Some(PartitionRef { slot, partition: slot.partition.load(Ordering::Relaxed) })
}

/// Makes a partition of `owner`.
///
/// # Errors
/// All numbers are taken, or the core is out of memory.
pub fn create(owner: u64) -> Result<u64, Status> {
    for (number, slot) in SLOTS.iter().enumerate().skip(1) {
        // A slot nobody uses is claimed by making its user count impossible for a moment.
        let claim = ENDING + 1;
        let claimed =
            slot.users.compare_exchange(ENDING, claim, Ordering::AcqRel, Ordering::Relaxed);
        if claimed.is_err() {
            continue;
        }
        if !slot.partition.load(Ordering::Relaxed).is_null() {
            slot.users.fetch_sub(1, Ordering::Release);
            continue;
        }
        let Some(partition) = Partition::new(number as u32, owner).and_then(Object::new) else {
            slot.users.fetch_sub(1, Ordering::Release);
            break;
        };
        slot.partition.store(partition.into_raw(), Ordering::Relaxed);
        // From here on it can be found; this use of it ends.
        slot.users.fetch_sub(claim, Ordering::Release);
        return Ok(number as u64);
    }
    Err(Status::fault(Fault::OutOfMemory))
}

/// Ends a partition, if it is `owner`'s; 0 stands for any.
///
/// # Errors
/// There is none with this number, it is another's, or someone uses it.
pub fn destroy(number: u64, owner: u64, before: impl FnOnce(&Partition)) -> Result<(), Status> {
    let absent = Status::argument(Fault::NotFound, 1);
    let slot = slot(number).ok_or(absent)?;
    match slot.users.compare_exchange(0, ENDING, Ordering::AcqRel, Ordering::Relaxed) {
        Ok(_) => {}
        Err(users) if users & ENDING != 0 => return Err(absent),
        Err(_) => return Err(Status::argument(Fault::Busy, 1)),
    }
    let partition = slot.partition.load(Ordering::Relaxed);
    // SAFETY: made by `create`; nobody else ends it while ENDING is set.
    if owner != 0 && unsafe { (*partition).owner } != owner {
        slot.users.fetch_sub(ENDING, Ordering::Release);
        return Err(Status::argument(Fault::NotOwned, 2));
    }
    // SAFETY: made by `create`, without users and not to be found any longer.
    let partition = unsafe { Object::from_raw(partition) };
    before(&partition);
    drop(partition);
    slot.partition.store(core::ptr::null_mut(), Ordering::Release);
    Ok(())
}
