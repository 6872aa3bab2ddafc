use super::features;
use crate::validate::control::xcr0;
use crate::validate::{
    Invalid, canonical, cr8, efer, fixed_range, memory_type_default, pat, variable_range, xsetbv,
};

const PG: u64 = 1 << 31;
const OSXSAVE: u64 = 1 << 18;
const LME: u64 = 1 << 8;
const LMA: u64 = 1 << 10;

#[test]
fn cr8_holds_a_class_of_priority() {
    assert_eq!(cr8(15), Ok(15));
    assert!(cr8(16).is_err());
}

#[test]
fn efer_changes_long_mode_only_without_paging() {
    let features = features();
    let write = |value, now, cr0| efer(value, now, cr0, &features);
    assert_eq!(write(LME | 1, 0, 0), Ok(LME | 1));
    assert_eq!(write(LMA, 0, 0), Ok(0), "LMA is the processor's");
    assert_eq!(write(LME, LME | LMA, PG), Ok(LME | LMA));
    assert_eq!(write(0, LME | LMA, PG), Err(Invalid::LongModeEnableWithPaging));
    assert_eq!(write(LME, 0, PG), Err(Invalid::LongModeEnableWithPaging));
    assert_eq!(write(1 << 12, 0, 0), Err(Invalid::Reserved(1 << 12)));
}

#[test]
fn xcr0_keeps_companions_together() {
    let features = features();
    for good in [1, 3, 7, 0xe7, 0x203, 0x2e7] {
        assert_eq!(xcr0(good, &features), Ok(good), "{good:#x}");
    }
    for bad in [0, 2, 6, 5, 0x27, 0x67, 0xe3] {
        assert_eq!(xcr0(bad, &features), Err(Invalid::Components(bad)), "{bad:#x}");
    }
    assert_eq!(xcr0(0xb, &features), Err(Invalid::Reserved(8)));
    assert_eq!(xcr0(0x60003, &features), Err(Invalid::Reserved(0x60000)), "tiles");
    assert_eq!(xsetbv(0, 7, 0, OSXSAVE, &features), Ok(7));
    assert_eq!(xsetbv(0, 7, 0, 0, &features), Err(Invalid::Undefined));
    assert_eq!(xsetbv(0, 7, 3, OSXSAVE, &features), Err(Invalid::Privilege));
    assert_eq!(xsetbv(1, 7, 0, OSXSAVE, &features), Err(Invalid::Privilege));
    assert!(matches!(xsetbv(0, 0, 0, OSXSAVE, &features), Err(Invalid::Components(0))));
}

#[test]
fn addresses_repeat_their_highest_bit() {
    assert!(canonical(0x7fff_ffff_ffff, false));
    assert!(!canonical(0x8000_0000_0000, false));
    assert!(canonical(0xffff_8000_0000_0000, false));
    assert!(canonical(0x8000_0000_0000, true));
    assert!(!canonical(1 << 56, true));
}

#[test]
fn memory_types_that_do_not_exist_are_refused() {
    assert!(pat(0x0007_0406_0007_0406));
    assert!(!pat(0x0007_0406_0007_0402));
    assert!(!pat(0x0307_0406_0007_0406));
    assert!(!pat(0x80));
    assert!(fixed_range(0x0605_0401_0006_0000));
    assert!(!fixed_range(7));
    assert!(memory_type_default(0xc06));
    assert!(!memory_type_default(0x1006));
    assert!(!memory_type_default(2));
    assert!(variable_range(0xf_ffff_f006, false, 36));
    assert!(!variable_range(0x10_0000_0006, false, 36));
    assert!(!variable_range(0x106, false, 36));
    assert!(variable_range(0xf_c000_0800, true, 36));
    assert!(!variable_range(0x400, true, 36));
}
