//! What can be wrong with an image.

use crate::Format;
use std::io;
use std::path::PathBuf;

/// Why an image cannot be opened or made.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A system call failed.
    #[error("{path}: cannot {tried}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        tried: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Neither a file nor a block device.
    #[error("{path}: is {kind}; a disk is a regular file or a block device", path = path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// Another process has it.
    #[error(
        "{path}: locked by {holder}; {wanted}. Stop it first, or give each VM an image of its own",
        path = path.display()
    )]
    Locked {
        /// The file.
        path: PathBuf,
        /// Who, as far as the system tells.
        holder: String,
        /// What this open needs that the holder does not share.
        wanted: &'static str,
    },
    /// A qcow2 whose own data contradict each other, or not a qcow2 at all.
    #[error("{path}: not a usable qcow2 image: {fact}", path = path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found and what is allowed.
        fact: String,
    },
    /// A qcow2 with something this program does not do.
    #[error("{path}: {feature} is not supported; `qemu-img convert -O qcow2` makes an image without", path = path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What.
        feature: String,
    },
    /// The backing file is somewhere the image must not reach.
    #[error(
        "{path}: its backing file {backing} lies outside {folder}; move it there, or make an \
         image without it by `qemu-img convert` if you trust whoever made this one",
        path = path.display(), backing = backing.display(), folder = folder.display()
    )]
    BackingOutside {
        /// The image that names it.
        path: PathBuf,
        /// The backing file.
        backing: PathBuf,
        /// Where backing files may lie.
        folder: PathBuf,
    },
    /// The backing file cannot be used as named.
    #[error("{path}: its backing file {backing:?}: {fact}", path = path.display())]
    Backing {
        /// The image that names it.
        path: PathBuf,
        /// The name in the image.
        backing: String,
        /// What is wrong and what to do.
        fact: String,
    },
    /// A size no disk of this format can have.
    #[error("{size} bytes: a {format} disk has {least} to {most} bytes, a multiple of 512")]
    Size {
        /// The size asked for.
        size: u64,
        /// For which format.
        format: Format,
        /// The smallest.
        least: u64,
        /// The largest.
        most: u64,
    },
}

impl DiskError {
    pub(crate) fn io(
        path: &std::path::Path,
        tried: &'static str,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, tried, source }
    }
}
