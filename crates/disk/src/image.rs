//! An open image: what the block device reads and writes.

use crate::header::Header;
use crate::layer::Layer;
use crate::{DiskError, Format, ReadBuffers, SECTOR, WriteBuffers};
use imago::{FormatAccess, Mapping};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

/// Compressed clusters go through a buffer of this size.
const BOUNCE: usize = 64 * 1024;

/// Whether a read may wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Until the data are there.
    Yes,
    /// Not at all: `WouldBlock` when the page cache does not have the data. What was filled before
    /// is unspecified.
    No,
}

/// An open, locked image. Several threads may use it at once; overlapping requests happen in any
/// order, as on a real disk.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    size: u64,
    read_only: bool,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Raw(Layer),
    Qcow2(Box<Mapped>),
}

#[derive(Debug)]
struct Mapped {
    /// Discarding moves clusters around under everybody's feet, so it takes the lock for writing.
    access: RwLock<FormatAccess<Layer>>,
    cluster_size: u64,
    files: Vec<PathBuf>,
}

impl Mapped {
    fn shared(&self) -> RwLockReadGuard<'_, FormatAccess<Layer>> {
        self.access.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn whole_clusters(&self, offset: u64, length: u64) -> (u64, u64) {
        let size = self.cluster_size;
        (offset.next_multiple_of(size), (offset + length) / size * size)
    }

    /// Makes the range read as zeroes and gives its clusters back, to the image for later use and
    /// to the filesystem.
    fn free(&self, offset: u64, length: u64) -> io::Result<()> {
        let mut access = self.access.write().unwrap_or_else(PoisonError::into_inner);
        // imago frees a cluster inside the image only. The holes are punched first: afterwards a
        // cluster may already hold something else.
        let (mut at, end) = self.whole_clusters(offset, length);
        while at < end {
            let (mapping, mapped) = access.get_mapping(at, end - at)?;
            if let Mapping::Raw { storage, offset, writable: true, .. } = mapping {
                match storage.punch(offset, mapped) {
                    Err(error) if error.kind() == io::ErrorKind::Unsupported => break,
                    result => result?,
                }
            }
            if mapped == 0 {
                break;
            }
            at += mapped;
        }
        access.discard_to_zero(offset, length)
    }
}

impl Image {
    pub(crate) fn raw(layer: Layer, path: &Path, read_only: bool) -> Result<Self, DiskError> {
        let length = layer.length().map_err(DiskError::io(path, "find the length of"))?;
        // The last sector of an odd file reads as zeroes past the end and is completed when written.
        let size = length.checked_next_multiple_of(SECTOR).unwrap_or(length - length % SECTOR);
        Ok(Self { path: path.to_owned(), size, read_only, content: Content::Raw(layer) })
    }

    pub(crate) fn qcow2(
        access: FormatAccess<Layer>,
        path: &Path,
        read_only: bool,
        header: Header,
        files: Vec<PathBuf>,
    ) -> Self {
        Self {
            path: path.to_owned(),
            size: access.size() / SECTOR * SECTOR,
            read_only,
            content: Content::Qcow2(Box::new(Mapped {
                access: RwLock::new(access),
                cluster_size: header.cluster_size,
                files,
            })),
        }
    }

    /// Where it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every file of the chain, the image first.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        match &self.content {
            Content::Raw(_) => vec![self.path.clone()],
            Content::Qcow2(mapped) => mapped.files.clone(),
        }
    }

    /// Its format.
    #[must_use]
    pub fn format(&self) -> Format {
        match self.content {
            Content::Raw(_) => Format::Raw,
            Content::Qcow2(_) => Format::Qcow2,
        }
    }

    /// Bytes of the disk, a multiple of [`SECTOR`].
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether writes are refused.
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// The unit in which discarding frees space, in bytes.
    #[must_use]
    pub fn discard_granularity(&self) -> u64 {
        match &self.content {
            // Filesystems punch holes in pages.
            Content::Raw(_) => 4096,
            Content::Qcow2(mapped) => mapped.cluster_size,
        }
    }

    /// Fills `buffers` from byte `offset`.
    ///
    /// # Errors
    /// Past the end, the disk fails, or it would have to wait and may not.
    pub fn read<B: ReadBuffers>(&self, buffers: &mut B, offset: u64, wait: Wait) -> io::Result<()> {
        let count = buffers.left();
        self.check(offset, count as u64)?;
        let now = wait == Wait::No;
        match &self.content {
            Content::Raw(layer) => layer.read(buffers, offset, count, now),
            Content::Qcow2(mapped) => read_mapped(&mapped.shared(), buffers, offset, now),
        }
    }

    /// Writes `buffers` at byte `offset`.
    ///
    /// # Errors
    /// Read-only, past the end, or the disk fails (also when it is full).
    pub fn write<B: WriteBuffers>(&self, buffers: &mut B, offset: u64) -> io::Result<()> {
        let count = buffers.left();
        self.check_writable(offset, count as u64)?;
        match &self.content {
            Content::Raw(layer) => layer.write(buffers, offset, count),
            Content::Qcow2(mapped) => write_mapped(&mapped.shared(), buffers, offset),
        }
    }

    /// Everything written before is on stable storage when this returns.
    ///
    /// # Errors
    /// The disk fails: nothing written since the last success is certain.
    pub fn flush(&self) -> io::Result<()> {
        match &self.content {
            _ if self.read_only => Ok(()),
            Content::Raw(layer) => layer.sync_data(),
            Content::Qcow2(mapped) => {
                let access = mapped.shared();
                access.flush()?;
                access.sync()
            }
        }
    }

    /// The guest has no use for the range any more: as much of it as possible is given back to the
    /// host. What it reads as is not defined.
    ///
    /// # Errors
    /// Read-only, past the end, or the disk fails.
    pub fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.check_writable(offset, length)?;
        let result = match &self.content {
            Content::Raw(layer) => layer.punch(offset, self.inside_file(layer, offset, length)?),
            Content::Qcow2(mapped) => {
                // Whole clusters only: the rest would have to be written as zeroes, for nothing.
                let (start, end) = mapped.whole_clusters(offset, length);
                if start >= end {
                    return Ok(());
                }
                mapped.free(start, end - start)
            }
        };
        match result {
            // It was only advice.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            result => result,
        }
    }

    /// Makes the range read as zeroes, giving it back to the host if `may_free`.
    ///
    /// # Errors
    /// Read-only, past the end, or the disk fails.
    pub fn write_zeroes(&self, offset: u64, length: u64, may_free: bool) -> io::Result<()> {
        self.check_writable(offset, length)?;
        match &self.content {
            Content::Raw(layer) => {
                layer.zero(offset, self.inside_file(layer, offset, length)?, !may_free)
            }
            Content::Qcow2(mapped) if may_free => match mapped.free(offset, length) {
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                    mapped.shared().write_zeroes(offset, length)
                }
                result => result,
            },
            Content::Qcow2(mapped) => mapped.shared().write_zeroes(offset, length),
        }
    }

    /// How much of the range the file has; past its end it reads as zeroes anyway.
    fn inside_file(&self, layer: &Layer, offset: u64, length: u64) -> io::Result<u64> {
        if offset + length < self.size {
            return Ok(length);
        }
        Ok(layer.length()?.saturating_sub(offset).min(length))
    }

    fn check(&self, offset: u64, length: u64) -> io::Result<()> {
        if offset.checked_add(length).is_some_and(|end| end <= self.size) {
            return Ok(());
        }
        let fact = format!("{length} bytes at {offset}, the disk has {}", self.size);
        Err(io::Error::new(io::ErrorKind::InvalidInput, fact))
    }

    fn check_writable(&self, offset: u64, length: u64) -> io::Result<()> {
        if self.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        self.check(offset, length)
    }
}

/// The mapping tells which bytes of which file hold the data; those go to the buffers directly.
fn read_mapped<B: ReadBuffers>(
    access: &FormatAccess<Layer>,
    buffers: &mut B,
    mut offset: u64,
    now: bool,
) -> io::Result<()> {
    while buffers.left() > 0 {
        let left = buffers.left();
        let (mapping, length) = access.get_mapping(offset, left as u64)?;
        let count = usize::try_from(length).unwrap_or(left).min(left);
        match mapping {
            Mapping::Raw { storage, offset: at, .. } => storage.read(buffers, at, count, now)?,
            Mapping::Zero { .. } => buffers.put_zeroes(count),
            Mapping::Eof { .. } => {
                buffers.put_zeroes(left);
                return Ok(());
            }
            // Compressed: imago unpacks.
            _ if now => return Err(io::ErrorKind::WouldBlock.into()),
            _ => {
                let mut bounce = vec![0; count.min(BOUNCE)];
                access.read(bounce.as_mut_slice(), offset)?;
                buffers.put(&bounce);
            }
        }
        offset += (left - buffers.left()) as u64;
        if buffers.left() == left {
            return Err(io::Error::other(format!("nothing is mapped at {offset:#x}")));
        }
    }
    Ok(())
}

fn write_mapped<B: WriteBuffers>(
    access: &FormatAccess<Layer>,
    buffers: &mut B,
    mut offset: u64,
) -> io::Result<()> {
    while buffers.left() > 0 {
        let left = buffers.left();
        let mapping = access.prepare_data_mapping(offset, left as u64, true)?;
        let count = usize::try_from(mapping.length()).unwrap_or(left).min(left);
        if count == 0 {
            return Err(io::Error::other(format!("no room can be mapped at {offset:#x}")));
        }
        mapping.storage().write(buffers, mapping.offset(), count)?;
        access.commit_data_mapping(mapping)?;
        offset += count as u64;
    }
    Ok(())
}
