//! Where data goes to and comes from. The block device implements these over guest memory, so that
//! the kernel moves the data without a copy; slices serve everybody else.

use std::io;
use std::os::fd::BorrowedFd;

/// Room that a disk read fills from its beginning; what is filled is gone from the front.
pub trait ReadBuffers {
    /// Bytes still to fill.
    fn left(&self) -> usize;

    /// One `preadv2` of at most `most` bytes at `offset` of `file`; says how many came. With
    /// `now`, only what the page cache has (`RWF_NOWAIT`).
    ///
    /// # Errors
    /// The system call's; `WouldBlock` when `now` cannot be had.
    fn fill_from(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        most: usize,
        now: bool,
    ) -> io::Result<usize>;

    /// Fills with `bytes`, as many as both sides have.
    fn put(&mut self, bytes: &[u8]);

    /// Fills with `count` zeroes, or all that is left if that is less.
    fn put_zeroes(&mut self, count: usize);
}

/// Data that a disk write takes from its beginning; what is taken is gone from the front.
pub trait WriteBuffers {
    /// Bytes still to take.
    fn left(&self) -> usize;

    /// One `pwritev` of at most `most` bytes at `offset` of `file`; says how many went.
    ///
    /// # Errors
    /// The system call's.
    fn drain_to(&mut self, file: BorrowedFd<'_>, offset: u64, most: usize) -> io::Result<usize>;
}

impl ReadBuffers for &mut [u8] {
    fn left(&self) -> usize {
        self.len()
    }

    fn fill_from(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        most: usize,
        now: bool,
    ) -> io::Result<usize> {
        let most = most.min(self.len());
        let flags = if now {
            rustix::io::ReadWriteFlags::NOWAIT
        } else {
            rustix::io::ReadWriteFlags::empty()
        };
        let mut slices = [io::IoSliceMut::new(&mut self[..most])];
        let count = rustix::io::preadv2(file, &mut slices, offset, flags)?;
        *self = &mut std::mem::take(self)[count..];
        Ok(count)
    }

    fn put(&mut self, bytes: &[u8]) {
        let count = bytes.len().min(self.len());
        let (head, tail) = std::mem::take(self).split_at_mut(count);
        head.copy_from_slice(&bytes[..count]);
        *self = tail;
    }

    fn put_zeroes(&mut self, count: usize) {
        let count = count.min(self.len());
        let (head, tail) = std::mem::take(self).split_at_mut(count);
        head.fill(0);
        *self = tail;
    }
}

impl WriteBuffers for &[u8] {
    fn left(&self) -> usize {
        self.len()
    }

    fn drain_to(&mut self, file: BorrowedFd<'_>, offset: u64, most: usize) -> io::Result<usize> {
        let count = rustix::io::pwrite(file, &self[..most.min(self.len())], offset)?;
        *self = &self[count..];
        Ok(count)
    }
}
