//! The VMX instructions (SDM 3C 31.3), each with the answer it leaves in RFLAGS.
//!
//! `unsafe` here: the instructions themselves.
#![allow(unsafe_code)]

use core::arch::asm;

use units::HostPhysical;
use x86::vmx::vmcs::ro;

use super::instruction_error::VmxFailure;

/// CF and ZF after a VMX instruction (SDM 3C 31.2).
fn answer(no_vmcs: u8, error: u8) -> Result<(), VmxFailure> {
    match (no_vmcs, error) {
        (0, 0) => Ok(()),
        (0, _) => Err(failure()),
        _ => Err(VmxFailure::NoCurrentVmcs),
    }
}

/// Why the last VMX instruction failed: the current VMCS knows.
#[cold]
pub(super) fn failure() -> VmxFailure {
    let number: u64;
    let none: u8;
    // SAFETY: this processor is in VMX operation; reading changes nothing.
    unsafe {
        asm!("vmread {number}, {field}", "setc {none}", number = out(reg) number,
            field = in(reg) u64::from(ro::VM_INSTRUCTION_ERROR), none = out(reg_byte) none,
            options(nostack));
    }
    if none != 0 { VmxFailure::NoCurrentVmcs } else { VmxFailure::Error(number as u32) }
}

macro_rules! with_address {
    ($(#[$meta:meta])* $name:ident, $instruction:literal) => {
        $(#[$meta])*
        pub(super) unsafe fn $name(region: HostPhysical) -> Result<(), VmxFailure> {
            let address = region.0;
            let (no_vmcs, error): (u8, u8);
            // SAFETY: the caller's promise.
            unsafe {
                asm!(concat!($instruction, " qword ptr [{address}]"), "setc {no_vmcs}", "setz {error}",
                    address = in(reg) &raw const address,
                    no_vmcs = lateout(reg_byte) no_vmcs, error = lateout(reg_byte) error,
                    options(nostack));
            }
            answer(no_vmcs, error)
        }
    };
}

with_address! {
    /// Enters VMX operation.
    ///
    /// # Safety
    /// CR0, CR4 and IA32_FEATURE_CONTROL are as VMX wants them; the region is the processor's until
    /// VMXOFF.
    vmxon, "vmxon"
}
with_address! {
    /// Writes a VMCS back to its region; it is neither active nor launched then.
    ///
    /// # Safety
    /// The region is a VMCS of the core's that is active on no other processor.
    vmclear, "vmclear"
}
with_address! {
    /// Makes a VMCS the current one.
    ///
    /// # Safety
    /// As for [`vmclear`].
    vmptrld, "vmptrld"
}

/// Leaves VMX operation.
///
/// # Safety
/// No VMCS is active on this processor.
pub(super) unsafe fn vmxoff() {
    // SAFETY: the caller's promise.
    unsafe { asm!("vmxoff", options(nostack)) };
}

/// Reads a field of the current VMCS.
#[inline]
pub(super) fn vmread(field: u32) -> u64 {
    let value: u64;
    let failed: u8;
    // SAFETY: this processor is in VMX operation; reading changes no memory of the core's.
    unsafe {
        asm!("vmread {value}, {field}", "setna {failed}", value = out(reg) value,
            field = in(reg) u64::from(field), failed = lateout(reg_byte) failed, options(nostack));
    }
    if failed != 0 {
        refused("VMREAD", field);
    }
    value
}

/// Writes a field of the current VMCS.
///
/// # Safety
/// The current VMCS is the caller's. A host-state field gets what the core's code relies on at an exit;
/// a field with an address gets one of a page made for it.
#[inline]
pub(super) unsafe fn vmwrite(field: u32, value: u64) {
    let failed: u8;
    // SAFETY: the caller's promise.
    unsafe {
        asm!("vmwrite {field}, {value}", "setna {failed}", value = in(reg) value,
            field = in(reg) u64::from(field), failed = lateout(reg_byte) failed, options(nostack));
    }
    if failed != 0 {
        refused("VMWRITE", field);
    }
}

#[cold]
fn refused(what: &str, field: u32) -> ! {
    panic!("{what} of VMCS field {field:#x}: {}", failure());
}

macro_rules! invalidate {
    ($(#[$meta:meta])* $name:ident, $instruction:literal) => {
        $(#[$meta])*
        pub(super) fn $name(context: Option<u64>) {
            const SINGLE_CONTEXT: u64 = 1;
            const ALL_CONTEXTS: u64 = 2;
            let kind = if context.is_some() { SINGLE_CONTEXT } else { ALL_CONTEXTS };
            let descriptor = [context.unwrap_or(0), 0];
            let failed: u8;
            // SAFETY: forgetting translations changes no memory.
            unsafe {
                asm!(concat!($instruction, " {kind}, [{descriptor}]"), "setna {failed}",
                    kind = in(reg) kind, descriptor = in(reg) &raw const descriptor,
                    failed = lateout(reg_byte) failed, options(nostack));
            }
            assert!(failed == 0, "{}: {}", $instruction, failure());
        }
    };
}

invalidate! {
    /// Forgets what was translated by the tables of this EPT pointer; of all when it is `None`.
    invept, "invept"
}
invalidate! {
    /// Forgets what was translated for this VPID; for all when it is `None`.
    invvpid, "invvpid"
}
