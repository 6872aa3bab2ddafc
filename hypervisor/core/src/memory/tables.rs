//! The frames second-level tables lie in.
#![allow(unsafe_code)]

use super::pool::Frames;
use crate::second_level::TableMemory;
use core::sync::atomic::{AtomicU64, Ordering};
use units::HostPhysical;

/// Tables in the core's own frames.
#[derive(Clone, Copy, Debug)]
pub struct CoreTables;

impl CoreTables {
    fn entry(table: HostPhysical, index: usize) -> &'static AtomicU64 {
        assert!(index < crate::second_level::TABLE_ENTRIES);
        // SAFETY: `table` is a frame `allocate` gave and nobody freed, mapped one to one; processors
        // walk it meanwhile, hence the atomic.
        unsafe { AtomicU64::from_ptr((table.0 as *mut u64).add(index)) }
    }
}

impl TableMemory for CoreTables {
    fn allocate(&mut self) -> Option<HostPhysical> {
        Frames::allocate(1).map(Frames::into_raw)
    }

    fn free(&mut self, table: HostPhysical) {
        // SAFETY: the frame came from `allocate`.
        drop(unsafe { Frames::from_raw(table, 1) });
    }

    fn read(&self, table: HostPhysical, index: usize) -> u64 {
        Self::entry(table, index).load(Ordering::Relaxed)
    }

    fn write(&mut self, table: HostPhysical, index: usize, entry: u64) {
        Self::entry(table, index).store(entry, Ordering::Release);
    }

    fn swap(&mut self, table: HostPhysical, index: usize, entry: u64) -> u64 {
        Self::entry(table, index).swap(entry, Ordering::AcqRel)
    }
}
