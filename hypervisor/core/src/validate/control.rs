//! Control registers, XCR0 and IA32_APIC_BASE.

use hypervisor_abi::SystemRegisters;

use super::{Invalid, ensure, physical_mask};
use crate::cpuid::{Features, legal_xcr0, xcr0 as component};
use crate::registers::{
    APIC_BASE_BOOTSTRAP, APIC_BASE_ENABLE, APIC_BASE_X2APIC, CR0_CD, CR0_NW, CR0_PE, CR0_PG,
    CR0_WP, CR4_CET, CR4_OSXSAVE, CR4_PAE, CR4_PCIDE, EFER_LMA, EFER_LME,
};

/// CR0 bits that exist: PE, MP, EM, TS, ET, NE, WP, AM, NW, CD, PG (SDM 3A 2.5).
const CR0_DEFINED: u64 = 0xe005_003f;

/// Control registers as a whole, for a state that root sets: what each demands of the others (SDM 3A 2.5,
/// SDM 3C 27.3.1.1, APM 2 15.5.1). Where a guest changes them the processor sees to it.
pub(super) fn control(system: &SystemRegisters, features: &Features) -> Result<(), Invalid> {
    let SystemRegisters { cr0, cr3, cr4, efer, .. } = *system;
    let long_mode = efer & EFER_LMA != 0;
    let active = cr0 & CR0_PG != 0 && efer & EFER_LME != 0;
    without(cr0, CR0_DEFINED)?;
    without(cr4, features.cr4)?;
    without(efer, features.efer)?;
    without(cr3, physical_mask(features.physical_bits))?;
    ensure(cr0 & (CR0_PG | CR0_PE) != CR0_PG, Invalid::PagingWithoutProtection)?;
    ensure(cr0 & (CR0_NW | CR0_CD) != CR0_NW, Invalid::NotWriteThroughWithoutCacheDisable)?;
    ensure(long_mode == active, Invalid::LongModeActiveMismatch)?;
    ensure(!long_mode || cr4 & CR4_PAE != 0, Invalid::LongModeWithoutPae)?;
    ensure(long_mode || cr4 & CR4_PCIDE == 0, Invalid::PcidsOutsideLongMode)?;
    ensure(cr4 & CR4_CET == 0 || cr0 & CR0_WP != 0, Invalid::CetWithoutWriteProtect)
}

fn without(value: u64, allowed: u64) -> Result<u64, Invalid> {
    ensure(value & !allowed == 0, Invalid::Reserved(value & !allowed)).map(|()| value)
}

/// MOV to CR8 (SDM 3A 11.8.6).
///
/// # Errors
///
/// When more than the task priority is set.
pub fn cr8(value: u64) -> Result<u64, Invalid> {
    without(value, 0xf)
}

/// WRMSR of `value` to IA32_EFER, which is `now`: the value to load (SDM 3A 2.2.1, 10.8.5; APM 2 3.1.7).
/// LMA is the processor's: what is written there is ignored.
///
/// # Errors
///
/// When bits are reserved, or LME changes with paging on.
pub fn efer(value: u64, now: u64, cr0: u64, features: &Features) -> Result<u64, Invalid> {
    let value = without(value & !EFER_LMA | now & EFER_LMA, features.efer)?;
    let changes = (value ^ now) & EFER_LME != 0;
    ensure(!(changes && cr0 & CR0_PG != 0), Invalid::LongModeEnableWithPaging)?;
    Ok(value)
}

/// XCR0: no reserved bit, x87 state, and each component with its companions (SDM 1 13.3).
pub(super) fn xcr0(value: u64, features: &Features) -> Result<u64, Invalid> {
    without(value, features.xcr0)?;
    let legal = value & component::X87 != 0
        && value & (component::AVX | component::SSE) != component::AVX
        && value | component::SSE == legal_xcr0(value);
    ensure(legal, Invalid::Components(value)).map(|()| value)
}

/// XSETBV with `index` in ECX and `value` in EDX:EAX: the XCR0 to load (SDM 2D XSETBV).
///
/// # Errors
///
/// The exception to raise: #UD for [`Invalid::Undefined`], else #GP(0).
pub fn xsetbv(
    index: u32,
    value: u64,
    privilege: u8,
    cr4: u64,
    features: &Features,
) -> Result<u64, Invalid> {
    ensure(cr4 & CR4_OSXSAVE != 0, Invalid::Undefined)?;
    ensure(privilege == 0 && index == 0, Invalid::Privilege)?;
    xcr0(value, features)
}

/// The same for root, which may use all that the machine has: `supported` is what CPUID leaf 0xd says. A
/// component that the core does not know needs no companion of others.
///
/// # Errors
///
/// As [`xsetbv`].
pub fn xsetbv_of_root(
    index: u32,
    value: u64,
    privilege: u8,
    cr4: u64,
    supported: u64,
) -> Result<u64, Invalid> {
    /// BNDREGS with BNDCSR, TILECFG with TILEDATA: both or none (SDM 1 13.3).
    const PAIRS: [u64; 2] = [0b11 << 3, 0b11 << 17];
    ensure(cr4 & CR4_OSXSAVE != 0, Invalid::Undefined)?;
    ensure(privilege == 0 && index == 0, Invalid::Privilege)?;
    without(value, supported)?;
    let wide = value & component::AVX512;
    let legal = value & component::X87 != 0
        && value & (component::AVX | component::SSE) != component::AVX
        && (wide == 0 || wide == component::AVX512 && value & component::AVX != 0)
        && PAIRS.iter().all(|pair| value & pair == 0 || value & pair == *pair);
    ensure(legal, Invalid::Components(value)).map(|()| value)
}

/// IA32_APIC_BASE: no reserved bit, and no x2APIC mode while off (SDM 3A 11.4.4, table 11-5).
pub const fn apic_base(value: u64, physical_bits: u8) -> bool {
    let address = physical_mask(physical_bits) & !0xfff;
    let known = address | APIC_BASE_BOOTSTRAP | APIC_BASE_ENABLE | APIC_BASE_X2APIC;
    value & !known == 0 && value & (APIC_BASE_ENABLE | APIC_BASE_X2APIC) != APIC_BASE_X2APIC
}
