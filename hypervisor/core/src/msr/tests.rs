use proptest::prelude::*;

use super::bitmap::PASSED_THROUGH;
use super::kind::{self, Kind};
use super::{ApicMsr, Changed, KEPT_ON_VMX, MsrState, Other, fill_bitmap, read, write};
use crate::cpuid::{Features, Vendor};

const NOW: u64 = 1_000_000;

fn features(vendor: Vendor) -> Features {
    Features {
        vendor,
        physical_bits: 40,
        five_levels: false,
        gigabyte_pages: true,
        cr4: 0x37_07ff,
        efer: 0xd01,
        xcr0: 7,
        tsc_aux: true,
        arch_capabilities: true,
    }
}

fn state(vendor: Vendor) -> MsrState {
    MsrState::new(features(vendor), 0x1234_0000_0000)
}

/// A guest to whom CPUID shows none of the optional registers.
fn poor(vendor: Vendor) -> MsrState {
    let features = Features { tsc_aux: false, arch_capabilities: false, ..features(vendor) };
    MsrState::new(features, 0)
}

/// Ranges that hostile guests try (SDM 4, APM 2 appendix A, and those of hypervisors).
fn architectural() -> impl Iterator<Item = u32> {
    (0..=0x1fff)
        .chain(0xc000_0000..=0xc000_1fff)
        .chain(0xc001_0000..=0xc001_1fff)
        .chain(0x4b56_4d00..=0x4b56_4dff)
        .chain(0x4000_0000..=0x4000_03ff)
        .chain([0x2000, 0xbfff_ffff, 0xc000_2000, 0xc001_2000, u32::MAX])
}

#[test]
fn no_write_is_accepted_that_no_list_names() {
    for vendor in [Vendor::Intel, Vendor::Amd] {
        for index in architectural() {
            for value in [0, 1, u64::MAX, 0x0606_0606_0606_0606] {
                for mut state in [state(vendor), poor(vendor)] {
                    let kind = kind::of(index, &state.features);
                    let before = read(index, &state, NOW);
                    let outcome = write(index, value, &mut state, NOW);
                    let after = read(index, &state, NOW);
                    let what = format!("{index:#x} = {value:#x}: {kind:?} {outcome:?}");
                    match outcome {
                        Err(Other::Fault | Other::Refused) => assert_eq!(before, after, "{what}"),
                        // What is accepted is read back, or means a value there is only one of.
                        Ok(_) => match kind {
                            Kind::MicrocodeRevision => assert_eq!(value, 0, "{what}"),
                            Kind::TscAux => assert_eq!(after, Ok(value & 0xffff_ffff), "{what}"),
                            _ => assert_eq!(after, Ok(value), "{what}"),
                        },
                        Err(Other::Processor) => {
                            assert!(passed_through(index), "{what}");
                            assert_eq!(before, Err(Other::Processor), "{what}");
                        }
                        Err(Other::Efer) => assert_eq!(index, 0xc000_0080),
                        Err(Other::Apic(_)) => {
                            assert!(matches!(index, 0x1b | 0x6e0 | 0x800..=0x8ff), "{what}");
                        }
                    }
                }
            }
        }
    }
}

fn passed_through(index: u32) -> bool {
    PASSED_THROUGH.iter().any(|range| range.contains(&index))
}

#[test]
fn registers_of_hypervisors_are_not_there() {
    for index in (0x4b56_4d00..=0x4b56_4dff).chain(0x4000_0000..=0x4000_03ff).chain([0x11, 0x12]) {
        for vendor in [Vendor::Intel, Vendor::Amd] {
            assert_eq!(read(index, &state(vendor), NOW), Err(Other::Fault));
            assert_eq!(write(index, 1, &mut state(vendor), NOW), Err(Other::Fault));
        }
    }
}

#[test]
fn what_reaches_the_machine_is_refused() {
    let intel = [0x79, 0x9b, 0x9e, 0x480, 0x491];
    let amd = [0xc001_0020, 0xc001_0111, 0xc001_0113, 0xc001_0114, 0xc001_0117, 0xc001_0131];
    for (vendor, list) in [(Vendor::Intel, &intel[..]), (Vendor::Amd, &amd)] {
        for index in list {
            assert_eq!(read(*index, &state(vendor), NOW), Err(Other::Refused), "{index:#x}");
            assert_eq!(write(*index, 0, &mut state(vendor), NOW), Err(Other::Refused));
        }
    }
    for index in [0x199, 0x400, 0x47f, 0x186, 0x150] {
        assert_eq!(read(index, &state(Vendor::Intel), NOW), Err(Other::Fault));
        assert_eq!(write(index, 0, &mut state(Vendor::Intel), NOW), Err(Other::Refused));
    }
}

#[test]
fn the_other_vendors_registers_are_not_there() {
    for index in 0xc001_0000..=0xc001_1fff {
        assert_eq!(read(index, &state(Vendor::Intel), NOW), Err(Other::Fault));
        assert_eq!(write(index, 0, &mut state(Vendor::Intel), NOW), Err(Other::Fault));
    }
    assert_eq!(read(0x3a, &state(Vendor::Amd), NOW), Err(Other::Fault));
}

#[test]
fn optional_registers_follow_cpuid() {
    let mut rich = state(Vendor::Intel);
    for index in [0x10a, 0xc000_0103] {
        let mut poor = poor(Vendor::Intel);
        assert!(read(index, &rich, NOW).is_ok(), "{index:#x}");
        assert_eq!(read(index, &poor, NOW), Err(Other::Fault), "{index:#x}");
        assert_eq!(write(index, 0, &mut poor, NOW), Err(Other::Fault), "{index:#x}");
    }
    assert_eq!(read(0x10a, &rich, NOW), Ok(0), "immune to nothing");
    for index in [0x48, 0x49, 0x10b, 0xda0] {
        assert_eq!(read(index, &rich, NOW), Err(Other::Fault), "{index:#x} is not offered");
        assert_eq!(write(index, 0, &mut rich, NOW), Err(Other::Fault), "{index:#x}");
    }
    assert_eq!(write(0xc000_0103, 1 << 32, &mut rich, NOW), Err(Other::Fault));
    let mut amd = state(Vendor::Amd);
    assert_eq!(write(0xc000_0103, 1 << 32 | 7, &mut amd, NOW), Ok(Some(Changed::TscAux)));
    assert_eq!(amd.tsc_aux, 7);
}

#[test]
fn the_counter_and_its_adjustment_move_together() {
    let mut state = state(Vendor::Intel);
    assert_eq!(write(0x10, 5, &mut state, NOW), Ok(Some(Changed::TscOffset)));
    assert_eq!(read(0x10, &state, NOW), Ok(5));
    assert_eq!(read(0x10, &state, NOW + 10), Ok(15));
    let adjust = 5_u64.wrapping_sub(NOW);
    assert_eq!(read(0x3b, &state, NOW), Ok(adjust));
    assert_eq!(
        write(0x3b, adjust.wrapping_add(100), &mut state, NOW),
        Ok(Some(Changed::TscOffset))
    );
    assert_eq!(read(0x10, &state, NOW), Ok(105));
}

#[test]
fn what_linux_does_at_boot_is_answered() {
    let mut intel = state(Vendor::Intel);
    // Microcode revision: clear, CPUID, read.
    assert_eq!(write(0x8b, 0, &mut intel, NOW), Ok(None));
    assert_eq!(read(0x8b, &intel, NOW), Ok(0x1234_0000_0000));
    assert_eq!(read(0x17, &intel, NOW), Ok(0));
    assert_eq!(read(0x3a, &intel, NOW), Ok(1));
    let Ok(misc) = read(0x1a0, &intel, NOW) else { panic!("IA32_MISC_ENABLE is readable") };
    assert_eq!(write(0x1a0, misc & !1, &mut intel, NOW), Ok(None));
    assert_eq!(write(0x1a0, misc | 1 << 34, &mut intel, NOW), Err(Other::Fault));
    assert_eq!(read(0x179, &intel, NOW), Ok(0));
    assert_eq!(read(0xfe, &intel, NOW), Ok(0x508));
    assert_eq!(read(0x2ff, &intel, NOW), Ok(0xc06));
    assert_eq!(write(0x2ff, 0, &mut intel, NOW), Ok(None));
    assert_eq!(read(0x1b, &intel, NOW), Err(Other::Apic(ApicMsr::Base)));
    assert_eq!(write(0x80b, 0, &mut intel, NOW), Err(Other::Apic(ApicMsr::X2apic(0xb))));
    let mut amd = state(Vendor::Amd);
    let Ok(hwcr) = read(0xc001_0015, &amd, NOW) else { panic!("HWCR is readable") };
    assert_ne!(hwcr & 1 << 24, 0);
    assert_eq!(write(0xc001_0015, hwcr | 1 << 6, &mut amd, NOW), Ok(None));
    assert_eq!(write(0xc001_0015, hwcr | 1, &mut amd, NOW), Err(Other::Fault));
    assert_eq!(read(0xc001_1029, &amd, NOW), Ok(2));
    assert_eq!(write(0xc001_1029, 2, &mut amd, NOW), Ok(None));
    assert_eq!(write(0xc001_1029, 3, &mut amd, NOW), Err(Other::Fault));
    assert_eq!(read(0xc001_0010, &amd, NOW), Ok(0));
}

#[test]
fn memory_type_registers_keep_what_is_legal() {
    let mut state = state(Vendor::Intel);
    for (index, good, bad) in [
        (0x200, 0x8000_0006, 1 << 40),
        (0x20f, 0xff_8000_0800, 1),
        (0x250, 0x0606_0606_0606_0606, 2),
        (0x259, 0, 7),
        (0x26f, 0x0505_0505_0505_0505, 0xff),
        (0x2ff, 0xc00, 0x100),
        (0x277, 0x0007_0406_0007_0106, 2),
    ] {
        assert!(write(index, good, &mut state, NOW).is_ok());
        assert_eq!(write(index, bad, &mut state, NOW), Err(Other::Fault));
        assert_eq!(read(index, &state, NOW), Ok(good), "{index:#x}");
    }
}

#[test]
fn bitmaps_let_through_exactly_the_processors_own() {
    let mut vmx = [0; 4096];
    let mut svm = [0; 8192];
    fill_bitmap(&mut vmx, true);
    fill_bitmap(&mut svm, false);
    let bit = |bytes: &[u8], number: usize| bytes[number / 8] >> (number % 8) & 1 != 0;
    for (range, start) in [0, 0xc000_0000_u32, 0xc001_0000].into_iter().enumerate() {
        for offset in 0..0x2000 {
            let exits = !passed_through(start + offset);
            let number = offset as usize;
            if range < 2 {
                assert_eq!(bit(&vmx[range * 1024..], number), exits);
                let exits = exits || KEPT_ON_VMX.contains(&(start + offset));
                assert_eq!(bit(&vmx[2048 + range * 1024..], number), exits);
            }
            let svm = &svm[range * 0x800..];
            assert_eq!(bit(svm, number * 2), exits);
            assert_eq!(bit(svm, number * 2 + 1), exits);
        }
    }
    assert!(svm[0x1800..].iter().all(|byte| *byte == !0));
    for index in PASSED_THROUGH.into_iter().flatten() {
        let kind = kind::of(index, &features(Vendor::Intel));
        assert_eq!(kind, Kind::Other(Other::Processor));
    }
}

proptest! {
    #[test]
    fn any_access_is_safe(index in any::<u32>(), value in any::<u64>(), now in any::<u64>()) {
        for vendor in [Vendor::Intel, Vendor::Amd] {
            for index in [index, index & 0x1fff, index & 0x1fff | 0xc000_0000, index & 0x1fff | 0xc001_0000] {
                let mut state = state(vendor);
                let _ = write(index, value, &mut state, now);
                let _ = read(index, &state, now);
            }
        }
    }
}
