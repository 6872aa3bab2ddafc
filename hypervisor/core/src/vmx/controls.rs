//! The VMCS controls, computed from what the processor offers.
//!
//! One table says what must be, what is taken where offered and what must not be, for the two kinds of
//! partition. When something is missing, [`Shortfall`] names every piece of it, not only the first.

use core::fmt;

use x86::vmx::vmcs::control::{
    EntryControls as Entry, ExitControls as Exit, PinbasedControls as Pin,
    PrimaryControls as Primary, SecondaryControls as Secondary,
};

use super::capability::{
    Allowed, Capabilities, FEATURE_CONTROL_LOCK, FEATURE_CONTROL_VMX, TRUE_CONTROLS,
};

/// What a VMCS is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Root on one physical CPU: owns the devices and takes interrupts itself; exits only where the
    /// core must know or protect itself.
    Root,
    /// A virtual CPU of a guest: nothing of the machine reaches it but through the core.
    Guest,
}

/// The control words of a VMCS as it starts: pin-based, primary and secondary processor-based
/// VM-execution controls, VM-exit and VM-entry controls (SDM 3C 25.6.1, 25.6.2, 25.7.1, 25.8.1). Some
/// bits change while it runs: the windows in [`PRIMARY`], the mode in [`ENTRY`].
pub(super) type Controls = [u32; 5];

const PIN: usize = 0;
pub(super) const PRIMARY: usize = 1;
pub(super) const SECONDARY: usize = 2;
const EXIT: usize = 3;
pub(super) const ENTRY: usize = 4;
/// Words that say what the processor can do, not what a VMCS holds: IA32_VMX_EPT_VPID_CAP,
/// IA32_VMX_MISC, IA32_VMX_BASIC, and 1 unless the firmware has turned VMX off and locked it so.
const EPT_VPID: usize = 5;
const MISC: usize = 6;
const BASIC: usize = 7;
const FIRMWARE: usize = 8;

/// Secondary control "enable PCONFIG" (SDM 3C 25.6.2), which crate x86 lacks.
pub(super) const ENABLE_PCONFIG: u32 = 1 << 27;

/// What a bit must be.
#[derive(Clone, Copy)]
enum Need {
    /// 1.
    Must,
    /// 1 where offered.
    Wanted,
    /// 0.
    Never,
}
use Need::{Must, Never, Wanted};

/// Bits of one word: what root and a guest need of them, and the words for it.
struct Requirement {
    word: usize,
    bits: u64,
    /// By [`Kind`].
    needs: [Need; 2],
    name: &'static str,
}

/// A control: what root needs, what a guest needs.
const fn of(word: usize, bits: u32, root: Need, guest: Need, name: &'static str) -> Requirement {
    Requirement { word, bits: bits as u64, needs: [root, guest], name }
}

/// What the processor must be able to do.
const fn can(word: usize, bits: u64, name: &'static str) -> Requirement {
    Requirement { word, bits, needs: [Must; 2], name }
}

const REQUIREMENTS: [Requirement; 67] = [
    can(FIRMWARE, 1, "VMX (turned off and locked by the firmware: turn it on in its settings)"),
    can(BASIC, TRUE_CONTROLS, "TRUE VMX capability MSRs"),
    // The memory type of the regions, bits 53:50 (SDM 3D A.1).
    can(BASIC, 6 << 50, "write-back VMCS regions"),
    of(PIN, Pin::EXTERNAL_INTERRUPT_EXITING.bits(), Never, Must, "external-interrupt exiting"),
    // Kicks are NMIs: the core swallows its own and gives the others back, to root as to guests.
    of(PIN, Pin::NMI_EXITING.bits(), Must, Must, "NMI exiting"),
    of(PIN, Pin::VIRTUAL_NMIS.bits(), Must, Must, "virtual NMIs"),
    of(PIN, Pin::VMX_PREEMPTION_TIMER.bits(), Never, Must, "VMX-preemption timer"),
    of(PIN, Pin::POSTED_INTERRUPTS.bits(), Never, Never, "posted interrupts"),
    of(PRIMARY, Primary::USE_TSC_OFFSETTING.bits(), Never, Must, "TSC offsetting"),
    of(PRIMARY, Primary::HLT_EXITING.bits(), Never, Must, "HLT exiting"),
    of(PRIMARY, Primary::MWAIT_EXITING.bits(), Never, Must, "MWAIT exiting"),
    of(PRIMARY, Primary::RDPMC_EXITING.bits(), Never, Must, "RDPMC exiting"),
    of(PRIMARY, Primary::CR8_LOAD_EXITING.bits(), Never, Must, "CR8-load exiting"),
    of(PRIMARY, Primary::CR8_STORE_EXITING.bits(), Never, Must, "CR8-store exiting"),
    of(PRIMARY, Primary::USE_IO_BITMAPS.bits(), Must, Must, "I/O bitmaps"),
    of(PRIMARY, Primary::USE_MSR_BITMAPS.bits(), Must, Must, "MSR bitmaps"),
    of(PRIMARY, Primary::MONITOR_EXITING.bits(), Never, Must, "MONITOR exiting"),
    of(PRIMARY, Primary::SECONDARY_CONTROLS.bits(), Must, Must, "secondary controls"),
    of(PRIMARY, Primary::PAUSE_EXITING.bits(), Never, Never, "PAUSE exiting"),
    of(PRIMARY, Primary::MOV_DR_EXITING.bits(), Never, Never, "MOV-DR exiting"),
    // Page tables are the guest's own business under EPT.
    of(PRIMARY, Primary::CR3_LOAD_EXITING.bits(), Never, Never, "CR3-load exiting"),
    of(PRIMARY, Primary::CR3_STORE_EXITING.bits(), Never, Never, "CR3-store exiting"),
    of(PRIMARY, Primary::INVLPG_EXITING.bits(), Never, Never, "INVLPG exiting"),
    of(PRIMARY, Primary::RDTSC_EXITING.bits(), Never, Never, "RDTSC exiting"),
    of(PRIMARY, Primary::INTERRUPT_WINDOW_EXITING.bits(), Never, Never, "interrupt windows"),
    of(PRIMARY, Primary::NMI_WINDOW_EXITING.bits(), Never, Never, "NMI windows"),
    of(PRIMARY, Primary::MONITOR_TRAP_FLAG.bits(), Never, Never, "monitor trap flag"),
    of(PRIMARY, Primary::USE_TPR_SHADOW.bits(), Never, Never, "TPR shadow"),
    of(SECONDARY, Secondary::ENABLE_EPT.bits(), Must, Must, "EPT"),
    of(SECONDARY, Secondary::ENABLE_VPID.bits(), Must, Must, "VPID"),
    of(SECONDARY, Secondary::WBINVD_EXITING.bits(), Never, Must, "WBINVD exiting"),
    of(SECONDARY, Secondary::UNRESTRICTED_GUEST.bits(), Must, Must, "unrestricted guest"),
    // Without its control an instruction that CPUID shows raises #UD.
    of(SECONDARY, Secondary::ENABLE_RDTSCP.bits(), Wanted, Wanted, "RDTSCP"),
    of(SECONDARY, Secondary::ENABLE_INVPCID.bits(), Wanted, Wanted, "INVPCID"),
    of(SECONDARY, Secondary::ENABLE_USER_WAIT_PAUSE.bits(), Wanted, Wanted, "user wait and pause"),
    // IA32_XSS is root's: a guest's XSAVES would save supervisor state of root's.
    of(SECONDARY, Secondary::ENABLE_XSAVES_XRSTORS.bits(), Wanted, Never, "XSAVES"),
    of(SECONDARY, ENABLE_PCONFIG, Wanted, Never, "PCONFIG"),
    of(SECONDARY, Secondary::DTABLE_EXITING.bits(), Never, Never, "descriptor-table exiting"),
    of(SECONDARY, Secondary::VIRTUALIZE_APIC.bits(), Never, Never, "virtual APIC accesses"),
    of(SECONDARY, Secondary::VIRTUALIZE_X2APIC.bits(), Never, Never, "virtual x2APIC mode"),
    of(SECONDARY, Secondary::RDRAND_EXITING.bits(), Never, Never, "RDRAND exiting"),
    of(SECONDARY, Secondary::RDSEED_EXITING.bits(), Never, Never, "RDSEED exiting"),
    of(EXIT, Exit::SAVE_DEBUG_CONTROLS.bits(), Must, Must, "save debug controls on exit"),
    of(EXIT, Exit::HOST_ADDRESS_SPACE_SIZE.bits(), Must, Must, "64-bit host"),
    // A physical interrupt stays pending until root, back in control, takes it.
    of(EXIT, Exit::ACK_INTERRUPT_ON_EXIT.bits(), Never, Never, "interrupts taken on exit"),
    of(EXIT, Exit::SAVE_IA32_PAT.bits(), Must, Must, "save IA32_PAT on exit"),
    of(EXIT, Exit::LOAD_IA32_PAT.bits(), Must, Must, "load IA32_PAT on exit"),
    of(EXIT, Exit::SAVE_IA32_EFER.bits(), Must, Must, "save IA32_EFER on exit"),
    of(EXIT, Exit::LOAD_IA32_EFER.bits(), Must, Must, "load IA32_EFER on exit"),
    of(EXIT, Exit::SAVE_VMX_PREEMPTION_TIMER.bits(), Never, Never, "save the timer on exit"),
    of(ENTRY, Entry::LOAD_DEBUG_CONTROLS.bits(), Must, Must, "load debug controls on entry"),
    of(ENTRY, Entry::IA32E_MODE_GUEST.bits(), Never, Never, "IA-32e mode guest"),
    of(ENTRY, Entry::ENTRY_TO_SMM.bits(), Never, Never, "entry to SMM"),
    of(ENTRY, Entry::DEACTIVATE_DUAL_MONITOR.bits(), Never, Never, "dual-monitor treatment"),
    of(ENTRY, Entry::LOAD_IA32_PAT.bits(), Must, Must, "load IA32_PAT on entry"),
    of(ENTRY, Entry::LOAD_IA32_EFER.bits(), Must, Must, "load IA32_EFER on entry"),
    // Tables as `second_level` builds them and the invalidations the core relies on (SDM 3D A.10).
    can(EPT_VPID, 1 << 6, "EPT walks of length 4"),
    can(EPT_VPID, 1 << 14, "write-back EPT tables"),
    can(EPT_VPID, 1 << 16, "2 MiB EPT pages"),
    can(EPT_VPID, 1 << 20, "INVEPT"),
    can(EPT_VPID, 1 << 25, "single-context INVEPT"),
    can(EPT_VPID, 1 << 26, "all-context INVEPT"),
    can(EPT_VPID, 1 << 32, "INVVPID"),
    can(EPT_VPID, 1 << 41, "single-context INVVPID"),
    can(EPT_VPID, 1 << 42, "all-context INVVPID"),
    // The activity states virtual CPUs are put in (SDM 3D A.6).
    can(MISC, 1 << 6, "activity state HLT"),
    can(MISC, 1 << 8, "activity state wait-for-SIPI"),
];

/// Everything a processor lacks; bit n is the nth of [`REQUIREMENTS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shortfall {
    /// It cannot do this.
    not_offered: u128,
    /// It cannot do without this.
    not_avoidable: u128,
}

impl Shortfall {
    /// What is missing here or there.
    pub(super) const fn and(self, other: Self) -> Self {
        Self {
            not_offered: self.not_offered | other.not_offered,
            not_avoidable: self.not_avoidable | other.not_avoidable,
        }
    }
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (index, requirement) in REQUIREMENTS.iter().enumerate() {
            for (set, suffix) in [(self.not_offered, ""), (self.not_avoidable, " turned off")] {
                if set >> index & 1 == 1 {
                    write!(f, "{separator}{}{suffix}", requirement.name)?;
                    separator = ", ";
                }
            }
        }
        Ok(())
    }
}

impl Capabilities {
    /// The controls for a VMCS of `kind`.
    ///
    /// # Errors
    /// Everything missing for it.
    pub(super) fn controls(&self, kind: Kind) -> Result<Controls, Shortfall> {
        let firmware = self.feature_control & (FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMX);
        let can = |bits| Allowed { fixed_one: 0, may_be_one: bits };
        let [pin, primary, secondary, exit, entry] = self.controls;
        let [ept_vpid, misc, basic] = [self.ept_vpid, self.misc, self.basic].map(can);
        let firmware = can(u64::from(firmware != FEATURE_CONTROL_LOCK));
        let words = [pin, primary, secondary, exit, entry, ept_vpid, misc, basic, firmware];
        let mut controls = self.controls.map(|allowed| allowed.fixed_one as u32);
        let mut lacks = Shortfall::default();
        for (index, requirement) in REQUIREMENTS.iter().enumerate() {
            let Requirement { word, bits, needs, .. } = *requirement;
            match needs[kind as usize] {
                Must if bits & !words[word].may_be_one != 0 => lacks.not_offered |= 1 << index,
                Never if bits & words[word].fixed_one != 0 => lacks.not_avoidable |= 1 << index,
                Never => {}
                Must | Wanted => {
                    if let Some(control) = controls.get_mut(word) {
                        *control |= (bits & words[word].may_be_one) as u32;
                    }
                }
            }
        }
        if lacks == Shortfall::default() { Ok(controls) } else { Err(lacks) }
    }
}

#[cfg(test)]
mod tests {
    use std::string::{String, ToString};

    use super::{ENABLE_PCONFIG, ENTRY, EXIT, Kind, PIN, PRIMARY, REQUIREMENTS, SECONDARY};
    use crate::vmx::fixtures::{HASWELL, ICE_LAKE, LYNNFIELD, PENRYN, Values, processor};

    fn lacks(values: Values, changed: &[(u32, u64)]) -> String {
        processor(values, changed)
            .controls(Kind::Guest)
            .expect_err("something is missing")
            .to_string()
    }

    #[test]
    fn a_guest_takes_no_interrupt_and_root_takes_them_all() {
        let haswell = processor(HASWELL, &[]);
        let guest = haswell.controls(Kind::Guest).unwrap();
        let root = haswell.controls(Kind::Root).unwrap();
        // The preemption timer, bit 6, runs for guests only.
        assert_eq!(guest[PIN], 0x16 | 1 | 1 << 3 | 1 << 5 | 1 << 6);
        assert_eq!(root[PIN], 0x16 | 1 << 3 | 1 << 5);
        // Not acknowledged, host in 64-bit mode.
        assert_eq!(guest[EXIT] & (1 << 15 | 1 << 9), 1 << 9);
        assert_eq!((guest[EXIT], guest[ENTRY]), (root[EXIT], root[ENTRY]));
    }

    #[test]
    fn page_table_instructions_never_exit() {
        for values in [HASWELL, ICE_LAKE] {
            for kind in [Kind::Guest, Kind::Root] {
                let controls = processor(values, &[]).controls(kind).unwrap();
                assert_eq!(controls[PRIMARY] & (1 << 9 | 1 << 15 | 1 << 16), 0);
                assert_eq!(controls[SECONDARY] & 1 << 2, 0);
            }
        }
    }

    #[test]
    fn instructions_are_enabled_where_offered() {
        let haswell = processor(HASWELL, &[]).controls(Kind::Guest).unwrap();
        // EPT, RDTSCP, VPID, WBINVD exiting, unrestricted guest, INVPCID.
        assert_eq!(haswell[SECONDARY], 0b1_0000_1110_1010);
        let ice_lake = processor(ICE_LAKE, &[]);
        let guest = ice_lake.controls(Kind::Guest).unwrap();
        assert_eq!(guest[SECONDARY], haswell[SECONDARY]);
        let root = ice_lake.controls(Kind::Root).unwrap();
        assert_eq!(root[SECONDARY] & 1 << 20, 1 << 20);
        let modern = processor(ICE_LAKE, &[(0x48b, 0x0fff_ffff_0000_0000)]);
        let guest = modern.controls(Kind::Guest).unwrap();
        assert_eq!(guest[SECONDARY] & 1 << 26, 1 << 26);
        let root = modern.controls(Kind::Root).unwrap();
        assert_eq!(root[SECONDARY] & ENABLE_PCONFIG, ENABLE_PCONFIG);
        assert_eq!(guest[SECONDARY] & ENABLE_PCONFIG, 0);
    }

    #[test]
    fn the_control_words_are_as_the_core_was_tried_with() {
        let words = |kind| processor(HASWELL, &[]).controls(kind).unwrap();
        assert_eq!(words(Kind::Root), [0x3e, 0x9600_6172, 0x10aa, 0x003f_6fff, 0xd1ff]);
        assert_eq!(words(Kind::Guest), [0x7f, 0xb618_6dfa, 0x10ea, 0x003f_6fff, 0xd1ff]);
    }

    #[test]
    fn every_missing_piece_is_named() {
        assert_eq!(lacks(LYNNFIELD, &[]), "unrestricted guest");
        let penryn = lacks(PENRYN, &[]);
        for piece in ["TRUE VMX capability MSRs", "EPT", "VPID", "INVEPT"] {
            assert!(penryn.split(", ").any(|name| name == piece), "{penryn}");
        }
        assert_eq!(
            lacks(
                HASWELL,
                &[(0x03a, 1), (0x48d, 0x0000_003f_0000_0016), (0x48c, 0x0000_0b01_0632_4141)]
            ),
            "VMX (turned off and locked by the firmware: turn it on in its settings), \
             VMX-preemption timer, 2 MiB EPT pages, all-context INVVPID"
        );
        // RDTSC always exits; regions are uncacheable.
        assert_eq!(
            lacks(HASWELL, &[(0x48e, 0xf7f9_fffe_0400_7172), (0x480, 0x00c0_1000_0000_002b)]),
            "write-back VMCS regions, RDTSC exiting turned off"
        );
    }

    #[test]
    fn only_a_lock_by_the_firmware_keeps_vmx_off() {
        let works = |value| processor(HASWELL, &[(0x03a, value)]).controls(Kind::Root).is_ok();
        assert_eq!([0, 4, 1, 3, 5].map(works), [true, true, false, false, true]);
    }

    #[test]
    fn root_lacks_what_a_guest_lacks() {
        let processor = processor(LYNNFIELD, &[(0x485, 0)]);
        let [root, guest] = [Kind::Root, Kind::Guest].map(|kind| processor.controls(kind));
        let root = root.unwrap_err();
        assert_eq!(
            root.to_string(),
            "unrestricted guest, activity state HLT, activity state wait-for-SIPI"
        );
        assert_eq!(root.and(guest.unwrap_err()), root);
    }

    #[test]
    fn no_bit_is_spoken_of_twice() {
        for (index, one) in REQUIREMENTS.iter().enumerate() {
            for other in &REQUIREMENTS[index + 1..] {
                assert!(one.word != other.word || one.bits & other.bits == 0, "{}", one.name);
            }
        }
    }
}
