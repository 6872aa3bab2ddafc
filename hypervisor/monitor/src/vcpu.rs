//! One vCPU as its processor runs it.

use crate::calls::{CallError, RunPageAccess};
use crate::exits::{self, Next};
use crate::guest::{Ending, Guest};
use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use hypervisor_abi::RunFlags;

/// A vCPU.
pub struct Vcpu {
    /// Its guest.
    pub guest: Arc<Guest>,
    /// Its number in the guest.
    pub index: usize,
    /// The bits of the guest's vCPUs that run on the same processor.
    mates: u64,
    page: Box<dyn RunPageAccess>,
}

impl Vcpu {
    /// vCPU `index` of `guest`, with its run page.
    #[must_use]
    pub fn new(guest: Arc<Guest>, index: usize, page: Box<dyn RunPageAccess>) -> Self {
        let processors = guest.wakes.processors();
        let own = processors.get(index);
        let mates = (0..processors.len())
            .filter(|other| processors.get(*other) == own)
            .fold(0, |bits, other| bits | 1 << other);
        Self { guest, index, mates, page }
    }

    /// The counter value at which its own timer is due, as the core said last; `u64::MAX` for never.
    #[must_use]
    pub fn timer(&mut self) -> u64 {
        self.page.page().deadline
    }

    /// Whether another of the guest's vCPUs on the same processor was woken.
    #[must_use]
    pub fn woke_a_mate(&self) -> bool {
        self.guest.wakes.any(self.mates & !self.bit())
    }

    /// Its bit in the guest's wake-ups.
    #[must_use]
    pub const fn bit(&self) -> u64 {
        1 << self.index
    }

    /// Runs it once: a physical interrupt comes when the counter reaches `armed`. `tsc` gives the
    /// counter.
    pub fn run(&mut self, armed: u64, tsc: impl FnOnce() -> u64) -> Next {
        if let Some(hvt) = &self.guest.hvt
            && let Some(next) = hvt.lock().hold()
        {
            return next;
        }
        let page = self.page.page();
        page.armed = armed;
        page.request = 0;
        if self.index == 0 && self.guest.external.asserted() {
            external_interrupt(&self.guest, page);
        }
        match self.guest.core.run(self.guest.partition, self.index) {
            Ok(()) => exits::answer(&self.guest, self.index, self.page.page(), tsc()),
            Err(error) => Next::End(Ending::Failed(refused(self.index, error))),
        }
    }
}

fn refused(index: usize, error: CallError) -> alloc::string::String {
    format!("vcpu {index}: {error}")
}

/// Virtual-wire mode: the 8259's output goes to the bootstrap processor (SDM 3A 11.1).
fn external_interrupt(guest: &Guest, page: &mut hypervisor_abi::RunPage) {
    if page.accepts_external != 0 {
        page.external_vector = guest.board.lock().acknowledge().into();
        page.request |= RunFlags::EXTERNAL_INTERRUPT;
        if !guest.external.asserted() {
            return;
        }
    }
    page.request |= RunFlags::INTERRUPT_WINDOW;
}
