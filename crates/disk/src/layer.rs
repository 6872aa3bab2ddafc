//! One open file of an image, as `imago` wants it and as [`crate::Image`] moves guest data through
//! it.

use crate::{ReadBuffers, WriteBuffers};
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::drivers::CommonStorageHelper;
use imago::storage::{PreallocateMode, Storage};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};

/// Zeroes to write where the filesystem cannot make them.
static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];

/// An open, locked file or block device.
#[derive(Debug)]
pub(crate) struct Layer {
    file: File,
    path: PathBuf,
    /// What a read that may not wait does here.
    now: AtomicU8,
    helper: CommonStorageHelper,
}

/// `RWF_NOWAIT` works.
const NOW_ASKS: u8 = 0;
/// The file lives in memory: no read ever waits.
const NOW_ALWAYS: u8 = 1;
/// The filesystem cannot say: any read may wait.
const NOW_NEVER: u8 = 2;

/// Filesystem magic numbers (statfs(2)).
const TMPFS: u64 = 0x0102_1994;
const RAMFS: u64 = 0x8584_58f6;

impl Layer {
    pub(crate) fn new(file: File, path: PathBuf) -> Self {
        let kind = rustix::fs::fstatfs(&file).map_or(0, |found| found.f_type as u64);
        let now = if matches!(kind, TMPFS | RAMFS) { NOW_ALWAYS } else { NOW_ASKS };
        Self { file, path, now: AtomicU8::new(now), helper: CommonStorageHelper::default() }
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Bytes in the file or on the device.
    pub(crate) fn length(&self) -> io::Result<u64> {
        // Works for block devices, whose metadata say 0. The position is used by nobody.
        Ok(rustix::fs::seek(&self.file, rustix::fs::SeekFrom::End(0))?)
    }

    /// Fills `count` bytes of `buffers` from `offset`; past the end of the file are zeroes. With
    /// `now`, `WouldBlock` when that has to wait, or may have to.
    pub(crate) fn read<B: ReadBuffers>(
        &self,
        buffers: &mut B,
        mut offset: u64,
        mut count: usize,
        now: bool,
    ) -> io::Result<()> {
        let now = match self.now.load(Ordering::Relaxed) {
            NOW_NEVER if now => return Err(io::ErrorKind::WouldBlock.into()),
            NOW_ASKS => now,
            _ => false,
        };
        while count > 0 {
            let done = match buffers.fill_from(self.descriptor(), offset, count, now) {
                Ok(done) => done,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if now && error.kind() == io::ErrorKind::Unsupported => {
                    self.now.store(NOW_NEVER, Ordering::Relaxed);
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Err(error) => return Err(error),
            };
            if done == 0 {
                buffers.put_zeroes(count);
                break;
            }
            offset += done as u64;
            count -= done;
        }
        Ok(())
    }

    /// Writes `count` bytes of `buffers` at `offset`.
    pub(crate) fn write<B: WriteBuffers>(
        &self,
        buffers: &mut B,
        mut offset: u64,
        mut count: usize,
    ) -> io::Result<()> {
        let end = offset.checked_add(count as u64).ok_or(io::ErrorKind::InvalidInput)?;
        // Keeps off what imago is rewriting meanwhile.
        let _guard = self.helper.weak_write_blocker(offset..end);
        while count > 0 {
            let done = match buffers.drain_to(self.descriptor(), offset, count) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(done) => done,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            offset += done as u64;
            count -= done;
        }
        Ok(())
    }

    /// Gives the range back to the filesystem; it reads as zeroes then. `Unsupported` where the
    /// filesystem cannot.
    pub(crate) fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.allocate(flags, offset, length)
    }

    /// Makes the range read as zeroes, keeping it allocated if `keep`.
    pub(crate) fn zero(&self, offset: u64, length: u64, keep: bool) -> io::Result<()> {
        let zero_range = || self.allocate(FallocateFlags::ZERO_RANGE, offset, length);
        let punch = || self.punch(offset, length);
        let unsupported = |result: &io::Result<()>| {
            result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::Unsupported)
        };
        let mut result = if keep { zero_range() } else { punch() };
        if unsupported(&result) {
            result = if keep { punch() } else { zero_range() };
        }
        if unsupported(&result) {
            result = self.write_zeroes_as_data(offset, length);
        }
        result
    }

    fn allocate(&self, flags: FallocateFlags, offset: u64, length: u64) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        match rustix::io::retry_on_intr(|| fallocate(&self.file, flags, offset, length)) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NODEV) => {
                Err(io::ErrorKind::Unsupported.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn write_zeroes_as_data(&self, mut offset: u64, mut length: u64) -> io::Result<()> {
        while length > 0 {
            let chunk = length.min(ZEROES.len() as u64);
            // At most the length of ZEROES.
            self.write(&mut &ZEROES[..chunk as usize], offset, chunk as usize)?;
            offset += chunk;
            length -= chunk;
        }
        Ok(())
    }

    /// Everything written is on stable storage when this returns.
    pub(crate) fn sync_data(&self) -> io::Result<()> {
        Ok(rustix::io::retry_on_intr(|| rustix::fs::fdatasync(&self.file))?)
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

// `imago` declares the plain transfers unsafe because they skip its own alignment and concurrency
// guards; implementing them needs no unsafe operation.
#[allow(unsafe_code)]
impl Storage for Layer {
    fn size(&self) -> io::Result<u64> {
        self.length()
    }

    fn get_filename(&self) -> Option<PathBuf> {
        Some(self.path.clone())
    }

    unsafe fn pure_readv(&self, buffers: IoVectorMut<'_>, mut offset: u64) -> io::Result<()> {
        for mut slice in buffers.into_inner() {
            let mut slice: &mut [u8] = &mut slice;
            let count = slice.len();
            self.read(&mut slice, offset, count, false)?;
            offset = offset.checked_add(count as u64).ok_or(io::ErrorKind::InvalidInput)?;
        }
        Ok(())
    }

    unsafe fn pure_writev(&self, buffers: IoVector<'_>, mut offset: u64) -> io::Result<()> {
        for slice in buffers.into_inner() {
            let mut left: &[u8] = &slice;
            while !left.is_empty() {
                match rustix::io::pwrite(&self.file, left, offset) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(done) => {
                        left = &left[done..];
                        offset += done as u64;
                    }
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    unsafe fn pure_write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        let end = offset.checked_add(length).ok_or(io::ErrorKind::InvalidInput)?;
        let now = self.length()?;
        if offset < now {
            match self.punch(offset, end.min(now) - offset) {
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                    return zero_by_data(self, offset, length);
                }
                result => result?,
            }
        }
        if end > now {
            self.file.set_len(end)?;
        }
        Ok(())
    }

    unsafe fn pure_discard(&self, offset: u64, length: u64) -> io::Result<()> {
        match self.punch(offset, length) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            result => result,
        }
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        &self.helper
    }

    fn resize(&self, size: u64, _preallocate: PreallocateMode) -> io::Result<()> {
        self.file.set_len(size)
    }
}

/// As [`Layer::write_zeroes_as_data`], without waiting for the guards the caller holds already.
fn zero_by_data(layer: &Layer, mut offset: u64, mut length: u64) -> io::Result<()> {
    while length > 0 {
        let chunk = length.min(ZEROES.len() as u64);
        let done = rustix::io::retry_on_intr(|| {
            rustix::io::pwrite(&layer.file, &ZEROES[..chunk as usize], offset)
        })?;
        if done == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        offset += done as u64;
        length -= done as u64;
    }
    Ok(())
}
