//! Memory types of physical addresses: how the processor may cache them.
//!
//! Second-level tables carry a type in every leaf on Intel; the types of the real machine come from
//! its MTRRs. Pure: works on values that were read elsewhere.

mod mtrr;
#[cfg(test)]
mod tests;

pub use mtrr::{Mtrrs, TypedRange};

/// A memory type in the encoding of MTRRs and EPT leaves (SDM 3A 12.3, table 12-2; SDM 3C 29.3.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MemoryType {
    /// UC: strong uncacheable.
    Uncacheable = 0,
    /// WC: write combining.
    WriteCombining = 1,
    /// WT: write-through.
    WriteThrough = 4,
    /// WP: write-protected, reads cached.
    WriteProtected = 5,
    /// WB: write-back.
    WriteBack = 6,
}

impl MemoryType {
    /// The type with this encoding; `None` for the reserved ones.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::Uncacheable),
            1 => Some(Self::WriteCombining),
            4 => Some(Self::WriteThrough),
            5 => Some(Self::WriteProtected),
            6 => Some(Self::WriteBack),
            _ => None,
        }
    }

    /// Its encoding.
    pub const fn bits(self) -> u8 {
        self as u8
    }
}
