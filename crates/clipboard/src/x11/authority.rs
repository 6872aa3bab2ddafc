//! Keys of displays from a file that is not this process's own `XAUTHORITY`.
//!
//! The file's layout is that of libXau: family, address, display number, name of the method and data; each
//! after a length, all of them 16 bits, big endian.

use std::path::Path;

use x11rb::reexports::x11rb_protocol::xauth::Family;

/// The only method that Xorg has without more libraries.
const COOKIE: &[u8] = b"MIT-MAGIC-COOKIE-1";
/// A file of more has no list of keys.
const MOST: u64 = 1 << 20;

/// Name of the method and data for a display.
pub(super) fn key(
    file: &Path,
    family: Family,
    address: &[u8],
    display: u16,
) -> Option<(Vec<u8>, Vec<u8>)> {
    let small = std::fs::metadata(file).is_ok_and(|file| file.is_file() && file.len() <= MOST);
    let bytes = small.then(|| std::fs::read(file).ok())??;
    find(&bytes, family, address, display)
}

fn find(
    mut bytes: &[u8],
    family: Family,
    address: &[u8],
    display: u16,
) -> Option<(Vec<u8>, Vec<u8>)> {
    let display = display.to_string();
    while !bytes.is_empty() {
        let its_family = Family::from(word(&mut bytes)?);
        let [its_address, its_display, name, data] =
            [field(&mut bytes)?, field(&mut bytes)?, field(&mut bytes)?, field(&mut bytes)?];
        let here = its_family == Family::WILD || (its_family == family && its_address == address);
        let this = its_display.is_empty() || its_display == display.as_bytes();
        if here && this && name == COOKIE {
            return Some((name.to_vec(), data.to_vec()));
        }
    }
    None
}

fn word(bytes: &mut &[u8]) -> Option<u16> {
    let (word, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u16::from_be_bytes(*word))
}

fn field<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::from(word(bytes)?);
    let (field, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(family: u16, fields: [&[u8]; 4]) -> Vec<u8> {
        let mut bytes = family.to_be_bytes().to_vec();
        for field in fields {
            bytes.extend(u16::try_from(field.len()).unwrap().to_be_bytes());
            bytes.extend(field);
        }
        bytes
    }

    #[test]
    fn the_key_of_the_display_is_found_among_others() {
        let file = [
            entry(256, [b"host", b"1", COOKIE, b"one"]),
            entry(256, [b"host", b"2", b"XDM-AUTHORIZATION-1", b"two"]),
            entry(256, [b"other", b"2", COOKIE, b"three"]),
            entry(256, [b"host", b"2", COOKIE, b"four"]),
            entry(65535, [b"", b"", COOKIE, b"any"]),
        ]
        .concat();
        let find = |bytes: &[u8], display| {
            find(bytes, Family::LOCAL, b"host", display).map(|(_, data)| data)
        };
        assert_eq!(find(&file, 2).as_deref(), Some(b"four".as_slice()));
        assert_eq!(find(&file, 7).as_deref(), Some(b"any".as_slice()));
        for end in 0..file.len() {
            let _ = find(&file[..end], 9);
        }
        assert_eq!(find(&file[..40], 2), None);
    }
}
