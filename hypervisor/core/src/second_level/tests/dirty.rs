//! Behaviour of the dirty log.

use std::collections::BTreeSet;

use units::{Bytes, GuestPhysical, HostPhysical};

use super::{Frames, GIB, MIB, Tables, ept, formats, guest_write, mapped, npt};
use crate::memory_type::MemoryType;
use crate::second_level::{Access, FaultCause, PageSize, SecondLevel, TableMemory};

fn collect(tables: &mut Tables<'_>, start: u64, bytes: u64) -> BTreeSet<u64> {
    let mut pages = BTreeSet::new();
    let _ = tables
        .collect_dirty(GuestPhysical(start), Bytes(bytes), |page| {
            assert!(pages.insert(page.get()), "each page once");
        })
        .unwrap();
    pages
}

#[test]
fn the_dirty_log_names_exactly_the_pages_written() {
    for format in formats(PageSize::Size1G) {
        let mut frames = Frames::new(100);
        let mut tables = SecondLevel::new(format, &mut frames).unwrap();
        mapped(&mut tables, 0, GIB, GIB);
        let all = (0..GIB).step_by(4096).collect();
        assert_eq!(collect(&mut tables, 0, GIB), all, "what was not watched");
        assert_eq!(tables.table_frames(), 2, "a log of nothing costs nothing");
        for round in 0..3 {
            assert_eq!(collect(&mut tables, 0, GIB), BTreeSet::new(), "round {round}");
            let written = [0x1000, 0x1008, 3 * MIB + round * 4096, GIB - 1];
            for address in written {
                assert!(guest_write(&mut tables, address));
            }
            let pages = written.map(|address| address & !0xfff).into();
            assert_eq!(collect(&mut tables, 0, GIB), pages, "round {round}");
        }
    }
}

#[test]
fn without_frames_the_dirty_log_names_whole_large_pages() {
    for format in formats(PageSize::Size2M) {
        let mut frames = Frames::new(3);
        let mut tables = SecondLevel::new(format, &mut frames).unwrap();
        mapped(&mut tables, 0, GIB, 8 * MIB);
        let _ = collect(&mut tables, 0, 8 * MIB);
        assert!(guest_write(&mut tables, 5 * MIB));
        let pages = (4 * MIB..6 * MIB).step_by(4096).collect();
        assert_eq!(collect(&mut tables, 0, 8 * MIB), pages);
        assert_eq!(collect(&mut tables, 0, 8 * MIB), BTreeSet::new());
    }
}

#[test]
fn a_write_the_core_makes_for_the_guest_is_noted_too() {
    for format in formats(PageSize::Size4K) {
        let mut frames = Frames::new(10);
        let mut tables = SecondLevel::new(format, &mut frames).unwrap();
        mapped(&mut tables, 0, GIB, 0x4000);
        let _ = collect(&mut tables, 0, 0x4000);
        let page = GuestPhysical(0x2000);
        assert_eq!(tables.explain(page, Access::WRITE).0, FaultCause::Stale);
        assert_eq!(collect(&mut tables, 0, 0x4000), [0x2000].into());
    }
}

/// Memory in which a processor records a write just before an entry is replaced.
struct Racing<'a>(&'a mut Frames, u64);

impl TableMemory for Racing<'_> {
    fn allocate(&mut self) -> Option<HostPhysical> {
        self.0.allocate()
    }
    fn free(&mut self, table: HostPhysical) {
        self.0.free(table);
    }
    fn read(&self, table: HostPhysical, index: usize) -> u64 {
        self.0.read(table, index)
    }
    fn write(&mut self, table: HostPhysical, index: usize, entry: u64) {
        self.0.write(table, index, entry);
    }
    fn swap(&mut self, table: HostPhysical, index: usize, entry: u64) -> u64 {
        let old = self.read(table, index) | self.1;
        self.write(table, index, entry);
        old
    }
}

#[test]
fn a_write_recorded_while_a_leaf_changes_is_not_lost() {
    for (format, dirty) in [(ept(PageSize::Size4K, true), 1 << 9), (npt(PageSize::Size4K), 1 << 6)]
    {
        let mut frames = Frames::new(10);
        let mut tables = SecondLevel::new(format, Racing(&mut frames, 0)).unwrap();
        let (guest, bytes) = (GuestPhysical(0x3000), Bytes(4096));
        tables.map(guest, HostPhysical(0x9000), bytes, Access::ALL, MemoryType::WriteBack).unwrap();
        let _ = tables.collect_dirty(guest, bytes, |_| {}).unwrap();
        tables.memory.1 = dirty;
        let _ = tables.set_memory_type(guest, bytes, MemoryType::Uncacheable).unwrap();
        tables.memory.1 = 0;
        let mut pages = 0;
        let _ = tables.collect_dirty(guest, bytes, |_| pages += 1).unwrap();
        assert_eq!(pages, 1);
    }
}
