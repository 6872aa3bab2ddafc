//! Turning VMX on and off on one processor (SDM 3C 24.7, 24.8).
//!
//! `unsafe` here: VMXON, control registers, IA32_FEATURE_CONTROL, the registers VMX does not switch.
#![allow(unsafe_code)]

use core::arch::asm;
use core::fmt::Arguments;

use x86::msr::IA32_FEATURE_CONTROL;

use super::capability::{
    Capabilities, EPT_ACCESSED_DIRTY, EPT_PAGES_1G, FEATURE_CONTROL_LOCK, FEATURE_CONTROL_VMX,
};
use super::controls::{Controls, Kind, Shortfall};
use super::host_state;
use super::instruction_error::VmxFailure;
use super::instructions::{invept, invvpid, vmxoff, vmxon};
use super::residue::Residue;
use super::unswitched::{Loaded, Unswitched};
use super::vmcs::{Region, new_region};
use crate::cpu::{control, msr};
use crate::memory::Object;
use crate::registers::CR4_VMXE;
use crate::second_level::{Format, PageSize};
use crate::sync::Lock;

/// Calls `report` with everything this processor, which has VMX, lacks to run the core.
pub fn missing(mut report: impl FnMut(Arguments<'_>)) {
    if control::cr4() & CR4_VMXE != 0 {
        report(format_args!("VMX is in use by another hypervisor (CR4.VMXE is set)"));
    }
    let capabilities = Capabilities::read(msr::read);
    let lacks = |kind| capabilities.controls(kind).err().unwrap_or_default();
    let shortfall = lacks(Kind::Root).and(lacks(Kind::Guest));
    if shortfall != Shortfall::default() {
        report(format_args!("{shortfall}"));
    }
}

/// The format of second-level tables on this processor, whose [`missing`] reports nothing.
pub fn table_format(ignore_pat: bool) -> Format {
    let offered = Capabilities::read(msr::read).ept_vpid;
    Format::Ept {
        largest: if offered & EPT_PAGES_1G != 0 { PageSize::Size1G } else { PageSize::Size2M },
        accessed_dirty: offered & EPT_ACCESSED_DIRTY != 0,
        ignore_pat,
    }
}

/// What the first processor offers: a vCPU may run on any of them.
static COMMON: Lock<Option<Capabilities>> = Lock::new(None);

/// A processor that runs VMX.
pub struct VmxCpu {
    region: Object<Region>,
    pub(super) capabilities: Capabilities,
    /// By [`Kind`].
    pub(super) controls: [Controls; 2],
    /// Its host-state fields.
    pub(super) host: [(u32, u64); 3],
    residue: Residue,
    /// CR0 and CR4 before.
    before: [u64; 2],
    /// The registers VMX does not switch.
    pub(super) loaded: Loaded,
}

impl VmxCpu {
    /// Turns VMX on on this processor, whose [`missing`] reports nothing. GDT, TR, GS base and CR3 must
    /// be the final ones. `None`, and a line in the log, when that failed: the processor is as it was
    /// then, but for IA32_FEATURE_CONTROL, which may be locked now.
    pub fn enable() -> Option<Self> {
        let failed = |why: Arguments<'_>| {
            crate::log!("this processor cannot turn VMX on: {why}");
            None
        };
        let capabilities = Capabilities::read(msr::read);
        let common = *COMMON.lock().get_or_insert(capabilities);
        if (Capabilities { feature_control: common.feature_control, ..capabilities }) != common {
            return failed(format_args!("the processors differ in their VMX capability MSRs"));
        }
        let controls = match [Kind::Root, Kind::Guest].map(|kind| capabilities.controls(kind)) {
            [Ok(root), Ok(guest)] => [root, guest],
            [Err(lacks), _] | [_, Err(lacks)] => return failed(format_args!("it lacks {lacks}")),
        };
        let Some(region) = new_region(capabilities.revision()) else {
            return failed(format_args!("too little memory for VMX"));
        };
        let before = [control::cr0(), control::cr4()];
        if let Err(failure) = turn_on(&capabilities, &region) {
            // SAFETY: the values the processor came with.
            unsafe { restore(before) };
            return failed(format_args!("VMXON: {failure}"));
        }
        Some(Self {
            region,
            capabilities,
            controls,
            host: host_state::own(),
            residue: Residue::detect(),
            before,
            loaded: Loaded::read(),
        })
    }

    /// Turns it on again on the same processor, which was off. GDT, TR, GS base and CR3 are what they were.
    pub fn again(&mut self) {
        let capabilities = Capabilities::read(msr::read);
        if let Err(failure) = turn_on(&capabilities, &self.region) {
            panic!("this processor cannot turn VMX on again: {failure}");
        }
        self.loaded = Loaded::read();
    }

    /// Its own name: the address of its VMXON region.
    pub(super) fn id(&self) -> u64 {
        self.region.physical().0
    }

    /// Makes the processor this context's, when it was another's: the registers VMX does not switch are
    /// loaded and what the other left is emptied.
    #[inline]
    pub(super) fn change_to(&mut self, vmcs: u64, kind: Kind, own: &Unswitched) {
        if !self.loaded.is_of(vmcs) {
            self.loaded.change(vmcs, kind, own);
            self.residue.empty(kind == Kind::Guest);
        }
    }

    /// Takes note of the NMI that ended a run: the exit left further NMIs blocked, and the IRET of the
    /// core's own handler, which also counts it, unblocks them (SDM 3C 28.5.3).
    pub fn take_nmi(&self) {
        // SAFETY: the core's IDT is loaded and its NMI handler changes nothing but its count.
        unsafe { asm!("int 2", options(nostack)) };
    }
}

/// Sets the bits that VMX wants and enters it.
fn turn_on(capabilities: &Capabilities, region: &Object<Region>) -> Result<(), VmxFailure> {
    // SAFETY: the fixed bits are PE, NE, PG and VMXE: the core runs with paging and without x87
    // errors as interrupts. The region is a page of the core's that nobody else uses.
    unsafe {
        if capabilities.feature_control & FEATURE_CONTROL_LOCK == 0 {
            let on = FEATURE_CONTROL_VMX | FEATURE_CONTROL_LOCK;
            msr::write(IA32_FEATURE_CONTROL, capabilities.feature_control | on);
        }
        control::set_cr0(capabilities.cr0.apply(control::cr0()));
        control::set_cr4(capabilities.cr4.apply(control::cr4() | CR4_VMXE));
        vmxon(region.physical())?;
    }
    // Translations of an earlier hypervisor may still be cached (SDM 3C 29.4.3.3).
    invept(None);
    invvpid(None);
    Ok(())
}

/// Sets CR0 and CR4 back.
///
/// # Safety
/// They are the values the processor came with, and VMX is off.
unsafe fn restore([cr0, cr4]: [u64; 2]) {
    // SAFETY: the core ran with them.
    unsafe {
        control::set_cr4(cr4);
        control::set_cr0(cr0);
    }
}

impl Drop for VmxCpu {
    /// Gives the processor back as it was.
    fn drop(&mut self) {
        // SAFETY: no guest runs on this processor any longer.
        unsafe {
            vmxoff();
            restore(self.before);
        }
    }
}
