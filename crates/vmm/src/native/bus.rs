//! An address space of device registers: I/O ports or guest-physical memory outside RAM.
//!
//! Lookups take no lock: they read a table that changes replace as a whole. Each handler locks only
//! itself. What nobody claims reads as all ones and swallows writes, as an undriven bus does.

use arc_swap::ArcSwap;
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// What answers in a region. Offsets are from the region's start; an access begins inside the region
/// and passes its end only on a bus with [`Edge::First`].
pub trait Handler: Send + Sync {
    /// The guest reads 1 to 8 bytes; every byte of `data` is written.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// The guest writes 1 to 8 bytes.
    fn write(&self, offset: u64, data: &[u8]);
}

/// What decodes addresses by rules of its own (PCI); asked when no claimed region holds the whole
/// access.
pub trait Subtractive: Send + Sync {
    /// True when it answered; then all of `data` is written.
    fn read(&self, address: u64, data: &mut [u8]) -> bool;
    /// True when it took the write.
    fn write(&self, address: u64, data: &[u8]) -> bool;
}

#[derive(Clone)]
struct Region {
    start: u64,
    size: u64,
    handler: Arc<dyn Handler>,
}

impl Region {
    /// Whether all of an access lies in it.
    fn holds(&self, address: u64, length: u64) -> bool {
        address >= self.start
            && address - self.start < self.size
            && length <= self.size - (address - self.start)
    }
}

/// A region that cannot be claimed because another lies there.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{size:#x} bytes at {start:#x} overlap the region at {taken:#x}")]
pub struct Overlap {
    /// Start asked for.
    pub start: u64,
    /// Size asked for.
    pub size: u64,
    /// Start of the region in the way.
    pub taken: u64,
}

/// Who gets an access that begins inside a region and passes its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// The region it begins in, whole: ports, where what a register means depends on the first port
    /// alone.
    First,
    /// Each byte goes where it belongs, as on a bus with byte lanes: memory.
    Split,
}

/// See the module.
pub struct Bus {
    edge: Edge,
    regions: ArcSwap<Vec<Region>>,
    edit: Mutex<()>,
    subtractive: OnceLock<Arc<dyn Subtractive>>,
    unclaimed_reads: AtomicU64,
    unclaimed_writes: AtomicU64,
}

impl Bus {
    /// An empty space.
    #[must_use]
    pub fn new(edge: Edge) -> Self {
        Self {
            edge,
            regions: ArcSwap::from_pointee(Vec::new()),
            edit: Mutex::new(()),
            subtractive: OnceLock::new(),
            unclaimed_reads: AtomicU64::new(0),
            unclaimed_writes: AtomicU64::new(0),
        }
    }

    /// Asks `decoder` for what no region claims. Only the first call counts.
    pub fn set_subtractive(&self, decoder: Arc<dyn Subtractive>) {
        let _ = self.subtractive.set(decoder);
    }

    /// Gives `size` addresses from `start` to `handler`.
    ///
    /// # Errors
    /// Another region lies there, or the region is empty or passes the end of the space.
    pub fn claim(&self, start: u64, size: u64, handler: Arc<dyn Handler>) -> Result<(), Overlap> {
        let _edit = self.edit.lock().unwrap_or_else(PoisonError::into_inner);
        let mut regions = Vec::clone(&self.regions.load());
        let overlap = |taken| Overlap { start, size, taken };
        let last = match start.checked_add(size.wrapping_sub(1)) {
            Some(last) if size > 0 => last,
            _ => return Err(overlap(start)),
        };
        let place = regions.partition_point(|r| r.start < start);
        if let Some(after) = regions.get(place)
            && after.start <= last
        {
            return Err(overlap(after.start));
        }
        if let Some(before) = place.checked_sub(1).and_then(|i| regions.get(i))
            && start - before.start < before.size
        {
            return Err(overlap(before.start));
        }
        regions.insert(place, Region { start, size, handler });
        self.regions.store(Arc::new(regions));
        Ok(())
    }

    /// Takes back the region that starts at exactly `start`; answers whether there was one. An
    /// access already under way on another thread may still reach the handler.
    pub fn release(&self, start: u64) -> bool {
        let _edit = self.edit.lock().unwrap_or_else(PoisonError::into_inner);
        let mut regions = Vec::clone(&self.regions.load());
        let Ok(place) = regions.binary_search_by_key(&start, |r| r.start) else {
            return false;
        };
        regions.remove(place);
        self.regions.store(Arc::new(regions));
        true
    }

    /// The guest reads. An access that passes a region's edge is treated as [`Edge`] says; one that
    /// begins before a region is split into bytes.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        let regions = self.regions.load();
        let parts = match self.find(&regions, address, data.len()) {
            Found::Whole(region) => return region.handler.read(address - region.start, data),
            Found::Parts => true,
            Found::Nothing => false,
        };
        if let Some(decoder) = self.subtractive.get()
            && decoder.read(address, data)
        {
            return;
        }
        if !parts || data.len() == 1 {
            return self.unclaimed_read(data);
        }
        for (i, byte) in data.chunks_mut(1).enumerate() {
            self.read(address.wrapping_add(i as u64), byte);
        }
    }

    /// The guest writes; split like [`Self::read`].
    pub fn write(&self, address: u64, data: &[u8]) {
        let regions = self.regions.load();
        let parts = match self.find(&regions, address, data.len()) {
            Found::Whole(region) => return region.handler.write(address - region.start, data),
            Found::Parts => true,
            Found::Nothing => false,
        };
        if let Some(decoder) = self.subtractive.get()
            && decoder.write(address, data)
        {
            return;
        }
        if !parts || data.len() == 1 {
            return self.unclaimed_write();
        }
        for (i, byte) in data.chunks(1).enumerate() {
            self.write(address.wrapping_add(i as u64), byte);
        }
    }

    fn find<'a>(&self, regions: &'a [Region], address: u64, length: usize) -> Found<'a> {
        let length = length as u64;
        LAST.with(|last| {
            let last = &last[self.edge as usize];
            let hinted = regions.get(last.get()).filter(|region| region.holds(address, length));
            hinted.map(Found::Whole).unwrap_or_else(|| self.search(regions, address, length, last))
        })
    }

    fn search<'a>(
        &self,
        regions: &'a [Region],
        address: u64,
        length: u64,
        last: &Cell<usize>,
    ) -> Found<'a> {
        let next = regions.partition_point(|r| r.start <= address);
        if let Some(region) = next.checked_sub(1).and_then(|i| regions.get(i)) {
            let offset = address - region.start;
            if offset < region.size {
                last.set(next - 1);
                return if self.edge == Edge::First || length <= region.size - offset {
                    Found::Whole(region)
                } else {
                    Found::Parts
                };
            }
        }
        match regions.get(next) {
            Some(after) if after.start - address < length => Found::Parts,
            _ => Found::Nothing,
        }
    }

    fn unclaimed_read(&self, data: &mut [u8]) {
        data.fill(0xff);
        self.unclaimed_reads.fetch_add(1, Relaxed);
    }

    fn unclaimed_write(&self) {
        self.unclaimed_writes.fetch_add(1, Relaxed);
    }

    /// Reads and writes that nobody claimed.
    #[must_use]
    pub fn unclaimed(&self) -> (u64, u64) {
        (self.unclaimed_reads.load(Relaxed), self.unclaimed_writes.load(Relaxed))
    }

    /// Start and size of every region, ascending.
    #[must_use]
    pub fn map(&self) -> Vec<(u64, u64)> {
        let regions = self.regions.load();
        regions.iter().map(|r| (r.start, r.size)).collect()
    }
}

thread_local! {
    /// Where this thread found the region of its last access, by [`Edge`]: the next one is most often for
    /// the same. A hint, and good for any bus.
    static LAST: [Cell<usize>; 2] = const { [const { Cell::new(0) }; 2] };
}

enum Found<'a> {
    Whole(&'a Region),
    Parts,
    Nothing,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads answer the offset; writes are kept.
    #[derive(Default)]
    struct Echo(Mutex<Vec<(u64, Vec<u8>)>>);

    impl Handler for Echo {
        fn read(&self, offset: u64, data: &mut [u8]) {
            for (i, byte) in data.iter_mut().enumerate() {
                *byte = offset as u8 + i as u8;
            }
        }
        fn write(&self, offset: u64, data: &[u8]) {
            self.0.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    #[test]
    fn what_nobody_claims_reads_as_ones_and_is_counted() {
        let bus = Bus::new(Edge::Split);
        let mut data = [0; 4];
        bus.read(0x80, &mut data);
        assert_eq!(data, [0xff; 4]);
        bus.write(0x80, &data);
        assert_eq!(bus.unclaimed(), (1, 1));
    }

    #[test]
    fn an_access_over_an_edge_is_split_into_bytes() {
        let bus = Bus::new(Edge::Split);
        let device = Arc::new(Echo::default());
        bus.claim(0x10, 4, Arc::clone(&device) as _).unwrap();
        let mut data = [0; 4];
        bus.read(0x12, &mut data);
        assert_eq!(data, [2, 3, 0xff, 0xff]);
        bus.read(0x0e, &mut data);
        assert_eq!(data, [0xff, 0xff, 0, 1]);
        bus.read(0x10, &mut data);
        assert_eq!(data, [0, 1, 2, 3]);
        bus.write(0x0f, &[7, 8]);
        assert_eq!(*device.0.lock().unwrap(), [(0, vec![8])]);
        bus.write(u64::MAX, &[1, 2]);
    }

    #[test]
    fn a_port_access_belongs_to_the_port_it_begins_at() {
        let bus = Bus::new(Edge::First);
        let device = Arc::new(Echo::default());
        bus.claim(0xea, 1, Arc::clone(&device) as _).unwrap();
        bus.write(0xea, &[1, 2, 3, 4]);
        bus.write(0xe9, &[5, 6]);
        assert_eq!(*device.0.lock().unwrap(), [(0, vec![1, 2, 3, 4]), (0, vec![6])]);
    }

    #[test]
    fn overlaps_are_refused_and_released_regions_are_free() {
        let bus = Bus::new(Edge::Split);
        let device: Arc<dyn Handler> = Arc::new(Echo::default());
        bus.claim(0x100, 0x10, Arc::clone(&device)).unwrap();
        for (start, size) in [(0x100, 1), (0x10f, 1), (0xff, 2), (0xf0, 0x100)] {
            assert!(bus.claim(start, size, Arc::clone(&device)).is_err());
        }
        assert!(bus.claim(0x200, 0, Arc::clone(&device)).is_err());
        assert!(bus.claim(u64::MAX, 2, Arc::clone(&device)).is_err());
        bus.claim(0x110, 1, Arc::clone(&device)).unwrap();
        assert!(bus.release(0x100));
        assert!(!bus.release(0x100));
        bus.claim(0xf0, 0x20, device).unwrap();
        assert_eq!(bus.map(), [(0xf0, 0x20), (0x110, 1)]);
    }
}
