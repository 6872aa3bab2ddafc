//! Arithmetic with its flags (SDM 1 3.4.3.1, APM 1 3.1.4).

use super::instruction::Width;
use crate::registers::{RFLAGS_AF, RFLAGS_CF, RFLAGS_OF, RFLAGS_PF, RFLAGS_SF, RFLAGS_ZF};

/// What arithmetic changes of RFLAGS.
pub(super) const ARITHMETIC: u64 =
    RFLAGS_CF | RFLAGS_PF | RFLAGS_AF | RFLAGS_ZF | RFLAGS_SF | RFLAGS_OF;

/// What changes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // mnemonics of the manuals
pub enum Alu {
    Add,
    Or,
    Adc,
    Sbb,
    And,
    Sub,
    Xor,
    Cmp,
    Test,
    Not,
    Neg,
    Inc,
    Dec,
    Bt,
    Bts,
    Btr,
    Btc,
}

impl Alu {
    /// Those of the first opcode rows, in machine encoding.
    pub(super) const ROWS: [Self; 8] =
        [Self::Add, Self::Or, Self::Adc, Self::Sbb, Self::And, Self::Sub, Self::Xor, Self::Cmp];
    /// Those that change a bit, in machine encoding from 4 on.
    pub(super) const BITS: [Self; 4] = [Self::Bt, Self::Bts, Self::Btr, Self::Btc];

    /// `left` op `right` and RFLAGS after it; where there is one operand, it is `left`.
    #[must_use]
    pub const fn apply(self, left: u64, right: u64, width: Width, rflags: u64) -> (u64, u64) {
        let (left, right) = (left & width.mask(), right & width.mask());
        let carry = rflags & RFLAGS_CF;
        let bit = 1 << (right & (width.bits() - 1));
        let old = (left & bit != 0) as u64;
        match self {
            Self::Add => add(left, right, 0, width, rflags),
            Self::Adc => add(left, right, carry, width, rflags),
            Self::Sub | Self::Cmp => subtract(left, right, 0, width, rflags),
            Self::Sbb => subtract(left, right, carry, width, rflags),
            Self::Or => logic(left | right, width, rflags),
            Self::And | Self::Test => logic(left & right, width, rflags),
            Self::Xor => logic(left ^ right, width, rflags),
            Self::Not => (left ^ width.mask(), rflags),
            Self::Neg => subtract(0, left, 0, width, rflags),
            Self::Inc => with_carry(carry, add(left, 1, 0, width, rflags)),
            Self::Dec => with_carry(carry, subtract(left, 1, 0, width, rflags)),
            // The bit's old value goes to the carry; the other flags but zero are undefined, and stay.
            Self::Bt => with_carry(old, (left, rflags)),
            Self::Bts => with_carry(old, (left | bit, rflags)),
            Self::Btr => with_carry(old, (left & !bit, rflags)),
            Self::Btc => with_carry(old, (left ^ bit, rflags)),
        }
    }
}

const fn with_carry(carry: u64, (result, rflags): (u64, u64)) -> (u64, u64) {
    (result, rflags & !RFLAGS_CF | carry)
}

/// Zero, sign and parity of `result`; all others are cleared, adjust though it is undefined.
const fn logic(result: u64, width: Width, rflags: u64) -> (u64, u64) {
    let zero = (result == 0) as u64 * RFLAGS_ZF;
    let sign = (result >> (width.bits() - 1)) * RFLAGS_SF;
    let parity = ((result as u8).count_ones() & 1 == 0) as u64 * RFLAGS_PF;
    (result, rflags & !ARITHMETIC | zero | sign | parity)
}

const fn add(left: u64, right: u64, carry: u64, width: Width, rflags: u64) -> (u64, u64) {
    let (result, after) =
        logic(left.wrapping_add(right).wrapping_add(carry) & width.mask(), width, rflags);
    let top = width.bits() - 1;
    // Per bit, the carry out of it.
    let carries = left & right | (left | right) & !result;
    let overflow = (left ^ result) & (right ^ result);
    let carry = (carries >> top & 1) * RFLAGS_CF;
    let adjust = (carries >> 3 & 1) * RFLAGS_AF;
    let overflow = (overflow >> top & 1) * RFLAGS_OF;
    (result, after | carry | adjust | overflow)
}

/// Adds the complement, whose carries are the borrows that are not taken.
const fn subtract(left: u64, right: u64, borrow: u64, width: Width, rflags: u64) -> (u64, u64) {
    let (result, after) = add(left, right ^ width.mask(), 1 - borrow, width, rflags);
    (result, after ^ (RFLAGS_CF | RFLAGS_AF))
}
