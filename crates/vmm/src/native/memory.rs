//! Guest RAM: one piece of memory of the engine's, mapped shared, so that vhost-user back ends can map the
//! same pages. Nothing touches the pages here: of a memfd they cost nothing until the guest uses them.
#![allow(unsafe_code)]

use crate::MachineError;
use engine::{Access, Allocation, HostMapping, Partition};
use std::fs::File;
use std::sync::Arc;
use units::{Bytes, GuestPhysical};
use vm_memory::mmap::{MmapRegion, MmapRegionBuilder};
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionMmap,
};

/// Where RAM lies: start and length, ascending, no overlap.
pub type RamRange = (GuestPhysical, Bytes);

/// See the module.
pub struct GuestRam {
    memory: GuestMemoryMmap,
    regions: Vec<Arc<GuestRegionMmap>>,
    /// Whether large pages are sure to back it.
    pub huge: bool,
    /// What the regions map.
    allocation: Arc<Allocation>,
}

/// Keeps one region's mapping alive for the engine.
struct RegionMapping {
    region: Arc<GuestRegionMmap>,
    _allocation: Arc<Allocation>,
}

// SAFETY: the mapping is page-aligned (made by mmap), readable and writable, and lives as long as
// the region, which the value holds, with what it maps. All access in this process goes through
// vm-memory's volatile slices, which make no Rust references into it.
unsafe impl HostMapping for RegionMapping {
    fn address(&self) -> usize {
        self.region.get_mmap().as_ptr() as usize
    }
    fn size(&self) -> Bytes {
        Bytes(self.region.len())
    }
    fn backing(&self) -> Option<(&Arc<File>, u64)> {
        self.region.file_offset().map(|file| (file.arc(), file.start()))
    }
}

/// Maps `size` bytes of `allocation` from `offset` on.
pub(super) fn map_part(
    allocation: &Allocation,
    offset: u64,
    size: Bytes,
) -> Result<MmapRegion, MachineError> {
    let failed = |reason: String| MachineError::Part { part: "guest memory", reason };
    if offset.checked_add(size.0).is_none_or(|end| end > allocation.size().0) {
        return Err(failed(format!("{size} at {offset:#x} do not lie in {}", allocation.size())));
    }
    let file = Arc::clone(allocation.file());
    let mut builder = MmapRegionBuilder::<()>::new(size.0 as usize)
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(libc::MAP_SHARED | libc::MAP_NORESERVE)
        .with_file_offset(FileOffset::from_arc(file, allocation.offset() + offset));
    if allocation.huge() {
        builder = builder.with_hugetlbfs(true);
    }
    builder.build().map_err(|e| failed(format!("cannot map {size}: {e}")))
}

impl GuestRam {
    /// RAM of the given ranges, all zero, as `partition` has it. With `huge_pages`, large pages where they
    /// can be had.
    ///
    /// # Errors
    /// More than there is, or the engine refused.
    pub fn new(
        partition: &dyn Partition,
        ranges: &[RamRange],
        huge_pages: bool,
    ) -> Result<Self, MachineError> {
        let total = Bytes(ranges.iter().map(|(_, size)| size.0).sum());
        let allocation = partition.allocate("guest-ram", total, huge_pages);
        let allocation = allocation.map_err(|error| MachineError::Definition {
            field: "memory".into(),
            value: format!("{} MiB", total.0 >> 20),
            reason: error.to_string(),
        })?;
        Self::of(&allocation, ranges, huge_pages)
    }

    /// RAM that `allocation` holds, range behind range.
    ///
    /// # Errors
    /// It is too small, or a range passes the end of the address space.
    pub fn of(
        allocation: &Arc<Allocation>,
        ranges: &[RamRange],
        huge_pages: bool,
    ) -> Result<Self, MachineError> {
        let failed = |reason| MachineError::Part { part: "guest RAM", reason };
        let huge = allocation.huge();
        let mut offset = 0;
        let mut regions = Vec::with_capacity(ranges.len());
        for (start, size) in ranges {
            let mapping = map_part(allocation, offset, *size)?;
            if huge_pages && !huge {
                // SAFETY: the range is exactly the mapping just made; advice changes no content.
                // A kernel without transparent huge pages answers EINVAL: small pages then.
                let _ = unsafe {
                    libc::madvise(mapping.as_ptr().cast(), mapping.size(), libc::MADV_HUGEPAGE)
                };
            }
            let region = GuestRegionMmap::new(mapping, GuestAddress(start.0))
                .ok_or_else(|| failed(format!("{size} at {start} pass the address space's end")))?;
            regions.push(Arc::new(region));
            offset += size.0;
        }
        let memory = GuestMemoryMmap::from_arc_regions(regions.clone())
            .map_err(|e| failed(e.to_string()))?;
        Ok(Self { memory, regions, huge, allocation: Arc::clone(allocation) })
    }

    /// The memory as devices and loaders see it.
    #[must_use]
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// Bytes of RAM.
    #[must_use]
    pub fn size(&self) -> Bytes {
        Bytes(self.memory.iter().map(GuestMemoryRegion::len).sum())
    }

    /// Bytes below and above 4 GiB.
    #[must_use]
    pub fn split(&self) -> (u64, u64) {
        let low = self.memory.iter().filter(|r| r.start_addr().0 < 1 << 32);
        let low = low.map(GuestMemoryRegion::len).sum();
        (low, self.size().0 - low)
    }

    /// Makes all of it appear in `partition`.
    ///
    /// # Errors
    /// The engine refused.
    pub fn map_into(&self, partition: &dyn Partition) -> Result<(), MachineError> {
        for region in &self.regions {
            partition.map(
                GuestPhysical(region.start_addr().0),
                Arc::new(RegionMapping {
                    region: Arc::clone(region),
                    _allocation: Arc::clone(&self.allocation),
                }),
                Access::ReadWrite,
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes as _;

    #[test]
    fn two_ranges_share_one_file_and_keep_apart() {
        let ranges = [(GuestPhysical(0), Bytes::mib(2)), (GuestPhysical(1 << 32), Bytes::mib(4))];
        let memory = Arc::new(Allocation::anonymous("ram", Bytes::mib(6), false).unwrap());
        let ram = GuestRam::of(&memory, &ranges, false).unwrap();
        assert_eq!(ram.size(), Bytes::mib(6));
        let memory = ram.memory();
        memory.write_obj(1u64, GuestAddress(0)).unwrap();
        memory.write_obj(2u64, GuestAddress(1 << 32)).unwrap();
        assert_eq!(memory.read_obj::<u64>(GuestAddress(0)).unwrap(), 1);
        assert!(memory.read_obj::<u64>(GuestAddress(2 << 20)).is_err());
    }

    #[test]
    fn ranges_beyond_the_memory_are_refused() {
        let memory = Arc::new(Allocation::anonymous("ram", Bytes::mib(2), false).unwrap());
        let too_long = [(GuestPhysical(0), Bytes::mib(1)), (GuestPhysical(1 << 32), Bytes::mib(2))];
        assert!(GuestRam::of(&memory, &too_long, false).is_err());
        let end = [(GuestPhysical(u64::MAX - 4095), Bytes::mib(1))];
        assert!(GuestRam::of(&memory, &end, false).is_err());
    }
}
