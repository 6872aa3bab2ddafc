//! Finding entries. Changes nothing.

use super::entry::Leaf;
use super::{ADDRESS_BITS, Format, PageSize, SecondLevel, TABLE_ENTRIES, TableMemory};
use units::{GuestPhysical, HostPhysical};

/// The level of the root table; the last level is 1 (SDM 3C 29.3.2, APM 2 5.3).
pub(super) const TOP: u32 = 4;

/// Bytes one entry of this level covers.
pub(super) const fn span(level: u32) -> u64 {
    1 << (12 + 9 * (level - 1))
}

/// The entry of a table of this level that covers `address`.
pub(super) const fn index(address: u64, level: u32) -> usize {
    (address / span(level)) as usize % TABLE_ENTRIES
}

/// A range cut where entries of this level begin.
pub(super) fn parts(
    (start, end): (u64, u64),
    level: u32,
) -> impl Iterator<Item = (u64, u64)> + Clone {
    let next = move |from: u64| end.min((from & !(span(level) - 1)) + span(level));
    let first = (start < end).then(|| (start, next(start)));
    core::iter::successors(first, move |part| (part.1 < end).then(|| (part.1, next(part.1))))
}

/// The page a leaf of this level maps.
pub(super) const fn page_size(level: u32) -> Option<PageSize> {
    match level {
        1 => Some(PageSize::Size4K),
        2 => Some(PageSize::Size2M),
        3 => Some(PageSize::Size1G),
        _ => None,
    }
}

/// What an entry is.
pub(super) enum Entry {
    Empty,
    Leaf(PageSize, Leaf),
    Table(HostPhysical),
}

/// A leaf and where it is.
#[derive(Clone, Copy)]
pub(super) struct Found {
    pub(super) table: HostPhysical,
    pub(super) index: usize,
    pub(super) size: PageSize,
    /// The first guest address it maps.
    pub(super) base: u64,
    pub(super) leaf: Leaf,
}

impl<M: TableMemory> SecondLevel<M> {
    pub(super) fn entry(&self, table: HostPhysical, index: usize, level: u32) -> Entry {
        let entry = self.memory.read(table, index);
        match page_size(level) {
            _ if !Format::is_present(entry) => Entry::Empty,
            Some(size) if Format::is_leaf(entry, size) => {
                Entry::Leaf(size, self.format.leaf(entry, size))
            }
            _ => Entry::Table(Format::table(entry)),
        }
    }

    /// The leaf that maps `address`.
    pub(super) fn find(&self, address: u64) -> Option<Found> {
        if address >> ADDRESS_BITS != 0 {
            return None;
        }
        let mut table = self.root;
        for level in (1..=TOP).rev() {
            let index = index(address, level);
            match self.entry(table, index, level) {
                Entry::Empty => return None,
                Entry::Leaf(size, leaf) => {
                    let base = address & !(size.bytes() - 1);
                    return Some(Found { table, index, size, base, leaf });
                }
                Entry::Table(next) => table = next,
            }
        }
        None
    }

    /// Where the entry lies that maps `address`.
    pub fn entry_of(&self, address: GuestPhysical) -> Option<HostPhysical> {
        let found = self.find(address.0)?;
        Some(HostPhysical(found.table.0 + found.index as u64 * 8))
    }

    /// The page of this level that maps the part to `host` as a whole, if there is one.
    pub(super) fn leaf_size(
        &self,
        level: u32,
        (start, end): (u64, u64),
        host: HostPhysical,
    ) -> Option<PageSize> {
        page_size(level).filter(|size| {
            *size <= self.format.largest()
                && end - start == size.bytes()
                && host.0.is_multiple_of(size.bytes())
        })
    }

    /// Frees a table and all below it.
    pub(super) fn free_tables(&mut self, table: HostPhysical, level: u32) {
        for index in 0..TABLE_ENTRIES {
            if let Entry::Table(next) = self.entry(table, index, level) {
                self.free_tables(next, level - 1);
            }
        }
        self.memory.free(table);
    }
}
