//! Where a board's signals go: lines to the interrupt controllers, their outputs to the core, the
//! guest's end to whoever runs it.

use super::SharedRouter;
use crate::calls::{Core, PartitionId};
use crate::wake::Wakes;
use alloc::sync::Arc;
use chipset::{IoApicSink, Line, MachineEvent, MachineEvents, PinRoutes};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// One ISA interrupt.
pub(super) struct IsaLine {
    router: SharedRouter,
    irq: u8,
}

impl IsaLine {
    pub(super) const fn new(router: SharedRouter, irq: u8) -> Self {
        Self { router, irq }
    }
}

impl Line for IsaLine {
    fn set(&self, high: bool) {
        self.router.lock().set_isa(self.irq, high);
    }
}

/// The 8259 pair's output to the bootstrap processor (virtual wire, SDM 3A 11.1).
pub struct External {
    asserted: AtomicBool,
    wakes: Arc<Wakes>,
}

impl External {
    /// An output that is low; when it rises vCPU 0 is woken.
    #[must_use]
    pub const fn new(wakes: Arc<Wakes>) -> Self {
        Self { asserted: AtomicBool::new(false), wakes }
    }

    /// Whether it is high.
    #[must_use]
    pub fn asserted(&self) -> bool {
        self.asserted.load(Ordering::Acquire)
    }
}

impl Line for External {
    fn set(&self, high: bool) {
        if !self.asserted.swap(high, Ordering::AcqRel) && high {
            self.wakes.wake(1);
        }
    }
}

/// Message-signalled interrupts to the guest.
pub struct Messages {
    core: Arc<Core>,
    partition: PartitionId,
    wakes: Arc<Wakes>,
}

impl Messages {
    /// Messages to `partition`, whose vCPUs are woken by `wakes`.
    #[must_use]
    pub const fn new(core: Arc<Core>, partition: PartitionId, wakes: Arc<Wakes>) -> Self {
        Self { core, partition, wakes }
    }

    /// Delivers one.
    pub fn send(&self, address: u64, data: u32) {
        // A message no APIC takes is lost, as on real hardware; the guest wrote it.
        if let Ok(woken) = self.core.inject(self.partition, address, data)
            && woken != 0
        {
            self.wakes.wake(woken);
        }
    }
}

impl IoApicSink for Messages {
    fn deliver(&self, address: u64, data: u32) {
        self.send(address, data);
    }

    fn routes_changed(&self, _routes: &PinRoutes) {
        // The core tells every end of a level-triggered interrupt.
    }
}

/// What a device asked of the whole machine; the first counts.
#[derive(Default)]
pub struct Happenings(AtomicU32);

const POWER_OFF: u32 = 1 << 8;
const RESET: u32 = 2 << 8;
const EXIT: u32 = 3 << 8;

impl Happenings {
    /// What it was, if anything.
    #[must_use]
    pub fn take(&self) -> Option<MachineEvent> {
        if self.0.load(Ordering::Acquire) == 0 {
            return None;
        }
        let word = self.0.swap(0, Ordering::AcqRel);
        match word & !0xff {
            POWER_OFF => Some(MachineEvent::PowerOff),
            RESET => Some(MachineEvent::Reset),
            EXIT => Some(MachineEvent::Exit(word as u8)),
            _ => None,
        }
    }
}

impl MachineEvents for Happenings {
    fn raise(&self, event: MachineEvent) {
        let word = match event {
            MachineEvent::PowerOff => POWER_OFF,
            MachineEvent::Reset => RESET,
            MachineEvent::Exit(code) => EXIT | u32::from(code),
        };
        let _ = self.0.compare_exchange(0, word, Ordering::AcqRel, Ordering::Acquire);
    }
}
