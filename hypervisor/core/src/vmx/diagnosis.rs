//! Why a guest could not be entered, in words for the log. Never on a hot path.

use core::fmt::Arguments;

use x86::vmx::vmcs::{control as field, ro};

use super::context::VmxContext;
use super::controls::Kind;
use super::instruction_error::{VmxFailure, text};
use super::vmcs::Cached;
use super::{entry_check, exit_reason};
use crate::cpu::control;
use crate::exit::{Exit, Failure};
use crate::log;

/// Writes to the log; for root, without which nobody drains it, to the serial line too.
fn tell(context: &VmxContext, text: Arguments<'_>) {
    match context.kind {
        Kind::Root => log::last_words(text),
        Kind::Guest => log::line(text),
    }
}

/// VMfail at an entry: there is no current VMCS, or the processor refuses controls or host state.
#[cold]
pub(super) fn refused(context: &VmxContext, why: VmxFailure) -> Exit {
    tell(context, format_args!("VM entry refused: {why}"));
    let VmxFailure::Error(number) = why else {
        return Exit::Failure(Failure { what: "the processor has no current VMCS", codes: [0; 4] });
    };
    Exit::Failure(Failure {
        what: text(number),
        codes: [
            u64::from(number),
            context.vmcs.read(field::VMENTRY_CONTROLS),
            context.vmcs.read(field::VMENTRY_INTERRUPTION_INFO_FIELD),
            context.rip(),
        ],
    })
}

/// An exit that says that the entry failed (SDM 3C 27.8).
#[cold]
pub(super) fn entry_failed(context: &VmxContext) -> Exit {
    let reason = context.reason;
    let qualification = context.vmcs.read(ro::EXIT_QUALIFICATION);
    let [widths, ..] = control::cpuid(0x8000_0008, 0);
    let find =
        || entry_check::find(&|field| context.vmcs.read(field), &context.capabilities, widths);
    let what = match reason & 0xffff {
        exit_reason::ENTRY_GUEST_STATE => match find() {
            Some(failed) => {
                tell(context, format_args!("VM entry failed: {failed}"));
                failed.rule
            }
            // What the qualification says besides (SDM 3C 27.8).
            None => match qualification {
                0 => "a check of the guest-state area",
                2 => "loading the page-directory-pointer-table entries",
                3 => "injecting an NMI while NMIs are blocked by STI",
                4 => "the VMCS link pointer",
                _ => "a check the processor does not name",
            },
        },
        _ => exit_reason::text(reason),
    };
    tell(context, format_args!("VM entry failed: {what} ({reason:#x}, {qualification:#x})"));
    Exit::Failure(Failure {
        what,
        codes: [u64::from(reason), qualification, context.vmcs.get(Cached::Cr0), context.rip()],
    })
}
