//! Flags against their definitions in wide arithmetic.

use proptest::prelude::*;

use crate::decode::alu::ARITHMETIC;
use crate::decode::{Alu, Width};
use crate::registers::{RFLAGS_AF, RFLAGS_CF, RFLAGS_OF, RFLAGS_PF, RFLAGS_SF, RFLAGS_ZF};

const WIDTHS: [Width; 4] = [Width::Byte, Width::Word, Width::Dword, Width::Qword];

/// The flags of `wide`, the exact signed and unsigned results of an operation.
fn reference(unsigned: i128, signed: i128, nibble: i128, width: Width) -> (u64, u64) {
    let bits = width.bits() as u32;
    let result = (unsigned as u128 & u128::from(width.mask())) as u64;
    let mut set = 0;
    for (flag, condition) in [
        (RFLAGS_CF, unsigned < 0 || unsigned >> bits != 0),
        (RFLAGS_OF, signed < -(1_i128 << (bits - 1)) || signed >= 1_i128 << (bits - 1)),
        (RFLAGS_AF, !(0..16).contains(&nibble)),
        (RFLAGS_ZF, result == 0),
        (RFLAGS_SF, result >> (bits - 1) != 0),
        (RFLAGS_PF, (0..8).filter(|bit| result >> bit & 1 != 0).count() % 2 == 0),
    ] {
        if condition {
            set |= flag;
        }
    }
    (result, set)
}

fn check(alu: Alu, left: u64, right: u64, width: Width, before: u64) {
    let (left, right) = (left & width.mask(), right & width.mask());
    let carry = i128::from(before & RFLAGS_CF);
    let unsigned = |value: u64| i128::from(value);
    let signed = |value: u64| i128::from(width.sign_extend(value) as i64);
    let sum = |carry: i128| {
        reference(
            unsigned(left) + unsigned(right) + carry,
            signed(left) + signed(right) + carry,
            unsigned(left & 15) + unsigned(right & 15) + carry,
            width,
        )
    };
    let difference = |borrow: i128| {
        reference(
            unsigned(left) - unsigned(right) - borrow,
            signed(left) - signed(right) - borrow,
            unsigned(left & 15) - unsigned(right & 15) - borrow,
            width,
        )
    };
    let logic = |result: u64| reference(unsigned(result), signed(result), 0, width);
    let (result, set) = match alu {
        Alu::Add => sum(0),
        Alu::Adc => sum(carry),
        Alu::Sub | Alu::Cmp => difference(0),
        Alu::Sbb => difference(carry),
        Alu::And => logic(left & right),
        Alu::Or => logic(left | right),
        Alu::Xor => logic(left ^ right),
        Alu::Test => logic(left & right),
        Alu::Neg => reference(-unsigned(left), -signed(left), -unsigned(left & 15), width),
        other => panic!("{other:?} has no definition here"),
    };
    assert_eq!(
        alu.apply(left, right, width, before),
        (result, before & !ARITHMETIC | set),
        "{alu:?} {left:#x} {right:#x} {width:?} {before:#x}"
    );
}

#[test]
fn bytes_compute_exactly_as_defined() {
    for alu in Alu::ROWS.into_iter().chain([Alu::Test, Alu::Neg]) {
        for left in 0..=255 {
            for right in 0..=255 {
                for before in [0, u64::MAX] {
                    check(alu, left, right, Width::Byte, before);
                }
            }
        }
    }
}

#[test]
fn increments_keep_the_carry() {
    for carry in [0, RFLAGS_CF] {
        let (result, after) = Alu::Inc.apply(0xff, 0, Width::Byte, carry);
        assert_eq!((result, after & RFLAGS_CF), (0, carry));
        let (result, after) = Alu::Dec.apply(0, 0, Width::Byte, carry);
        assert_eq!((result, after & RFLAGS_CF), (0xff, carry));
    }
    assert_eq!(Alu::Inc.apply(0x7fff, 0, Width::Word, 0).1 & RFLAGS_OF, RFLAGS_OF);
}

#[test]
fn bits_go_to_the_carry_and_are_changed_after() {
    assert_eq!(Alu::Bt.apply(0x10, 4, Width::Word, 0), (0x10, RFLAGS_CF));
    assert_eq!(Alu::Bts.apply(0, 33, Width::Dword, u64::MAX), (2, !RFLAGS_CF));
    assert_eq!(Alu::Btr.apply(1 << 63, 63, Width::Qword, 0), (0, RFLAGS_CF));
    assert_eq!(Alu::Btc.apply(0, 16, Width::Word, 0), (1, 0));
}

#[test]
fn a_complement_keeps_all_flags() {
    assert_eq!(Alu::Not.apply(0x0f, 0, Width::Byte, 0xfff), (0xf0, 0xfff));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn wider_values_compute_exactly_as_defined(
        number in 0_usize..8,
        left in any::<u64>(),
        right in any::<u64>(),
        width in 0_usize..4,
        before in any::<u64>(),
    ) {
        check(Alu::ROWS[number], left, right, WIDTHS[width], before);
        check(Alu::ROWS[number], left, left, WIDTHS[width], before);
        check(Alu::ROWS[number], left, !left, WIDTHS[width], before);
    }
}
