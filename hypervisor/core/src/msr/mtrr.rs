//! Memory type range registers. A guest's own values: it sees what it wrote, and they change nothing,
//! for the second-level tables decide (SDM 3C 29.3.7, APM 2 15.25.8).

use crate::validate;

/// One guest processor's MTRRs: eight times base and mask, the fixed ranges (one register for 64 KiB, two
/// for 16 KiB, eight for 4 KiB), the default.
pub(super) type Mtrrs = [u64; 28];
const FIXED: usize = 16;
const DEFAULT: usize = 27;

/// As a PC's firmware leaves them: on, everything write-back but the VGA window.
pub(super) const RESET: Mtrrs = {
    let mut registers = [0; 28];
    let mut fixed = FIXED;
    while fixed < DEFAULT {
        registers[fixed] = 0x0606_0606_0606_0606;
        fixed += 1;
    }
    // A0000 to BFFFF: the second 16 KiB register.
    registers[FIXED + 2] = 0;
    // E, FE, write-back.
    registers[DEFAULT] = 0xc06;
    registers
};

/// Which of them has this number (SDM 4 table 2-2).
pub(super) const fn place(index: u32) -> Option<usize> {
    let place = match index {
        0x200..=0x20f => index - 0x200,
        0x250 => 16,
        0x258..=0x259 => index - 0x258 + 17,
        0x268..=0x26f => index - 0x268 + 19,
        0x2ff => 27,
        _ => return None,
    };
    Some(place as usize)
}

/// False when the processor would raise #GP.
pub(super) fn accepts(place: usize, value: u64, physical_bits: u8) -> bool {
    match place {
        DEFAULT => validate::memory_type_default(value),
        FIXED..DEFAULT => validate::fixed_range(value),
        _ => validate::variable_range(value, place % 2 == 1, physical_bits),
    }
}
