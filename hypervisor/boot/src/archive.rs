//! The boot archive: one cpio archive in the "newc" format that holds everything the machine runs
//! (Linux Documentation/driver-api/early-userspace/buffer-format.rst). The first file is root.
//!
//! Files are given as ranges of the archive, so that their pages are used in place.

use core::fmt;
use core::ops::Range;

/// Bytes of an entry's head: a magic of six characters and thirteen numbers of eight hexadecimal ones.
const HEAD: usize = 110;
/// "newc", and "newc" with a checksum per file, which nobody checks.
const MAGICS: [&[u8]; 2] = [b"070701", b"070702"];
/// Name of the last entry.
const TRAILER: &[u8] = b"TRAILER!!!";
/// Places of numbers in the head.
const MODE: usize = 1;
const FILE_SIZE: usize = 6;
const NAME_SIZE: usize = 11;
/// File type bits of a mode and their value for plain files (inode(7)).
const TYPE: u32 = 0o170_000;
const PLAIN: u32 = 0o100_000;

/// What is wrong with an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// No entry begins here.
    Magic {
        /// Where in the archive.
        offset: usize,
    },
    /// A number of the head is not hexadecimal.
    Number {
        /// Where the number stands.
        offset: usize,
    },
    /// An entry's head, name or contents pass the end of the archive.
    Short {
        /// Where the entry begins.
        offset: usize,
    },
    /// A name is empty, has no end or is no UTF-8.
    Name {
        /// Where the entry begins.
        offset: usize,
    },
    /// The archive ends without its trailer.
    NoTrailer,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic { offset } => {
                write!(f, "at byte {offset} no entry of a cpio archive (newc) begins")
            }
            Self::Number { offset } => {
                write!(f, "at byte {offset} a hexadecimal number is wanted")
            }
            Self::Short { offset } => {
                write!(f, "the entry at byte {offset} passes the archive's end")
            }
            Self::Name { offset } => {
                write!(
                    f,
                    "the name of the entry at byte {offset} is empty, has no end or is no UTF-8"
                )
            }
            Self::NoTrailer => f.write_str("it ends without its trailer"),
        }
    }
}

/// An archive, in memory.
#[derive(Clone, Copy, Debug)]
pub struct Archive<'a> {
    bytes: &'a [u8],
}

/// One plain file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File<'a> {
    /// Its path, without a leading `/` or `./`.
    pub name: &'a str,
    /// Where its contents lie in the archive.
    pub range: Range<usize>,
    /// Its contents.
    pub contents: &'a [u8],
}

impl<'a> Archive<'a> {
    /// The archive in these bytes; what follows its trailer is ignored.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Every plain file, in the archive's order; after an error there is nothing more.
    #[must_use]
    pub const fn files(&self) -> Files<'a> {
        Files { bytes: self.bytes, offset: Some(0) }
    }

    /// The first file with this path.
    ///
    /// # Errors
    /// The archive is damaged before a file with that path came.
    pub fn find(&self, name: &str) -> Result<Option<File<'a>>, Error> {
        let name = relative(name);
        self.files().find(|file| file.as_ref().map_or(true, |file| file.name == name)).transpose()
    }

    /// Reads to the trailer and counts the files.
    ///
    /// # Errors
    /// The archive is damaged.
    pub fn check(&self) -> Result<usize, Error> {
        self.files().try_fold(0, |count, file| file.map(|_| count + 1))
    }
}

/// Iterates over the plain files of an archive.
#[derive(Clone, Debug)]
pub struct Files<'a> {
    bytes: &'a [u8],
    /// Where the next entry begins; `None` after the trailer or an error.
    offset: Option<usize>,
}

impl<'a> Iterator for Files<'a> {
    type Item = Result<File<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let offset = self.offset.take()?;
            match entry(self.bytes, offset) {
                Err(error) => return Some(Err(error)),
                Ok(None) => return None,
                Ok(Some((mode, file, next))) => {
                    self.offset = Some(next);
                    if mode & TYPE == PLAIN {
                        return Some(Ok(file));
                    }
                }
            }
        }
    }
}

/// The entry at `offset` and the place of the next; `None` for the trailer.
fn entry(bytes: &[u8], offset: usize) -> Result<Option<(u32, File<'_>, usize)>, Error> {
    let short = Error::Short { offset };
    let rest = bytes.get(offset..).unwrap_or_default();
    if rest.is_empty() {
        return Err(Error::NoTrailer);
    }
    if !MAGICS.iter().any(|magic| rest.starts_with(magic)) {
        return Err(Error::Magic { offset });
    }
    let head = rest.get(..HEAD).ok_or(short)?;
    let number = |index: usize| -> Result<u32, Error> {
        let at = 6 + index * 8;
        let wrong = Error::Number { offset: offset + at };
        let digits = head.get(at..at + 8).ok_or(short)?;
        digits.iter().try_fold(0u32, |value, digit| {
            let digit = char::from(*digit).to_digit(16).ok_or(wrong)?;
            Ok((value << 4) | digit)
        })
    };
    let size = |index: usize| usize::try_from(number(index)?).map_err(|_| short);
    let mode = number(MODE)?;
    let name_at = offset + HEAD;
    let name_end = name_at.checked_add(size(NAME_SIZE)?).ok_or(short)?;
    let name = bytes.get(name_at..name_end).ok_or(short)?;
    let [name @ .., 0] = name else {
        return Err(Error::Name { offset });
    };
    if name == TRAILER {
        return Ok(None);
    }
    let name = core::str::from_utf8(name)
        .ok()
        .map(relative)
        .filter(|name| !name.is_empty() && !name.contains('\0'))
        .ok_or(Error::Name { offset })?;
    let start = name_end.checked_next_multiple_of(4).ok_or(short)?;
    let end = start.checked_add(size(FILE_SIZE)?).ok_or(short)?;
    let contents = bytes.get(start..end).ok_or(short)?;
    let next = end.checked_next_multiple_of(4).ok_or(short)?;
    let file = File { name, range: start..end, contents };
    Ok(Some((mode, file, next)))
}

fn relative(name: &str) -> &str {
    let name = name.strip_prefix("./").unwrap_or(name);
    name.trim_start_matches('/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::format;
    use std::string::String;
    use std::vec::Vec;

    fn add(bytes: &mut Vec<u8>, name: &str, mode: u32, contents: &[u8]) {
        let mut head = String::from("070701");
        for (index, value) in [0u32; 13].iter().enumerate() {
            let value = match index {
                MODE => mode,
                FILE_SIZE => u32::try_from(contents.len()).expect("short"),
                NAME_SIZE => u32::try_from(name.len() + 1).expect("short"),
                _ => *value,
            };
            head += &format!("{value:08x}");
        }
        bytes.extend(head.as_bytes());
        bytes.extend(name.as_bytes());
        bytes.push(0);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(contents);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }

    fn archive() -> Vec<u8> {
        let mut bytes = Vec::new();
        add(&mut bytes, "root", 0o100_755, b"\x7fELF");
        add(&mut bytes, "guests", 0o040_755, b"");
        add(&mut bytes, "guests/vmlinuz", 0o100_644, b"kernel");
        add(&mut bytes, "empty", 0o100_644, b"");
        add(&mut bytes, "TRAILER!!!", 0, b"");
        bytes
    }

    #[test]
    fn plain_files_come_in_order_and_are_found_by_path() {
        let bytes = archive();
        let archive = Archive::new(&bytes);
        let names: Vec<_> = archive.files().map(|file| file.expect("well formed").name).collect();
        assert_eq!(names, ["root", "guests/vmlinuz", "empty"]);
        let kernel = archive.find("/guests/vmlinuz").expect("well formed").expect("there");
        assert_eq!(&bytes[kernel.range.clone()], b"kernel");
        assert_eq!(kernel.contents, b"kernel");
        assert_eq!(archive.find("guests"), Ok(None));
        assert_eq!(archive.check(), Ok(3));
    }

    #[test]
    fn damage_is_named_with_its_place() {
        let bytes = archive();
        assert_eq!(Archive::new(&bytes[1..]).check(), Err(Error::Magic { offset: 0 }));
        assert_eq!(Archive::new(&[]).check(), Err(Error::NoTrailer));
        assert_eq!(Archive::new(&bytes[..114]).check(), Err(Error::Short { offset: 0 }));
        let mut large = bytes.clone();
        large[54..62].copy_from_slice(b"ffffffff");
        assert_eq!(Archive::new(&large).check(), Err(Error::Short { offset: 0 }));
        large[54..62].copy_from_slice(b"0000000g");
        assert_eq!(Archive::new(&large).check(), Err(Error::Number { offset: 54 }));
        let mut nameless = bytes;
        nameless[94..102].copy_from_slice(b"00000000");
        assert_eq!(Archive::new(&nameless).check(), Err(Error::Name { offset: 0 }));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Archive::new(&bytes).check();
        }

        #[test]
        fn damaged_archives_never_panic_and_stay_inside(
            damage in prop::collection::vec((0usize..600, prop::sample::select(b"0123456789abcdefF\0/".as_slice())), 0..6),
            cut in 0usize..700,
        ) {
            let mut bytes = archive();
            for (at, value) in damage {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            bytes.truncate(cut);
            for file in Archive::new(&bytes).files().flatten() {
                prop_assert_eq!(&bytes[file.range.clone()], file.contents);
            }
        }
    }
}
