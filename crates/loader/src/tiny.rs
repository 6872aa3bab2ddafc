//! Tiny guests: our own test programs, flat binaries that begin in real mode at 0x7c00.
//!
//! The file begins with a jump over the magic: a short jump (0xeb) or near jump (0xe9) in the first
//! four bytes, then eight bytes of [`MAGIC`] at [`MAGIC_OFFSET`].

use crate::place::write;
use crate::{EntryPoint, LoadError, entry};
use layout::{EBDA, TINY_IMAGE};
use units::GuestPhysical;
use vm_memory::GuestMemoryMmap;

/// What a tiny guest holds at [`MAGIC_OFFSET`].
pub const MAGIC: [u8; 8] = *b"MHVTINY1";
/// Where.
pub const MAGIC_OFFSET: usize = 4;
/// The largest image: all of conventional memory from its place on. Code in real mode reaches
/// the first 64 KiB of it without reloading segments.
pub(crate) const MOST_BYTES: usize = 0x9_fc00 - 0x7c00;
const _: () = assert!(EBDA.0 == 0x9_fc00 && TINY_IMAGE.0 == 0x7c00);
/// Slots of 64 KiB in which real-mode images can lie side by side.
pub const SLOTS: u8 = 8;

/// True when `head`, the beginning of a file, is a tiny guest's.
#[must_use]
pub fn is_tiny(head: &[u8]) -> bool {
    matches!(head.first(), Some(0xeb | 0xe9))
        && head.get(MAGIC_OFFSET..MAGIC_OFFSET + MAGIC.len()) == Some(&MAGIC)
}

/// Puts `image` at 0x7c00 of slot `slot` (0 to 7) and gives the real-mode state to start it: all
/// segments at the slot's base, IP and SP 0x7c00. Programs that leave real mode know absolute
/// addresses and run in slot 0 only; several real-mode programs can share one machine, one
/// processor and slot each.
///
/// # Errors
/// No such slot, or an image too long for it.
pub fn load(memory: &GuestMemoryMmap, image: &[u8], slot: u8) -> Result<EntryPoint, LoadError> {
    let field = |field, value, most: u64| LoadError::Field {
        format: "tiny guest",
        field,
        value,
        allowed: format!("at most {most:#x}"),
    };
    if slot >= SLOTS {
        return Err(field("slot", u64::from(slot), u64::from(SLOTS - 1)));
    }
    let most = if slot == 0 {
        MOST_BYTES
    } else {
        0x1_0000 - 0x7c00
    };
    if image.len() > most {
        return Err(field("file size", image.len() as u64, most as u64));
    }
    let segment = u16::from(slot) << 12;
    write(
        memory,
        GuestPhysical((u64::from(segment) << 4) + TINY_IMAGE.0),
        image,
    )?;
    let instruction = u16::try_from(TINY_IMAGE.0).unwrap_or(0);
    Ok(entry::real_mode(segment, instruction))
}
