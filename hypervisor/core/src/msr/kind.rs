//! Which number is what (SDM 4 chapter 2, APM 2 appendix A).

use super::{ApicMsr, Other, mtrr};
use crate::cpuid::{Features, Vendor};

/// How a register is virtualized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tsc,
    TscAdjust,
    TscAux,
    Pat,
    Mtrr(usize),
    MiscEnable,
    DebugControl,
    MicrocodeRevision,
    Hwcr,
    /// Reads as this; writing faults.
    ReadOnly(u64),
    /// Reads as this; kernels write it back, which changes nothing. Writing anything else faults.
    Fixed(u64),
    /// Writing would reach the machine beneath the guest: refused and counted. Not there for reading.
    DangerousToWrite,
    /// Not answered here.
    Other(Other),
}

/// Reading, too, would reach the machine beneath the guest.
const DANGEROUS: Kind = Kind::Other(Other::Refused);
/// Not there.
const UNKNOWN: Kind = Kind::Other(Other::Fault);

/// IA32_FEATURE_CONTROL: locked, with VMX and everything else off.
const LOCKED: u64 = 1;
/// IA32_MTRRCAP: 8 variable ranges, fixed ranges, write-combining (SDM 3A 12.11.1).
const MTRR_CAPABILITIES: u64 = 8 | 1 << 8 | 1 << 10;
/// DE_CFG: LFENCE serializes (APM 2 3.2.10, "LFENCE").
const LFENCE_SERIALIZES: u64 = 1 << 1;

/// The kind of `index` for a guest with `features`.
pub(super) fn of(index: u32, features: &Features) -> Kind {
    let apic = |register| Kind::Other(Other::Apic(register));
    if let Some(place) = mtrr::place(index) {
        return Kind::Mtrr(place);
    }
    match index {
        // SYSENTER_CS to EIP; STAR to SFMASK; FS_BASE to KERNEL_GS_BASE.
        0x174..=0x176 | 0xc000_0081..=0xc000_0084 | 0xc000_0100..=0xc000_0102 => {
            Kind::Other(Other::Processor)
        }
        // The caller knows CR0 and where EFER lies.
        0xc000_0080 => Kind::Other(Other::Efer),
        0x1b => apic(ApicMsr::Base),
        0x6e0 => apic(ApicMsr::TscDeadline),
        0x800..=0x8ff => apic(ApicMsr::X2apic(index as u8)),
        0x10 => Kind::Tsc,
        0x3b => Kind::TscAdjust,
        0xc000_0103 if features.tsc_aux => Kind::TscAux,
        0x277 => Kind::Pat,
        0xfe => Kind::ReadOnly(MTRR_CAPABILITIES),
        // ARCH_CAPABILITIES: immune to nothing.
        0x10a if features.arch_capabilities => Kind::ReadOnly(0),
        0x1d9 => Kind::DebugControl,
        0x8b => Kind::MicrocodeRevision,
        // MCG_CAP: no machine check banks. MCG_STATUS, P5_MC_ADDR, P5_MC_TYPE.
        0x179 => Kind::ReadOnly(0),
        0x17a | 0x0 | 0x1 => Kind::Fixed(0),
        // MCi_CTL2, the machine check banks.
        0x280..=0x29f | 0x400..=0x47f => Kind::DangerousToWrite,
        // The last branch and the last exception.
        0x1db..=0x1de => Kind::ReadOnly(0),
        // TSC_RATIO.
        0xc000_0104 => Kind::DangerousToWrite,
        _ if features.vendor == Vendor::Amd => amd(index),
        _ => intel(index),
    }
}

const fn intel(index: u32) -> Kind {
    match index {
        // FEATURE_CONTROL.
        0x3a => Kind::ReadOnly(LOCKED),
        // PLATFORM_ID, EBL_CR_POWERON, PLATFORM_INFO, PERF_STATUS.
        0x17 | 0x2a | 0xce | 0x198 => Kind::ReadOnly(0),
        // MISC_FEATURES_ENABLES.
        0x140 => Kind::Fixed(0),
        0x1a0 => Kind::MiscEnable,
        // Microcode update, SMM_MONITOR_CTL, SMBASE, the capabilities of VMX.
        0x79 | 0x9b | 0x9e | 0x480..=0x493 => DANGEROUS,
        // Performance: event selectors, fixed counters up to GLOBAL_OVF_CTRL, PEBS_ENABLE, DS_AREA.
        0x186..=0x18d | 0x38d..=0x390 | 0x3f1 | 0x600 => Kind::DangerousToWrite,
        // Power: overclocking mailbox, PERF_CTL, clock modulation, thermal interrupt, turbo limit,
        // energy bias, POWER_CTL, power limit.
        0x150 | 0x199 | 0x19a | 0x19b | 0x1ad | 0x1b0 | 0x1fc | 0x610 => Kind::DangerousToWrite,
        // Prefetch control, processor trace.
        0x1a4 | 0x560..=0x587 => Kind::DangerousToWrite,
        _ => UNKNOWN,
    }
}

const fn amd(index: u32) -> Kind {
    match index {
        // SYSCFG, NB_CFG, interrupt pending, DC_CFG, BU_CFG2.
        0xc001_0010 | 0xc001_001f | 0xc001_0055 | 0xc001_1022 | 0xc001_102a => Kind::Fixed(0),
        // MMIO configuration base.
        0xc001_0058 => Kind::ReadOnly(0),
        0xc001_0015 => Kind::Hwcr,
        // DE_CFG.
        0xc001_1029 => Kind::Fixed(LFENCE_SERIALIZES),
        // Patch loader, SMM_BASE to SMM_MASK.
        0xc001_0020 | 0xc001_0111..=0xc001_0113 => DANGEROUS,
        // VM_CR to SVM_KEY, GHCB and SEV_STATUS.
        0xc001_0114..=0xc001_0118 | 0xc001_0130..=0xc001_0131 => DANGEROUS,
        // Performance counters old and new, P-state control, instruction-based sampling.
        0xc001_0000..=0xc001_0007 | 0xc001_0200..=0xc001_020b => Kind::DangerousToWrite,
        0xc001_0062 | 0xc001_1030..=0xc001_103d => Kind::DangerousToWrite,
        _ => UNKNOWN,
    }
}
