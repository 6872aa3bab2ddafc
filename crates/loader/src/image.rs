//! Reading an untrusted file: every read is checked against its size.

use crate::{LoadError, Ram, place};
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use units::GuestPhysical;

/// Why a piece of a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It ends before.
    #[error("the file ends after {size} bytes")]
    End {
        /// Its size.
        size: u64,
    },
    /// The system cannot.
    #[cfg(feature = "std")]
    #[error(transparent)]
    System(#[from] std::io::Error),
}

/// A kernel or initrd: a file, or [`Bytes`] in memory.
pub trait Image {
    /// Its size in bytes.
    ///
    /// # Errors
    /// It cannot be asked.
    fn size(&mut self) -> Result<u64, ImageError>;

    /// Fills `into` with what is at `offset`.
    ///
    /// # Errors
    /// It ends before, or cannot be read.
    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<(), ImageError>;

    /// Everything of `length` bytes at `offset` that lies in memory already, where it is one piece.
    fn in_memory(&self, _offset: u64, _length: u64) -> Option<&[u8]> {
        None
    }
}

#[cfg(feature = "std")]
impl<I: std::io::Read + std::io::Seek> Image for I {
    fn size(&mut self) -> Result<u64, ImageError> {
        Ok(self.seek(std::io::SeekFrom::End(0))?)
    }

    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<(), ImageError> {
        self.seek(std::io::SeekFrom::Start(offset))?;
        Ok(self.read_exact(into)?)
    }
}

/// A file that lies in memory.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl Image for Bytes<'_> {
    fn size(&mut self) -> Result<u64, ImageError> {
        Ok(self.0.len() as u64)
    }

    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<(), ImageError> {
        let size = self.0.len() as u64;
        let from = self.in_memory(offset, into.len() as u64).ok_or(ImageError::End { size })?;
        into.copy_from_slice(from);
        Ok(())
    }

    fn in_memory(&self, offset: u64, length: u64) -> Option<&[u8]> {
        let from = usize::try_from(offset).ok()?;
        let to = from.checked_add(usize::try_from(length).ok()?)?;
        self.0.get(from..to)
    }
}

/// Files are copied in pieces of this size: small enough to stay in the second-level cache.
const PIECE: usize = 128 << 10;

pub(crate) struct Source<'a, I> {
    name: &'static str,
    pub(crate) image: &'a mut I,
    size: u64,
}

impl<'a, I: Image> Source<'a, I> {
    pub(crate) fn new(name: &'static str, image: &'a mut I) -> Result<Self, LoadError> {
        let size =
            image.size().map_err(|source| LoadError::Read { file: name, offset: 0, source })?;
        Ok(Self { name, image, size })
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The first `most` bytes, or fewer when the file is shorter.
    pub(crate) fn head(&mut self, most: usize) -> Result<Vec<u8>, LoadError> {
        let length = usize::try_from(self.size).unwrap_or(usize::MAX).min(most);
        self.bytes(0, length)
    }

    /// The whole file, refused when longer than `most`.
    pub(crate) fn all(&mut self, most: usize) -> Result<Vec<u8>, LoadError> {
        match usize::try_from(self.size) {
            Ok(length) if length <= most => self.bytes(0, length),
            _ => Err(LoadError::Field {
                format: self.name,
                field: "file size",
                value: self.size,
                allowed: format!("at most {most:#x}"),
            }),
        }
    }

    /// `length` bytes at `offset`. The caller bounds `length`.
    pub(crate) fn bytes(&mut self, offset: u64, length: usize) -> Result<Vec<u8>, LoadError> {
        let mut bytes = vec![0; length];
        self.image.read_at(offset, &mut bytes).map_err(|source| LoadError::Read {
            file: self.name,
            offset,
            source,
        })?;
        Ok(bytes)
    }

    /// True when `length` bytes at `offset` are in the file.
    pub(crate) fn holds(&self, offset: u64, length: u64) -> bool {
        offset.checked_add(length).is_some_and(|end| end <= self.size)
    }

    /// Copies `length` bytes at `offset` of the file to guest address `to`.
    pub(crate) fn copy(
        &mut self,
        offset: u64,
        length: u64,
        memory: &dyn Ram,
        to: u64,
    ) -> Result<(), LoadError> {
        if let Some(bytes) = self.image.in_memory(offset, length) {
            return place::write(memory, GuestPhysical(to), bytes);
        }
        let piece = usize::try_from(length).unwrap_or(usize::MAX).min(PIECE);
        let mut buffer = vec![0; piece];
        let mut done = 0;
        while done < length {
            let left = usize::try_from(length - done).unwrap_or(usize::MAX);
            let part = &mut buffer[..left.min(piece)];
            let offset = offset + done;
            self.image.read_at(offset, part).map_err(|source| LoadError::Read {
                file: self.name,
                offset,
                source,
            })?;
            place::write(memory, GuestPhysical(to + done), part)?;
            done += part.len() as u64;
        }
        Ok(())
    }
}

/// Little-endian fields of a header that has been read whole; zero past its end.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        let from = self.0.get(at..).unwrap_or(&[]);
        for (to, byte) in bytes.iter_mut().zip(from) {
            *to = *byte;
        }
        bytes
    }

    pub(crate) fn u8(&self, at: usize) -> u8 {
        self.array::<1>(at)[0]
    }

    pub(crate) fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    pub(crate) fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }
}
