//! Second-level page tables: where a guest's memory lies on the real machine. EPT on Intel, nested
//! page tables on AMD, behind one type; the format is chosen at run time.
//!
//! The tables live in frames of a [`TableMemory`]; nothing here touches memory itself. Rules:
//! - A change happens as a whole or not at all: the frames it needs are counted and set aside before
//!   the first entry is written. Only the split of a large page stays, which no guest can see.
//! - A table that is unlinked may still be in some processor's paging-structure caches. It is kept
//!   aside until the caller has flushed and calls [`SecondLevel::release_retired`].
//! - A processor may walk the tables while they change: a new table is complete before it is linked.
//!
//! `entry` has the bits, `walk` finds entries, `edit` changes them.

mod edit;
mod entry;
#[cfg(test)]
mod tests;
mod walk;

use units::{Bytes, GuestPhysical, HostPhysical, PAGE_SIZE};

pub use entry::{Access, Format};

use crate::memory::CoreTables;
use crate::memory_type::MemoryType;
use edit::Change;
use entry::{Leaf, Log};
use hypervisor_abi::Fault;
use walk::TOP;

/// Entries of one table, at all levels of both formats.
pub const TABLE_ENTRIES: usize = 512;

/// Bits of a guest-physical address that four levels translate (SDM 3C 29.3.2, APM 2 5.3).
const ADDRESS_BITS: u32 = 48;
/// Bits of a host-physical address that an entry can hold (SDM 3C 29.3.2, APM 2 5.3).
const HOST_ADDRESS_BITS: u32 = 52;

/// The memory that tables lie in.
pub trait TableMemory {
    /// A frame for a table, all entries zero; `None` when there is none left.
    fn allocate(&mut self) -> Option<HostPhysical>;
    /// Takes back a frame that [`Self::allocate`] gave.
    fn free(&mut self, table: HostPhysical);
    /// Entry `index` of `table`, below [`TABLE_ENTRIES`].
    fn read(&self, table: HostPhysical, index: usize) -> u64;
    /// Sets it, in one store.
    fn write(&mut self, table: HostPhysical, index: usize, entry: u64);
    /// Sets it and gives back what it was, in one step: a processor may set accessed and dirty flags
    /// in between otherwise.
    fn swap(&mut self, table: HostPhysical, index: usize, entry: u64) -> u64;
}

/// How much one leaf maps; the number is the level of the tables it lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum PageSize {
    /// 4 KiB, a leaf of the last level.
    Size4K = 1,
    /// 2 MiB.
    Size2M = 2,
    /// 1 GiB.
    Size1G = 3,
}

impl PageSize {
    /// In bytes.
    pub const fn bytes(self) -> u64 {
        walk::span(self as u32)
    }
}

/// Whether cached translations may now be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a processor may go on with what it has cached"]
pub enum Flush {
    /// No: the change only added.
    NotNeeded,
    /// Yes: INVEPT (SDM 3C 29.4.3.4) or a flush of the ASID (APM 2 15.16) on every processor that ran
    /// on these tables, before anyone relies on the change.
    Needed,
}

/// Where a guest-physical address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The host-physical address of that very byte.
    pub host: HostPhysical,
    /// What the mapping grants, the dirty log aside.
    pub access: Access,
    /// The leaf's memory type.
    pub memory_type: MemoryType,
    /// The leaf's size.
    pub size: PageSize,
}

impl Translation {
    /// Bytes from the address to the leaf's end: guest and host address lie alike in the page.
    pub const fn left(&self) -> u64 {
        self.size.bytes() - self.host.0 % self.size.bytes()
    }
}

/// Why an access faulted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultCause {
    /// Nothing is mapped there: MMIO, or an access outside memory.
    NotMapped,
    /// The mapping does not grant it.
    Denied,
    /// The tables grant it by now: flush this processor's translation and run again.
    Stale,
}

/// The second-level tables of one partition, and their frames.
pub struct SecondLevel<M: TableMemory = CoreTables> {
    memory: M,
    format: Format,
    root: HostPhysical,
    /// Frames in use: tables that are linked, and retired ones.
    frames: u64,
    /// Unlinked tables, each naming the next in its entry 0. That entry is not present, whoever still
    /// walks it.
    retired: Option<HostPhysical>,
    /// Frames set aside for a change, in such a chain.
    reserve: Option<HostPhysical>,
    /// What the changes since the last one that ended well have come to.
    flush: Flush,
}

impl<M: TableMemory> SecondLevel<M> {
    /// Tables that map nothing. `None` without a frame.
    pub fn new(format: Format, mut memory: M) -> Option<Self> {
        let root = memory.allocate()?;
        let flush = Flush::NotNeeded;
        Some(Self { memory, format, root, frames: 1, retired: None, reserve: None, flush })
    }

    /// What the processor is told: the EPT pointer, or the nested CR3.
    pub const fn root_pointer(&self) -> u64 {
        self.format.root_pointer(self.root)
    }

    /// Frames the tables take, retired ones included.
    pub const fn table_frames(&self) -> u64 {
        self.frames
    }

    /// Maps `bytes` at `guest` to those at `host`, with the largest pages that alignment allows.
    ///
    /// # Errors
    /// The range is misaligned, too large, or not free; or no frames are left for tables.
    pub fn map(
        &mut self,
        guest: GuestPhysical,
        host: HostPhysical,
        bytes: Bytes,
        access: Access,
        memory_type: MemoryType,
    ) -> Result<(), Fault> {
        let range = range(guest.0, bytes, ADDRESS_BITS)?;
        let _ = self::range(host.0, bytes, HOST_ADDRESS_BITS)?;
        let leaf = Leaf { host, access, memory_type, log: Log::Off };
        let tables = self.fill(Some(self.root), TOP, range, leaf, false)?;
        self.set_aside(tables)?;
        self.fill(Some(self.root), TOP, range, leaf, true)?;
        Ok(())
    }

    /// Unmaps a range; what in it is not mapped stays so. Tables that become empty are retired.
    ///
    /// # Errors
    /// The range is misaligned or too large; or no frames are left when a large page must be split.
    pub fn unmap(&mut self, guest: GuestPhysical, bytes: Bytes) -> Result<Flush, Fault> {
        self.change_leaves(guest, bytes, |_| Change::Remove)
    }

    /// Changes the memory type of what is mapped in a range.
    ///
    /// # Errors
    /// As [`Self::unmap`].
    pub fn set_memory_type(
        &mut self,
        guest: GuestPhysical,
        bytes: Bytes,
        memory_type: MemoryType,
    ) -> Result<Flush, Fault> {
        self.change_leaves(guest, bytes, |leaf| Change::Set(Leaf { memory_type, ..leaf }))
    }

    /// Changes what is allowed with what is mapped in a range.
    ///
    /// # Errors
    /// As [`Self::unmap`].
    pub fn set_access(
        &mut self,
        guest: GuestPhysical,
        bytes: Bytes,
        access: Access,
    ) -> Result<Flush, Fault> {
        self.change_leaves(guest, bytes, |leaf| Change::Set(Leaf { access, ..leaf }))
    }

    /// Splits large pages that cross the edges of a range, then changes its leaves.
    fn change_leaves(
        &mut self,
        guest: GuestPhysical,
        bytes: Bytes,
        new: impl Fn(Leaf) -> Change,
    ) -> Result<Flush, Fault> {
        let range = range(guest.0, bytes, ADDRESS_BITS)?;
        self.split_edges(range)?;
        self.change(self.root, TOP, range, &mut |_, _, leaf| new(leaf));
        Ok(self.finish())
    }

    /// Where `guest` leads, `None` when nowhere.
    pub fn translate(&self, guest: GuestPhysical) -> Option<Translation> {
        let found = self.find(guest.0)?;
        let Leaf { host, access, memory_type, .. } = found.leaf;
        let host = HostPhysical(host.0 + (guest.0 - found.base));
        Some(Translation { host, access, memory_type, size: found.size })
    }

    /// Why the guest's access to `guest`, which `wanted` says the kind of, faulted. A write that only
    /// the dirty log withholds is noted and granted: a large page is split for that, and counts as
    /// written as a whole when there is no frame.
    pub fn explain(&mut self, guest: GuestPhysical, wanted: Access) -> (FaultCause, Flush) {
        let cause = loop {
            let Some(found) = self.find(guest.0) else { break FaultCause::NotMapped };
            let granted = found.leaf.access;
            if wanted.write && !granted.write || wanted.execute && !granted.execute {
                break FaultCause::Denied;
            }
            if !wanted.write || found.leaf.log != Log::Clean {
                break FaultCause::Stale;
            }
            if found.size == PageSize::Size4K || self.split(found).is_err() {
                let new = Leaf { log: Log::Written, ..found.leaf };
                self.set(found.table, found.index, found.size, found.leaf, new);
            }
        };
        (cause, self.finish())
    }

    /// The dirty log: tells `page` each page of the range written since the last collection, and starts
    /// over. Pages that were not watched count as written and are watched from now on; pages not mapped
    /// are left out. A large page of which only a part lies in the range goes on to count as written.
    ///
    /// Large pages are write-protected while clean, and split at the first write ([`Self::explain`]),
    /// so that a log costs tables only for what is written. Of 4 KiB pages the processor's dirty flag
    /// tells where it keeps one; else they are write-protected too. Writes of root and of devices are
    /// not seen. The caller flushes before it copies the pages.
    ///
    /// # Errors
    /// The range is misaligned or too large.
    pub fn collect_dirty(
        &mut self,
        guest: GuestPhysical,
        bytes: Bytes,
        mut page: impl FnMut(GuestPhysical),
    ) -> Result<Flush, Fault> {
        let (start, end) = range(guest.0, bytes, ADDRESS_BITS)?;
        self.change(self.root, TOP, (start, end), &mut |base, size, leaf| {
            if leaf.log == Log::Clean {
                return Change::Keep;
            }
            let leaf_end = base + size.bytes();
            for address in (base.max(start)..leaf_end.min(end)).step_by(PAGE_SIZE as usize) {
                page(GuestPhysical(address));
            }
            if base < start || end < leaf_end {
                return Change::Keep;
            }
            Change::Set(Leaf { log: Log::Clean, ..leaf })
        });
        Ok(self.finish())
    }

    /// Gives back the tables that changes have unlinked. The caller has flushed since the last change.
    pub fn release_retired(&mut self) {
        while let Some(table) = self.retired {
            self.retired = self.next_in_chain(table);
            self.memory.free(table);
            self.frames -= 1;
        }
    }
}

impl<M: TableMemory> Drop for SecondLevel<M> {
    /// Gives back all frames. No processor uses the tables any more.
    fn drop(&mut self) {
        self.release_retired();
        self.free_tables(self.root, TOP);
    }
}

/// A range as start and end, checked: whole pages below 2 to the power of `bits`.
fn range(start: u64, bytes: Bytes, bits: u32) -> Result<(u64, u64), Fault> {
    if !(start | bytes.0).is_multiple_of(PAGE_SIZE) {
        return Err(Fault::BadValue);
    }
    let end = start.checked_add(bytes.0).filter(|end| *end <= 1 << bits);
    Ok((start, end.ok_or(Fault::BadValue)?))
}
