//! Why a kernel cannot be started.

use crate::ImageError;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

/// Why a kernel cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// None of the known kinds.
    #[error(
        "not a kernel: first bytes are {}, expected a Linux bzImage, an ELF with a PVH note, a \
         Multiboot kernel or a tiny guest",
        hexadecimal(first)
    )]
    NotAKernel {
        /// How the file begins; shorter when the file is.
        first: Vec<u8>,
    },
    /// An ELF that says no way to start it.
    #[error(
        "an ELF without a PVH entry note and without a Multiboot header: a Linux vmlinux needs \
         CONFIG_PVH=y, or give the bzImage"
    )]
    NoEntryNote,
    /// A file cannot be read.
    #[error("cannot read the {file} at byte {offset}: {source}")]
    Read {
        /// Kernel or initrd.
        file: &'static str,
        /// Where.
        offset: u64,
        /// Why.
        source: ImageError,
    },
    /// A field of an untrusted file is impossible.
    #[error("{format}: {field} is {value:#x}, allowed is {allowed}")]
    Field {
        /// Format of the file.
        format: &'static str,
        /// The field by its specification's name.
        field: &'static str,
        /// What it holds.
        value: u64,
        /// What it may hold.
        allowed: String,
    },
    /// A command line longer than the kernel takes.
    #[error("command line of {length} bytes: {who} takes at most {most}")]
    CommandLine {
        /// Its length.
        length: usize,
        /// Who sets the limit.
        who: &'static str,
        /// The limit.
        most: usize,
    },
    /// A command line with a zero byte.
    #[error("command line holds a zero byte at position {position}, which would end it there")]
    CommandLineZero {
        /// Where.
        position: usize,
    },
    /// Guest RAM is too small.
    #[error(
        "{what} of {size} bytes does not fit between {from:#x} and {to:#x}; give the machine more \
         memory"
    )]
    NoRoom {
        /// What does not fit.
        what: &'static str,
        /// Its size.
        size: u64,
        /// First address it may use.
        from: u64,
        /// First address it may not use.
        to: u64,
    },
    /// Guest memory is not mapped as the memory map says.
    #[error("cannot write guest memory at {address:#x}: no RAM there")]
    Memory {
        /// Where.
        address: u64,
    },
}

fn hexadecimal(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "none (the file is empty)".into();
    }
    let mut text = String::new();
    for byte in bytes {
        let space = if text.is_empty() { "" } else { " " };
        // Writing to a string cannot fail.
        let _ = write!(text, "{space}{byte:02x}");
    }
    text
}
