//! What VMX's exits mean in the words of [`crate::exit`]: exit reasons and their qualifications
//! (SDM 3C 28.2.1).

use units::GuestPhysical;
use x86::vmx::vmcs::{guest, ro};

use super::context::VmxContext;
use super::exit_reason as reason;
use super::unswitched::{dr6, set_dr6};
use crate::event;
use crate::exit::{Exit, Failure, GENERAL_PROTECTION, MemoryFault, PortAccess};
use crate::registers::{CR0_CD, CR0_NW};

/// Vector of #DB.
const DEBUG: u8 = 1;
/// Interruption information: IRET had unblocked NMIs (SDM 3C 25.9.2).
const NMI_UNBLOCKED_BY_IRET: u64 = 1 << 12;

/// The exit of `context`, whose reason and IDT-vectoring information are read already.
#[inline]
pub(super) fn read(context: &mut VmxContext, vectoring: u64) -> Exit {
    match context.reason & 0xffff {
        reason::CPUID => Exit::Cpuid,
        reason::VMCALL => Exit::Hypercall,
        reason::RDMSR => Exit::ReadMsr,
        reason::WRMSR => Exit::WriteMsr,
        reason::IO_INSTRUCTION => Exit::Port(port(qualification(context))),
        reason::HLT => Exit::Halt,
        reason::EXTERNAL_INTERRUPT => Exit::Interrupt,
        reason::PREEMPTION_TIMER => Exit::Timer,
        reason::EPT_VIOLATION => {
            let violation = qualification(context);
            if violation & NMI_UNBLOCKED_BY_IRET != 0 && vectoring & event::VALID == 0 {
                context.block_nmi();
            }
            Exit::Memory(memory_fault(violation, context.vmcs.read(ro::GUEST_PHYSICAL_ADDR_FULL)))
        }
        reason::EXCEPTION_OR_NMI => exception(context, vectoring),
        reason::INTERRUPT_WINDOW => {
            context.request_window(false);
            Exit::InterruptWindow
        }
        reason::NMI_WINDOW => {
            context.request_nmi_window(false);
            Exit::NmiWindow
        }
        reason::CONTROL_REGISTER => control_register(context),
        reason::XSETBV => Exit::SetExtendedControl,
        reason::TRIPLE_FAULT => Exit::Shutdown,
        reason::INIT => Exit::Init,
        reason::START_UP_IPI => Exit::Startup(qualification(context) as u8),
        reason::TASK_SWITCH => Exit::TaskSwitch,
        reason::INVD | reason::WBINVD => Exit::CacheFlush,
        reason::RDPMC => Exit::Protected,
        reason::GETSEC
        | reason::RSM
        | reason::VMCLEAR..=reason::VMXON
        | reason::INVEPT
        | reason::INVVPID
        | reason::VMFUNC
        | reason::MWAIT
        | reason::MONITOR
        | reason::ENCLS
        | reason::ENCLV
        | reason::SEAMCALL
        | reason::TDCALL => Exit::Forbidden,
        _ => unexpected(context),
    }
}

fn qualification(context: &VmxContext) -> u64 {
    context.vmcs.read(ro::EXIT_QUALIFICATION)
}

#[cold]
fn unexpected(context: &VmxContext) -> Exit {
    Exit::Failure(Failure {
        what: reason::text(context.reason),
        codes: [
            u64::from(context.reason),
            qualification(context),
            context.vmcs.read(ro::GUEST_PHYSICAL_ADDR_FULL),
            context.rip(),
        ],
    })
}

/// Qualification of an I/O instruction (SDM 3C table 28-5).
const fn port(qualification: u64) -> PortAccess {
    PortAccess {
        port: (qualification >> 16) as u16,
        width: (qualification & 7) as u8 + 1,
        input: qualification & 1 << 3 != 0,
        string: qualification & 1 << 4 != 0,
        repeat: qualification & 1 << 5 != 0,
    }
}

/// Qualification of an EPT violation (SDM 3C table 28-7).
const fn memory_fault(qualification: u64, address: u64) -> MemoryFault {
    /// There is a linear address; the access was to its page, not to paging structures on the way.
    const LINEAR: u64 = 1 << 7;
    const FINAL: u64 = 1 << 8;
    MemoryFault {
        address: GuestPhysical(address),
        write: qualification & 1 << 1 != 0,
        fetch: qualification & 1 << 2 != 0,
        present: qualification & 0b11_1000 != 0,
        page_walk: qualification & (LINEAR | FINAL) == LINEAR,
    }
}

fn exception(context: &VmxContext, vectoring: u64) -> Exit {
    let information = context.vmcs.read(ro::VMEXIT_INTERRUPTION_INFO);
    if blocks_nmi_again(information, vectoring) {
        context.block_nmi();
    }
    if information & event::TYPE == event::NMI {
        return Exit::Nmi;
    }
    let vector = (information & event::VECTOR) as u8;
    if vector == DEBUG {
        debug_exception(context);
    }
    let has_error = information & event::HAS_ERROR != 0;
    let error = context.vmcs.read(ro::VMEXIT_INTERRUPTION_ERR_CODE) as u32;
    Exit::Exception { vector, error: if has_error { error } else { 0 } }
}

/// True when the exit happened in the middle of an IRET that had unblocked NMIs, and NMIs must be
/// blocked again before the guest repeats it (SDM 3C 28.2.3): not for a double fault (8), and not
/// while an event was being delivered.
const fn blocks_nmi_again(information: u64, vectoring: u64) -> bool {
    information & NMI_UNBLOCKED_BY_IRET != 0
        && information & event::VECTOR != 8
        && vectoring & event::VALID == 0
}

/// A #DB that exits has not changed DR6 and DR7; who is given the exception expects that it has
/// (SDM 3C 28.1).
fn debug_exception(context: &VmxContext) {
    /// B0 to B3, BD, BS as the qualification has them (SDM 3C table 28-1).
    const CAUSES: u64 = 0x600f;
    const BD: u64 = 1 << 13;
    const DR7_GD: u64 = 1 << 13;
    let qualification = qualification(context);
    set_dr6(dr6() & !0xf | qualification & CAUSES);
    if qualification & BD != 0 {
        context.vmcs.write_guest(guest::DR7, context.vmcs.read(guest::DR7) & !DR7_GD);
    }
}

/// Accesses to control registers that exit (SDM 3C table 28-3). What the guest sees of the watched bits
/// is set here and the instruction runs again: the processor then does, and checks, all the rest of it.
fn control_register(context: &mut VmxContext) -> Exit {
    let qualification = qualification(context);
    let register = (qualification & 0xf) as u8;
    let general = (qualification >> 8 & 0xf) as u8;
    match qualification >> 4 & 3 {
        0 => {}
        1 => return Exit::ControlRead { register, general },
        // CLTS and LMSW: no bit that they change is watched.
        _ => return unexpected(context),
    }
    let value = context.registers.general[usize::from(general)];
    let value = if context.in_64_bit_code() { value } else { value & 0xffff_ffff };
    match register {
        0 if value & (CR0_CD | CR0_NW) == CR0_NW => context.inject(GENERAL_PROTECTION),
        0 => context.cr0.show(&context.vmcs, value),
        // A bit the guest may not set; clearing one it has not is nothing.
        4 if value & context.cr4.mask != 0 => context.inject(GENERAL_PROTECTION),
        4 => context.cr4.show(&context.vmcs, value),
        _ => return Exit::ControlWrite { register, value },
    }
    Exit::Handled
}

#[cfg(test)]
mod tests {
    use super::{blocks_nmi_again, memory_fault, port};
    use crate::exit::PortAccess;

    #[test]
    fn a_port_access_is_read_out_of_its_bits() {
        // rep outsb to 0x3f8, in DX.
        let access = PortAccess { port: 0x3f8, width: 1, input: false, string: true, repeat: true };
        assert_eq!(port(0x03f8_0030), access);
        // in eax, 0xf4
        let access = PortAccess { port: 0xf4, width: 4, input: true, string: false, repeat: false };
        assert_eq!(port(0x00f4_004b), access);
    }

    #[test]
    fn a_violation_on_the_way_to_the_page_is_a_page_walk() {
        let fault = memory_fault(0x083, 0x1234);
        assert!(fault.page_walk && fault.write && !fault.present);
        let fault = memory_fault(0x18a, 0x1234);
        assert!(!fault.page_walk && fault.write && fault.present && !fault.fetch);
        // Missing; refused, without a linear address.
        let fault = memory_fault(0x181, 0x1234);
        assert!(!fault.page_walk && !fault.write && !fault.present);
        let fault = memory_fault(0b10_1010, 0x1234);
        assert!(!fault.page_walk && fault.write && fault.present);
    }

    #[test]
    fn nmis_are_blocked_again_when_iret_is_repeated() {
        assert!(blocks_nmi_again(0x8000_1b0e, 0));
        assert!(!blocks_nmi_again(0x8000_0b0e, 0));
        assert!(!blocks_nmi_again(0x8000_1b08, 0));
        assert!(!blocks_nmi_again(0x8000_1b0e, 0x8000_0202));
    }
}
