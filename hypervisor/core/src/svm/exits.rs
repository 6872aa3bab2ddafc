//! What SVM's exit codes mean (APM 2 appendix C, 15.9 to 15.14).

use super::context::SvmContext;
use super::vmcb::code;
use crate::event;
use crate::exit::{Exit, Failure, MemoryFault, PortAccess};
use units::GuestPhysical;

/// #SX, with error code 1 for a redirected INIT (APM 2 15.28).
const INIT_AS_SECURITY: u64 = code::EXCEPTION + 30;

/// The event to take again because the exit interrupted its delivery. A software interrupt is not one:
/// RIP is still at its instruction, which runs again (APM 2 15.7.2).
pub(super) fn unfinished(info: u64) -> u64 {
    const BREAKPOINT: u64 = 3;
    const OVERFLOW: u64 = 4;
    if info & event::VALID == 0 {
        return 0;
    }
    let vector = info & event::VECTOR;
    match info & event::TYPE {
        event::SOFTWARE => 0,
        event::EXCEPTION if vector == BREAKPOINT || vector == OVERFLOW => 0,
        _ => info,
    }
}

/// The exit the control block describes.
pub(super) fn read(context: &mut SvmContext) -> Exit {
    let vmcb = &*context.vmcb;
    let (info1, info2) = (vmcb.exit_info1, vmcb.exit_info2);
    match vmcb.exit_code {
        code::CPUID => Exit::Cpuid,
        code::MSR if info1 == 0 => Exit::ReadMsr,
        code::MSR => Exit::WriteMsr,
        code::VMMCALL => Exit::Hypercall,
        code::INTR => Exit::Interrupt,
        code::PORT => Exit::Port(port(info1)),
        code::NESTED_FAULT => Exit::Memory(nested_fault(info1, info2)),
        code::HLT => Exit::Halt,
        code::VINTR => {
            context.request_window(false);
            Exit::InterruptWindow
        }
        code::NMI => Exit::Nmi,
        code::IRET => {
            context.iret_begins();
            Exit::Handled
        }
        code::SMI => Exit::Handled,
        code::INIT => Exit::Init,
        code::SHUTDOWN => Exit::Shutdown,
        code::XSETBV => Exit::SetExtendedControl,
        code::INVD | code::WBINVD => Exit::CacheFlush,
        code::VMRUN
        | code::VMLOAD..=code::SKINIT
        | code::INVLPGA
        | code::MONITOR..=code::MWAIT_ARMED
        | code::RDPRU => Exit::Forbidden,
        code::RDPMC => Exit::Protected,
        code::TASK_SWITCH => Exit::TaskSwitch,
        INIT_AS_SECURITY if info1 == 1 => Exit::Init,
        vector @ code::EXCEPTION..=code::EXCEPTION_LAST => {
            Exit::Exception { vector: (vector - code::EXCEPTION) as u8, error: info1 as u32 }
        }
        other => Exit::Failure(Failure {
            what: if other as u32 == code::INVALID {
                "the processor refuses the guest's state (VMEXIT_INVALID)"
            } else {
                "the core did not ask for this exit"
            },
            codes: [other, info1, info2, vmcb.exit_interrupt_info],
        }),
    }
}

/// EXITINFO1 of a port access (APM 2 15.10.2, figure 15-2).
fn port(info: u64) -> PortAccess {
    PortAccess {
        port: (info >> 16) as u16,
        // One of bits 6:4, each worth the bytes it stands for.
        width: (info >> 4 & 7) as u8,
        input: info & 1 != 0,
        string: info & 1 << 2 != 0,
        repeat: info & 1 << 3 != 0,
    }
}

/// EXITINFO1 of a nested page fault (APM 2 15.25.6).
fn nested_fault(info: u64, address: u64) -> MemoryFault {
    MemoryFault {
        address: GuestPhysical(address),
        present: info & 1 != 0,
        write: info & 1 << 1 != 0,
        fetch: info & 1 << 4 != 0,
        page_walk: info & 1 << 33 != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::{event, nested_fault, port, unfinished};
    use crate::exit::PortAccess;

    #[test]
    fn a_port_access_is_unpacked() {
        // OUTSW with REP to port 0x3f8.
        let access = port(0x3f8 << 16 | 1 << 5 | 1 << 3 | 1 << 2);
        let expected =
            PortAccess { port: 0x3f8, width: 2, input: false, string: true, repeat: true };
        assert_eq!(access, expected);
        assert!(port(1 << 16 | 1 << 4 | 1).input);
    }

    #[test]
    fn a_nested_fault_tells_the_guests_walk_from_its_access() {
        let fault = nested_fault(1 << 33 | 6, 0x1234);
        assert!(fault.page_walk && fault.write && !fault.present && !fault.fetch);
    }

    #[test]
    fn only_events_the_guest_cannot_repeat_are_taken_again() {
        let interrupt = event::VALID | 0x30;
        assert_eq!(unfinished(interrupt), interrupt);
        assert_eq!(unfinished(event::VALID | event::SOFTWARE | 0x80), 0);
        assert_eq!(unfinished(event::VALID | event::EXCEPTION | 3), 0);
        let fault = event::VALID | event::EXCEPTION | event::HAS_ERROR | 14 | 2 << 32;
        assert_eq!(unfinished(fault), fault);
        assert_eq!(unfinished(0x30), 0);
    }
}
