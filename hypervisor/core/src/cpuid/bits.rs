//! The list: features the core can give guests, by leaf and register. Every bit not here reads zero.
//!
//! A feature belongs here when it works in a guest without the core's help, or when the core helps:
//! its state is switched or saved by XSAVE, its registers are emulated by `msr`, its control bits
//! checked by `validate`.

use super::{EAX, EBX, ECX, EDX, leaf};

/// A word with these bits set.
const fn bits(list: &[u32]) -> u32 {
    let mut word = 0;
    let mut index = 0;
    while index < list.len() {
        word |= 1 << list[index];
        index += 1;
    }
    word
}

/// Bits that other code sets, clears or tests.
pub(super) mod bit {
    pub(crate) const X2APIC: u32 = 1 << 21; // 1.ECX
    pub(crate) const TSC_DEADLINE: u32 = 1 << 24; // 1.ECX
    pub(crate) const XSAVE: u32 = 1 << 26; // 1.ECX
    pub(crate) const OSXSAVE: u32 = 1 << 27; // 1.ECX, in answers only
    pub(crate) const HYPERVISOR: u32 = 1 << 31; // 1.ECX
    pub(crate) const APIC: u32 = 1 << 9; // 1.EDX
    pub(crate) const HTT: u32 = 1 << 28; // 1.EDX
    pub(crate) const ARAT: u32 = 1 << 2; // 6.EAX
    pub(crate) const TSC_ADJUST: u32 = 1 << 1; // 7.EBX
    pub(crate) const OSPKE: u32 = 1 << 4; // 7.ECX, in answers only
    pub(crate) const LA57: u32 = 1 << 16; // 7.ECX
    pub(crate) const RDPID: u32 = 1 << 22; // 7.ECX
    pub(crate) const CMP_LEGACY: u32 = 1 << 1; // 8000_0001.ECX
    pub(crate) const RDTSCP: u32 = 1 << 27; // 8000_0001.EDX
}

/// 1.ECX: SSE3, PCLMULQDQ, SSSE3, FMA, CX16, PCID, SSE4.1, SSE4.2, x2APIC, MOVBE, POPCNT, TSC deadline,
/// AES, XSAVE, AVX, F16C, RDRAND, hypervisor.
/// Hidden: DTES64, MONITOR, DS-CPL, VMX, SMX, EIST, TM2, CNXT-ID, SDBG, xTPR, PDCM, DCA.
const VERSION_ECX: u32 =
    bits(&[0, 1, 9, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 28, 29, 30, 31]);
/// 1.EDX: FPU, VME, DE, PSE, TSC, MSR, PAE, MCE, CX8, APIC, SEP, MTRR, PGE, MCA, CMOV, PAT, PSE-36,
/// CLFSH, MMX, FXSR, SSE, SSE2, SS, HTT. Hidden: PSN, DS, ACPI, TM, PBE.
const VERSION_EDX: u32 =
    bits(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 23, 24, 25, 26, 27, 28]);
/// 7.EBX: FSGSBASE, TSC_ADJUST, BMI1, AVX2, FDP_EXCPTN_ONLY, SMEP, BMI2, ERMS, INVPCID, no FPU CS/DS,
/// AVX512F, DQ, RDSEED, ADX, SMAP, IFMA, CLFLUSHOPT, CLWB, PF, ER, CD, SHA, BW, VL.
/// Hidden: SGX, HLE, RDT-M, RTM, MPX, RDT-A, PT.
const FEATURES_EBX: u32 =
    bits(&[0, 1, 3, 5, 6, 7, 8, 9, 10, 13, 16, 17, 18, 19, 20, 21, 23, 24, 26, 27, 28, 29, 30, 31]);
/// 7.ECX: PREFETCHWT1, VBMI, UMIP, PKU, VBMI2, GFNI, VAES, VPCLMULQDQ, VNNI, BITALG, VPOPCNTDQ, LA57,
/// RDPID, CLDEMOTE, MOVDIRI, MOVDIR64B.
/// Hidden: WAITPKG, CET_SS, TME, KL, bus lock detection, ENQCMD, SGX_LC, PKS.
const FEATURES_ECX: u32 = bits(&[0, 1, 2, 3, 6, 8, 9, 10, 11, 12, 14, 16, 22, 25, 27, 28]);
/// 7.EDX: 4VNNIW, 4FMAPS, FSRM, VP2INTERSECT, MD_CLEAR, SERIALIZE, AVX512-FP16, ARCH_CAPABILITIES.
/// Hidden: UINTR, SRBDS_CTRL, RTM_ALWAYS_ABORT, hybrid, TSXLDTRK, PCONFIG, arch. LBR, CET_IBT, AMX,
/// CORE_CAPABILITIES, and what needs IA32_SPEC_CTRL, IA32_PRED_CMD or IA32_FLUSH_CMD.
const FEATURES_EDX: u32 = bits(&[2, 3, 4, 8, 10, 14, 23, 29]);
/// 7.1.EAX: SHA512, SM3, SM4, RAO-INT, AVX-VNNI, AVX512-BF16, CMPCCXADD, FZLRM, FSRS, FSRCS, AVX-IFMA.
/// Hidden: PMU, FRED, LKGS, WRMSRNS, AMX, HRESET, LAM, MSRLIST.
const FEATURES_1_EAX: u32 = bits(&[0, 1, 2, 3, 4, 5, 7, 10, 11, 12, 23]);
/// 7.1.EDX: AVX-VNNI-INT8, AVX-NE-CONVERT, AVX-VNNI-INT16, PREFETCHI.
/// Hidden: AMX-COMPLEX, UIRET_UIF, CET_SSS, AVX10.
const FEATURES_1_EDX: u32 = bits(&[4, 5, 10, 14]);
/// 7.2.EDX: MCDT_NO. Hidden: PSFD, IPRED_CTRL, RRSBA_CTRL, DDPD_U, BHI_CTRL, which are bits of
/// IA32_SPEC_CTRL.
const FEATURES_2_EDX: u32 = bits(&[5]);
/// D.1.EAX: XSAVEOPT, XSAVEC, XGETBV with ECX 1. Hidden: XSAVES, XFD.
const XSAVE_EAX: u32 = bits(&[0, 1, 2]);
/// 8000_0001.ECX: LAHF, CmpLegacy, ABM, SSE4A, MisAlignSse, PREFETCHW, XOP, FMA4, TBM, TopoExt.
/// Hidden: SVM, ExtApicSpace, AltMovCr8, OSVW, IBS, SKINIT, WDT, LWP, TCE, NodeId, performance counters,
/// data breakpoint extension, MONITORX, AddrMaskExt.
const EXTENDED_ECX: u32 = bits(&[0, 1, 5, 6, 7, 8, 11, 16, 21, 22]);
/// 8000_0001.EDX: the bits of 1.EDX that AMD repeats, SYSCALL, NX, MmxExt, FFXSR, 1 GiB pages, RDTSCP,
/// long mode, 3DNow!.
const EXTENDED_EDX: u32 = bits(&[
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 20, 22, 23, 24, 25, 26, 27, 29, 30,
    31,
]);
/// 8000_0007.EDX: invariant TSC.
const POWER_EDX: u32 = bits(&[8]);
/// 8000_0008.EBX: CLZERO, RstrFpErrPtrs, WBNOINVD, SSBD not required, BTC_NO, IBPB_RET.
/// Hidden: InstRetCnt, INVLPGB, RDPRU, MCOMMIT, EFER.LMSLE unsupported, virtual SSBD, CPPC, and what
/// needs SPEC_CTRL or PRED_CMD: IBPB, IBRS, STIBP, the hints on their use, SSBD, PSFD.
const SIZES_EBX: u32 = bits(&[0, 2, 9, 26, 29, 30]);
/// 8000_0021.EAX: no nested data breakpoints, LFENCE serializes, null selector clears base, no SMM_CTL.
/// Hidden: automatic IBRS, upper address ignore, prefetch control.
const FEATURES_AMD_EAX: u32 = bits(&[0, 2, 6, 9]);

/// Features that exist only with state of XSAVE beyond SSE (SDM 1 13.1): (leaf, subleaf, register,
/// mask, XCR0 bits).
pub(super) const WITH_XSAVE: &[(u32, u32, usize, u32, u64)] = &[
    // FMA, AVX, F16C
    (leaf::VERSION, 0, ECX, bits(&[12, 28, 29]), xcr0::AVX),
    // AVX2
    (leaf::FEATURES, 0, EBX, bits(&[5]), xcr0::AVX),
    // VAES, VPCLMULQDQ
    (leaf::FEATURES, 0, ECX, bits(&[9, 10]), xcr0::AVX),
    // SHA512, SM3, SM4, AVX-VNNI, AVX-IFMA
    (leaf::FEATURES, 1, EAX, bits(&[0, 1, 2, 4, 23]), xcr0::AVX),
    // AVX-VNNI-INT8, AVX-NE-CONVERT, AVX-VNNI-INT16
    (leaf::FEATURES, 1, EDX, bits(&[4, 5, 10]), xcr0::AVX),
    // XOP, FMA4
    (leaf::EXTENDED_FEATURES, 0, ECX, bits(&[11, 16]), xcr0::AVX),
    // AVX512 F, DQ, IFMA, PF, ER, CD, BW, VL
    (leaf::FEATURES, 0, EBX, bits(&[16, 17, 21, 26, 27, 28, 30, 31]), xcr0::AVX512),
    // VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ
    (leaf::FEATURES, 0, ECX, bits(&[1, 6, 11, 12, 14]), xcr0::AVX512),
    // 4VNNIW, 4FMAPS, VP2INTERSECT, AVX512-FP16
    (leaf::FEATURES, 0, EDX, bits(&[2, 3, 8, 23]), xcr0::AVX512),
    // AVX512-BF16
    (leaf::FEATURES, 1, EAX, bits(&[5]), xcr0::AVX512),
    // PKU
    (leaf::FEATURES, 0, ECX, bits(&[3]), xcr0::PKRU),
];

/// Components of XSAVE (SDM 1 13.1).
pub(crate) mod xcr0 {
    pub(crate) const X87: u64 = 1 << 0;
    pub(crate) const SSE: u64 = 1 << 1;
    pub(crate) const AVX: u64 = 1 << 2;
    /// Opmask, upper halves of ZMM0-15, ZMM16-31.
    pub(crate) const AVX512: u64 = 0b111 << 5;
    pub(crate) const PKRU: u64 = 1 << 9;
    /// What the core knows how to give guests. Not AMX, whose IA32_XFD it does not switch.
    pub(crate) const KNOWN: u64 = X87 | SSE | AVX | AVX512 | PKRU;
}

/// What of leaf and subleaf guests may see, or `None` for leaves that are no lists of features.
pub(super) const fn allowed(leaf: u32, subleaf: u32) -> Option<[u32; 4]> {
    const ALL: u32 = u32::MAX;
    Some(match (leaf, subleaf) {
        (leaf::VERSION, _) => [ALL, ALL, VERSION_ECX, VERSION_EDX],
        (leaf::THERMAL, _) => [bit::ARAT, 0, 0, 0],
        (leaf::FEATURES, 0) => [ALL, FEATURES_EBX, FEATURES_ECX, FEATURES_EDX],
        (leaf::FEATURES, 1) => [FEATURES_1_EAX, 0, 0, FEATURES_1_EDX],
        (leaf::FEATURES, 2) => [0, 0, 0, FEATURES_2_EDX],
        (leaf::FEATURES, _) => [0; 4],
        (leaf::XSAVE, 1) => [XSAVE_EAX, 0, 0, 0],
        (leaf::EXTENDED_FEATURES, _) => [ALL, ALL, EXTENDED_ECX, EXTENDED_EDX],
        (leaf::POWER, _) => [0, 0, 0, POWER_EDX],
        (leaf::FEATURES_AMD, _) => [FEATURES_AMD_EAX, 0, 0, 0],
        (leaf::SIZES, _) => [ALL, SIZES_EBX, ALL, 0],
        _ => return None,
    })
}
