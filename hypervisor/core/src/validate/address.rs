//! Addresses, and ranges of memory in calls.

use hypervisor_abi::POOL_HEAD_SIZE;
use hypervisor_boot::memory_map::Span;
use units::{Bytes, GuestPhysical, HostPhysical, PAGE_SIZE};

use super::ensure;
use crate::second_level::Access;

/// Whether segment bases, LSTAR or SYSENTER_EIP can hold this linear address: the bits above 48, or 57
/// with `five_levels`, repeat the highest (SDM 1 3.3.7.1).
#[inline]
#[must_use]
pub const fn canonical(address: u64, five_levels: bool) -> bool {
    let shift = if five_levels { 64 - 57 } else { 64 - 48 };
    ((address << shift) as i64 >> shift) as u64 == address
}

/// All bits of a physical address on a processor with so many; 52 are the most there can be
/// (SDM 3A 4.1.4).
pub const fn physical_mask(bits: u8) -> u64 {
    (1 << if bits < 52 { bits } else { 52 }) - 1
}

/// What is wrong with a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeError {
    /// The start is not that of a page.
    Misaligned,
    /// There is no page in it, or it reaches outside of what it must lie in.
    Outside,
}

/// `pages` from `start` on, which must lie in `lowest..end`.
fn pages(start: u64, pages: u64, lowest: u64, end: u64) -> Result<Bytes, RangeError> {
    ensure(start.is_multiple_of(PAGE_SIZE), RangeError::Misaligned)?;
    let bytes = pages.checked_mul(PAGE_SIZE).ok_or(RangeError::Outside)?;
    let last = start.checked_add(bytes).ok_or(RangeError::Outside)?;
    ensure(bytes != 0 && start >= lowest && last <= end, RangeError::Outside)?;
    Ok(Bytes(bytes))
}

/// Pages of `pool` that root gives to a guest: inside the pool and past its head.
///
/// # Errors
///
/// When the range is misaligned, empty, or reaches outside.
pub fn pool_pages(start: u64, count: u64, pool: Span) -> Result<Span, RangeError> {
    let lowest = pool.start.0.saturating_add(POOL_HEAD_SIZE);
    let bytes = pages(start, count, lowest, pool.end.0)?;
    Ok(Span::of(HostPhysical(start), bytes))
}

/// Guest-physical pages of a guest whose second-level tables reach `physical_bits`.
///
/// # Errors
///
/// When the range is misaligned, empty, or reaches outside.
pub fn guest_pages(
    start: u64,
    count: u64,
    physical_bits: u8,
) -> Result<(GuestPhysical, Bytes), RangeError> {
    let bytes = pages(start, count, 0, physical_mask(physical_bits) + 1)?;
    Ok((GuestPhysical(start), bytes))
}

/// The access word of a mapping: bit 0 write, bit 1 execute; `None` when other bits are set.
pub const fn memory_access(bits: u64) -> Option<Access> {
    match bits {
        0..=0b11 => Some(Access { write: bits & 0b01 != 0, execute: bits & 0b10 != 0 }),
        _ => None,
    }
}
