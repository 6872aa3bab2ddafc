//! Little-endian numbers out of and into byte slices, without a panic on any length.

/// The `N` bytes at `offset`.
pub(crate) fn array<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.get(..N).and_then(|slice| slice.try_into().ok())
}

/// The 16-bit number at `offset`.
pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    array(bytes, offset).map(u16::from_le_bytes)
}

/// The 32-bit number at `offset`.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    array(bytes, offset).map(u32::from_le_bytes)
}

/// The 64-bit number at `offset`.
pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    array(bytes, offset).map(u64::from_le_bytes)
}

/// `count` bytes from `offset` on, counted in 64 bits as files do.
pub(crate) fn range(bytes: &[u8], offset: u64, count: u64) -> Option<core::ops::Range<usize>> {
    let end = offset.checked_add(count)?;
    let range = usize::try_from(offset).ok()?..usize::try_from(end).ok()?;
    (range.end <= bytes.len()).then_some(range)
}

/// The text before the first zero byte, when there is one and it is UTF-8.
pub(crate) fn text(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    core::str::from_utf8(bytes.get(..end)?).ok()
}

/// Puts `value` at `offset` of a buffer that is known to be large enough at compile time.
pub(crate) fn put<const N: usize>(bytes: &mut [u8; N], offset: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(offset..offset + value.len()) {
        place.copy_from_slice(value);
    }
}
