//! The machine itself: processor entry, descriptor tables, page tables, interrupts, the local APIC,
//! ports, the other processors, calls to the core. The only place of the monitor with `unsafe`, each
//! use behind a safe type. Only for the bare-metal target; knows no guest and no policy.
#![allow(unsafe_code)]

pub mod apic;
mod calls;
pub mod clock;
pub mod control;
mod entry;
pub mod heap;
pub mod interrupts;
pub mod memory;
pub mod paging;
pub mod port;
pub mod power;
pub mod processors;
pub mod serial;
pub mod virtio;

pub use calls::Vmcall;

use crate::Machine;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// IA32_GS_BASE.
const GS_BASE: u32 = 0xc000_0101;

/// Says which processor this is, from 0. Once on each, before [`Machine::current`] is asked.
pub fn set_current(index: usize) {
    let word: &'static usize = Box::leak(Box::new(index));
    // SAFETY: nothing but `current` uses GS.
    unsafe { control::write_msr(GS_BASE, core::ptr::from_ref(word) as u64) };
}

/// The machine for the loop of each processor.
#[derive(Debug)]
pub struct Hardware {
    /// Local APIC id of each processor.
    ids: Vec<u32>,
}

impl Hardware {
    /// A machine whose processors have these local APIC ids.
    #[must_use]
    pub const fn new(ids: Vec<u32>) -> Self {
        Self { ids }
    }
}

impl Machine for Hardware {
    fn tsc(&self) -> u64 {
        control::tsc().0
    }

    fn current(&self) -> usize {
        let index;
        // SAFETY: GS points to this processor's number (`set_current`).
        unsafe {
            core::arch::asm!("mov {}, gs:[0]", out(reg) index, options(nostack, pure, readonly));
        }
        index
    }

    fn arm(&self, deadline: u64) {
        apic::arm(deadline);
    }

    fn take_interrupts(&self) {
        control::take_interrupts();
    }

    fn halt(&self) {
        control::halt();
    }

    fn wake(&self, index: usize) {
        if let Some(id) = self.ids.get(index) {
            apic::wake(*id);
        }
    }

    fn typed(&self) -> Option<u8> {
        serial::read()
    }
}
