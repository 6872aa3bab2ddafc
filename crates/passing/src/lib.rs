//! A Unix stream that carries descriptors beside its bytes (SCM_RIGHTS, unix(7)). What the bytes mean,
//! and which of them announce a descriptor, is the caller's protocol: the control socket of a VM process
//! (`vm-control`) and that of a compositor (`compositor-control`).
//!
//! Descriptors arrive no later than the first byte of what they were sent with, and in the order sent.
//! They are closed on exec from the start. A peer that sends more than anybody takes is an error, so that it
//! cannot fill the table of open files.
#![forbid(unsafe_code)]

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Most descriptors that wait to be taken.
pub const WAITING: usize = 8;

/// The reading side.
#[derive(Debug)]
pub struct Passing {
    stream: UnixStream,
    came: VecDeque<OwnedFd>,
}

impl Passing {
    /// Reads `stream` from now on.
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, came: VecDeque::new() }
    }

    /// The stream, to write to it.
    #[must_use]
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// The oldest descriptor that came and was not taken.
    pub fn take_descriptor(&mut self) -> Option<OwnedFd> {
        self.came.pop_front()
    }
}

impl Read for Passing {
    /// As of the stream.
    ///
    /// # Errors
    /// Those of recvmsg(2); `InvalidData` when more descriptors came than may wait.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // One more than may wait, so that too many are seen, and few enough that all are counted.
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(WAITING + 1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(buffer)];
        let received = recvmsg(&self.stream, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                self.came.extend(rights);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) || self.came.len() > WAITING {
            self.came.clear();
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("more than {WAITING} descriptors came that nothing announced"),
            ));
        }
        Ok(received.bytes)
    }
}

/// Writes all of `bytes`, `descriptors` with the first of them. Does not raise SIGPIPE.
///
/// # Errors
/// Those of sendmsg(2); `InvalidInput` for descriptors without bytes or more of them than may wait.
pub fn send(stream: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    if descriptors.len() > WAITING || (bytes.is_empty() && !descriptors.is_empty()) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut rest = bytes;
    let mut with = descriptors;
    while !rest.is_empty() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(WAITING))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !with.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(with)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        match sendmsg(stream, &[IoSlice::new(rest)], &mut ancillary, SendFlags::NOSIGNAL) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(sent) => (rest, with) = (&rest[sent..], &[]),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Passing, WAITING, send};
    use std::io::{ErrorKind, Read, Seek, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    fn file(text: &str) -> std::fs::File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.rewind().unwrap();
        file
    }

    #[test]
    fn descriptors_come_in_order_with_their_bytes() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        for text in ["one", "two"] {
            send(&ours, text.as_bytes(), &[file(text).as_fd()]).unwrap();
        }
        send(&ours, b"three", &[]).unwrap();
        drop(ours);
        let mut passing = Passing::new(theirs);
        let mut bytes = String::new();
        passing.read_to_string(&mut bytes).unwrap();
        assert_eq!(bytes, "onetwothree");
        for expected in ["one", "two"] {
            let mut content = String::new();
            std::fs::File::from(passing.take_descriptor().unwrap())
                .read_to_string(&mut content)
                .unwrap();
            assert_eq!(content, expected);
        }
        assert!(passing.take_descriptor().is_none());
    }

    #[test]
    fn a_received_descriptor_is_closed_on_exec() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        send(&ours, b"x", &[file("").as_fd()]).unwrap();
        let mut passing = Passing::new(theirs);
        passing.read_exact(&mut [0]).unwrap();
        let flags = rustix::io::fcntl_getfd(passing.take_descriptor().unwrap()).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }

    #[test]
    fn a_flood_of_descriptors_is_an_error_and_leaves_none_open() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (kept, sent) = UnixStream::pair().unwrap();
        for _ in 0..=WAITING {
            send(&ours, b"x", &[sent.as_fd()]).unwrap();
        }
        drop((ours, sent));
        let mut passing = Passing::new(theirs);
        let error = passing.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(passing.take_descriptor().is_none());
        // Every copy that had arrived is closed; the rest go with the stream.
        drop(passing);
        assert_eq!((&kept).read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn descriptors_need_a_byte_to_travel_with() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let error = send(&ours, b"", &[file("").as_fd()]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}
