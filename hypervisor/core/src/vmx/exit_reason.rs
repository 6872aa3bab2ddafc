//! Basic exit reasons (SDM 3D appendix C), those the core answers or has words for.

pub(super) const EXCEPTION_OR_NMI: u32 = 0;
pub(super) const EXTERNAL_INTERRUPT: u32 = 1;
pub(super) const TRIPLE_FAULT: u32 = 2;
pub(super) const INIT: u32 = 3;
pub(super) const START_UP_IPI: u32 = 4;
pub(super) const INTERRUPT_WINDOW: u32 = 7;
pub(super) const NMI_WINDOW: u32 = 8;
pub(super) const TASK_SWITCH: u32 = 9;
pub(super) const CPUID: u32 = 10;
pub(super) const GETSEC: u32 = 11;
pub(super) const HLT: u32 = 12;
pub(super) const INVD: u32 = 13;
pub(super) const RDPMC: u32 = 15;
pub(super) const RSM: u32 = 17;
pub(super) const VMCALL: u32 = 18;
/// VMCLEAR, VMLAUNCH, VMPTRLD, VMPTRST, VMREAD, VMRESUME, VMWRITE, VMXOFF and VMXON follow each other.
pub(super) const VMCLEAR: u32 = 19;
pub(super) const VMXON: u32 = 27;
pub(super) const CONTROL_REGISTER: u32 = 28;
pub(super) const IO_INSTRUCTION: u32 = 30;
pub(super) const RDMSR: u32 = 31;
pub(super) const WRMSR: u32 = 32;
pub(super) const ENTRY_GUEST_STATE: u32 = 33;
pub(super) const ENTRY_MSR_LOADING: u32 = 34;
pub(super) const MWAIT: u32 = 36;
pub(super) const MONITOR: u32 = 39;
pub(super) const ENTRY_MACHINE_CHECK: u32 = 41;
pub(super) const EPT_VIOLATION: u32 = 48;
pub(super) const EPT_MISCONFIGURATION: u32 = 49;
pub(super) const INVEPT: u32 = 50;
pub(super) const PREEMPTION_TIMER: u32 = 52;
pub(super) const INVVPID: u32 = 53;
pub(super) const WBINVD: u32 = 54;
pub(super) const XSETBV: u32 = 55;
pub(super) const VMFUNC: u32 = 59;
pub(super) const ENCLS: u32 = 60;
pub(super) const ENCLV: u32 = 70;
pub(super) const SEAMCALL: u32 = 76;
pub(super) const TDCALL: u32 = 77;
/// Bit 31 of the exit-reason field: the entry failed, nothing of the guest ran (SDM 3C 25.9.1).
pub(super) const ENTRY_FAILED: u32 = 1 << 31;

macro_rules! unasked {
    ($($name:literal,)*) => {
        [$(concat!("an exit the core did not ask for: ", $name)),*]
    };
}

/// Words for the basic reasons, by number.
const UNASKED: [&str; 78] = unasked![
    "exception or NMI",
    "external interrupt",
    "triple fault",
    "INIT",
    "start-up IPI",
    "I/O SMI",
    "other SMI",
    "interrupt window",
    "NMI window",
    "task switch",
    "CPUID",
    "GETSEC",
    "HLT",
    "INVD",
    "INVLPG",
    "RDPMC",
    "RDTSC",
    "RSM",
    "VMCALL",
    "VMCLEAR",
    "VMLAUNCH",
    "VMPTRLD",
    "VMPTRST",
    "VMREAD",
    "VMRESUME",
    "VMWRITE",
    "VMXOFF",
    "VMXON",
    "control register",
    "MOV DR",
    "I/O instruction",
    "RDMSR",
    "WRMSR",
    "invalid guest state",
    "MSR loading",
    "reason 35",
    "MWAIT",
    "monitor trap flag",
    "reason 38",
    "MONITOR",
    "PAUSE",
    "machine check at entry",
    "reason 42",
    "TPR below threshold",
    "APIC access",
    "virtualized EOI",
    "GDTR or IDTR",
    "LDTR or TR",
    "EPT violation",
    "EPT misconfiguration",
    "INVEPT",
    "RDTSCP",
    "preemption timer",
    "INVVPID",
    "WBINVD or WBNOINVD",
    "XSETBV",
    "APIC write",
    "RDRAND",
    "INVPCID",
    "VMFUNC",
    "ENCLS",
    "RDSEED",
    "page-modification log full",
    "XSAVES",
    "XRSTORS",
    "PCONFIG",
    "SPP-related event",
    "UMWAIT",
    "TPAUSE",
    "LOADIWKEY",
    "ENCLV",
    "reason 71",
    "ENQCMD PASID translation failure",
    "ENQCMDS PASID translation failure",
    "bus lock",
    "notify window",
    "SEAMCALL",
    "TDCALL",
];

/// Words for a basic reason that ends a guest.
pub(super) fn text(reason: u32) -> &'static str {
    match reason & 0xffff {
        ENTRY_GUEST_STATE => "entry failure: invalid guest state",
        ENTRY_MSR_LOADING => "entry failure: MSR loading",
        ENTRY_MACHINE_CHECK => "entry failure: machine check",
        EPT_MISCONFIGURATION => "the second-level tables have an entry the processor refuses",
        basic => UNASKED.get(basic as usize).copied().unwrap_or("an exit without a name"),
    }
}

/// True when the processor says how long the instruction that exited is: at exits that are an
/// instruction's and no event's (SDM 3C 28.2.5).
#[inline]
pub(super) const fn has_instruction_length(reason: u32) -> bool {
    matches!(
        reason,
        TASK_SWITCH..=WRMSR | MWAIT | MONITOR | INVEPT | INVVPID..=ENCLS
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_basic_reason_has_its_name() {
        for (reason, name) in [
            (IO_INSTRUCTION, "I/O instruction"),
            (MWAIT, "MWAIT"),
            (VMXON, "VMXON"),
            (PREEMPTION_TIMER, "preemption timer"),
            (XSETBV, "XSETBV"),
            (ENCLV, "ENCLV"),
            (TDCALL, "TDCALL"),
        ] {
            assert!(text(reason).ends_with(&format!(": {name}")), "{reason}: {}", text(reason));
        }
        assert_eq!(text(ENTRY_FAILED | ENTRY_GUEST_STATE), "entry failure: invalid guest state");
        assert_eq!(text(TDCALL + 1), "an exit without a name");
    }

    #[test]
    fn instructions_have_lengths_and_events_have_none() {
        for reason in [CPUID, HLT, VMCALL, WRMSR, XSETBV, IO_INSTRUCTION, WBINVD, TASK_SWITCH] {
            assert!(has_instruction_length(reason));
        }
        for reason in [EPT_VIOLATION, EXTERNAL_INTERRUPT, PREEMPTION_TIMER, EXCEPTION_OR_NMI] {
            assert!(!has_instruction_length(reason));
        }
        assert!(!has_instruction_length(ENTRY_FAILED | ENTRY_GUEST_STATE));
    }
}
