//! Model-specific registers, with the numbers the core itself uses (SDM 4 table 2-2, APM 2 appendix A).
#![allow(unsafe_code)]

pub use x86::msr::{
    IA32_APIC_BASE as APIC_BASE, IA32_EFER as EFER, IA32_FEATURE_CONTROL as FEATURE_CONTROL,
    IA32_GS_BASE as GS_BASE, IA32_KERNEL_GSBASE as KERNEL_GS_BASE, IA32_PAT as PAT,
    IA32_STAR as STAR, IA32_TSC_AUX as TSC_AUX, IA32_X2APIC_APICID as X2APIC_ID,
    IA32_X2APIC_ICR as X2APIC_ICR,
};

/// IA32_PRED_CMD: bit 0 is the indirect branch prediction barrier.
pub const PRED_CMD: u32 = 0x49;
/// IA32_BIOS_UPDT_TRIG: loads microcode.
pub const BIOS_UPDATE: u32 = 0x79;
/// PATCH_LOADER: loads microcode (AMD PPR, MSRC001_0020).
pub const PATCH_LOADER: u32 = 0xc001_0020;
/// VM_CR (APM 2 15.30.1).
pub const VM_CR: u32 = 0xc001_0114;
/// VM_HSAVE_PA (APM 2 15.30.4).
pub const VM_HSAVE_PA: u32 = 0xc001_0117;

/// Reads an MSR that exists on this processor. One that does not is a bug of the core's and ends in
/// its exception handler with the place named.
#[inline(always)]
pub fn read(index: u32) -> u64 {
    // SAFETY: reading has no effect on memory.
    unsafe { x86::msr::rdmsr(index) }
}

/// Writes an MSR.
///
/// # Safety
/// The new value must keep every promise the core's code relies on: its page tables, its segments and
/// its stack stay where they are.
#[inline(always)]
pub unsafe fn write(index: u32, value: u64) {
    // SAFETY: the caller's promise.
    unsafe { x86::msr::wrmsr(index, value) };
}
