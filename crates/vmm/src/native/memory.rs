//! Guest RAM: one sealed memfd, mapped shared, so that vhost-user back ends and window memory can
//! map the same pages. Nothing touches the pages here: they cost nothing until the guest uses them.
#![allow(unsafe_code)]

use crate::MachineError;
use crate::sealed::sealed_file;
use engine::{Access, HostMapping, Partition};
use std::sync::Arc;
use units::{Bytes, GuestPhysical};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionMmap,
};

/// Pages of hugetlb memory (SDM 3A 4.5: page-directory entries with PS set).
const HUGE_PAGE: u64 = 2 << 20;

/// Where RAM lies: start and length, ascending, no overlap.
pub type RamRange = (GuestPhysical, Bytes);

/// See the module.
pub struct GuestRam {
    memory: GuestMemoryMmap,
    regions: Vec<Arc<GuestRegionMmap>>,
    /// Whether hugetlb pages back it.
    pub huge: bool,
}

/// Keeps one region's mapping alive for the engine.
struct RegionMapping(Arc<GuestRegionMmap>);

// SAFETY: the mapping is page-aligned (made by mmap), readable and writable, and lives as long as
// the region, which the value holds. All access in this process goes through vm-memory's volatile
// slices, which make no Rust references into it.
unsafe impl HostMapping for RegionMapping {
    fn address(&self) -> usize {
        self.0.get_mmap().as_ptr() as usize
    }
    fn size(&self) -> Bytes {
        Bytes(self.0.len())
    }
}

impl GuestRam {
    /// RAM of the given ranges, all zero. With `huge_pages`, hugetlb pages when enough are free,
    /// else transparent huge pages where the kernel grants them.
    ///
    /// # Errors
    /// More than the host's RAM, or the kernel refused.
    pub fn new(ranges: &[RamRange], huge_pages: bool) -> Result<Self, MachineError> {
        let total: u64 = ranges.iter().map(|(_, size)| size.0).sum();
        let host = host_ram();
        if total > host {
            return Err(MachineError::Definition {
                field: "memory".into(),
                value: format!("{} MiB", total >> 20),
                reason: format!("this host has {} MiB", host >> 20),
            });
        }
        let aligned =
            ranges.iter().all(|(start, size)| start.0 % HUGE_PAGE == 0 && size.0 % HUGE_PAGE == 0);
        let huge = huge_pages && aligned && free_huge_pages() >= total / HUGE_PAGE;
        let file = Arc::new(sealed_file("guest-ram", total, huge)?);
        let mut offset = 0;
        let mut regions = Vec::with_capacity(ranges.len());
        for (start, size) in ranges {
            let mut builder = MmapRegionBuilder::<()>::new(size.0 as usize)
                .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
                .with_mmap_flags(libc::MAP_SHARED | libc::MAP_NORESERVE)
                .with_file_offset(FileOffset::from_arc(Arc::clone(&file), offset));
            if huge {
                builder = builder.with_hugetlbfs(true);
            }
            let mapping = builder.build().map_err(|e| MachineError::Part {
                part: "guest RAM",
                reason: format!("cannot map {size} at {start}: {e}"),
            })?;
            if huge_pages && !huge {
                // SAFETY: the range is exactly the mapping just made; advice changes no content.
                // A kernel without transparent huge pages answers EINVAL: small pages then.
                let _ = unsafe {
                    libc::madvise(mapping.as_ptr().cast(), mapping.size(), libc::MADV_HUGEPAGE)
                };
            }
            let region =
                GuestRegionMmap::new(mapping, GuestAddress(start.0)).ok_or(MachineError::Part {
                    part: "guest RAM",
                    reason: format!("{size} at {start} pass the end of the address space"),
                })?;
            regions.push(Arc::new(region));
            offset += size.0;
        }
        let memory = GuestMemoryMmap::from_arc_regions(regions.clone())
            .map_err(|e| MachineError::Part { part: "guest RAM", reason: e.to_string() })?;
        Ok(Self { memory, regions, huge })
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
                Arc::new(RegionMapping(Arc::clone(region))),
                Access::ReadWrite,
            )?;
        }
        Ok(())
    }
}

/// RAM of the host in bytes.
fn host_ram() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram as u64).saturating_mul(u64::from(info.mem_unit))
}

/// Free hugetlb pages of 2 MiB; 0 where the kernel has none.
fn free_huge_pages() -> u64 {
    std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes as _;

    #[test]
    fn two_ranges_share_one_file_and_keep_apart() {
        let ram = GuestRam::new(
            &[(GuestPhysical(0), Bytes::mib(2)), (GuestPhysical(1 << 32), Bytes::mib(4))],
            false,
        )
        .unwrap();
        assert_eq!(ram.size(), Bytes::mib(6));
        let memory = ram.memory();
        memory.write_obj(1u64, GuestAddress(0)).unwrap();
        memory.write_obj(2u64, GuestAddress(1 << 32)).unwrap();
        assert_eq!(memory.read_obj::<u64>(GuestAddress(0)).unwrap(), 1);
        assert!(memory.read_obj::<u64>(GuestAddress(2 << 20)).is_err());
    }

    #[test]
    fn more_than_the_host_has_is_refused_by_name() {
        let Err(error) = GuestRam::new(&[(GuestPhysical(0), Bytes(1 << 50))], false) else {
            panic!("a host with a pebibyte of RAM");
        };
        assert!(error.to_string().starts_with("memory = 1073741824 MiB: this host has"));
    }
}
