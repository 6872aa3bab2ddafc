//! Tiny guests: our own test programs, flat binaries that begin in real mode at 0x7c00.
//!
//! The file begins with a jump over the magic: a short jump (0xeb) or near jump (0xe9) in the first
//! four bytes, then eight bytes of [`MAGIC`] at [`MAGIC_OFFSET`].

use crate::place::write;
use crate::{EntryPoint, LoadError, Ram, entry};
use layout::{EBDA, TINY_IMAGE};

/// What a tiny guest holds at [`MAGIC_OFFSET`].
pub const MAGIC: [u8; 8] = *b"MHVTINY1";
/// Where.
pub const MAGIC_OFFSET: usize = 4;
/// The largest image: all of conventional memory from its place on. Code in real mode reaches
/// the first 64 KiB of it without reloading segments.
pub(crate) const MOST_BYTES: usize = 0x9_fc00 - 0x7c00;
const _: () = assert!(EBDA.0 == 0x9_fc00 && TINY_IMAGE.0 == 0x7c00);
/// True when `head`, the beginning of a file, is a tiny guest's.
#[must_use]
pub fn is_tiny(head: &[u8]) -> bool {
    matches!(head.first(), Some(0xeb | 0xe9))
        && head.get(MAGIC_OFFSET..MAGIC_OFFSET + MAGIC.len()) == Some(&MAGIC)
}

/// Puts `image` at 0x7c00 and gives the real-mode state to start it: all segments at 0, IP and SP
/// 0x7c00. The image is no longer than [`MOST_BYTES`].
pub(crate) fn load(memory: &dyn Ram, image: &[u8]) -> Result<EntryPoint, LoadError> {
    write(memory, TINY_IMAGE, image)?;
    Ok(entry::real_mode(u16::try_from(TINY_IMAGE.0).unwrap_or(0)))
}
