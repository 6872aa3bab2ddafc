//! What this processor's VMX offers: a snapshot of its capability MSRs (SDM 3D appendix A).
//!
//! Taken once per CPU; all CPUs must give the same one before any of them is activated. Reading it is
//! the caller's, through a closure, so that recorded values of real processors serve as tests.

use x86::msr;
use x86::vmx::vmcs::control::{PrimaryControls, SecondaryControls};

use crate::registers::{CR0_PE, CR0_PG};

/// What a word may hold: a bit set in `fixed_one` must be 1, a bit clear in `may_be_one` must be 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowed {
    pub(super) fixed_one: u64,
    pub(super) may_be_one: u64,
}

impl Allowed {
    /// A control word from its capability MSR: bits 31:0 are the allowed 0-settings, bits 63:32 the
    /// allowed 1-settings (SDM 3D A.3.1).
    const fn from_msr(value: u64) -> Self {
        Self { fixed_one: value & 0xffff_ffff, may_be_one: value >> 32 }
    }
}

/// The bits VMX fixes in CR0 or CR4 (SDM 3D A.7, A.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FixedBits {
    /// IA32_VMX_CRn_FIXED0: what is 1 here must be 1.
    fixed0: u64,
    /// IA32_VMX_CRn_FIXED1: what is 0 here must be 0.
    fixed1: u64,
}

impl FixedBits {
    /// `value` with the fixed bits as VMX wants them.
    pub(super) const fn apply(self, value: u64) -> u64 {
        (value | self.fixed0) & self.fixed1
    }

    /// True when VMX takes `value` as it is.
    pub(super) const fn allows(self, value: u64) -> bool {
        self.apply(value) == value
    }

    /// The same for CR0 of an unrestricted guest, where PE and PG are free (SDM 3C 24.8, 27.3.1.1).
    pub(super) const fn unrestricted(self) -> Self {
        Self { fixed0: self.fixed0 & !(CR0_PE | CR0_PG), ..self }
    }
}

/// IA32_FEATURE_CONTROL (SDM 3C 24.7): it is locked; VMX outside SMX is on.
pub(super) const FEATURE_CONTROL_LOCK: u64 = 1 << 0;
pub(super) const FEATURE_CONTROL_VMX: u64 = 1 << 2;
/// IA32_VMX_BASIC (SDM 3D A.1): the TRUE_ capability MSRs exist and default-1 controls may be 0.
pub(super) const TRUE_CONTROLS: u64 = 1 << 55;
/// IA32_VMX_EPT_VPID_CAP (SDM 3D A.10): 1 GiB pages; accessed and dirty flags.
pub(super) const EPT_PAGES_1G: u64 = 1 << 17;
pub(super) const EPT_ACCESSED_DIRTY: u64 = 1 << 21;

/// All of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capabilities {
    /// IA32_VMX_BASIC (SDM 3D A.1).
    pub(super) basic: u64,
    /// The control words, in the order of [`Controls`](super::controls::Controls) (SDM 3D A.3 to A.5).
    pub(super) controls: [Allowed; 5],
    /// IA32_VMX_EPT_VPID_CAP (SDM 3D A.10); zero where neither EPT nor VPID exists.
    pub(super) ept_vpid: u64,
    /// IA32_VMX_MISC (SDM 3D A.6).
    pub(super) misc: u64,
    pub(super) cr0: FixedBits,
    pub(super) cr4: FixedBits,
    /// IA32_FEATURE_CONTROL.
    pub(super) feature_control: u64,
}

impl Capabilities {
    /// Takes the snapshot with `read`, which reads one MSR. Reads only MSRs that exist where CPUID
    /// shows VMX (CPUID.1:ECX.5), in the order the SDM makes them depend on each other.
    pub(super) fn read(mut read: impl FnMut(u32) -> u64) -> Self {
        let basic = read(msr::IA32_VMX_BASIC);
        // Both rows have the same order: pin-based, primary, exit, entry.
        let first = if basic & TRUE_CONTROLS != 0 {
            msr::IA32_VMX_TRUE_PINBASED_CTLS
        } else {
            msr::IA32_VMX_PINBASED_CTLS
        };
        let [pin, primary, exit, entry] =
            [0, 1, 2, 3].map(|index| Allowed::from_msr(read(first + index)));
        let mut read_if = |word: u64, bits: u32, index| {
            if word & u64::from(bits) != 0 { read(index) } else { 0 }
        };
        let secondary = Allowed::from_msr(read_if(
            primary.may_be_one,
            PrimaryControls::SECONDARY_CONTROLS.bits(),
            msr::IA32_VMX_PROCBASED_CTLS2,
        ));
        let ept_vpid = read_if(
            secondary.may_be_one,
            SecondaryControls::ENABLE_EPT.bits() | SecondaryControls::ENABLE_VPID.bits(),
            msr::IA32_VMX_EPT_VPID_CAP,
        );
        let mut fixed = |fixed0, fixed1| FixedBits { fixed0: read(fixed0), fixed1: read(fixed1) };
        Self {
            basic,
            controls: [pin, primary, secondary, exit, entry],
            ept_vpid,
            cr0: fixed(msr::IA32_VMX_CR0_FIXED0, msr::IA32_VMX_CR0_FIXED1),
            cr4: fixed(msr::IA32_VMX_CR4_FIXED0, msr::IA32_VMX_CR4_FIXED1),
            misc: read(msr::IA32_VMX_MISC),
            feature_control: read(msr::IA32_FEATURE_CONTROL),
        }
    }

    /// VMCS revision identifier, for the head of VMXON and VMCS regions.
    pub(super) const fn revision(&self) -> u32 {
        self.basic as u32 & 0x7fff_ffff
    }

    /// The preemption timer's value that ends the run once `ticks` of the time-stamp counter have
    /// passed: 0 when they have, else never early and at most two of the timer's periods late, as its
    /// first period may be cut short (SDM 3C 26.5.1). Longer times than it can hold end early.
    pub(super) const fn preemption_timer_value(&self, ticks: u64) -> u32 {
        if ticks == 0 {
            return 0;
        }
        // It counts down when this bit of the time-stamp counter changes (SDM 3D A.6).
        let periods = ticks.div_ceil(1 << (self.misc & 0x1f));
        if periods >= u32::MAX as u64 { u32::MAX } else { periods as u32 + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{HASWELL, ICE_LAKE, PENRYN, processor};
    use super::{Capabilities, EPT_ACCESSED_DIRTY, EPT_PAGES_1G, TRUE_CONTROLS};

    #[test]
    fn a_snapshot_names_what_the_processor_reports() {
        let haswell = processor(HASWELL, &[]);
        assert_eq!(haswell.revision(), 0x2b);
        assert_ne!(haswell.basic & TRUE_CONTROLS, 0);
        assert_eq!(haswell.feature_control, 5);
        let both = EPT_PAGES_1G | EPT_ACCESSED_DIRTY;
        assert_eq!(haswell.ept_vpid & both, both);
        // The exact controls are used: CR3-load exiting may be off.
        assert_eq!(haswell.controls[1].fixed_one & 1 << 15, 0);
        assert_ne!(haswell, processor(ICE_LAKE, &[]));
    }

    #[test]
    fn msrs_that_may_be_missing_are_not_read() {
        // No EPT and no VPID: no IA32_VMX_EPT_VPID_CAP.
        let old = processor(PENRYN, &[]);
        assert_eq!(old.controls[2].may_be_one, 0x41);
        assert_eq!(old.ept_vpid, 0);
    }

    #[test]
    fn an_unrestricted_guest_may_leave_protected_mode() {
        let cr0 = processor(HASWELL, &[]).cr0;
        assert!(!cr0.allows(0x30));
        assert_eq!(cr0.apply(0x30), 0x8000_0031);
        assert!(cr0.unrestricted().allows(0x30));
        assert_eq!(cr0.unrestricted().apply(0x10), 0x30);
        assert!(!cr0.allows(0x1_8000_0031));
    }

    #[test]
    fn the_preemption_timer_is_never_early() {
        let timer = |misc| Capabilities { misc, ..processor(HASWELL, &[]) };
        assert_eq!(timer(5).preemption_timer_value(0), 0);
        for ticks in [1, 31, 32, 33, 1000, 1 << 36] {
            let periods = u64::from(timer(5).preemption_timer_value(ticks));
            // The first period is over at once in the worst case.
            assert!((periods - 1) * 32 >= ticks && (periods - 2) * 32 < ticks);
        }
        assert_eq!(timer(5).preemption_timer_value(u64::MAX), u32::MAX);
        assert_eq!(timer(0).preemption_timer_value(7), 8);
    }
}
