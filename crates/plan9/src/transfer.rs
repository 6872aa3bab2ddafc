//! How bytes of files get into answers and out of requests: straight between the file and wherever the
//! transport keeps them, without a copy in between.

use crate::message::{DATA_HEADER, read_header};
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;

/// Where an answer goes.
pub trait Answer: Write {
    /// The whole answer to a Tread: up to `count` bytes of `file` from `offset` on, behind the header with
    /// this tag. How many bytes of the file there were.
    ///
    /// # Errors
    /// The file cannot be read, or there is no room for so many bytes; nothing of an answer is there then.
    fn put_file(
        &mut self,
        tag: u16,
        file: BorrowedFd<'_>,
        offset: u64,
        count: usize,
    ) -> io::Result<usize>;
}

/// The bytes that a Twrite brings.
pub trait Data: Read {
    /// How many are left.
    fn left(&self) -> usize;

    /// Writes the first `count` of them, or as many as one call takes, to `file` from `offset` on; how many
    /// those were.
    ///
    /// # Errors
    /// The file cannot be written.
    fn write_to(&mut self, file: BorrowedFd<'_>, offset: u64, count: usize) -> io::Result<usize>;
}

impl Data for &[u8] {
    fn left(&self) -> usize {
        self.len()
    }

    fn write_to(&mut self, file: BorrowedFd<'_>, offset: u64, count: usize) -> io::Result<usize> {
        let written = rustix::io::pwrite(file, &self[..count.min(self.len())], offset)?;
        *self = &self[written..];
        Ok(written)
    }
}

impl Data for io::Empty {
    fn left(&self) -> usize {
        0
    }

    fn write_to(&mut self, _: BorrowedFd<'_>, _: u64, _: usize) -> io::Result<usize> {
        Ok(0)
    }
}

/// An answer in memory, whose room is used for one after the other.
#[derive(Debug, Default)]
pub struct Buffer {
    /// All of it is written to once and from then on only written over.
    bytes: Vec<u8>,
    used: usize,
}

impl Buffer {
    /// The answer.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.used]
    }

    /// Forgets the answer and keeps its room.
    pub fn clear(&mut self) {
        self.used = 0;
    }

    /// Room for `count` bytes behind the answer.
    fn room(&mut self, count: usize) -> &mut [u8] {
        let end = self.used + count;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        &mut self.bytes[self.used..end]
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.room(bytes.len()).copy_from_slice(bytes);
        self.used += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Answer for Buffer {
    fn put_file(
        &mut self,
        tag: u16,
        file: BorrowedFd<'_>,
        offset: u64,
        count: usize,
    ) -> io::Result<usize> {
        let room = self.room(DATA_HEADER + count);
        let read = rustix::io::pread(file, &mut room[DATA_HEADER..], offset)?;
        room[..DATA_HEADER].copy_from_slice(&read_header(tag, read));
        self.used += DATA_HEADER + read;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_file_comes_with_its_header_and_nothing_of_the_answer_before() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let mut answer = Buffer::default();
        answer.write_all(&[b'x'; 100]).unwrap();
        answer.clear();
        assert_eq!(answer.put_file(7, file.as_fd(), 6, 50).unwrap(), 4);
        assert_eq!(answer.bytes(), [&read_header(7, 4)[..], b"6789"].concat());
    }

    #[test]
    fn a_file_that_cannot_be_read_leaves_no_answer() {
        let folder = tempfile::tempdir().unwrap();
        let folder = std::fs::File::open(folder.path()).unwrap();
        let mut answer = Buffer::default();
        assert!(answer.put_file(7, folder.as_fd(), 0, 50).is_err());
        assert!(answer.bytes().is_empty());
    }

    #[test]
    fn data_is_written_as_far_as_asked() {
        let file = tempfile::tempfile().unwrap();
        let mut data = &b"abcdef"[..];
        assert_eq!(data.write_to(file.as_fd(), 2, 4).unwrap(), 4);
        assert_eq!((data.left(), file.metadata().unwrap().len()), (2, 6));
    }
}
