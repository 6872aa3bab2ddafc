//! What a processor may still hold of another's data when a guest is entered: lines of the first-level
//! data cache (L1TF, CVE-2018-3646) and internal buffers (MDS and its kin, CVE-2018-12130). Emptied when
//! the processor changes between root and a guest, not at exits the core answers itself.
//!
//! `unsafe` here: IA32_FLUSH_CMD and VERW.
#![allow(unsafe_code)]

use core::arch::asm;

use crate::cpu::{control, descriptors, exceptions, msr};

/// CPUID 7 EDX (SDM 2A CPUID): VERW empties buffers, IA32_FLUSH_CMD exists, IA32_ARCH_CAPABILITIES
/// exists.
const MD_CLEAR: u32 = 1 << 10;
const L1D_FLUSH: u32 = 1 << 28;
const ARCH_CAPABILITIES: u32 = 1 << 29;
/// IA32_ARCH_CAPABILITIES (SDM 4 table 2-2): RDCL_NO, SKIP_L1DFL_VMENTRY, MDS_NO, and TAA_NO, which
/// processors with MDS_NO may lack.
const ARCH_CAPABILITIES_MSR: u32 = 0x10a;
const RDCL_NO: u64 = 1 << 0;
const SKIP_L1DFL_VMENTRY: u64 = 1 << 3;
const MDS_NO: u64 = 1 << 5;
const TAA_NO: u64 = 1 << 8;
/// IA32_FLUSH_CMD, L1D_FLUSH (SDM 4 table 2-2).
const FLUSH_CMD_MSR: u32 = 0x10b;

/// What must be emptied on this processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Residue {
    cache: bool,
    buffers: bool,
}

impl Residue {
    /// Looks.
    pub(super) fn detect() -> Self {
        let features = if control::cpuid(0, 0)[0] >= 7 { control::cpuid(7, 0)[3] } else { 0 };
        let capabilities = if features & ARCH_CAPABILITIES != 0 {
            exceptions::try_read_msr(ARCH_CAPABILITIES_MSR).unwrap_or(0)
        } else {
            0
        };
        Self::of(features, capabilities)
    }

    const fn of(features: u32, capabilities: u64) -> Self {
        const FREE: u64 = MDS_NO | TAA_NO;
        Self {
            cache: features & L1D_FLUSH != 0 && capabilities & (RDCL_NO | SKIP_L1DFL_VMENTRY) == 0,
            buffers: features & MD_CLEAR != 0 && capabilities & FREE != FREE,
        }
    }

    /// Empties what must be; the cache only before a guest, who may have chosen the addresses.
    pub(super) fn empty(self, before_guest: bool) {
        if self.cache && before_guest {
            // SAFETY: the register exists; what was written stays written.
            unsafe { msr::write(FLUSH_CMD_MSR, 1) };
        }
        if self.buffers {
            let selector = descriptors::DATA;
            // SAFETY: VERW only checks a selector and empties buffers on the way.
            unsafe { asm!("verw word ptr [{}]", in(reg) &raw const selector, options(nostack)) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ARCH_CAPABILITIES, L1D_FLUSH, MD_CLEAR, Residue};

    #[test]
    fn only_affected_processors_are_emptied() {
        let all = MD_CLEAR | L1D_FLUSH | ARCH_CAPABILITIES;
        let residue = |cache, buffers| Residue { cache, buffers };
        assert_eq!(Residue::of(all, 0), residue(true, true));
        // Cascade Lake: RDCL_NO, SKIP_L1DFL_VMENTRY, MDS_NO, but TSX.
        assert_eq!(Residue::of(all, 0b10_1001), residue(false, true));
        assert_eq!(Residue::of(all, 0b1_0010_1001), residue(false, false));
        // Without the means there is nothing to do.
        assert_eq!(Residue::of(0, 0), residue(false, false));
    }
}
