//! Registers, one by one.

use super::{BASE, NOW, config, x2apic, xapic};
use crate::apic::access::{COMMAND_RESERVED, DIVIDE_BITS, LVT_WRITABLE};
use crate::apic::{GeneralProtection, LocalApic};

/// SDM 3A table 11-6: MSRs that can be read, and bits that may be written.
const READABLE: &[(u32, Option<u64>)] = &[
    (0x802, None),
    (0x803, None),
    (0x808, Some(0xff)),
    (0x80a, None),
    (0x80d, None),
    (0x80f, Some(0x3ff)),
    (0x828, Some(0)),
    (0x830, Some(0xffff_ffff_000c_dfff)),
    (0x832, Some(0x7_50ff)),
    (0x833, Some(0x1_57ff)),
    (0x834, Some(0x1_57ff)),
    (0x835, Some(0x1_f7ff)),
    (0x836, Some(0x1_f7ff)),
    (0x837, Some(0x1_50ff)),
    (0x838, Some(0xffff_ffff)),
    (0x839, None),
    (0x83e, Some(0b1011)),
];

#[test]
fn every_msr_reads_writes_or_faults_as_the_table_says() {
    for msr in 0x800..=0x8ff {
        let vector_register = (0x810..0x828).contains(&msr);
        let row = READABLE.iter().find(|row| row.0 == msr);
        let apic = x2apic(1);
        let readable = vector_register || row.is_some();
        assert_eq!(apic.read_msr(msr, NOW).is_ok(), readable, "read {msr:#x}");
        let writable = match msr {
            0x80b => Some(0),
            0x83f => Some(0xff),
            _ => row.and_then(|row| row.1),
        };
        let mut zero = x2apic(1);
        assert_eq!(zero.write_msr(msr, 0, NOW).is_ok(), writable.is_some(), "write {msr:#x}");
        for bit in 0..64 {
            let value = 1 << bit;
            let fine = writable.is_some_and(|bits| bits & value != 0);
            let mut apic = x2apic(1);
            let before = apic;
            assert_eq!(apic.write_msr(msr, value, NOW).is_ok(), fine, "{msr:#x} bit {bit}");
            if !fine {
                assert_eq!(apic, before, "a refused write changes nothing");
            }
        }
    }
}

#[test]
fn msrs_fault_outside_x2apic_mode_and_the_page_is_not_there_in_it() {
    let mut apic = xapic(1);
    for msr in 0x800..=0x8ff {
        assert_eq!(apic.read_msr(msr, NOW), Err(GeneralProtection));
        assert_eq!(apic.write_msr(msr, 0, NOW), Err(GeneralProtection));
    }
    let mut apic = x2apic(1);
    let before = apic;
    for offset in 0..0x1000 {
        assert_eq!(apic.read_page(offset, NOW), u32::MAX);
        let _ = apic.write_page(offset, u32::MAX, NOW);
    }
    assert_eq!(apic, before);
    for msr in [0x7ff, 0x900, 0x1_0802] {
        assert_eq!(apic.read_msr(msr, NOW), Err(GeneralProtection));
        assert_eq!(apic.write_msr(msr, 0, NOW), Err(GeneralProtection));
    }
}

#[test]
fn any_access_to_the_page_is_survived_and_reads_back_only_known_bits() {
    for value in [0, u32::MAX, 0x5555_5555, 0xaaaa_aaaa] {
        let mut apic = xapic(0);
        for offset in 0..0x1000 {
            let _ = apic.write_page(offset, value, NOW);
            let _ = apic.read_page(offset, NOW);
        }
        for (entry, writable) in apic.lvt.iter().zip(LVT_WRITABLE) {
            assert_eq!(entry & !writable, 0);
        }
        assert_eq!((apic.command & COMMAND_RESERVED, apic.divide & !DIVIDE_BITS), (0, 0));
        assert_eq!([apic.requested, apic.in_service].map(|set| set.words[0] & 0xffff), [0; 2]);
        assert_eq!(apic.read_page(0xd0, NOW), value & 0xff00_0000);
        assert_eq!(apic.read_page(0xe0, NOW), value | 0x0fff_ffff);
        assert_eq!(apic.read_page(0xf0, NOW), value & 0x3ff);
        assert_eq!(apic.read_page(0x310, NOW), value & 0xff00_0000);
    }
}

#[test]
fn ids_and_version_read_in_both_modes() {
    let mut apic = xapic(0x12);
    assert_eq!(apic.read_page(0x20, NOW), 0x1200_0000);
    assert_eq!(apic.read_page(0x23, NOW), 0x12, "the byte alone");
    assert_eq!(apic.read_page(0x30, NOW), 0x5_0014);
    let apic = x2apic(0x1_0012);
    assert_eq!(apic.read_msr(0x802, NOW), Ok(0x1_0012));
    assert_eq!(apic.read_msr(0x80d, NOW), Ok(0x1001_0004));
    let mut apic = xapic(1);
    let _ = apic.write_page(0x2f0, 0xf3, NOW);
    assert_eq!(apic.read_page(0x2f0, NOW), 0, "no entry for corrected machine checks");
}

#[test]
fn the_id_cannot_be_written() {
    let mut apic = xapic(3);
    let _ = apic.write_page(0x20, 0xff00_0000, NOW);
    assert_eq!(apic.read_page(0x20, NOW), 0x0300_0000);
}

#[test]
fn after_power_on_it_is_as_the_manual_says() {
    let mut apic = LocalApic::new(config(1));
    assert_eq!(apic.apic_base(), BASE | 0x800);
    for (offset, value) in [
        (0x80, 0),
        (0xd0, 0),
        (0xe0, u32::MAX),
        (0xf0, 0xff),
        (0x280, 0),
        (0x300, 0),
        (0x310, 0),
        (0x320, 0x1_0000),
        (0x350, 0x1_0000),
        (0x370, 0x1_0000),
        (0x380, 0),
        (0x390, 0),
        (0x3e0, 0),
    ] {
        assert_eq!(apic.read_page(offset, NOW), value, "{offset:#x}");
    }
    assert!(!apic.takes_external());
    let bootstrap = LocalApic::new(config(0));
    assert_eq!(bootstrap.apic_base(), BASE | 0x900);
    assert!(bootstrap.takes_external(), "virtual wire, as firmware leaves it");
}
