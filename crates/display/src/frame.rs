//! A frame in shared memory: a memfd that only its maker can write and nobody can resize.
#![allow(unsafe_code)]

use crate::{PIXEL_BYTES, Rectangle, Size};
use rustix::fs::{
    MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create,
};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::ffi::c_void;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

/// The most bytes of one frame: 16384 x 4096 pixels, or 8192 x 8192.
pub const MOST_FRAME_BYTES: usize = 256 << 20;

/// A frame cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Too many pixels.
    #[error("a frame of {width} x {height} pixels has more than {MOST_FRAME_BYTES} bytes")]
    TooLarge {
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// The system gives none.
    #[error("cannot {tried} the memory of a frame: {error}")]
    System {
        /// What was tried.
        tried: &'static str,
        /// What the system said.
        error: rustix::io::Errno,
    },
    /// Memory from another process that could shrink while it is read, or does not hold the frame.
    #[error("the memory of a frame: {found}")]
    Unsafe {
        /// What is wrong with it.
        found: String,
    },
}

fn system(tried: &'static str) -> impl FnOnce(rustix::io::Errno) -> FrameError {
    move |error| FrameError::System { tried, error }
}

/// Bytes of a frame, rows without gaps.
fn bytes_of(size: Size) -> Result<usize, FrameError> {
    let bytes = u64::from(size.width) * u64::from(size.height) * PIXEL_BYTES as u64;
    usize::try_from(bytes)
        .ok()
        .filter(|bytes| *bytes <= MOST_FRAME_BYTES)
        .ok_or(FrameError::TooLarge { width: size.width, height: size.height })
}

/// A mapping, unmapped at the end.
struct Mapping {
    start: NonNull<c_void>,
    length: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread; the owners below say who may touch it.
unsafe impl Send for Mapping {}
// SAFETY: through `&Mapping` nothing can be reached but the address.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(file: BorrowedFd<'_>, length: usize, access: ProtFlags) -> Result<Self, FrameError> {
        // SAFETY: the kernel chooses the place, so that no other mapping is replaced.
        let start =
            unsafe { mmap(std::ptr::null_mut(), length, access, MapFlags::SHARED, file, 0) };
        let start = start.map_err(system("map"))?;
        let start =
            NonNull::new(start).ok_or(FrameError::Unsafe { found: "it lies at 0".into() })?;
        Ok(Self { start, length })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `start` and `length` are of one mapping of ours, and its owner goes with it.
        // Failing to unmap only keeps address space.
        let _ = unsafe { munmap(self.start.as_ptr(), self.length) };
    }
}

/// A frame this process paints.
pub struct Frame {
    file: OwnedFd,
    memory: Mapping,
    size: Size,
}

impl Frame {
    /// A black frame.
    ///
    /// # Errors
    /// It is too large, or the system has no memory for it.
    pub fn new(size: Size) -> Result<Self, FrameError> {
        let length = bytes_of(size)?;
        let file = memfd_create("frame", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(system("make"))?;
        ftruncate(&file, length as u64).map_err(system("size"))?;
        let memory = Mapping::new(file.as_fd(), length, ProtFlags::READ | ProtFlags::WRITE)?;
        // From here on nobody can come by another writable view, through whichever descriptor.
        let seals = SealFlags::FUTURE_WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&file, seals).map_err(system("seal"))?;
        Ok(Self { file, memory, size })
    }

    /// Its size.
    #[must_use]
    pub fn size(&self) -> Size {
        self.size
    }

    /// Bytes from one row to the next.
    #[must_use]
    pub fn stride(&self) -> u32 {
        // At most 4 * LARGEST_SIDE.
        self.size.width * PIXEL_BYTES as u32
    }

    /// For viewers.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The pixels of row `y` from column `x` on, `width` of them; none outside the frame.
    pub fn row(&mut self, y: u32, x: u32, width: u32) -> &mut [u8] {
        let part = Rectangle { x, y, width, height: 1 }.intersection(&self.size.whole());
        if part.is_empty() {
            return &mut [];
        }
        let start = (part.y as usize * self.size.width as usize + part.x as usize) * PIXEL_BYTES;
        let length = part.width as usize * PIXEL_BYTES;
        // SAFETY: `part` lies in the frame, so `start + length` is at most the mapping's length,
        // which the seals keep. The mapping is the only writable one (sealed in `new`), and
        // `&mut self` makes this the only reference into it here; other processes only read.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.memory.start.cast::<u8>().as_ptr().add(start),
                length,
            )
        }
    }
}

/// A frame another process paints.
pub struct FrameView {
    memory: Mapping,
    size: Size,
    stride: usize,
}

impl FrameView {
    /// Maps what a VM process sent.
    ///
    /// # Errors
    /// The memory can shrink, does not hold a frame of that size and stride, or cannot be mapped.
    pub fn new(file: &OwnedFd, size: Size, stride: u32) -> Result<Self, FrameError> {
        let unsafe_ = |found: String| FrameError::Unsafe { found };
        let least = size.width as usize * PIXEL_BYTES;
        let stride = stride as usize;
        let length = stride.checked_mul(size.height as usize).filter(|n| *n <= MOST_FRAME_BYTES);
        let length =
            length.ok_or(FrameError::TooLarge { width: size.width, height: size.height })?;
        if stride < least {
            return Err(unsafe_(format!("rows of {stride} bytes, {least} are needed")));
        }
        let seals = fcntl_get_seals(file).map_err(system("ask about"))?;
        if !seals.contains(SealFlags::SHRINK) {
            return Err(unsafe_("it is not sealed against shrinking".into()));
        }
        let found = fstat(file).map_err(system("ask about"))?.st_size;
        if !usize::try_from(found).is_ok_and(|found| found >= length) {
            return Err(unsafe_(format!("{found} bytes, {length} are needed")));
        }
        let memory = Mapping::new(file.as_fd(), length, ProtFlags::READ)?;
        Ok(Self { memory, size, stride })
    }

    /// Its size.
    #[must_use]
    pub fn size(&self) -> Size {
        self.size
    }

    /// Copies the part of `area` that lies in the frame to `target`, rows of `target_stride` bytes
    /// from its start; says which part that was. Nothing is copied when `target` is too small.
    pub fn copy(&self, area: Rectangle, target: &mut [u8], target_stride: usize) -> Rectangle {
        let part = area.intersection(&self.size.whole());
        let length = part.width as usize * PIXEL_BYTES;
        let rows = part.height as usize;
        let needed = rows
            .checked_sub(1)
            .and_then(|rows| rows.checked_mul(target_stride)?.checked_add(length));
        if target_stride < length || needed.is_none_or(|needed| needed > target.len()) {
            return Rectangle::default();
        }
        let start = part.y as usize * self.stride + part.x as usize * PIXEL_BYTES;
        for row in 0..rows {
            // SAFETY: `part` lies in the frame, so the row lies in the mapping, which is as long
            // as the file can not come to be shorter than (sealed, checked in `new`). Its bytes may
            // change meanwhile: they are copied raw, and no Rust reference to them is made. The
            // target's row lies in `target` by the check above.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    self.memory.start.cast::<u8>().as_ptr().add(start + row * self.stride),
                    target.as_mut_ptr().add(row * target_stride),
                    length,
                );
            }
        }
        part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(width: u32, height: u32) -> Size {
        Size::new(width, height).unwrap()
    }

    fn share(frame: &Frame) -> OwnedFd {
        frame.descriptor().try_clone_to_owned().unwrap()
    }

    #[test]
    fn a_viewer_sees_what_is_painted_also_later() {
        let mut frame = Frame::new(size(5, 3)).unwrap();
        let view = FrameView::new(&share(&frame), frame.size(), frame.stride()).unwrap();
        frame.row(1, 2, 9).copy_from_slice(&[7; 12]);
        assert!(frame.row(3, 0, 5).is_empty() && frame.row(0, 5, 1).is_empty());
        let mut seen = [1; 16];
        let area = Rectangle { x: 2, y: 0, width: 2, height: 2 };
        assert_eq!(view.copy(area, &mut seen, 8), area);
        assert_eq!(seen, [[0; 8], [7; 8]].concat()[..]);
    }

    #[test]
    fn a_target_that_is_too_small_gets_nothing() {
        let frame = Frame::new(size(4, 4)).unwrap();
        let view = FrameView::new(&share(&frame), frame.size(), frame.stride()).unwrap();
        let mut seen = [1; 63];
        assert!(view.copy(frame.size().whole(), &mut seen, 16).is_empty());
        assert!(view.copy(frame.size().whole(), &mut seen, 15).is_empty());
        assert!(view.copy(frame.size().whole(), &mut seen, usize::MAX).is_empty());
        assert_eq!(seen, [1; 63]);
    }

    #[test]
    fn nobody_else_can_write_or_resize_it() {
        let frame = Frame::new(size(64, 64)).unwrap();
        let shared = share(&frame);
        assert!(rustix::io::write(&shared, b"x").is_err());
        assert!(ftruncate(&shared, 0).is_err() && ftruncate(&shared, 1 << 20).is_err());
        assert!(Mapping::new(shared.as_fd(), 4096, ProtFlags::WRITE).is_err());
    }

    #[test]
    fn memory_that_can_shrink_or_is_too_small_is_refused() {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create("loose", flags).unwrap();
        ftruncate(&file, 1 << 20).unwrap();
        let refused =
            |stride| FrameView::new(&file, size(16, 16), stride).err().unwrap().to_string();
        assert!(refused(64).contains("sealed"));
        fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
        assert!(FrameView::new(&file, size(16, 16), 64).is_ok());
        assert!(refused(63).contains("64 are needed"));
        assert!(refused(u32::MAX).contains("more than"));
        assert!(refused(0x2_0000).contains("bytes, 2097152 are needed"));
        assert!(matches!(Frame::new(size(16384, 16384)), Err(FrameError::TooLarge { .. })));
    }
}
