//! Reading an untrusted file: every read is checked against its size.

use crate::LoadError;
use std::io::{Read, Seek, SeekFrom};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, ReadVolatile};

/// A kernel or initrd: a file, or bytes in memory (`std::io::Cursor`).
pub trait Image: Read + Seek + ReadVolatile {}

impl<I: Read + Seek + ReadVolatile> Image for I {}

pub(crate) struct Source<'a, I> {
    name: &'static str,
    pub(crate) image: &'a mut I,
    size: u64,
}

impl<'a, I: Image> Source<'a, I> {
    pub(crate) fn new(name: &'static str, image: &'a mut I) -> Result<Self, LoadError> {
        let size = image
            .seek(SeekFrom::End(0))
            .map_err(|source| LoadError::Read {
                file: name,
                offset: 0,
                source,
            })?;
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
        self.image
            .seek(SeekFrom::Start(offset))
            .and_then(|_| self.image.read_exact(&mut bytes))
            .map_err(|source| LoadError::Read {
                file: self.name,
                offset,
                source,
            })?;
        Ok(bytes)
    }

    /// True when `length` bytes at `offset` are in the file.
    pub(crate) fn holds(&self, offset: u64, length: u64) -> bool {
        offset
            .checked_add(length)
            .is_some_and(|end| end <= self.size)
    }

    /// Copies `length` bytes at `offset` of the file to guest address `to`.
    pub(crate) fn copy(
        &mut self,
        offset: u64,
        length: u64,
        memory: &GuestMemoryMmap,
        to: u64,
    ) -> Result<(), LoadError> {
        self.image
            .seek(SeekFrom::Start(offset))
            .map_err(|source| LoadError::Read {
                file: self.name,
                offset,
                source,
            })?;
        let memory_error = |source| LoadError::Memory {
            address: to,
            source,
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        memory
            .read_exact_volatile_from(GuestAddress(to), self.image, length)
            .map_err(memory_error)
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
