//! What engine and core count of a virtual CPU beside the exits a caller sees.

use super::exit::Happened;
use super::partition::Handle;
use super::pool::Slot;
use crate::counters::More;
use hypervisor_abi::StatisticsRecord;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// In the order of [`slot`].
const NAMES: [&str; 6] =
    ["run_interrupted", "run_deadline", "run_halt", "run_wait_for_sipi", "run_wake", "run_call"];

const fn slot(happened: Happened) -> Option<usize> {
    Some(match happened {
        Happened::Exit | Happened::Write => return None,
        Happened::Interrupted => 0,
        Happened::Deadline => 1,
        Happened::Halt => 2,
        Happened::WaitForSipi => 3,
        Happened::Wake => 4,
        Happened::Call => 5,
    })
}

/// The counters of one processor.
pub(super) struct CoreCounters {
    runs: [AtomicU64; NAMES.len()],
    doorbells: AtomicU64,
    handle: Arc<Handle>,
    index: u32,
    /// The core's own, as it said last: while the vCPU runs it does not.
    last: Mutex<StatisticsRecord>,
}

impl CoreCounters {
    pub(super) fn new(handle: &Arc<Handle>, index: u32) -> Self {
        let handle = Arc::clone(handle);
        let (runs, doorbells) = Default::default();
        Self { runs, doorbells, handle, index, last: Mutex::default() }
    }

    #[inline]
    pub(super) fn count(&self, happened: Happened) {
        if let Some(slot) = slot(happened) {
            self.runs[slot].fetch_add(1, Relaxed);
        }
    }

    /// A write of the guest's was a doorbell's.
    #[inline]
    pub(super) fn count_doorbell(&self) {
        self.doorbells.fetch_add(1, Relaxed);
    }

    /// What the core counted, as far as it says now.
    fn core(&self) -> StatisticsRecord {
        let mut slot = self.handle.slot();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if self.ask(&slot) {
            *last = slot.read(0);
        }
        *last
    }

    fn ask(&self, slot: &Slot) -> bool {
        let Handle { shared, number, .. } = &*self.handle;
        shared.calls.statistics(*number, self.index, slot.offset()).is_ok()
    }
}

impl More for Arc<CoreCounters> {
    fn read(&self) -> Vec<(String, u64)> {
        let record = self.core();
        let runs = NAMES.iter().zip(&self.runs).map(|(name, count)| (*name, count.load(Relaxed)));
        let core = [
            ("doorbells", self.doorbells.load(Relaxed)),
            ("exits", record.exits.iter().sum()),
            ("entries", record.entries),
            ("interrupts", record.interrupts),
            ("kicks", record.kicks),
            ("refused", record.refused),
            ("table_bytes", record.table_bytes),
        ];
        runs.chain(core).map(|(name, count)| (format!("core.{name}"), count)).collect()
    }
}
