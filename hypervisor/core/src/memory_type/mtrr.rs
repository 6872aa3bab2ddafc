//! Memory type range registers: which type an address has (SDM 3A 12.11).

use units::{Bytes, HostPhysical};

use super::MemoryType;
use crate::validate::physical_mask;

/// The most variable ranges that are read. Processors have 8 to 10; the count in IA32_MTRRCAP goes to
/// 255.
const VARIABLE_MTRRS: usize = 32;

/// The registers' MSRs (SDM 3A 12.11.1 and 12.11.2, SDM 4 table 2-2).
mod msr {
    pub(super) const CAPABILITY: u32 = 0xfe;
    pub(super) const DEFAULT_TYPE: u32 = 0x2ff;
    pub(super) const VARIABLE_BASE: u32 = 0x200;
    /// In the order of the addresses they are for.
    pub(super) const FIXED: [u32; 11] =
        [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];
}

/// IA32_MTRRCAP (SDM 3A 12.11.1): bits 7:0 count the variable ranges.
const CAPABILITY_COUNT: u64 = 0xff;
const CAPABILITY_FIXED: u64 = 1 << 8;
/// IA32_MTRR_DEF_TYPE (SDM 3A 12.11.2.1).
const DEFAULT_FIXED_ENABLE: u64 = 1 << 10;
const DEFAULT_ENABLE: u64 = 1 << 11;
/// IA32_MTRR_PHYSMASKn (SDM 3A 12.11.2.3).
const MASK_VALID: u64 = 1 << 11;
/// Fixed ranges are below; each register has eight, of 64, 16 or 4 KiB (SDM 3A table 12-9).
const FIXED_END: u64 = 1 << 20;
const FIXED_64K_END: u64 = 0x8_0000;
const FIXED_16K_END: u64 = 0xc_0000;

/// One variable range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Variable {
    /// Address bits that decide.
    mask: u64,
    /// What they must be.
    base: u64,
    memory_type: MemoryType,
}

/// The values of a processor's MTRRs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mtrrs {
    default_type: u64,
    /// Where the processor has them.
    fixed: Option<[u64; msr::FIXED.len()]>,
    /// Those that are in use.
    variable: [Option<Variable>; VARIABLE_MTRRS],
    physical_bits: u8,
}

/// Addresses of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypedRange {
    /// The first.
    pub start: HostPhysical,
    /// How many bytes.
    pub bytes: Bytes,
    /// Their type.
    pub memory_type: MemoryType,
}

impl Mtrrs {
    /// Takes the values with `read`, which is asked for MSRs that exist only. `physical_bits` is the
    /// processor's physical address width.
    pub fn read(physical_bits: u8, read: impl Fn(u32) -> u64) -> Self {
        let capability = read(msr::CAPABILITY);
        let variable = |index| {
            let register = msr::VARIABLE_BASE + 2 * index as u32;
            let exists = (index as u64) < capability & CAPABILITY_COUNT;
            let mask = if exists { read(register + 1) } else { 0 };
            (mask & MASK_VALID != 0).then(|| {
                let mask = mask & physical_mask(physical_bits) & !0xfff;
                let base = read(register);
                Variable { mask, base: base & mask, memory_type: known(base as u8) }
            })
        };
        Self {
            default_type: read(msr::DEFAULT_TYPE),
            fixed: (capability & CAPABILITY_FIXED != 0).then(|| msr::FIXED.map(&read)),
            variable: core::array::from_fn(variable),
            physical_bits,
        }
    }

    /// The type of one address.
    pub fn type_of(&self, address: HostPhysical) -> MemoryType {
        self.look(address.get()).0
    }

    /// The types of a range of addresses, as ranges of one type each, as long as they get; addresses
    /// past the processor's width are left out. A mapping that follows them never puts two types under
    /// one leaf.
    ///
    /// There are as many as there are borders between types: a few hundred at the most, as long as every
    /// variable range is contiguous (SDM 3A 12.11.3).
    pub fn ranges(
        &self,
        start: HostPhysical,
        bytes: Bytes,
    ) -> impl Iterator<Item = TypedRange> + '_ {
        let mut start = start.get();
        let end = start.saturating_add(bytes.get()).min(physical_mask(self.physical_bits) + 1);
        core::iter::from_fn(move || {
            if start >= end {
                return None;
            }
            let (memory_type, mut border) = self.look(start);
            while border < end {
                let (next, further) = self.look(border);
                if next != memory_type {
                    break;
                }
                border = further;
            }
            let bytes = Bytes(border.min(end) - start);
            let found = TypedRange { start: HostPhysical(start), bytes, memory_type };
            start = border;
            Some(found)
        })
    }

    /// The type of `address`, and an end of addresses from there on that have it, too.
    fn look(&self, address: u64) -> (MemoryType, u64) {
        if self.default_type & DEFAULT_ENABLE == 0 {
            return (MemoryType::Uncacheable, u64::MAX);
        }
        if let Some(fixed) = self.fixed
            && self.default_type & DEFAULT_FIXED_ENABLE != 0
            && address < FIXED_END
        {
            let (register, byte, size) = fixed_place(address);
            return (known(fixed[register].to_le_bytes()[byte]), (address | (size - 1)) + 1);
        }
        let ranges = || self.variable.iter().flatten();
        let held = ranges().filter(|range| range.difference(address) == 0);
        let memory_type = held.map(|range| range.memory_type).reduce(overlap);
        let border = ranges().filter_map(|range| range.border(address)).min();
        (memory_type.unwrap_or(known(self.default_type as u8)), border.unwrap_or(u64::MAX))
    }
}

impl Variable {
    /// Bits that are not as the range wants them; 0 for its addresses.
    const fn difference(&self, address: u64) -> u64 {
        address & self.mask ^ self.base
    }

    /// Up to where addresses from `address` on belong to the range as it does: as long as the lowest bit
    /// that decides stays, or the highest that is wrong.
    fn border(&self, address: u64) -> Option<u64> {
        let bit = match self.difference(address) {
            0 => self.mask.trailing_zeros(),
            wrong => wrong.ilog2(),
        };
        Some((address | (1_u64.checked_shl(bit)? - 1)) + 1)
    }
}

/// The fixed register for an address below 1 MiB, the byte in it, and the size of its range.
const fn fixed_place(address: u64) -> (usize, usize, u64) {
    let (first, start, size) = match address {
        0..FIXED_64K_END => (0, 0, 64 << 10),
        FIXED_64K_END..FIXED_16K_END => (1, FIXED_64K_END, 16 << 10),
        _ => (3, FIXED_16K_END, 4 << 10),
    };
    let index = ((address - start) / size) as usize;
    (first + index / 8, index % 8, size)
}

/// Reserved types are taken as uncacheable: slow, never wrong.
fn known(bits: u8) -> MemoryType {
    MemoryType::from_bits(bits).unwrap_or(MemoryType::Uncacheable)
}

/// The type where two variable ranges overlap (SDM 3A 12.11.4.1). What the manual leaves undefined is
/// uncacheable here.
fn overlap(one: MemoryType, other: MemoryType) -> MemoryType {
    use MemoryType::{Uncacheable, WriteBack, WriteThrough};
    match (one, other) {
        _ if one == other => one,
        (WriteThrough, WriteBack) | (WriteBack, WriteThrough) => WriteThrough,
        _ => Uncacheable,
    }
}
