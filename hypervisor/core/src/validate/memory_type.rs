//! Memory types (SDM 3A 12.3). Each function answers false where the processor would raise #GP.

use super::physical_mask;
use crate::memory_type::MemoryType;

const fn is_type(byte: u8) -> bool {
    MemoryType::from_bits(byte).is_some()
}

/// IA32_PAT: eight types, of which 2 and 3 do not exist (SDM 3A 12.12.2).
pub fn pat(value: u64) -> bool {
    // 7 is UC-.
    value.to_le_bytes().into_iter().all(|byte| is_type(byte) || byte == 7)
}

/// A fixed-range MTRR: eight types (SDM 3A 12.11.2.2).
pub fn fixed_range(value: u64) -> bool {
    value.to_le_bytes().into_iter().all(is_type)
}

/// IA32_MTRR_DEF_TYPE: type, FE and E (SDM 3A 12.11.2.1).
pub const fn memory_type_default(value: u64) -> bool {
    is_type(value as u8) && value & !0xcff == 0
}

/// On a processor with `physical_bits` IA32_MTRR_PHYSMASKn, where bit 11 is V, or IA32_MTRR_PHYSBASEn
/// (SDM 3A 12.11.2.3).
pub const fn variable_range(value: u64, mask: bool, physical_bits: u8) -> bool {
    let reserved = if mask { 0x7ff } else { 0xf00 };
    value & (!physical_mask(physical_bits) | reserved) == 0 && (mask || is_type(value as u8))
}
