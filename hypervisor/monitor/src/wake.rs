//! How a processor learns that a vCPU of its has something to do: a bit per vCPU, set by whoever
//! caused it, and an interrupt to the processor that has it.

use crate::Machine;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

/// The wake-ups of one guest's vCPUs.
pub struct Wakes {
    machine: &'static dyn Machine,
    pending: AtomicU64,
    /// The processor of each vCPU.
    processors: Vec<usize>,
}

impl Wakes {
    /// Wake-ups for vCPUs that run on these processors, in order.
    #[must_use]
    pub fn new(machine: &'static dyn Machine, processors: Vec<usize>) -> Self {
        Self { machine, pending: AtomicU64::new(0), processors }
    }

    /// The processor of each vCPU.
    #[must_use]
    pub fn processors(&self) -> &[usize] {
        &self.processors
    }

    /// The vCPUs with a bit in `vcpus` have something to do.
    pub fn wake(&self, vcpus: u64) {
        let new = vcpus & !self.pending.fetch_or(vcpus, Ordering::AcqRel);
        if new == 0 {
            return;
        }
        let mut interrupted = 0u64;
        for (index, processor) in self.processors.iter().enumerate() {
            let bit = 1u64.checked_shl(*processor as u32).unwrap_or(0);
            if new & 1 << index != 0 && interrupted & bit == 0 {
                interrupted |= bit;
                self.interrupt(*processor);
            }
        }
    }

    /// Makes processor `index` look around.
    pub fn interrupt(&self, index: usize) {
        if index != self.machine.current() {
            self.machine.wake(index);
        }
    }

    /// The vCPUs of `vcpus` that were woken since the last call.
    pub fn take(&self, vcpus: u64) -> u64 {
        if self.pending.load(Ordering::Acquire) & vcpus == 0 {
            return 0;
        }
        self.pending.fetch_and(!vcpus, Ordering::AcqRel) & vcpus
    }

    /// Whether any of `vcpus` was woken.
    #[must_use]
    pub fn any(&self, vcpus: u64) -> bool {
        self.pending.load(Ordering::Acquire) & vcpus != 0
    }
}
