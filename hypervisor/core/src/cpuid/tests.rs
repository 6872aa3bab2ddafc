use hypervisor_abi::{CPUID_LEAF, CpuidRow};
use proptest::prelude::*;

use super::{Capabilities, CpuidError, CpuidTable, Dynamic, Features, Vendor, arrange};
use super::{EAX, EBX, ECX, EDX, restrict, supported};

const EVERYTHING: Capabilities = Capabilities { xcr0: u64::MAX, tsc_aux: true, physical_bits: 46 };

fn word(text: &[u8; 4]) -> u32 {
    u32::from_le_bytes(*text)
}

/// A processor with every feature bit set, known or not.
fn every_bit(vendor: [u32; 3]) -> impl Fn(u32, u32) -> [u32; 4] {
    move |leaf, subleaf| match (leaf, subleaf) {
        (0, _) => [0x40, vendor[0], vendor[1], vendor[2]],
        (0x8000_0000, _) => [0x8000_0040, vendor[0], vendor[1], vendor[2]],
        (4 | 0x8000_001d, 4..) => [0; 4],
        // L1, L1, L2, L3
        (4 | 0x8000_001d, level) => [1 | level.max(1) << 5, 0x01c0_003f, 63, 0],
        (7, 0) => [9, !0, !0, !0],
        (0xd, 0) => [!0, 4096, 4096, !0],
        (0xd, 1) => [!0, 4096, !0, !0],
        // YMM after the header, then opmask and ZMM where Intel has them, PKRU, tiles.
        (0xd, 2) => [256, 576, 0, 0],
        (0xd, 5) => [64, 1088, 0, 0],
        (0xd, 6) => [512, 1152, 0, 0],
        (0xd, 7) => [1024, 1664, 0, 0],
        (0xd, 9) => [8, 2688, 0, 0],
        (0xd, 17) => [64, 2752, 2, 0],
        (0xd, 18) => [8192, 2816, 6, 0],
        (0x8000_0008, _) => [0x3934, !0, !0, !0],
        _ => [!0; 4],
    }
}

fn intel() -> [u32; 3] {
    [word(b"Genu"), word(b"ntel"), word(b"ineI")]
}

fn amd() -> [u32; 3] {
    [word(b"Auth"), word(b"cAMD"), word(b"enti")]
}

fn table(vendor: [u32; 3]) -> CpuidTable {
    supported(every_bit(vendor), &EVERYTHING).expect("fits")
}

fn now(cr4: u64, xcr0: u64) -> impl Fn() -> Dynamic {
    move || Dynamic { cr4, apic_enabled: true, xcr0 }
}

#[test]
fn what_the_core_cannot_virtualize_is_hidden() {
    let table = table(intel());
    let hidden = [
        (1, 0, ECX, "monitor vmx smx", (1 << 3) | (1 << 5) | (1 << 6)),
        (1, 0, ECX, "debug store, performance", (1 << 4) | (1 << 15)),
        (1, 0, EDX, "debug store, thermal", (1 << 21) | (1 << 22)),
        (7, 0, EBX, "sgx mpx pt", (1 << 2) | (1 << 14) | (1 << 25)),
        (7, 0, ECX, "waitpkg cet tme", (1 << 5) | (1 << 7) | (1 << 13)),
        (7, 0, ECX, "keylocker pks", (1 << 23) | (1 << 31)),
        (7, 0, EDX, "uintr pconfig cet", (1 << 5) | (1 << 18) | (1 << 20)),
        (7, 1, EAX, "fred lam", (1 << 17) | (1 << 26)),
        (7, 0, EDX, "spec_ctrl, pred_cmd, flush_cmd", 0b10_0111 << 26),
        (7, 2, EDX, "spec_ctrl", 0x1f),
        (0xd, 1, EAX, "xsaves xfd", (1 << 3) | (1 << 4)),
        (0x8000_0001, 0, ECX, "svm ibs skinit", (1 << 2) | (1 << 10) | (1 << 12)),
        (0x8000_0001, 0, ECX, "lwp mwaitx", (1 << 15) | (1 << 29)),
        (0x8000_0008, 0, EBX, "rdpru mcommit", (1 << 4) | (1 << 8)),
        (0x8000_0008, 0, EBX, "ibpb ibrs stibp ssbd psfd", 0x110f_d000),
    ];
    for (leaf, subleaf, register, name, mask) in hidden {
        assert_eq!(table.lookup(leaf, subleaf)[register] & mask, 0, "{name}");
    }
    for leaf in [5, 0xa, 0xf, 0x10, 0x12, 0x14, 0x19, 0x1b, 0x20, 0x24, 0x8000_000a, 0x8000_001b] {
        assert_eq!(table.lookup(leaf, 0), [0; 4], "{leaf:#x}");
    }
    assert_eq!(table.lookup(6, 0), [4, 0, 0, 0], "only ARAT");
    assert_eq!(table.lookup(0, 0)[EAX], 0x1f);
    assert_eq!(table.lookup(7, 0)[EAX], 2, "subleaves that are passed on");
    assert_eq!(table.lookup(7, 3), [0; 4]);
}

#[test]
fn the_core_gives_its_apic_and_timer_on_any_machine() {
    let poor = |leaf, _| match leaf {
        0 => [1, word(b"Genu"), word(b"ntel"), word(b"ineI")],
        0x8000_0000 => [0; 4],
        _ => [0, 0, 0, 1],
    };
    let table = supported(poor, &EVERYTHING).expect("fits");
    let features = table.lookup(1, 0);
    for (name, bit) in [("x2apic", 21), ("deadline", 24), ("hypervisor", 31)] {
        assert_ne!(features[ECX] & 1 << bit, 0, "{name}");
    }
    assert_eq!(features[EDX], 1 | 1 << 9);
    assert_ne!(table.lookup(7, 0)[EBX] & 2, 0, "TSC_ADJUST");
    assert_eq!(table.lookup(0xb, 0), [0, 1, 0x100, 0]);
    assert!(!table.contains(0x8000_0001));
}

#[test]
fn both_hypervisor_interfaces_are_told() {
    let table = table(amd());
    assert_eq!(
        table.lookup(0x4000_0000, 0),
        [0x4000_0001, word(b"KVMK"), word(b"VMKV"), word(b"M\0\0\0")]
    );
    assert_eq!(table.lookup(0x4000_0001, 0), [0; 4]);
    assert_eq!(
        table.lookup(CPUID_LEAF, 0),
        [hypervisor_abi::VERSION, word(b"Macr"), word(b"oHar"), word(b"dVM\0")]
    );
}

#[test]
fn answers_follow_the_guests_registers() {
    let table = table(intel());
    assert_eq!(table.answer(1, 0, now(0, 1))[ECX] & 1 << 27, 0);
    assert_ne!(table.answer(1, 0, now(1 << 18, 1))[ECX] & 1 << 27, 0);
    assert_eq!(table.answer(7, 0, now(0, 1))[ECX] & 1 << 4, 0);
    assert_ne!(table.answer(7, 0, now(1 << 22, 1))[ECX] & 1 << 4, 0);
    let off = || Dynamic::default();
    assert_eq!(table.answer(1, 0, off)[EDX] & 1 << 9, 0);
    assert_eq!(table.answer(0xd, 0, now(0, 3))[EBX], 576);
    assert_eq!(table.answer(0xd, 0, now(0, 7))[EBX], 832);
    assert_eq!(table.answer(0xd, 0, now(0, 0x207))[EBX], 2696);
    assert_eq!(table.answer(0xd, 0, now(0, 1))[ECX], 2696);
    assert_eq!(table.answer(0xd, 1, now(0, 0x207))[EBX], 576 + 256 + 8);
    // Tiles are not for guests: 18:17 of XCR0, AMX-TILE, the leaves that describe them.
    assert_eq!(table.answer(0xd, 0, now(0, 1))[EAX] & 3 << 17, 0);
    assert_eq!(table.lookup(7, 0)[EDX] & 1 << 24, 0);
    assert!(!table.contains(0x1d) && !table.contains(0x1e));
    let _ = table.answer(0, 0, || unreachable!("leaf 0 depends on nothing"));
}

#[test]
fn features_fall_with_the_state_they_need() {
    let without = |xcr0| {
        let capabilities = Capabilities { xcr0, ..EVERYTHING };
        supported(every_bit(intel()), &capabilities).expect("fits")
    };
    let none = without(3);
    assert_eq!(none.lookup(1, 0)[ECX] & 1 << 28, 0, "AVX");
    assert_eq!(none.lookup(7, 0)[EBX] & (1 << 5 | 1 << 16), 0, "AVX2, AVX512F");
    assert_eq!(none.lookup(0xd, 2), [0; 4]);
    assert_eq!(none.lookup(0xd, 0)[EAX], 3);
    let avx = without(7 | 1 << 5);
    assert_ne!(avx.lookup(1, 0)[ECX] & 1 << 28, 0, "AVX");
    assert_eq!(avx.lookup(7, 0)[EBX] & 1 << 16, 0, "AVX512F");
    assert_eq!(avx.lookup(0xd, 0)[EAX], 7);
    assert_eq!(avx.lookup(7, 0)[ECX] & 1 << 3, 0, "PKU");
    assert_eq!(without(u64::MAX).lookup(0xd, 0)[EAX], 0x2e7);
}

#[test]
fn features_fall_with_the_controls_they_need() {
    let none = Capabilities { xcr0: 7, tsc_aux: false, physical_bits: 39 };
    let table = supported(every_bit(amd()), &none).expect("fits");
    assert_eq!(table.lookup(7, 0)[ECX] & 1 << 22, 0);
    assert_eq!(table.lookup(0x8000_0001, 0)[EDX] & 1 << 27, 0);
    assert_eq!(table.lookup(0x8000_0008, 0)[EAX], 0x3927);
    let features = Features::of(&table);
    assert!(!features.tsc_aux);
    assert_eq!(features.physical_bits, 39);
    assert_eq!(features.vendor, Vendor::Amd);
}

#[test]
fn features_of_a_rich_table() {
    let features = Features::of(&table(intel()));
    assert_eq!(features.vendor, Vendor::Intel);
    // Neither VMXE, SMXE, KL, CET, PKS nor UINTR.
    assert_eq!(features.cr4, 0x0077_1fff);
    assert_eq!(features.efer, 0x4d01);
    assert_eq!(features.xcr0, 0x2e7);
    assert!(features.five_levels && features.gigabyte_pages);
}

#[test]
fn processors_are_told_apart() {
    for vendor in [intel(), amd()] {
        let mut table = table(vendor);
        arrange(&mut table, 5, 6);
        assert_eq!(table.lookup(1, 0)[EBX] >> 16, 5 << 8 | 6);
        assert_ne!(table.lookup(1, 0)[EDX] & 1 << 28, 0);
        assert_eq!(table.lookup(0xb, 0), [0, 1, 0x100, 5]);
        assert_eq!(table.lookup(0xb, 1), [3, 6, 0x201, 5]);
        assert_eq!(table.lookup(0xb, 2), [0, 0, 2, 5]);
        assert_eq!(table.lookup(0x1f, 0x1ff), [0, 0, 0xff, 5]);
        assert_eq!(table.lookup(4, 0)[EAX] >> 14, 5 << 12, "L1 is each core's own");
        assert_eq!(table.lookup(4, 3)[EAX] >> 14, 5 << 12 | 5, "L3 is shared");
        assert_eq!(table.lookup(4, 4), [0; 4]);
        assert_eq!(table.lookup(0x8000_001e, 0), [5, 5, 0, 0]);
        let cores = if vendor == amd() { 0x3005 } else { 0 };
        assert_eq!(table.lookup(0x8000_0008, 0)[ECX], cores);
    }
    let mut one = table(amd());
    arrange(&mut one, 0, 1);
    assert_eq!(one.lookup(1, 0)[EDX] & 1 << 28, 0);
    arrange(&mut one, u32::MAX, u32::MAX);
    assert_eq!(one.lookup(0xb, 1)[EAX], 32);
}

#[test]
fn root_gets_no_more_than_is_supported() {
    let supported = table(intel());
    let greedy = [0, 1, 4, 6, 7, 0xa, 0xd, 0x12, 0x8000_0001, 0x8000_0008, 0x4000_0001]
        .map(|leaf| CpuidRow { leaf, answer: [!0; 4], ..CpuidRow::default() });
    let table = restrict(greedy, &supported, 3).expect("well formed");
    assert_eq!(table.lookup(0, 0), [0x1f, !0, !0, !0]);
    assert_eq!(table.lookup(1, 0)[ECX], supported.lookup(1, 0)[ECX]);
    assert_eq!(table.lookup(1, 0)[EBX], 0x03ff_ffff);
    assert_eq!(table.lookup(7, 0), supported.lookup(7, 0));
    for leaf in [0xa, 0x12, 0x4000_0001] {
        assert_eq!(table.lookup(leaf, 0), [0; 4]);
    }
    let (features, all) = (Features::of(&table), Features::of(&supported));
    assert_eq!((features.cr4, features.efer), (all.cr4, all.efer));
    assert_eq!(features.xcr0, all.xcr0);
    assert_eq!(table.answer(0xd, 0, now(0, 0x207))[EBX], 2696);
}

#[test]
fn what_is_supported_survives_a_round_through_root() {
    for vendor in [intel(), amd()] {
        let supported = table(vendor);
        let again = restrict(supported.rows(), &supported, 0).expect("well formed");
        assert_eq!(again.rows().collect::<Vec<_>>(), supported.rows().collect::<Vec<_>>());
    }
}

#[test]
fn malformed_rows_are_refused() {
    let supported = table(intel());
    let row = CpuidRow { leaf: 7, indexed: 1, ..CpuidRow::default() };
    let make = |rows: &[CpuidRow]| restrict(rows.iter().copied(), &supported, 0).map(drop);
    assert_eq!(make(&[row, row]), Err(CpuidError::Duplicate(7)));
    let bad = CpuidRow { indexed: 2, ..row };
    assert_eq!(make(&[bad]), Err(CpuidError::BadRow(7)));
    let bad = CpuidRow { reserved: 1, ..row };
    assert_eq!(make(&[bad]), Err(CpuidError::BadRow(7)));
    let many: Vec<_> = (0..129).map(|subleaf| CpuidRow { subleaf, ..row }).collect();
    assert_eq!(make(&many), Err(CpuidError::TooManyRows));
}

proptest! {
    /// The direct index and a plain search agree.
    #[test]
    fn every_row_is_found(leaves in proptest::collection::vec((0_u32..0x28, 0_u32..4, any::<bool>()), 0..100)) {
        let mut table = CpuidTable::new(1);
        let mut wanted = Vec::new();
        for (index, (leaf, subleaf, extended)) in leaves.into_iter().enumerate() {
            let leaf = leaf | if extended { 0x8000_0000 } else { 0 };
            let answer = [index as u32 + 1; 4];
            if table.insert(leaf, Some(subleaf), answer).is_ok() {
                wanted.push((leaf, subleaf, answer));
            }
        }
        for (leaf, subleaf, answer) in wanted {
            prop_assert_eq!(table.lookup(leaf, subleaf), answer);
        }
    }

    /// A hostile guest, or root, asks anything.
    #[test]
    fn any_rows_and_any_question_are_safe(
        rows in proptest::collection::vec(any::<(u32, u32, bool, [u32; 4])>(), 0..60),
        leaf in any::<u32>(),
        subleaf in any::<u32>(),
        cr4 in any::<u64>(),
        xcr0 in any::<u64>(),
    ) {
        let supported = table(intel());
        let rows = rows.into_iter().map(|(leaf, subleaf, indexed, answer)| CpuidRow {
            leaf: leaf & 0x8000_002f,
            subleaf: subleaf & 31,
            indexed: u32::from(indexed),
            reserved: 0,
            answer,
        });
        if let Ok(table) = restrict(rows, &supported, subleaf) {
            for leaf in [leaf, leaf & 0x1f, leaf & 0x1f | 0x8000_0000] {
                let _ = table.answer(leaf, subleaf, now(cr4, xcr0));
                let _ = table.answer(leaf, subleaf & 31, now(cr4, xcr0));
            }
            let (features, all) = (Features::of(&table), Features::of(&supported));
            prop_assert_eq!(features.cr4 & !all.cr4, 0);
            prop_assert_eq!(features.efer & !all.efer, 0);
            prop_assert_eq!(features.xcr0 & !all.xcr0, 0);
        }
    }
}

#[test]
fn root_may_promise_a_steady_counter_and_nothing_beside_it() {
    let table = supported(
        |leaf, subleaf| match leaf {
            0x8000_0007 => [0; 4],
            _ => every_bit(amd())(leaf, subleaf),
        },
        &EVERYTHING,
    )
    .expect("fits");
    let row = CpuidRow { leaf: 0x8000_0007, answer: [!0; 4], ..CpuidRow::default() };
    let made = restrict([row], &table, 0).expect("well formed");
    assert_eq!(made.lookup(0x8000_0007, 0), [0, 0, 0, 1 << 8]);
    let none = restrict(table.rows(), &table, 0).expect("well formed");
    assert_eq!(none.lookup(0x8000_0007, 0), [0; 4]);
}
