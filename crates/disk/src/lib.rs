//! Disk images: raw files, block devices and qcow2 (through `imago`), with locks that QEMU honours
//! too, a policy for backing files, creation and information.
//!
//! The block device opens an [`Image`] and moves data straight between the file and guest memory
//! through the [`ReadBuffers`] and [`WriteBuffers`] it brings; the CLI uses [`create`] and
//! [`information`]. Nothing here knows virtio.
//!
//! An image may come from anywhere: whatever its bytes say is checked, a broken one is refused
//! with the fact, and it names no file outside its own folder unless the user allowed that file.
//! A format is never guessed from content.
#![deny(unsafe_code)]

mod buffers;
mod chain;
mod create;
mod error;
mod header;
mod image;
mod layer;
mod lock;

pub use buffers::{ReadBuffers, WriteBuffers};
pub use chain::{BackingPolicy, OpenOptions};
pub use create::{CreateOptions, Information, create, information};
pub use error::DiskError;
pub use image::{Image, Wait};

use std::fmt;

/// How the bytes of an image file are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Bytes as they are; also block devices.
    Raw,
    /// QEMU's copy-on-write format, version 2 or 3.
    Qcow2,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        })
    }
}

/// Disks are counted in sectors of this size (virtio 1.2, 5.2).
pub const SECTOR: u64 = 512;
