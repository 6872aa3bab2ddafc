//! Changing tables so that nothing leaks and nothing is half done.

use super::entry::{Leaf, Log};
use super::walk::{Entry, Found, index, page_size, parts};
use super::{Flush, PageSize, SecondLevel, TABLE_ENTRIES, TableMemory};
use hypervisor_abi::Fault;
use units::HostPhysical;

/// What becomes of a leaf.
pub(super) enum Change {
    Keep,
    Set(Leaf),
    Remove,
}

impl<M: TableMemory> SecondLevel<M> {
    /// In a chain of unlinked frames, the one after `table`: its address in entry 0, which as an entry
    /// is not present.
    pub(super) fn next_in_chain(&self, table: HostPhysical) -> Option<HostPhysical> {
        // Frame 0 is never a table: it holds the machine's own vectors.
        Some(HostPhysical(self.memory.read(table, 0))).filter(|next| next.0 != 0)
    }

    /// Puts `table` before `head`.
    fn chain(&mut self, table: HostPhysical, head: Option<HostPhysical>) -> Option<HostPhysical> {
        self.memory.write(table, 0, head.map_or(0, HostPhysical::get));
        Some(table)
    }

    /// Sets `count` frames aside; all of them or none.
    pub(super) fn set_aside(&mut self, count: u64) -> Result<(), Fault> {
        for _ in 0..count {
            let Some(table) = self.memory.allocate() else {
                while let Some(table) = self.reserve {
                    self.reserve = self.next_in_chain(table);
                    self.memory.free(table);
                }
                return Err(Fault::OutOfMemory);
            };
            self.reserve = self.chain(table, self.reserve);
        }
        Ok(())
    }

    /// A zeroed frame of those set aside.
    fn take(&mut self) -> Result<HostPhysical, Fault> {
        let table = self.reserve.ok_or(Fault::OutOfMemory)?;
        self.reserve = self.next_in_chain(table);
        self.memory.write(table, 0, 0);
        self.frames += 1;
        Ok(table)
    }

    /// Ends a change.
    pub(super) fn finish(&mut self) -> Flush {
        core::mem::replace(&mut self.flush, Flush::NotNeeded)
    }

    /// Maps a free range below `table`; `leaf` is the one for its start. Says how many tables that takes.
    /// Without `commit`, or where no table is yet, that is all it does.
    ///
    /// # Errors
    /// Something is mapped there.
    pub(super) fn fill(
        &mut self,
        table: Option<HostPhysical>,
        level: u32,
        range: (u64, u64),
        leaf: Leaf,
        commit: bool,
    ) -> Result<u64, Fault> {
        let mut tables = 0;
        for part in parts(range, level) {
            let leaf = leaf.moved(part.0 - range.0);
            let index = index(part.0, level);
            let found = table.map_or(Entry::Empty, |table| self.entry(table, index, level));
            let entry = match (found, self.leaf_size(level, part, leaf.host)) {
                (Entry::Empty, Some(size)) => self.format.leaf_entry(leaf, size),
                // No table is ever empty.
                (Entry::Leaf(..), _) | (Entry::Table(_), Some(_)) => return Err(Fault::Exists),
                (found, None) => {
                    let next = match found {
                        Entry::Table(next) => Some(next),
                        _ => {
                            tables += 1;
                            commit.then(|| self.take()).transpose()?
                        }
                    };
                    tables += self.fill(next, level - 1, part, leaf, commit)?;
                    next.map_or(0, |next| self.format.table_entry(next))
                }
            };
            if commit && let Some(table) = table {
                self.memory.write(table, index, entry);
            }
        }
        Ok(tables)
    }

    /// Splits the large pages that lie across the edges of the range.
    pub(super) fn split_edges(&mut self, (start, end): (u64, u64)) -> Result<(), Fault> {
        for edge in [start, end] {
            while let Some(found) = self.find(edge)
                && found.base < edge
                && start < end
            {
                self.split(found)?;
            }
        }
        Ok(())
    }

    /// Splits a large page.
    pub(super) fn split(&mut self, found: Found) -> Result<(), Fault> {
        let size = page_size(found.size as u32 - 1).ok_or(Fault::BadValue)?;
        self.set_aside(1)?;
        let table = self.take()?;
        for index in 0..TABLE_ENTRIES {
            let part = found.leaf.moved(index as u64 * size.bytes());
            self.memory.write(table, index, self.format.leaf_entry(part, size));
        }
        self.memory.write(found.table, found.index, self.format.table_entry(table));
        // Large and small translations of one page must not live side by side when their parts change
        // (SDM 3A 4.10.2.4 has the same rule for ordinary tables).
        self.flush = Flush::Needed;
        Ok(())
    }

    /// Changes the leaves of a range as `change` says of address, size and leaf. Gives back true when
    /// an entry became empty.
    pub(super) fn change(
        &mut self,
        table: HostPhysical,
        level: u32,
        range: (u64, u64),
        change: &mut impl FnMut(u64, PageSize, Leaf) -> Change,
    ) -> bool {
        let mut removed = false;
        for part in parts(range, level) {
            let index = index(part.0, level);
            match self.entry(table, index, level) {
                Entry::Empty => {}
                Entry::Leaf(size, leaf) => match change(part.0 & !(size.bytes() - 1), size, leaf) {
                    Change::Keep => {}
                    Change::Set(new) => self.set(table, index, size, leaf, new),
                    Change::Remove => {
                        self.memory.write(table, index, 0);
                        self.flush = Flush::Needed;
                        removed = true;
                    }
                },
                Entry::Table(next) => {
                    let may_be_empty = self.change(next, level - 1, part, change);
                    let is_empty = |index| self.memory.read(next, index) == 0;
                    if may_be_empty && (0..TABLE_ENTRIES).all(is_empty) {
                        self.memory.write(table, index, 0);
                        self.retired = self.chain(next, self.retired);
                        removed = true;
                    }
                }
            }
        }
        removed
    }

    /// Replaces a leaf by one for the same page.
    pub(super) fn set(
        &mut self,
        table: HostPhysical,
        index: usize,
        size: PageSize,
        old: Leaf,
        new: Leaf,
    ) {
        if new == old {
            return;
        }
        let entry = self.format.leaf_entry(new, size);
        let before = self.memory.swap(table, index, entry);
        // A write that the processor recorded between the look and the swap is not lost.
        let recorded = self.format.leaf(before, size).log == Log::Written;
        if old.log == Log::Clean && recorded && new.log == Log::Clean {
            self.memory.write(table, index, entry | self.format.dirty_flag());
        }
        let watched = old.log != Log::Clean && new.log == Log::Clean;
        if watched || old.memory_type != new.memory_type || old.access != new.access {
            self.flush = Flush::Needed;
        }
    }
}
