//! What the core has found out about this machine once and never changes.
//!
//! `unsafe` here: a value written once, before a second processor runs.
#![allow(unsafe_code)]

use crate::cpuid::CpuidTable;
use crate::second_level::Format;
use crate::vcpu::ExtendedFeatures;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, Ordering};
use hypervisor_abi::KEY_WORDS;
use hypervisor_boot::memory_map::Span;
use units::{HostPhysical, Tsc};

/// The facts.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Format of second-level tables.
    pub format: Format,
    /// Bits of a physical address.
    pub address_bits: u32,
    /// Tags of translations the processors have, of which 0 and 1 are the core's and root's.
    pub tags: u32,
    /// State that can be saved.
    pub extended: ExtendedFeatures,
    /// What CPUID can answer guests.
    pub supported: &'static CpuidTable,
    /// IA32_BIOS_SIGN_ID or patch level, which guests read.
    pub microcode_revision: u64,
    /// Which MSRs of a guest's exit.
    pub guest_msr_map: HostPhysical,
    /// Which ports of a guest's exit: all.
    pub guest_port_map: HostPhysical,
    /// The pool.
    pub pool: Span,
    /// The key of root's calls.
    pub key: [u64; KEY_WORDS],
    /// Root's CPUID says that there is a hypervisor.
    pub shows_hypervisor: bool,
    /// `features` of the interface.
    pub features: u64,
    /// The time-stamp counter when the core began.
    pub began: Tsc,
    /// Ticks of the time-stamp counter in a second, 0 when unknown.
    pub tsc_frequency: u64,
}

static SET: AtomicBool = AtomicBool::new(false);
static mut MACHINE: MaybeUninit<Machine> = MaybeUninit::uninit();

/// Sets the facts. Once, by the first processor.
pub fn set(machine: Machine) {
    assert!(!SET.swap(true, Ordering::AcqRel));
    // SAFETY: nobody reads before, and only one processor runs.
    unsafe { (&raw mut MACHINE).write(MaybeUninit::new(machine)) };
}

/// The facts, once they are set.
#[inline]
pub fn machine() -> &'static Machine {
    debug_assert!(SET.load(Ordering::Relaxed));
    let machine = &raw const MACHINE;
    // SAFETY: set before the first guest or root CPU exists, and all callers come after.
    unsafe { (*machine).assume_init_ref() }
}
