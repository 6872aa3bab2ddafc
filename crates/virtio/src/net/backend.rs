//! The other end of the cable.

use super::header::HEADER_BYTES;
use crate::scatter::{Readable, Writable};
use std::os::fd::BorrowedFd;

/// A frame on its way out, its header checked.
pub struct Frame<'m> {
    /// Checksum and segmentation wishes, as in virtio 1.2, 5.1.6.
    pub header: [u8; HEADER_BYTES],
    /// The frame from the first address on.
    pub data: Readable<'m>,
}

/// What is known of the next frame from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// None is there.
    Nothing,
    /// One of so many bytes, header included.
    Frame(usize),
    /// There may be one; it probably fits so many bytes, header included.
    Unknown(usize),
}

/// How many of the frames given to [`Backend::send`] are dealt with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Frames that are done, from the first on; the rest must wait.
    pub taken: usize,
    /// Of these, frames the other end refused.
    pub refused: usize,
    /// Call again, with or without frames, once the descriptor is writable.
    pub pending: bool,
}

/// What the guest's driver can take from us (virtio 1.2, 5.1.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Frames whose checksum is not yet filled in.
    pub checksum: bool,
    /// Unsegmented TCP over IPv4.
    pub tso4: bool,
    /// Unsegmented TCP over IPv6.
    pub tso6: bool,
    /// Such with congestion marks.
    pub ecn: bool,
}

/// The other end is gone for good; the guest sees the cable unplugged.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct LinkDown {
    /// What happened.
    pub reason: String,
}

/// Sends and receives frames without ever waiting.
pub trait Backend: Send {
    /// What it is, for a person, e.g. `tap vmtap0`.
    fn describe(&self) -> String;

    /// The largest packet it carries, if it wants the guest to know.
    fn mtu(&self) -> Option<u16>;

    /// True when it carries out checksum and segmentation wishes, and may have them as well.
    fn offloads(&self) -> bool;

    /// Says what the guest can take.
    ///
    /// # Errors
    /// The system refused.
    fn set_offloads(&mut self, offloads: Offloads) -> std::io::Result<()>;

    /// Readable when frames may be there, writable when [`Self::send`] may go on.
    fn descriptor(&self) -> BorrowedFd<'_>;

    /// Sends frames, as many as go at once, and what was kept back of earlier ones.
    ///
    /// # Errors
    /// The other end is gone.
    fn send(&mut self, frames: &[Frame<'_>]) -> Result<Sent, LinkDown>;

    /// What comes next.
    ///
    /// # Errors
    /// The other end is gone.
    fn next(&mut self) -> Result<Next, LinkDown>;

    /// Receives one frame with its header in front: what fits goes to `room`, the rest to `rest`
    /// (which comes empty). The number of bytes in all, 0 when there was none after all.
    ///
    /// # Errors
    /// The other end is gone.
    fn receive(&mut self, room: &mut Writable<'_>, rest: &mut Vec<u8>) -> Result<usize, LinkDown>;
}
