//! What a display server's side does for the rest: X11 is one ([`super::x11`]).

use std::os::fd::BorrowedFd;
use std::time::Instant;

use proto::v1::from_host;
use window_memory::Span;

use super::telling::Teller;

/// The display server is gone, or cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the display server is lost: {0}")]
pub struct Lost(pub String);

/// Pixels to be copied into window memory: full rows, so that where they lie needs no stride of its own.
#[derive(Debug)]
pub struct Capture<'a> {
    /// Of which window.
    pub window: u32,
    /// Where its buffer lies.
    pub span: &'a Span,
    /// Pixels of a row, at most the window's.
    pub width: u32,
    /// First row.
    pub top: u32,
    /// Rows, at least 1.
    pub rows: u32,
}

/// The windows of one display server. All calls come from one thread.
pub trait Screen {
    /// Readable when the server has said something.
    fn descriptor(&self) -> BorrowedFd<'_>;

    /// Handles what the server has said, a part of it at most: true when there is more.
    ///
    /// # Errors
    /// The server is gone.
    fn attend(&mut self, teller: &mut Teller) -> Result<bool, Lost>;

    /// Tells of what has changed since the last time.
    ///
    /// # Errors
    /// The server is gone.
    fn refresh(&mut self, teller: &mut Teller) -> Result<(), Lost>;

    /// Carries out what the host says.
    ///
    /// # Errors
    /// The server is gone.
    fn obey(&mut self, order: from_host::Message, teller: &mut Teller) -> Result<(), Lost>;

    /// Sends what was asked of the server. True when the server has already said more, which the descriptor
    /// does not show.
    ///
    /// # Errors
    /// The server is gone.
    fn flush(&mut self) -> Result<bool, Lost>;

    /// When [`Screen::attend`] is to be called even if the server says nothing.
    fn deadline(&self) -> Option<Instant>;

    /// Waits until the server has done what was asked of it.
    ///
    /// # Errors
    /// The server is gone.
    fn settle(&mut self) -> Result<(), Lost>;

    /// Tells everything, at the start of a connection and when the host asks for it.
    ///
    /// # Errors
    /// The server is gone.
    fn tell_all(&mut self, teller: &mut Teller) -> Result<(), Lost>;

    /// Copies pixels; for each capture whether they are there.
    ///
    /// # Errors
    /// The server is gone.
    fn capture(&mut self, captures: &[Capture<'_>]) -> Result<Vec<bool>, Lost>;

    /// Lets go of all keys and buttons: the host that pressed them is gone.
    ///
    /// # Errors
    /// The server is gone.
    fn release(&mut self) -> Result<(), Lost>;
}
