//! Guest buffers as the disk crate wants them: filled from and drained to a place in a file.

use super::{MAX_ENTRIES, Readable, Scatter, Writable, retry};
use disk::{ReadBuffers, WriteBuffers};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

impl<'m, Direction> Scatter<'m, Direction> {
    /// Cuts the list in two; the part from byte `at` on is returned.
    #[must_use]
    pub fn split_off(&mut self, at: usize) -> Self {
        let mut tail = Self::new();
        tail.append(self);
        tail.skip(at);
        self.truncate(at);
        tail
    }

    /// Calls `transfer` with the entries of the first `most` bytes, as many as one call takes.
    fn with_first(
        &self,
        most: usize,
        transfer: impl Fn(*const libc::iovec, libc::c_int) -> isize,
    ) -> io::Result<usize> {
        let call = |entries: &[libc::iovec]| {
            let count = entries.len().min(MAX_ENTRIES) as libc::c_int;
            retry(|| transfer(entries.as_ptr(), count))
        };
        if most >= self.bytes {
            return call(&self.entries);
        }
        let mut first = Self::new();
        first.append(self);
        first.truncate(most);
        call(&first.entries)
    }
}

/// File offsets are signed (off_t).
fn position(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

impl ReadBuffers for Writable<'_> {
    fn left(&self) -> usize {
        self.bytes
    }

    fn fill_from(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        most: usize,
        now: bool,
    ) -> io::Result<usize> {
        let position = position(offset)?;
        let flags = if now { libc::RWF_NOWAIT } else { 0 };
        let count = self.with_first(most, |entries, count| {
            // SAFETY: `entries` points to `count` entries, each naming bytes mapped writable by the
            // type's invariant and referenced by no one in Rust.
            unsafe { libc::preadv2(file.as_raw_fd(), entries, count, position, flags) }
        })?;
        self.skip(count);
        Ok(count)
    }

    fn put(&mut self, bytes: &[u8]) {
        let count = self.copy_from(bytes);
        self.skip(count);
    }

    fn put_zeroes(&mut self, count: usize) {
        let mut left = count.min(self.bytes);
        self.bytes -= left;
        let mut gone = 0;
        for entry in &mut self.entries {
            let length = entry.iov_len.min(left);
            // SAFETY: by the type's invariant the entry names `iov_len` bytes mapped writable that
            // no Rust reference covers.
            unsafe { std::ptr::write_bytes(entry.iov_base.cast::<u8>(), 0, length) };
            left -= length;
            if length < entry.iov_len {
                entry.iov_base = entry.iov_base.wrapping_byte_add(length);
                entry.iov_len -= length;
                break;
            }
            gone += 1;
        }
        self.entries.drain(..gone);
    }
}

impl WriteBuffers for Readable<'_> {
    fn left(&self) -> usize {
        self.bytes
    }

    fn drain_to(&mut self, file: BorrowedFd<'_>, offset: u64, most: usize) -> io::Result<usize> {
        let position = position(offset)?;
        let count = self.with_first(most, |entries, count| {
            // SAFETY: `entries` points to `count` entries, each naming mapped bytes by the type's
            // invariant; the kernel only reads them.
            unsafe { libc::pwritev(file.as_raw_fd(), entries, count, position) }
        })?;
        self.skip(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_file_fills_and_drains_lists_piece_by_piece() {
        let file = tempfile::tempfile().unwrap();
        let mut out = Readable::new();
        out.push_bytes(b"0123");
        out.push_bytes(b"456789");
        assert_eq!(out.drain_to(file.as_fd(), 100, 5).unwrap(), 5);
        assert_eq!(out.drain_to(file.as_fd(), 105, 100).unwrap(), 5);
        assert_eq!(out.left(), 0);

        let (mut head, mut tail) = ([0xff; 3], [0xff; 9]);
        let mut into = Writable::new();
        into.push_bytes(&mut head);
        into.push_bytes(&mut tail);
        let mut last = into.split_off(11);
        into.put(b"ab");
        assert_eq!(into.fill_from(file.as_fd(), 100, 4, false).unwrap(), 4);
        into.put_zeroes(3);
        assert_eq!(into.left(), 2);
        into.put_zeroes(100);
        last.put(b"!?");
        assert_eq!(&head, b"ab0");
        assert_eq!(&tail, b"123\0\0\0\0\0!");
    }
}
