//! Little-endian fields of bytes that may be too short.

/// `N` bytes at `at`; zeros past the end.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut found = [0; N];
    let from = bytes.get(at..).unwrap_or_default();
    for (to, byte) in found.iter_mut().zip(from) {
        *to = *byte;
    }
    found
}

pub(crate) fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

pub(crate) fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

pub(crate) fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

/// Replaces the bytes at `at` by `new`, as many as there is room for.
pub(crate) fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    let room = bytes.get_mut(at..).unwrap_or_default();
    for (to, byte) in room.iter_mut().zip(new) {
        *to = *byte;
    }
}
