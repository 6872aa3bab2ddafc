//! Turning SVM on and off on one processor (APM 2 15.4, 15.30).
#![allow(unsafe_code)]

use super::vmcb::Vmcb;
use crate::cpu::{control, exceptions, msr};
use crate::memory::{Frames, Object};
use crate::registers::EFER_SVME;
use core::arch::asm;
use core::fmt::Arguments;

/// VM_CR.SVMDIS and LOCK, R_INIT (APM 2 15.30.1).
const VM_CR_R_INIT: u64 = 1 << 1;
const VM_CR_SVMDIS: u64 = 1 << 4;
/// CPUID 0x8000_0001 ECX: SVM (APM 3 E.4.2).
const CPUID_SVM: u32 = 1 << 2;
/// CPUID 0x8000_000A EDX (APM 3 E.4.9): nested paging; the processor saves the next RIP, keeps the parts
/// of the control block that are marked clean, can flush one guest's translations, has decode assists.
const NESTED_PAGING: u32 = 1 << 0;
pub(super) const NEXT_RIP: u32 = 1 << 3;
pub(super) const CLEAN_BITS: u32 = 1 << 5;
pub(super) const FLUSH_BY_TAG: u32 = 1 << 6;
pub(super) const DECODE_ASSISTS: u32 = 1 << 7;

/// Address space identifiers: the core's own, root's, and some for guests. Every processor has 8 at least.
const LEAST_TAGS: u32 = 4;

/// The address space identifiers this processor has (APM 3 E.4.9).
pub fn tags() -> u32 {
    control::cpuid(0x8000_000a, 0)[1]
}

/// Calls `report` with everything this processor lacks to run the core.
pub fn missing(mut report: impl FnMut(Arguments<'_>)) {
    if control::cpuid(0x8000_0001, 0)[2] & CPUID_SVM == 0 {
        return report(format_args!(
            "virtualization: neither SVM (CPUID 0x80000001 ECX bit 2) nor VMX (CPUID 1 ECX bit 5)"
        ));
    }
    let [_, tags, _, features] = control::cpuid(0x8000_000a, 0);
    if exceptions::try_read_msr(msr::VM_CR).is_some_and(|vm_cr| vm_cr & VM_CR_SVMDIS != 0) {
        report(format_args!(
            "SVM is turned off in the firmware's setup (VM_CR.SVMDIS): turn on \"SVM\" or \"virtualization\" there"
        ));
    }
    if features & NESTED_PAGING == 0 {
        report(format_args!("nested paging (CPUID 0x8000000A EDX bit 0)"));
    }
    if tags < LEAST_TAGS {
        report(format_args!(
            "address space identifiers: {tags} found, {LEAST_TAGS} wanted (CPUID 0x8000000A EBX)"
        ));
    }
    if msr::read(msr::EFER) & EFER_SVME != 0 {
        report(format_args!("SVM is in use by another hypervisor (EFER.SVME is set)"));
    }
}

/// A processor that runs SVM.
pub struct SvmCpu {
    /// The processor's own host save area.
    save_area: Frames,
    /// What the world switch loads of the core's state behind a guest.
    pub(super) host: Object<Vmcb>,
    /// CPUID 0x8000_000A EDX.
    features: u32,
}

impl SvmCpu {
    /// Turns SVM on on this processor, whose `missing` reports nothing. `None` when the core is out of
    /// memory. GDT, TR and GS base must be the final ones.
    pub fn enable() -> Option<Self> {
        let save_area = Frames::allocate(1)?;
        // SAFETY: all zeros is a control block.
        let host = unsafe { Object::<Vmcb>::zeroed() }?;
        let [.., features] = control::cpuid(0x8000_000a, 0);
        let mut cpu = Self { save_area, host, features };
        cpu.again();
        Some(cpu)
    }

    /// Turns it on again on the same processor, which was off. GDT, TR and GS base are what they were.
    pub fn again(&mut self) {
        // SAFETY: SVM is there and on; the save area is a page of the core's that nobody else uses;
        // GIF=0 keeps interrupts off, so that RFLAGS.IF can be set (see `world_switch`).
        unsafe {
            msr::write(msr::EFER, msr::read(msr::EFER) | EFER_SVME);
            msr::write(msr::VM_HSAVE_PA, self.save_area.physical().0);
            if let Some(vm_cr) = exceptions::try_read_msr(msr::VM_CR) {
                let _ = exceptions::try_write_msr(msr::VM_CR, vm_cr | VM_CR_R_INIT);
            }
            asm!("clgi", "sti", "vmsave rax", in("rax") self.host.physical().0, options(nostack));
        }
    }

    /// Whether the processor has this feature of CPUID 0x8000_000A EDX.
    #[inline]
    pub(super) const fn has(&self, feature: u32) -> bool {
        self.features & feature != 0
    }

    /// Lets a waiting NMI reach the core's own handler, which counts it.
    pub fn take_nmi(&self) {
        // SAFETY: the core's IDT is loaded; interrupts other than NMI stay off by RFLAGS.IF.
        unsafe { asm!("cli", "stgi", "nop", "clgi", "sti", options(nostack)) };
    }

    /// Calls `wait` with NMIs let through and interrupts off.
    pub fn with_nmis(&self, wait: impl FnOnce()) {
        // SAFETY: as in `take_nmi`.
        unsafe { asm!("cli", "stgi", options(nostack)) };
        wait();
        // SAFETY: as in `take_nmi`.
        unsafe { asm!("clgi", "sti", options(nostack)) };
    }
}

impl Drop for SvmCpu {
    /// Gives the processor back as it was.
    fn drop(&mut self) {
        // SAFETY: no guest runs on this processor any longer.
        unsafe {
            asm!("cli", "stgi", options(nostack));
            msr::write(msr::VM_HSAVE_PA, 0);
            msr::write(msr::EFER, msr::read(msr::EFER) & !EFER_SVME);
        }
    }
}
