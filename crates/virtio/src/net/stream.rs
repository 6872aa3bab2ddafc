//! Frames over a stream socket, each behind its length in four bytes, most significant first: the
//! protocol of QEMU's `-netdev stream`, spoken by passt.

use super::backend::{Backend, Frame, LinkDown, Next, Offloads, Sent};
use super::header::{DATA_VALID, HEADER_BYTES, LONGEST_FRAME, SHORTEST_FRAME};
use crate::scatter::{MAX_ENTRIES, Readable, Writable};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bytes of a frame's length.
const PREFIX: usize = 4;
/// What one read may bring: more than one of the longest frames, or many short ones.
const BUFFER: usize = 128 * 1024;

/// One end of the socket.
pub struct Stream {
    socket: OwnedFd,
    mtu: u16,
    /// The guest understands that a checksum need not be looked at.
    checksum: bool,
    /// `held[taken..]` came and was not yet given to the guest.
    held: Vec<u8>,
    taken: usize,
    /// End of a frame whose beginning is out.
    unsent: Vec<u8>,
}

impl Stream {
    /// Frames over `socket`, a connected stream socket; `mtu` is what the guest is told.
    #[must_use]
    pub fn new(socket: OwnedFd, mtu: u16) -> Self {
        Self { socket, mtu, checksum: false, held: Vec::new(), taken: 0, unsent: Vec::new() }
    }

    /// Length of the frame at the front, if its length is here; and whether all of it is.
    fn front(&self) -> Result<Option<(usize, bool)>, LinkDown> {
        let held = &self.held[self.taken..];
        let Some((prefix, rest)) = held.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*prefix) as usize;
        if !(SHORTEST_FRAME..=LONGEST_FRAME).contains(&length) {
            return Err(LinkDown {
                reason: format!("it sent a frame of {length} bytes; a frame has 14 to 65553"),
            });
        }
        Ok(Some((length, rest.len() >= length)))
    }

    /// Reads what is there, as far as the buffer goes; false when nothing was.
    fn fill(&mut self) -> Result<bool, LinkDown> {
        self.held.drain(..self.taken);
        self.taken = 0;
        let start = self.held.len();
        self.held.resize(BUFFER, 0);
        let read = rustix::net::recv(
            &self.socket,
            &mut self.held[start..],
            rustix::net::RecvFlags::DONTWAIT,
        );
        let count = read.as_ref().map_or(0, |&(count, _)| count);
        self.held.truncate(start + count);
        match read {
            Ok((0, _)) => Err(LinkDown { reason: "it closed the connection".to_owned() }),
            Ok(_) => Ok(true),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(LinkDown { reason: format!("reading from it failed: {error}") }),
        }
    }

    /// Sends the rest of a frame; false when it must wait longer.
    fn flush(&mut self) -> Result<bool, LinkDown> {
        while !self.unsent.is_empty() {
            let mut list = Readable::new();
            list.push_bytes(&self.unsent);
            let sent = sent(list.send_to(self.socket.as_fd()))?;
            self.unsent.drain(..sent);
            if sent == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Nothing sent is no error.
fn sent(result: io::Result<usize>) -> Result<usize, LinkDown> {
    match result {
        Ok(count) => Ok(count),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        Err(error) => Err(LinkDown { reason: format!("writing to it failed: {error}") }),
    }
}

impl Backend for Stream {
    fn describe(&self) -> String {
        "stream socket".to_owned()
    }

    fn mtu(&self) -> Option<u16> {
        Some(self.mtu)
    }

    fn offloads(&self) -> bool {
        false
    }

    fn set_offloads(&mut self, offloads: Offloads) -> io::Result<()> {
        self.checksum = offloads.checksum;
        Ok(())
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn send(&mut self, frames: &[Frame<'_>]) -> Result<Sent, LinkDown> {
        let mut done = Sent { pending: true, ..Sent::default() };
        if !self.flush()? {
            return Ok(done);
        }
        while done.taken < frames.len() {
            let left = &frames[done.taken..];
            let prefixes: Vec<[u8; PREFIX]> = left
                .iter()
                // Not truncated: checked frames have at most 65553 bytes.
                .map(|frame| (frame.data.len() as u32).to_be_bytes())
                .collect();
            let mut list = Readable::new();
            for (frame, prefix) in left.iter().zip(&prefixes) {
                if !list.is_empty() && list.pieces() + frame.data.pieces() + 1 > MAX_ENTRIES {
                    break;
                }
                list.push_bytes(prefix);
                list.append(&frame.data);
            }
            let mut count = sent(list.send_to(self.socket.as_fd()))?;
            if count == 0 {
                return Ok(done);
            }
            for (frame, prefix) in left.iter().zip(&prefixes) {
                let whole = PREFIX + frame.data.len();
                if count == 0 {
                    break;
                }
                done.taken += 1;
                if count < whole {
                    // The other end waits for the rest of this frame before any other.
                    let mut rest = Readable::new();
                    rest.push_bytes(prefix);
                    rest.append(&frame.data);
                    rest.skip(count);
                    self.unsent.resize(rest.len(), 0);
                    rest.copy_to(&mut self.unsent);
                    if !self.flush()? {
                        return Ok(done);
                    }
                    break;
                }
                count -= whole;
            }
        }
        done.pending = false;
        Ok(done)
    }

    fn next(&mut self) -> Result<Next, LinkDown> {
        loop {
            if let Some((length, true)) = self.front()? {
                return Ok(Next::Frame(HEADER_BYTES + length));
            }
            if !self.fill()? {
                if self.held.is_empty() {
                    // An idle network needs no buffer.
                    self.held = Vec::new();
                }
                return Ok(Next::Nothing);
            }
        }
    }

    fn receive(&mut self, room: &mut Writable<'_>, rest: &mut Vec<u8>) -> Result<usize, LinkDown> {
        let Some((length, true)) = self.front()? else {
            return Ok(0);
        };
        let mut header = [0; HEADER_BYTES];
        if self.checksum {
            // What a process next door made was on no wire that could have damaged it.
            header[0] = DATA_VALID;
        }
        let start = self.taken + PREFIX;
        let frame = &self.held[start..start + length];
        let mut space = room.split_to(room.len());
        *room = space.split_to(HEADER_BYTES);
        let fit = room.copy_from(&header) + space.copy_from(frame);
        room.append(&space);
        rest.extend(header.iter().chain(frame).skip(fit));
        self.taken = start + length;
        Ok(HEADER_BYTES + length)
    }
}
