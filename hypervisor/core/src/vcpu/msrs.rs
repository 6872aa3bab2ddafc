//! RDMSR and WRMSR of a guest.

use super::answer;
use super::run::{Next, Run};
use crate::apic::{FIRST_MSR, LAST_MSR};
use crate::cpu::{control, exceptions, msr as processor};
use crate::exit::{Exit, GENERAL_PROTECTION};
use crate::msr::{self, ApicMsr, Changed, Other};
use crate::registers::RCX;
use crate::validate;

/// RDMSR.
pub(super) fn read(run: &mut Run<'_>) {
    let index = run.held.context.general()[RCX] as u32;
    let now = run.now();
    let held = &mut *run.held;
    let value = match msr::read(index, &held.msrs, control::tsc().0) {
        Ok(value) => Some(value),
        Err(Other::Efer) => Some(held.context.efer()),
        Err(Other::Apic(ApicMsr::Base)) => Some(held.apic.apic_base()),
        Err(Other::Apic(ApicMsr::TscDeadline)) => Some(held.apic.tsc_deadline(now)),
        Err(Other::Apic(ApicMsr::X2apic(_))) => held.apic.read_msr(index, now).ok(),
        Err(Other::Refused) => {
            held.permit(false);
            None
        }
        // The bitmap lets those through that are the processor's own.
        Err(Other::Processor | Other::Fault) => None,
    };
    if let Some(value) = value {
        held.context.set_edx_eax(value);
    }
    answer::finish(run, Exit::ReadMsr, value.is_some());
}

/// WRMSR. The local APIC's registers apart: they are written at every interrupt.
pub(super) fn write(run: &mut Run<'_>) -> Next {
    let index = run.held.context.general()[RCX] as u32;
    let value = run.held.context.edx_eax();
    if !(FIRST_MSR..=LAST_MSR).contains(&index) {
        return write_other(run, index, value);
    }
    let now = run.now();
    let Ok(effect) = run.held.apic.write_msr(index, value, now) else {
        run.held.context.inject(GENERAL_PROTECTION);
        return Next::Enter;
    };
    answer::skip(run, Exit::WriteMsr);
    run.carry_on(effect)
}

#[inline(never)]
fn write_other(run: &mut Run<'_>, index: u32, value: u64) -> Next {
    let held = &mut *run.held;
    let done = match msr::write(index, value, &mut held.msrs, control::tsc().0) {
        Ok(changed) => {
            apply(run, changed);
            true
        }
        Err(Other::Efer) => {
            let (now, cr0) = (held.context.efer(), held.context.cr0());
            let legal = validate::efer(value, now, cr0, &held.msrs.features);
            let legal = legal.map(|value| held.context.set_efer(value)).is_ok();
            held.permit(legal)
        }
        Err(Other::Apic(ApicMsr::Base)) => {
            let set = held.apic.set_apic_base(value).is_ok();
            run.held.publish();
            set
        }
        Err(Other::Apic(ApicMsr::TscDeadline)) => {
            let now = run.now();
            run.held.apic.set_tsc_deadline(value, now);
            true
        }
        Err(Other::Processor) => {
            held.context.write_kept_register(&mut run.cpu.vendor, index, value)
        }
        Err(Other::Apic(ApicMsr::X2apic(_)) | Other::Fault) => false,
        Err(Other::Refused) => held.permit(false),
    };
    answer::finish(run, Exit::WriteMsr, done);
    Next::Enter
}

/// Carries on what a write changed.
fn apply(run: &mut Run<'_>, changed: Option<Changed>) {
    let held = &mut *run.held;
    match changed {
        Some(Changed::TscOffset) => {
            let moved = held.msrs.tsc_offset.wrapping_sub(run.offset);
            held.context.set_tsc_offset(held.msrs.tsc_offset);
            held.apic.tsc_moved(moved);
            run.offset = held.msrs.tsc_offset;
        }
        Some(Changed::TscAux) => {
            held.extended.tsc_aux = u64::from(held.msrs.tsc_aux);
            // SAFETY: the register exists where CPUID shows it to the guest; it only names the processor
            // to user programs.
            #[expect(unsafe_code, reason = "an MSR of the guest's own")]
            unsafe {
                processor::write(processor::TSC_AUX, held.extended.tsc_aux);
            }
        }
        Some(Changed::Pat) => held.context.set_pat(held.msrs.pat),
        Some(Changed::DebugControl) => held.context.set_debug_control(held.msrs.debug_control),
        None => {}
    }
}

/// Writes bit 0 of a command register, where the processor has it.
pub(crate) fn command(index: u32) {
    // SAFETY: a barrier or a cache flush; changes no state that code can see.
    #[expect(unsafe_code, reason = "a command without state")]
    let _ = unsafe { exceptions::try_write_msr(index, 1) };
}
