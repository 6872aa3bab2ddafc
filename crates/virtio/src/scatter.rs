//! Guest buffers as lists of host addresses, so that one system call moves data between a
//! descriptor and many guest buffers without a copy in between.
//!
//! Used by devices whose other end is a socket or a file. The lists borrow the guest's memory map,
//! so no address outlives its mapping. The guest may write the same bytes at any time: nobody makes
//! a Rust reference into them; the kernel or a raw copy moves them.
#![allow(unsafe_code)]

mod file;

use crate::{Chain, MemoryGuard, WorkerError};
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryBackend as _, GuestMemoryMmap, Permissions};

/// The most entries one `readv`, `writev` or `sendmsg` takes (Linux `UIO_MAXIOV`).
pub const MAX_ENTRIES: usize = 1024;

/// Marks bytes that are only read from.
#[derive(Default)]
pub struct Out;

/// Marks bytes that are only written to.
#[derive(Default)]
pub struct In;

/// Device-readable bytes in order, scattered over guest memory or lent by the host.
pub type Readable<'m> = Scatter<'m, Out>;

/// Device-writable bytes in order, scattered over guest memory or lent by the host.
pub type Writable<'m> = Scatter<'m, In>;

/// Scattered bytes; see [`Readable`] and [`Writable`].
///
/// Invariant: every entry names bytes that stay mapped for `'m`, writable ones for [`In`].
#[derive(Default)]
pub struct Scatter<'m, Direction> {
    entries: Vec<libc::iovec>,
    bytes: usize,
    memory: PhantomData<(&'m GuestMemoryMmap, Direction)>,
}

/// The buffers of one request: what the device reads comes before what it writes (virtio 1.2,
/// 2.7.4.2).
#[derive(Default)]
pub struct Buffers<'m> {
    /// What the driver tells.
    pub readable: Readable<'m>,
    /// Where the device answers.
    pub writable: Writable<'m>,
    /// A writable descriptor was there, perhaps without bytes.
    written: bool,
}

impl<'m> Buffers<'m> {
    /// Resolves all descriptors of `chain`.
    ///
    /// # Errors
    /// A descriptor points outside memory, the chain is longer than [`MAX_ENTRIES`], ends in the
    /// middle, or has a readable descriptor after a writable one.
    pub fn of(chain: Chain, memory: &'m MemoryGuard) -> Result<Self, WorkerError> {
        let head = chain.head_index();
        let broken = |why: &str| WorkerError { what: format!("descriptor chain {head}: {why}") };
        let mut buffers = Self::default();
        let mut complete = false;
        for (count, descriptor) in chain.enumerate() {
            if count == MAX_ENTRIES {
                return Err(broken("more than 1024 descriptors"));
            }
            let (address, length) = (descriptor.addr(), descriptor.len() as usize);
            buffers.push(memory, address, length, descriptor.is_write_only()).map_err(broken)?;
            complete = !descriptor.has_next();
        }
        if complete { Ok(buffers) } else { Err(broken("it ends before its last descriptor")) }
    }

    /// Appends the buffer of one descriptor; a refused one says why.
    pub(crate) fn push(
        &mut self,
        memory: &'m GuestMemoryMmap,
        address: GuestAddress,
        length: usize,
        write: bool,
    ) -> Result<(), &'static str> {
        let inside = if write {
            self.written = true;
            self.writable.push_guest(memory, address, length)
        } else if self.written {
            return Err("a readable descriptor follows a writable one");
        } else {
            self.readable.push_guest(memory, address, length)
        };
        if inside { Ok(()) } else { Err("a descriptor points outside memory") }
    }

    /// Takes all buffers out and keeps the room for others.
    pub(crate) fn clear(&mut self) {
        self.readable.clear();
        self.writable.clear();
        self.written = false;
    }
}

impl<'m, Direction> Scatter<'m, Direction> {
    /// No bytes.
    #[must_use]
    pub fn new() -> Self {
        Self { entries: Vec::new(), bytes: 0, memory: PhantomData }
    }

    /// No bytes yet; so many pieces cost no further memory.
    #[must_use]
    pub fn with_room(pieces: usize) -> Self {
        Self { entries: Vec::with_capacity(pieces), ..Self::new() }
    }

    /// How many bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// True without bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// In how many pieces.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.entries.len()
    }

    /// Appends `length` bytes of guest memory. False, and nothing appended, when not all of them
    /// are memory.
    #[must_use]
    pub fn push_guest(
        &mut self,
        memory: &'m GuestMemoryMmap,
        address: GuestAddress,
        length: usize,
    ) -> bool {
        if let Ok(slice) = memory.get_slice(address, length) {
            self.push_raw(slice.ptr_guard_mut().as_ptr(), length);
            return true;
        }
        // Not one piece: it crosses from one region into the next, or leaves memory.
        let (entries, bytes) = (self.entries.len(), self.bytes);
        let slices = GuestMemory::get_slices(memory, address, length, Permissions::ReadWrite);
        let Ok(slices) = slices else {
            return false;
        };
        for slice in slices {
            let Ok(slice) = slice else {
                self.entries.truncate(entries);
                self.bytes = bytes;
                return false;
            };
            self.push_raw(slice.ptr_guard_mut().as_ptr(), slice.len());
        }
        true
    }

    /// Appends everything of `other`.
    pub fn append(&mut self, other: &Self) {
        self.entries.extend_from_slice(&other.entries);
        self.bytes += other.bytes;
    }

    /// Keeps to itself that `length` bytes from `start` keep the type's invariant: callers see to
    /// it.
    fn push_raw(&mut self, start: *mut u8, length: usize) {
        if length == 0 {
            return;
        }
        self.entries.push(libc::iovec { iov_base: start.cast(), iov_len: length });
        self.bytes += length;
    }

    /// Takes all bytes off the list and keeps its room.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    /// Moves the first `count` bytes, or all when there are fewer, to the end of `target`.
    pub fn move_to(&mut self, count: usize, target: &mut Self) {
        let mut left = count.min(self.bytes);
        target.bytes += left;
        for entry in &self.entries {
            let length = entry.iov_len.min(left);
            if length == 0 {
                break;
            }
            target.entries.push(libc::iovec { iov_base: entry.iov_base, iov_len: length });
            left -= length;
        }
        self.skip(count);
    }

    /// Drops the first `count` bytes, or all when there are fewer.
    pub fn skip(&mut self, count: usize) {
        let mut left = count.min(self.bytes);
        self.bytes -= left;
        let mut gone = 0;
        for entry in &mut self.entries {
            if left < entry.iov_len {
                entry.iov_base = entry.iov_base.wrapping_byte_add(left);
                entry.iov_len -= left;
                break;
            }
            left -= entry.iov_len;
            gone += 1;
        }
        self.entries.drain(..gone);
    }

    /// Takes the first `count` bytes, or all when there are fewer, off the list into one of their
    /// own.
    #[must_use]
    pub fn split_to(&mut self, count: usize) -> Self {
        let mut front =
            Self { entries: self.entries.clone(), bytes: self.bytes, memory: PhantomData };
        front.truncate(count);
        self.skip(count);
        front
    }

    /// Keeps at most the first `count` bytes.
    pub fn truncate(&mut self, count: usize) {
        let mut left = count;
        let mut keep = 0;
        for entry in &mut self.entries {
            if left == 0 {
                break;
            }
            entry.iov_len = entry.iov_len.min(left);
            left -= entry.iov_len;
            keep += 1;
        }
        self.entries.truncate(keep);
        self.bytes = self.bytes.min(count);
    }

    /// Copies the first bytes out, as many as both sides have; says how many.
    pub fn copy_to(&self, target: &mut [u8]) -> usize {
        let mut done = 0;
        for entry in &self.entries {
            let length = entry.iov_len.min(target.len() - done);
            // SAFETY: by the type's invariant the entry names `iov_len` mapped bytes; `target` has
            // `length` bytes from `done`. Guest memory is never lent as a Rust slice and a `&mut`
            // slice is nobody else's, so they do not overlap. A concurrent write by the guest only
            // changes the values copied.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    entry.iov_base.cast::<u8>(),
                    target.as_mut_ptr().add(done),
                    length,
                );
            }
            done += length;
        }
        done
    }

    /// Keeps at most the first `count` pieces.
    pub fn limit_pieces(&mut self, count: usize) {
        for entry in self.entries.drain(count.min(self.entries.len())..) {
            self.bytes -= entry.iov_len;
        }
    }

    /// The list as a system call takes it, shortened to what one call takes.
    fn raw(&self) -> (*const libc::iovec, libc::c_int) {
        let count = self.entries.len().min(MAX_ENTRIES);
        (self.entries.as_ptr(), count as libc::c_int)
    }
}

impl<'m> Readable<'m> {
    /// Appends host bytes.
    pub fn push_bytes(&mut self, bytes: &'m [u8]) {
        self.push_raw(bytes.as_ptr().cast_mut(), bytes.len());
    }

    /// Takes the first `N` bytes off the list; `None`, and nothing taken, when there are fewer.
    pub fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        if self.copy_to(&mut bytes) < N {
            return None;
        }
        self.skip(N);
        Some(bytes)
    }

    /// One `writev`. Says how many bytes went, which may be fewer than all.
    ///
    /// # Errors
    /// The system call's, interrupted calls repeated.
    pub fn write_to(&self, descriptor: BorrowedFd<'_>) -> io::Result<usize> {
        let (entries, count) = self.raw();
        // SAFETY: `entries` points to `count` entries, each naming mapped bytes by the type's
        // invariant; the kernel only reads them.
        retry(|| unsafe { libc::writev(descriptor.as_raw_fd(), entries, count) })
    }

    /// One `sendmsg` that neither waits nor raises SIGPIPE, for sockets. Says how many bytes went.
    ///
    /// # Errors
    /// The system call's, interrupted calls repeated.
    pub fn send_to(&self, descriptor: BorrowedFd<'_>) -> io::Result<usize> {
        let (entries, count) = self.raw();
        // SAFETY: all zeroes is a valid msghdr: no name, no control data, no entries.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = entries.cast_mut();
        message.msg_iovlen = count as usize;
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: `message` is valid and names `count` entries, each of mapped bytes by the type's
        // invariant; the kernel only reads them.
        retry(|| unsafe { libc::sendmsg(descriptor.as_raw_fd(), &raw const message, flags) })
    }
}

impl<'m> Writable<'m> {
    /// Appends host bytes.
    pub fn push_bytes(&mut self, bytes: &'m mut [u8]) {
        self.push_raw(bytes.as_mut_ptr(), bytes.len());
    }

    /// Copies `source` over the first bytes, as many as both sides have; says how many.
    pub fn copy_from(&self, source: &[u8]) -> usize {
        self.copy_from_at(0, source)
    }

    /// Copies `source` over the bytes from `start` on, as many as both sides have; says how many.
    pub fn copy_from_at(&self, start: usize, source: &[u8]) -> usize {
        let (mut before, mut done) = (start, 0);
        for entry in &self.entries {
            if done == source.len() {
                break;
            }
            let skipped = entry.iov_len.min(before);
            before -= skipped;
            let length = (entry.iov_len - skipped).min(source.len() - done);
            // SAFETY: by the type's invariant the entry names `iov_len` bytes mapped writable, and
            // `skipped + length` are no more; `source` has `length` bytes from `done`. Guest memory is never lent as a Rust slice
            // and lent host bytes are exclusively ours, so they do not overlap.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    source.as_ptr().add(done),
                    entry.iov_base.cast::<u8>().add(skipped),
                    length,
                );
            }
            done += length;
        }
        done
    }

    /// One `readv`. Says how many bytes came.
    ///
    /// # Errors
    /// The system call's, interrupted calls repeated.
    pub fn read_from(&mut self, descriptor: BorrowedFd<'_>) -> io::Result<usize> {
        let (entries, count) = self.raw();
        // SAFETY: `entries` points to `count` entries, each naming bytes mapped writable by the
        // type's invariant and referenced by no one in Rust.
        retry(|| unsafe { libc::readv(descriptor.as_raw_fd(), entries, count) })
    }
}

fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        if let Ok(count) = usize::try_from(call()) {
            return Ok(count);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use vm_memory::Bytes;

    fn memory() -> GuestMemoryMmap {
        // Two regions that touch: a buffer may lie across both.
        let ranges = [(GuestAddress(0), 0x1000), (GuestAddress(0x1000), 0x1000)];
        GuestMemoryMmap::from_ranges(&ranges).unwrap()
    }

    #[test]
    fn a_buffer_across_two_regions_is_two_pieces_of_one_list() {
        let memory = memory();
        memory.write_slice(b"0123456789", GuestAddress(0xffb)).unwrap();
        let mut list = Readable::new();
        assert!(list.push_guest(&memory, GuestAddress(0xffb), 10));
        assert_eq!((list.pieces(), list.len()), (2, 10));
        assert_eq!(list.take::<3>(), Some(*b"012"));
        list.skip(1);
        list.truncate(4);
        let mut bytes = [0; 8];
        assert_eq!(list.copy_to(&mut bytes), 4);
        assert_eq!(&bytes, b"4567\0\0\0\0");
        assert_eq!(list.take::<5>(), None);
        assert_eq!(list.len(), 4);
    }

    #[test]
    fn bytes_move_from_list_to_list_and_are_written_from_anywhere_in_one() {
        let memory = memory();
        let (mut list, mut front) = (Writable::new(), Writable::new());
        assert!(list.push_guest(&memory, GuestAddress(0xffb), 10));
        list.move_to(7, &mut front);
        assert_eq!((front.len(), front.pieces(), list.len(), list.pieces()), (7, 2, 3, 1));
        assert_eq!(front.copy_from_at(4, b"abcdef"), 3);
        assert_eq!(front.copy_from_at(7, b"x"), 0);
        assert_eq!(list.copy_from(b"ghij"), 3);
        let mut bytes = [0; 11];
        memory.read_slice(&mut bytes, GuestAddress(0xffb)).unwrap();
        assert_eq!(&bytes, b"\0\0\0\0abcghi\0");
        list.move_to(9, &mut front);
        assert_eq!((front.len(), list.len()), (10, 0));
    }

    #[test]
    fn a_buffer_that_leaves_memory_is_refused_whole() {
        let memory = memory();
        let mut list = Readable::new();
        assert!(!list.push_guest(&memory, GuestAddress(0x1ff0), 0x11));
        assert!(!list.push_guest(&memory, GuestAddress(u64::MAX), 2));
        assert_eq!((list.pieces(), list.len()), (0, 0));
    }

    #[test]
    fn one_call_moves_many_pieces_both_ways() {
        let memory = memory();
        memory.write_slice(b"hello", GuestAddress(0x10)).unwrap();
        let (mut near, far) = UnixStream::pair().unwrap();
        let mut out = Readable::new();
        assert!(out.push_guest(&memory, GuestAddress(0x10), 5));
        out.push_bytes(b", world");
        assert_eq!(out.send_to(far.as_fd()).unwrap(), 12);
        let mut bytes = [0; 12];
        near.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hello, world");

        out.send_to(near.as_fd()).unwrap();
        let mut tail = [0; 12];
        let mut into = Writable::new();
        assert!(into.push_guest(&memory, GuestAddress(0x100), 5));
        into.push_bytes(&mut tail);
        assert_eq!(into.read_from(far.as_fd()).unwrap(), 12);
        assert_eq!(&tail[..7], b", world");
        let mut head = [0; 5];
        memory.read_slice(&mut head, GuestAddress(0x100)).unwrap();
        assert_eq!(&head, b"hello");
    }
}
