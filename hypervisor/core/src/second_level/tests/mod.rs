//! Behaviour of second-level tables, seen through a walker of the manuals' bits.

mod dirty;
mod model;

use std::collections::BTreeMap;

use units::{Bytes, GuestPhysical, HostPhysical, PAGE_SIZE};

use super::{Access, FaultCause, Flush, Format, PageSize, SecondLevel, TABLE_ENTRIES, TableMemory};
use crate::memory_type::MemoryType;
use hypervisor_abi::Fault;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// Frames that know whether they are in use.
struct Frames {
    tables: BTreeMap<u64, [u64; TABLE_ENTRIES]>,
    next: u64,
    limit: usize,
}

impl Frames {
    fn new(limit: usize) -> Self {
        Self { tables: BTreeMap::new(), next: 0x10_0000, limit }
    }
}

impl TableMemory for &mut Frames {
    fn allocate(&mut self) -> Option<HostPhysical> {
        if self.tables.len() == self.limit {
            return None;
        }
        self.next += PAGE_SIZE;
        self.tables.insert(self.next, [0; TABLE_ENTRIES]);
        Some(HostPhysical(self.next))
    }
    fn free(&mut self, table: HostPhysical) {
        self.tables.remove(&table.get()).expect("freed once, and ours");
    }
    fn read(&self, table: HostPhysical, index: usize) -> u64 {
        self.tables[&table.get()][index]
    }
    fn write(&mut self, table: HostPhysical, index: usize, entry: u64) {
        self.tables.get_mut(&table.get()).expect("in use")[index] = entry;
    }
    fn swap(&mut self, table: HostPhysical, index: usize, entry: u64) -> u64 {
        let old = self.read(table, index);
        self.write(table, index, entry);
        old
    }
}

fn ept(largest: PageSize, accessed_dirty: bool) -> Format {
    Format::Ept { largest, accessed_dirty, ignore_pat: false }
}

fn npt(largest: PageSize) -> Format {
    Format::Npt { largest }
}

fn formats(largest: PageSize) -> [Format; 3] {
    [ept(largest, false), ept(largest, true), npt(largest)]
}

/// What the processor makes of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    host: u64,
    write: bool,
    execute: bool,
}

/// Walks as SDM 3C 29.3.2 and APM 2 5.3 say; a write sets the dirty flag where there is one.
fn processor(
    frames: &mut Frames,
    format: Format,
    pointer: u64,
    address: u64,
    write: bool,
) -> Option<Seen> {
    let mut table = pointer & !0xfff;
    for level in (0..4).rev() {
        let shift = 12 + 9 * level;
        let index = (address >> shift) as usize & 511;
        let entry = frames.tables[&table][index];
        let (present, writable, executable, dirty) = match format {
            Format::Ept { accessed_dirty, .. } => {
                (entry & 7 != 0, entry & 2 != 0, entry & 4 != 0, u64::from(accessed_dirty) << 9)
            }
            _ => (entry & 1 != 0, entry & 2 != 0, entry >> 63 == 0, 1 << 6),
        };
        if !present {
            return None;
        }
        if let Format::Npt { .. } = format {
            assert!(entry & 4 != 0, "guest accesses are user accesses (APM 2 15.25.5)");
        }
        if level == 0 || entry & 0x80 != 0 {
            assert!(level < 3, "no 512 GiB pages");
            let offset = address & ((1 << shift) - 1);
            let base = entry & 0x000f_ffff_ffff_f000;
            assert_eq!(base & ((1 << shift) - 1), 0, "reserved address bits of a large page");
            if write && writable {
                frames.tables.get_mut(&table).unwrap()[index] |= dirty;
            }
            return Some(Seen { host: base | offset, write: writable, execute: executable });
        }
        assert!(writable && executable, "tables grant everything, leaves decide");
        if let Format::Ept { .. } = format {
            assert_eq!(entry & 0xf8, 0, "bits 7:3 are reserved above the leaf");
        }
        table = entry & 0x000f_ffff_ffff_f000;
    }
    None
}

type Tables<'a> = SecondLevel<&'a mut Frames>;

/// One write of the guest's, as the core answers its faults.
fn guest_write(tables: &mut Tables<'_>, address: u64) -> bool {
    for _ in 0..2 {
        let (format, pointer) = (tables.format, tables.root_pointer());
        if processor(tables.memory, format, pointer, address, true).is_some_and(|seen| seen.write) {
            return true;
        }
        match tables.explain(GuestPhysical(address), Access::WRITE).0 {
            FaultCause::Stale => tables.release_retired(),
            FaultCause::Denied | FaultCause::NotMapped => return false,
        }
    }
    panic!("the write was granted and still faults");
}

fn map(tables: &mut Tables<'_>, guest: u64, host: u64, bytes: u64) -> Result<(), Fault> {
    tables.map(
        GuestPhysical(guest),
        HostPhysical(host),
        Bytes(bytes),
        Access::ALL,
        MemoryType::WriteBack,
    )
}

/// A map that succeeds.
fn mapped(tables: &mut Tables<'_>, guest: u64, host: u64, bytes: u64) {
    assert_eq!(map(tables, guest, host, bytes), Ok(()));
}

fn size_at(tables: &Tables<'_>, guest: u64) -> Option<PageSize> {
    tables.translate(GuestPhysical(guest)).map(|translation| translation.size)
}

#[test]
fn four_gibibytes_take_less_than_64_kib_of_tables() {
    for format in formats(PageSize::Size2M) {
        let mut frames = Frames::new(100);
        let mut tables = SecondLevel::new(format, &mut frames).unwrap();
        // As a guest's memory lies: below the PCI hole and above 4 GiB.
        assert_eq!(map(&mut tables, 0, 8 * GIB, 3 * GIB), Ok(()));
        assert_eq!(map(&mut tables, 4 * GIB, 11 * GIB, GIB), Ok(()));
        assert_eq!(tables.table_frames(), 6);
        assert_eq!(tables.memory.tables.len(), 6);
        assert!(tables.table_frames() * PAGE_SIZE < 64 << 10);
        drop(tables);
        assert!(frames.tables.is_empty());
    }
}

#[test]
fn the_largest_aligned_pages_are_used() {
    for format in formats(PageSize::Size1G) {
        let mut frames = Frames::new(100);
        let mut tables = SecondLevel::new(format, &mut frames).unwrap();
        let start = GIB - 2 * MIB - 4096;
        mapped(&mut tables, start, 5 * GIB + start, 2 * GIB + 4 * MIB);
        assert_eq!(size_at(&tables, start - 1), None, "one byte before it");
        assert_eq!(size_at(&tables, start), Some(PageSize::Size4K));
        assert_eq!(size_at(&tables, GIB - 2 * MIB), Some(PageSize::Size2M));
        assert_eq!(size_at(&tables, 2 * GIB + 12345), Some(PageSize::Size1G));
        assert_eq!(size_at(&tables, 3 * GIB + MIB), Some(PageSize::Size4K));
        let end = start + 2 * GIB + 4 * MIB;
        assert_eq!(size_at(&tables, end - 1), Some(PageSize::Size4K));
        assert_eq!(size_at(&tables, end), None);
        let found = tables.translate(GuestPhysical(2 * GIB + 12345)).unwrap();
        assert_eq!(found.host, HostPhysical(7 * GIB + 12345));
        drop(tables);
        assert!(frames.tables.is_empty());
    }
}

#[test]
fn leaves_carry_the_memory_type_in_their_formats_own_bits() {
    const READ: Access = Access { write: false, execute: false };
    let types = [
        (MemoryType::Uncacheable, 0x00, 0x18),
        (MemoryType::WriteCombining, 0x08, 0x10),
        (MemoryType::WriteThrough, 0x20, 0x08),
        (MemoryType::WriteBack, 0x30, 0x00),
    ];
    for (memory_type, ept_bits, npt_bits) in types {
        for format in formats(PageSize::Size4K) {
            let mut frames = Frames::new(4);
            let mut tables = SecondLevel::new(format, &mut frames).unwrap();
            let page = (GuestPhysical(0), HostPhysical(0x5000), Bytes(PAGE_SIZE));
            tables.map(page.0, page.1, page.2, READ, memory_type).unwrap();
            let leaf = tables
                .memory
                .tables
                .values()
                .map(|table| table[0])
                .find(|entry| entry & 0x000f_ffff_ffff_f000 == 0x5000)
                .unwrap();
            match format {
                Format::Ept { .. } => assert_eq!(leaf & 0xff, ept_bits | 1),
                _ => {
                    assert_eq!(leaf & 0x9f, npt_bits | 5);
                    assert_eq!(leaf >> 63, 1, "not executable");
                }
            }
            let found = tables.translate(GuestPhysical(0)).unwrap();
            assert_eq!(found.memory_type, memory_type);
            drop(tables);
        }
    }
}

#[test]
fn the_cores_own_pages_are_what_they_are_mapped_as_and_not_for_users() {
    let mut frames = Frames::new(4);
    let mut tables = SecondLevel::new(Format::Host, &mut frames).unwrap();
    let code = Access { write: false, execute: true };
    for (page, access, memory_type, bits) in [
        (1, code, MemoryType::WriteBack, 1),
        (2, Access::WRITE, MemoryType::WriteBack, 1 << 63 | 3),
        (3, Access::WRITE, MemoryType::Uncacheable, 1 << 63 | 3 << 3 | 3),
    ] {
        let guest = GuestPhysical(0x7f00_0000_0000 + page * PAGE_SIZE);
        let host = HostPhysical(page * PAGE_SIZE);
        tables.map(guest, host, Bytes(PAGE_SIZE), access, memory_type).unwrap();
        let place = tables.entry_of(guest).unwrap();
        let table = HostPhysical(place.get() & !0xfff);
        let entry = tables.memory.read(table, (place.get() & 0xfff) as usize / 8);
        // Present, writable, for users, cache bits, not executable; the page.
        assert_eq!(entry & (1 << 63 | 0x1f), bits);
        assert_eq!(entry & 0x000f_ffff_ffff_f000, host.get());
    }
}

#[test]
fn pointers_for_the_processor() {
    let mut frames = Frames::new(1);
    for (format, bits) in formats(PageSize::Size2M).into_iter().zip([0x1e, 0x5e, 0]) {
        let tables = SecondLevel::new(format, &mut frames).unwrap();
        assert_eq!(tables.root_pointer(), tables.memory.next | bits);
    }
}

#[test]
fn hostile_ranges_are_refused() {
    let mut frames = Frames::new(10);
    let mut tables = SecondLevel::new(npt(PageSize::Size1G), &mut frames).unwrap();
    let top = !0xfff;
    for (guest, host, bytes) in [
        (1, 0, 4096),
        (0, 7, 4096),
        (0, 0, 4095),
        (top, 0, 8192),
        ((1 << 48) - 4096, 0, 8192),
        (0, (1 << 52) - 4096, 8192),
    ] {
        assert_eq!(map(&mut tables, guest, host, bytes), Err(Fault::BadValue), "{guest:#x}");
    }
    assert_eq!(tables.unmap(GuestPhysical(top), Bytes(8192)), Err(Fault::BadValue));
    assert_eq!(tables.translate(GuestPhysical(u64::MAX)), None);
    let cause = tables.explain(GuestPhysical(u64::MAX), Access::WRITE);
    assert_eq!(cause, (FaultCause::NotMapped, Flush::NotNeeded));
    assert_eq!(tables.table_frames(), 1);
    mapped(&mut tables, (1 << 48) - GIB, 0, GIB);
    assert_eq!(tables.unmap(GuestPhysical((1 << 48) - 4096), Bytes(4096)), Ok(Flush::Needed));
    drop(tables);
    assert!(frames.tables.is_empty());
}

#[test]
fn a_map_that_meets_a_mapping_changes_nothing() {
    for format in formats(PageSize::Size2M) {
        let mut frames = Frames::new(100);
        let mut tables = SecondLevel::new(format, &mut frames).unwrap();
        mapped(&mut tables, 6 * MIB + 0x3000, 0, 4096);
        let before = tables.memory.tables.clone();
        assert_eq!(map(&mut tables, 0, GIB, 16 * MIB), Err(Fault::Exists));
        assert_eq!(tables.memory.tables, before);
    }
}

#[test]
fn a_change_without_frames_changes_nothing() {
    for format in formats(PageSize::Size1G) {
        let mut frames = Frames::new(4);
        let mut tables = SecondLevel::new(format, &mut frames).unwrap();
        mapped(&mut tables, 0, 0, GIB);
        let before = tables.memory.tables.clone();
        // Four kilobytes at the end of 2 GiB take a table of each level: one frame too many.
        let odd = map(&mut tables, (1 << 40) + 4096, 4096, 2 * MIB + 4096);
        assert_eq!(odd, Err(Fault::OutOfMemory));
        assert_eq!(tables.memory.tables, before);
        // Both edges inside the one large page: 1 GiB to 2 MiB, and two of those to 4 KiB.
        let middle = GuestPhysical(MIB);
        assert_eq!(tables.unmap(middle, Bytes(4 * MIB)), Err(Fault::OutOfMemory));
        let pointer = tables.root_pointer();
        for address in (0..GIB).step_by(4096) {
            let seen = processor(tables.memory, format, pointer, address, false);
            assert_eq!(seen, Some(Seen { host: address, write: true, execute: true }));
        }
        tables.memory.limit = 5;
        assert_eq!(tables.unmap(middle, Bytes(4 * MIB)), Ok(Flush::Needed));
        assert_eq!(tables.memory.tables.len(), 5);
        assert_eq!(size_at(&tables, MIB - 1), Some(PageSize::Size4K));
        assert_eq!(size_at(&tables, MIB), None);
        assert_eq!(size_at(&tables, 5 * MIB - 1), None);
        assert_eq!(size_at(&tables, 5 * MIB), Some(PageSize::Size4K));
        assert_eq!(size_at(&tables, 6 * MIB), Some(PageSize::Size2M));
        drop(tables);
        assert!(frames.tables.is_empty());
    }
}

#[test]
fn an_unlinked_table_is_kept_until_processors_have_flushed() {
    let mut frames = Frames::new(10);
    let mut tables =
        SecondLevel::new(ept(PageSize::Size1G, true), &mut frames).expect("frames are left");
    mapped(&mut tables, 0, 0, 4096);
    assert_eq!(tables.table_frames(), 4);
    assert_eq!(tables.unmap(GuestPhysical(0), Bytes(4096)), Ok(Flush::Needed));
    assert_eq!((tables.table_frames(), tables.memory.tables.len()), (4, 4));
    tables.release_retired();
    assert_eq!((tables.table_frames(), tables.memory.tables.len()), (1, 1));
    drop(tables);
    assert!(frames.tables.is_empty());
}

#[test]
fn a_fault_is_told_apart() {
    let mut frames = Frames::new(10);
    let mut tables = SecondLevel::new(npt(PageSize::Size2M), &mut frames).unwrap();
    let rom = GuestPhysical(0xf_f000);
    let read = Access { write: false, execute: false };
    let execute = Access { write: false, execute: true };
    tables.map(rom, HostPhysical(0x5000), Bytes(4096), execute, MemoryType::WriteBack).unwrap();
    assert_eq!(tables.explain(rom, Access::WRITE).0, FaultCause::Denied);
    assert_eq!(tables.explain(rom, execute).0, FaultCause::Stale);
    assert_eq!(tables.explain(rom, read).0, FaultCause::Stale);
    assert_eq!(tables.explain(GuestPhysical(0x10_0000), read).0, FaultCause::NotMapped);
    let _ = tables.collect_dirty(rom, Bytes(4096), |_| {}).unwrap();
    assert_eq!(tables.explain(rom, Access::WRITE), (FaultCause::Denied, Flush::NotNeeded));
}
