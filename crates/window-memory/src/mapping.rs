//! The memory as this program maps it: the only place here with `unsafe`.

use crate::picture::{Area, Picture, PictureError};
use crate::{PIXEL, Span};
use proto::v1::Present;
use rustix::fs::{FileType, MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

/// Window memory, mapped for reading and writing as long as this lives.
#[derive(Debug)]
pub struct WindowMemory {
    descriptor: OwnedFd,
    start: NonNull<u8>,
    length: usize,
}

/// The memory cannot be made or mapped.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// The system refuses.
    #[error("cannot {action} window memory: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Its answer.
        source: io::Error,
    },
    /// Its owner could shrink it, which would kill whoever reads it.
    #[error("the window memory is not sealed against shrinking")]
    Unsealed,
    /// Not a file with a size that can be mapped.
    #[error("the window memory has {0} bytes")]
    Length(u64),
}

// SAFETY: the mapping is of this object alone and lives as long as it; all access goes through `read` and
// `write`, which assume nothing of the bytes.
unsafe impl Send for WindowMemory {}
// SAFETY: as above; two threads that copy at once get mixed bytes at worst, as with the guest's writes.
unsafe impl Sync for WindowMemory {}

impl WindowMemory {
    /// Makes memory of `bytes`, all zero, which takes room only where it is written. Nobody can change its
    /// length later.
    ///
    /// # Errors
    /// No such memory can be had.
    pub fn create(bytes: u64) -> Result<Self, MapError> {
        let descriptor = rustix::fs::memfd_create(
            "window-memory",
            MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
        )
        .map_err(system("make"))?;
        rustix::fs::ftruncate(&descriptor, bytes).map_err(system("size"))?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&descriptor, seals).map_err(system("seal"))?;
        Self::map(descriptor)
    }

    /// Maps what another process made: `length` bytes of a file from `offset` on, which is sealed as
    /// [`WindowMemory::create`] does it, or of a device, which keeps its size.
    ///
    /// # Errors
    /// It could shrink later, has another length, or cannot be mapped.
    pub fn map_shared(descriptor: OwnedFd, offset: u64, length: u64) -> Result<Self, MapError> {
        let status = rustix::fs::fstat(&descriptor).map_err(system("look at"))?;
        if FileType::from_raw_mode(status.st_mode) != FileType::CharacterDevice {
            let seals = rustix::fs::fcntl_get_seals(&descriptor).map_err(|_| MapError::Unsealed)?;
            if !seals.contains(SealFlags::SHRINK) {
                return Err(MapError::Unsealed);
            }
            let size = u64::try_from(status.st_size).unwrap_or(0);
            if offset.checked_add(length) != Some(size) {
                return Err(MapError::Length(size));
            }
        }
        Self::map_part(descriptor, offset, length)
    }

    /// Maps a file that keeps its length: in a guest, the memory of the PCI device.
    ///
    /// # Errors
    /// It has no length, or cannot be mapped.
    pub fn map(descriptor: OwnedFd) -> Result<Self, MapError> {
        let status = rustix::fs::fstat(&descriptor).map_err(system("look at"))?;
        let size = u64::try_from(status.st_size).unwrap_or(0);
        let regular = FileType::from_raw_mode(status.st_mode) == FileType::RegularFile;
        if !regular {
            return Err(MapError::Length(size));
        }
        Self::map_part(descriptor, 0, size)
    }

    fn map_part(descriptor: OwnedFd, offset: u64, size: u64) -> Result<Self, MapError> {
        let length = usize::try_from(size).ok().filter(|length| *length > 0);
        let length = length.ok_or(MapError::Length(size))?;
        // SAFETY: a new mapping at a place of the kernel's choice; nothing else is there.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &descriptor,
                offset,
            )
        }
        .map_err(system("map"))?;
        let start = NonNull::new(start.cast()).ok_or(MapError::Length(size))?;
        Ok(Self { descriptor, start, length })
    }

    /// The file behind it, for the process or X server that is to map it too.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// Bytes, not 0.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> u64 {
        self.length as u64
    }

    /// The pixels that a guest tells of.
    ///
    /// # Errors
    /// They do not lie here.
    pub fn picture(&self, present: &Present) -> Result<Picture, PictureError> {
        Picture::check(self.len(), present)
    }

    /// Copies `area` of `picture` to `to`, whose rows are `stride` bytes apart. The guest may write at the
    /// same time: what is copied is what was there at some moment, byte by byte.
    ///
    /// # Panics
    /// `area` is not inside the picture, `picture` is of another memory, or `to` is too short.
    pub fn copy_out(&self, picture: &Picture, area: Area, to: &mut [u8], stride: usize) {
        assert!(area.inside(picture.width(), picture.height()), "{area:?} is outside {picture:?}");
        let row = (area.width * PIXEL) as usize;
        let first = picture.offset as usize
            + area.y as usize * picture.stride as usize
            + (area.x * PIXEL) as usize;
        for number in 0..area.height as usize {
            let at = first + number * picture.stride as usize;
            self.read(at, &mut to[number * stride..][..row]);
        }
    }

    /// Copies pixels into `area` of a buffer in `span`, whose rows are `stride` bytes apart, from `from`,
    /// whose rows are `from_stride` bytes apart.
    ///
    /// # Panics
    /// `area` does not fit in the span with this stride, or `from` is too short.
    pub fn copy_in(&self, span: &Span, stride: usize, area: Area, from: &[u8], from_stride: usize) {
        let row = (area.width * PIXEL) as usize;
        for number in 0..area.height as usize {
            let at = (area.y as usize + number) * stride + (area.x * PIXEL) as usize;
            assert!((at + row) as u64 <= span.len(), "{area:?} does not fit in {span:?}");
            self.write(span.offset() as usize + at, &from[number * from_stride..][..row]);
        }
    }

    /// Copies bytes out.
    fn read(&self, at: usize, to: &mut [u8]) {
        assert!(at.checked_add(to.len()).is_some_and(|end| end <= self.length), "outside");
        // SAFETY: source inside the mapping, checked above; the destination is a slice of our own. No reference
        // into the mapping is made; the guest's writes go on beneath, and any byte is a valid u8.
        unsafe {
            std::ptr::copy_nonoverlapping(self.start.as_ptr().add(at), to.as_mut_ptr(), to.len())
        };
    }

    /// Copies bytes in.
    fn write(&self, at: usize, from: &[u8]) {
        assert!(at.checked_add(from.len()).is_some_and(|end| end <= self.length), "outside");
        // SAFETY: as `read`, the other way.
        unsafe {
            std::ptr::copy_nonoverlapping(from.as_ptr(), self.start.as_ptr().add(at), from.len())
        };
    }
}

impl Drop for WindowMemory {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and nothing refers into it: `read` and `write` keep nothing.
        // A failure would leave it mapped, which harms nobody.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

fn system(action: &'static str) -> impl Fn(rustix::io::Errno) -> MapError {
    move |error| MapError::System { action, source: error.into() }
}

#[cfg(test)]
mod tests {
    use super::{MapError, WindowMemory};
    use crate::{Allocator, Area};
    use proto::v1::Present;
    use rustix::fs::MemfdFlags;

    #[test]
    fn what_one_side_copies_in_the_other_copies_out() {
        let guest = WindowMemory::create(1 << 20).unwrap();
        let host = WindowMemory::map_shared(
            guest.descriptor().try_clone_to_owned().unwrap(),
            0,
            guest.len(),
        )
        .unwrap();
        let mut allocator = Allocator::new(guest.len());
        let _before = allocator.allocate(5000).unwrap();
        let span = allocator.allocate(4 * 64 * 10).unwrap();
        let pixels: Vec<u8> = (0..=255).cycle().take(4 * 7 * 3).collect();
        let area = Area { x: 5, y: 2, width: 7, height: 3 };
        guest.copy_in(&span, 256, area, &pixels, 28);

        let present = Present {
            offset: span.offset(),
            stride: 256,
            width: 60,
            height: 10,
            ..Present::default()
        };
        let picture = host.picture(&present).unwrap();
        let mut got = vec![0; 32 * 3];
        host.copy_out(&picture, area, &mut got, 32);
        for row in 0..3 {
            assert_eq!(got[row * 32..][..28], pixels[row * 28..][..28]);
            assert_eq!(got[row * 32 + 28..][..4], [0; 4]);
        }
        let mut around = vec![9; 4 * 60 * 10];
        host.copy_out(&picture, picture.area(), &mut around, 240);
        let written = around.iter().filter(|byte| **byte != 0).count();
        assert_eq!(written, pixels.iter().filter(|byte| **byte != 0).count());
    }

    #[test]
    fn memory_that_could_shrink_under_its_reader_is_not_mapped() {
        let open = rustix::fs::memfd_create("open", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&open, 8192).unwrap();
        assert!(matches!(WindowMemory::map_shared(open, 0, 8192), Err(MapError::Unsealed)));
        let (reading, _writing) = std::io::pipe().unwrap();
        let reading = WindowMemory::map_shared(reading.into(), 0, 8192);
        assert!(matches!(reading, Err(MapError::Unsealed)));
        let sealed = WindowMemory::create(8192).unwrap();
        for (offset, length) in [(0, 4096), (4096, 8192), (4096, u64::MAX)] {
            let sealed = sealed.descriptor().try_clone_to_owned().unwrap();
            let mapped = WindowMemory::map_shared(sealed, offset, length);
            assert!(matches!(mapped, Err(MapError::Length(8192))), "{offset} {length}");
        }
        assert!(rustix::fs::ftruncate(sealed.descriptor(), 4096).is_err());
        assert!(rustix::fs::ftruncate(sealed.descriptor(), 16384).is_err());
    }

    #[test]
    fn what_has_no_length_is_not_mapped() {
        let empty = rustix::fs::memfd_create("empty", MemfdFlags::CLOEXEC).unwrap();
        assert!(matches!(WindowMemory::map(empty), Err(MapError::Length(0))));
        assert!(matches!(WindowMemory::create(0), Err(MapError::Length(0))));
    }

    #[test]
    #[should_panic(expected = "is outside")]
    fn an_area_outside_its_picture_is_not_read() {
        let memory = WindowMemory::create(4096).unwrap();
        let present = Present { stride: 64, width: 16, height: 16, ..Present::default() };
        let picture = memory.picture(&present).unwrap();
        let area = Area { x: 10, y: 0, width: 7, height: 1 };
        memory.copy_out(&picture, area, &mut [0; 64], 64);
    }
}
