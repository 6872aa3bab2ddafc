//! Guest memory: which stretch of this process's memory stands at which guest-physical address.

use super::failed;
use crate::{Access, EngineError, HostMapping};
use kvm_bindings::{
    KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region as Region,
};
use kvm_ioctls::VmFd;
use std::collections::BTreeMap;
use std::sync::Arc;
use units::{GuestPhysical, PAGE_SIZE};

/// One mapping known to KVM. Holding `mapping` is what keeps the memory in place.
struct Slot {
    id: u32,
    mapping: Arc<dyn HostMapping>,
    access: Access,
    logging: bool,
}

impl Slot {
    fn region(&self, guest: u64) -> Region {
        let read_only = match self.access {
            Access::ReadOnly => KVM_MEM_READONLY,
            Access::ReadWrite => 0,
        };
        let log = if self.logging { KVM_MEM_LOG_DIRTY_PAGES } else { 0 };
        Region {
            slot: self.id,
            flags: read_only | log,
            guest_phys_addr: guest,
            memory_size: self.mapping.size().0,
            userspace_addr: self.mapping.address() as u64,
        }
    }
}

/// The memory of one partition, by guest-physical address.
#[derive(Default)]
pub(super) struct Slots {
    by_address: BTreeMap<u64, Slot>,
}

impl Slots {
    pub(super) fn map(
        &mut self,
        vm: &VmFd,
        guest: GuestPhysical,
        mapping: Arc<dyn HostMapping>,
        access: Access,
    ) -> Result<(), EngineError> {
        let refuse = |reason| Err(EngineError::Mapping { guest, reason });
        let size = mapping.size().0;
        if size == 0 {
            return refuse("the mapping is empty");
        }
        if !guest.0.is_multiple_of(PAGE_SIZE)
            || !size.is_multiple_of(PAGE_SIZE)
            || !(mapping.address() as u64).is_multiple_of(PAGE_SIZE)
        {
            return refuse("address and size must be multiples of 4096");
        }
        let Some(end) = guest.0.checked_add(size) else {
            return refuse("it reaches past the end of the address space");
        };
        let below = self.by_address.range(..end).next_back();
        if below.is_some_and(|(start, slot)| start + slot.mapping.size().0 > guest.0) {
            return refuse("something else is mapped there");
        }
        let id = (0..).find(|id| self.by_address.values().all(|slot| slot.id != *id));
        let slot = Slot { id: id.unwrap_or(u32::MAX), mapping, access, logging: false };
        // SAFETY: `HostMapping` promises that the memory stays mapped at this place until dropped;
        // the slot holds it until `unmap` has taken the region out of KVM again, and the partition,
        // which owns the slots, outlives every processor.
        unsafe { vm.set_user_memory_region(slot.region(guest.0)) }
            .map_err(|error| failed("KVM_SET_USER_MEMORY_REGION", error))?;
        self.by_address.insert(guest.0, slot);
        Ok(())
    }

    pub(super) fn unmap(&mut self, vm: &VmFd, guest: GuestPhysical) -> Result<(), EngineError> {
        let Some(slot) = self.by_address.get(&guest.0) else {
            return Err(nothing_mapped(guest));
        };
        let gone = Region { memory_size: 0, ..slot.region(guest.0) };
        // SAFETY: a region of size 0 takes the slot away; no memory is handed to KVM.
        unsafe { vm.set_user_memory_region(gone) }
            .map_err(|error| failed("KVM_SET_USER_MEMORY_REGION", error))?;
        self.by_address.remove(&guest.0);
        Ok(())
    }

    /// The log starts with the first question: writes before it are unknown, so it answers "all".
    pub(super) fn dirty_pages(
        &mut self,
        vm: &VmFd,
        guest: GuestPhysical,
    ) -> Result<Vec<u64>, EngineError> {
        let Some(slot) = self.by_address.get_mut(&guest.0) else {
            return Err(nothing_mapped(guest));
        };
        let size = slot.mapping.size().0;
        if slot.logging {
            let bytes = usize::try_from(size).unwrap_or(usize::MAX);
            return vm
                .get_dirty_log(slot.id, bytes)
                .map_err(|error| failed("KVM_GET_DIRTY_LOG", error));
        }
        slot.logging = true;
        // SAFETY: as in `map`; the same memory, now with the log on.
        if let Err(error) = unsafe { vm.set_user_memory_region(slot.region(guest.0)) } {
            slot.logging = false;
            return Err(failed("KVM_SET_USER_MEMORY_REGION", error));
        }
        Ok(all_pages(size / PAGE_SIZE))
    }
}

fn nothing_mapped(guest: GuestPhysical) -> EngineError {
    EngineError::Mapping { guest, reason: "nothing is mapped there" }
}

/// A bitmap with the first `pages` bits set.
fn all_pages(pages: u64) -> Vec<u64> {
    (0..pages.div_ceil(64))
        .map(|word| match pages - word * 64 {
            left @ 1..=63 => (1 << left) - 1,
            _ => u64::MAX,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_pages_sets_exactly_the_pages_there_are() {
        assert_eq!(all_pages(1), [1]);
        assert_eq!(all_pages(64), [u64::MAX]);
        assert_eq!(all_pages(66), [u64::MAX, 3]);
    }
}
