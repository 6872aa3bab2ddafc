//! The core's answers to a guest's exits, and which of them root gets.

use super::access::{self, Progress};
use super::run::{Next, Run};
use super::{Activity, msrs};
use crate::cpuid::Dynamic;
use crate::exit::{Event, Exit, GENERAL_PROTECTION, INVALID_OPCODE, escalate};
use crate::machine::machine;
use crate::processor::wake;
use crate::registers::{R10, RAX, RBX, RCX, RDI, RDX, RFLAGS_TF, RSI};
use crate::{instruction, validate};
use core::sync::atomic::Ordering;
use hypervisor_abi::{ExitReason, FailureKind, Fault, GuestCall, ROOT_CALLS, Status, VERSION};

/// Answers an exit. Inlined into its only caller, which every exit goes through.
#[inline(always)]
pub(super) fn answer(run: &mut Run<'_>, exit: Exit) -> Next {
    match exit {
        Exit::Interrupt => return Next::Return(ExitReason::Interrupted),
        Exit::Cpuid => cpuid(run),
        Exit::WriteMsr => return msrs::write(run),
        Exit::ReadMsr => msrs::read(run),
        Exit::Port(port) => return access::port(run, port),
        Exit::Memory(fault) => return access::memory(run, fault),
        Exit::Halt => {
            skip(run, exit);
            // A step over HLT ends it at once.
            if run.held.context.rflags() & RFLAGS_TF == 0 {
                run.held.activity = Activity::Halted;
            }
        }
        Exit::Hypercall => return hypercall(run),
        Exit::Nmi => {
            if run.cpu.nmi_is_foreign() {
                run.cpu.shared.wake.fetch_or(wake::NMI, Ordering::SeqCst);
            } else {
                run.held.statistics.kicks += 1;
            }
            // Root has something of its own to do on this processor.
            if run.cpu.shared.wake.load(Ordering::Relaxed) != 0 {
                return Next::Return(ExitReason::Interrupted);
            }
        }
        Exit::InterruptWindow | Exit::NmiWindow | Exit::Handled | Exit::Timer => {}
        Exit::Startup(_) => {}
        Exit::SetExtendedControl => set_extended_control(run),
        Exit::CacheFlush => {
            // Guests' memory is write-back throughout and no device reads behind the caches.
            let allowed = run.held.context.cpl() == 0;
            finish(run, exit, allowed);
        }
        Exit::ControlWrite { register: 8, value } => {
            let legal = validate::cr8(value).map(|value| run.held.apic.set_cr8(value as u8));
            let legal = run.held.permit(legal.is_ok());
            finish(run, exit, legal);
        }
        Exit::ControlRead { register: 8, general } => {
            let value = u64::from(run.held.apic.cr8());
            run.held.context.general_mut()[usize::from(general & 15)] = value;
            skip(run, exit);
        }
        Exit::Exception { vector, error } => run.held.context.inject(Event::Exception {
            vector,
            error: crate::root::has_error(vector).then_some(error),
        }),
        Exit::Forbidden => {
            run.held.permit(false);
            run.held.context.inject(INVALID_OPCODE);
        }
        // Of control registers only CR8 exits.
        Exit::Protected | Exit::ControlWrite { .. } | Exit::ControlRead { .. } => {
            run.held.context.inject(GENERAL_PROTECTION);
        }
        // Tasks are not switched: #GP, which becomes a double fault where an exception has led to the
        // task gate, and a shutdown where a double fault has.
        Exit::TaskSwitch => match escalate(run.held.context.exception_waits()) {
            Some(event) => run.held.context.inject(event),
            None => return shut_down(run),
        },
        Exit::Shutdown => return shut_down(run),
        // INIT of the machine's reaches root when it runs again.
        Exit::Init => {
            run.cpu.shared.wake.fetch_or(wake::INIT, Ordering::SeqCst);
            return Next::Return(ExitReason::Interrupted);
        }
        Exit::Failure(failure) => {
            run.held.page.set_text(failure.what);
            return run.fail(FailureKind::Processor, failure.codes);
        }
    }
    Next::Enter
}

fn shut_down(run: &mut Run<'_>) -> Next {
    run.held.activity = Activity::Shutdown;
    Next::Return(ExitReason::Shutdown)
}

/// Goes on behind the instruction that exited. Inlined, so that nothing is left of `exit` but a constant.
#[inline(always)]
pub(super) fn skip(run: &mut Run<'_>, exit: Exit) {
    let length = instruction::length_of_guest(run, &exit);
    run.advance(length);
}

/// The same where the instruction is done; else #GP(0).
#[inline(always)]
pub(super) fn finish(run: &mut Run<'_>, exit: Exit, done: bool) {
    if done {
        skip(run, exit);
    } else {
        run.held.context.inject(GENERAL_PROTECTION);
    }
}

fn cpuid(run: &mut Run<'_>) {
    let held = &mut *run.held;
    let general = held.context.general();
    let (leaf, subleaf) = (general[RAX] as u32, general[RCX] as u32);
    let answer = held.cpuid.answer(leaf, subleaf, || Dynamic {
        cr4: held.context.cr4(),
        apic_enabled: held.apic.apic_base() & 1 << 11 != 0,
        xcr0: held.extended.xcr0(),
    });
    let general = held.context.general_mut();
    for (register, value) in [RAX, RBX, RCX, RDX].into_iter().zip(answer) {
        general[register] = u64::from(value);
    }
    skip(run, Exit::Cpuid);
}

fn set_extended_control(run: &mut Run<'_>) {
    let held = &mut *run.held;
    let value = held.context.edx_eax();
    let index = held.context.general()[RCX] as u32;
    let (cpl, cr4) = (held.context.cpl(), held.context.cr4());
    let legal = validate::xsetbv(index, value, cpl, cr4, &held.msrs.features);
    if legal == Err(validate::Invalid::Undefined) {
        return held.context.inject(INVALID_OPCODE);
    }
    if let Ok(value) = legal {
        held.extended.set_xcr0(value);
    }
    let legal = held.permit(legal.is_ok());
    finish(run, Exit::SetExtendedControl, legal);
}

/// A guest's call.
fn hypercall(run: &mut Run<'_>) -> Next {
    let number = run.held.context.general()[RAX];
    skip(run, Exit::Hypercall);
    let general = run.held.context.general();
    let (status, results) = match GuestCall::from_number(number) {
        _ if run.held.context.cpl() != 0 => (Status::fault(Fault::Denied), None),
        Some(GuestCall::Version) => (Status::OK, Some((u64::from(VERSION), 0))),
        Some(GuestCall::Features) => (Status::OK, Some((machine().features, 0))),
        Some(GuestCall::MemoryMap) => match run.partition.range(general[RDI]) {
            Some((start, bytes)) => (Status::OK, Some((start.0, bytes.0))),
            None => (Status::argument(Fault::NotFound, 1), None),
        },
        Some(GuestCall::Timer) => (Status::OK, Some((machine().tsc_frequency, run.now().0))),
        Some(GuestCall::Ipc | GuestCall::Clipboard | GuestCall::Display) => {
            let arguments = [RAX, RDI, RSI, RDX, R10, RBX].map(|register| general[register]);
            run.held.page.set_arguments(arguments);
            run.held.progress = Progress::Call;
            return Next::Return(ExitReason::Hypercall);
        }
        None if number >= ROOT_CALLS => (Status::fault(Fault::Denied), None),
        None => (Status::fault(Fault::UnknownCall), None),
    };
    let general = run.held.context.general_mut();
    general[RAX] = status.0;
    if let Some((first, second)) = results {
        (general[RDI], general[RSI]) = (first, second);
    }
    Next::Enter
}
