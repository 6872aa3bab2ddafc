//! Reading and writing.

use super::Other;
use super::kind::{self, Kind};
use super::mtrr::{self, Mtrrs};
use crate::cpuid::{Features, Vendor};
use crate::validate;

/// The registers of one vCPU that are emulated here.
#[derive(Clone, Copy, Debug)]
pub struct MsrState {
    /// Which registers there are.
    pub features: Features,
    /// The processor's IA32_BIOS_SIGN_ID or patch level: guests decide by it which errata are fixed.
    pub microcode_revision: u64,
    /// The guest's time-stamp counter minus the physical one.
    pub tsc_offset: u64,
    tsc_adjust: u64,
    /// IA32_TSC_AUX.
    pub tsc_aux: u32,
    /// IA32_PAT.
    pub pat: u64,
    /// IA32_DEBUGCTL.
    pub debug_control: u64,
    mtrrs: Mtrrs,
    misc_enable: u64,
    hwcr: u64,
}

/// IA32_PAT after reset: WB, WT, UC-, UC, twice (SDM 3A 12.12.4).
pub const PAT_RESET: u64 = 0x0007_0406_0007_0406;
/// IA32_MISC_ENABLE: fast strings; no branch trace, no precise sampling (SDM 4 table 2-2).
const FAST_STRINGS: u64 = 1 << 0;
const NO_BTS_NO_PEBS: u64 = 1 << 11 | 1 << 12;
/// HWCR: the TSC counts at the frequency of P-state 0 (APM 2 3.2.10).
const TSC_FREQUENCY_SELECT: u64 = 1 << 24;
/// HWCR bits that kernels toggle and that mean nothing to a guest: TLB cache disable, FFDIS, IGNNE
/// emulation, machine check status write.
const HWCR_HARMLESS: u64 = 1 << 3 | 1 << 6 | 1 << 8 | 1 << 18;
/// IA32_DEBUGCTL: single-step on branches. Recording branches would record the core's.
const BRANCH_STEP: u64 = 1 << 1;

/// What a write changed beyond [`MsrState`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// [`MsrState::tsc_offset`], and with it the time of a deadline.
    TscOffset,
    /// [`MsrState::tsc_aux`].
    TscAux,
    /// [`MsrState::pat`].
    Pat,
    /// [`MsrState::debug_control`].
    DebugControl,
}

impl MsrState {
    /// After power-on.
    pub const fn new(features: Features, microcode_revision: u64) -> Self {
        Self {
            features,
            microcode_revision,
            tsc_offset: 0,
            tsc_adjust: 0,
            tsc_aux: 0,
            pat: PAT_RESET,
            debug_control: 0,
            mtrrs: mtrr::RESET,
            misc_enable: FAST_STRINGS | NO_BTS_NO_PEBS,
            hwcr: TSC_FREQUENCY_SELECT,
        }
    }
}

/// RDMSR of `index` when the physical time-stamp counter is `now`: its value.
///
/// # Errors
///
/// What the caller does instead.
pub fn read(index: u32, state: &MsrState, now: u64) -> Result<u64, Other> {
    Ok(match kind::of(index, &state.features) {
        Kind::Tsc => now.wrapping_add(state.tsc_offset),
        Kind::TscAdjust => state.tsc_adjust,
        Kind::TscAux => state.tsc_aux.into(),
        Kind::Pat => state.pat,
        Kind::Mtrr(place) => state.mtrrs[place],
        Kind::MiscEnable => state.misc_enable,
        Kind::DebugControl => state.debug_control,
        Kind::MicrocodeRevision => state.microcode_revision,
        Kind::Hwcr => state.hwcr,
        Kind::ReadOnly(value) | Kind::Fixed(value) => value,
        Kind::DangerousToWrite => return Err(Other::Fault),
        Kind::Other(other) => return Err(other),
    })
}

/// WRMSR of `value` to `index` when the physical time-stamp counter is `now`: what the caller must carry
/// on.
///
/// # Errors
///
/// What the caller does instead; the state has not changed.
pub fn write(
    index: u32,
    value: u64,
    state: &mut MsrState,
    now: u64,
) -> Result<Option<Changed>, Other> {
    let Features { vendor, physical_bits, .. } = state.features;
    let kind = kind::of(index, &state.features);
    let (register, legal, changed) = match kind {
        Kind::Tsc | Kind::TscAdjust => {
            let counter = now.wrapping_add(state.tsc_offset);
            let old = if kind == Kind::Tsc { counter } else { state.tsc_adjust };
            // Either moves the other along (SDM 3B 18.17.3).
            let delta = value.wrapping_sub(old);
            state.tsc_adjust = state.tsc_adjust.wrapping_add(delta);
            state.tsc_offset = state.tsc_offset.wrapping_add(delta);
            return Ok(Some(Changed::TscOffset));
        }
        // AMD ignores the upper half (APM 2 3.2.8), Intel reserves it.
        Kind::TscAux if value >> 32 == 0 || vendor == Vendor::Amd => {
            state.tsc_aux = value as u32;
            return Ok(Some(Changed::TscAux));
        }
        Kind::Pat => (&mut state.pat, validate::pat(value), Some(Changed::Pat)),
        Kind::Mtrr(place) => {
            (&mut state.mtrrs[place], mtrr::accepts(place, value, physical_bits), None)
        }
        Kind::MiscEnable => {
            let legal = (value ^ state.misc_enable) & !FAST_STRINGS == 0;
            (&mut state.misc_enable, legal, None)
        }
        Kind::DebugControl => {
            (&mut state.debug_control, value & !BRANCH_STEP == 0, Some(Changed::DebugControl))
        }
        Kind::Hwcr => {
            let legal = (value ^ TSC_FREQUENCY_SELECT) & !HWCR_HARMLESS == 0;
            (&mut state.hwcr, legal, None)
        }
        // Intel's kernels clear it before they ask for the revision by CPUID (SDM 3A 10.11.7.1).
        Kind::MicrocodeRevision if value == 0 && vendor == Vendor::Intel => return Ok(None),
        Kind::Fixed(only) if value == only => return Ok(None),
        Kind::TscAux | Kind::MicrocodeRevision | Kind::Fixed(_) | Kind::ReadOnly(_) => {
            return Err(Other::Fault);
        }
        Kind::DangerousToWrite => return Err(Other::Refused),
        Kind::Other(other) => return Err(other),
    };
    if !legal {
        return Err(Other::Fault);
    }
    *register = value;
    Ok(changed)
}
