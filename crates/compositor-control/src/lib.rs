//! How the daemon steers the compositor of a VM. One JSON document a line over a Unix stream, some with a
//! descriptor beside them (SCM_RIGHTS): the daemon sends [`ToCompositor`], the compositor
//! [`FromCompositor`]. Pixels and what windows do never pass here: the compositor speaks with the guest itself,
//! on the connections that the daemon hands it.
//!
//! The compositor's standard input is the *listening* socket ([`Listener::from_standard_input`]): a daemon that
//! was started anew connects to it again and finds the windows as they were. One daemon is served at a
//! time. The first thing a daemon says is [`ToCompositor::Start`], the first thing the compositor answers
//! [`FromCompositor::Ready`]. A compositor that has neither a daemon nor a guest ends.
#![forbid(unsafe_code)]

mod line;
mod link;
mod messages;

pub use link::{ControlError, Listener, Receiver, Sender, link};
pub use messages::{
    Answer, FromCompositor, Message, Mode, Question, Start, Status, ToCompositor, Window,
};

/// Version of this protocol. Daemon and compositor ship together; a daemon that finds a compositor of
/// another version running replaces it.
pub const VERSION: u32 = 2;

/// Longest line, in bytes. The list of a guest's 500 windows is the longest document.
pub const LINE: usize = 2 << 20;

/// Largest picture that a compositor answers with, in bytes: of the largest window, not compressed.
pub const PICTURE: u64 = 288 << 20;
