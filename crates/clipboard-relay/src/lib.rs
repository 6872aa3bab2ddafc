//! Keeps the clipboards of several desktops in step. The guest's session agent and the host's daemon do
//! the same with it: what is copied on one desktop is announced to the others ([`Relay`]), and its content
//! travels when somebody pastes ([`transfer`]). Policy is the caller's.
//!
//! All of it is told by the other side of a connection, so everything is checked here before it counts:
//! announcements ([`Announcement::check`]), the length of content, and content itself ([`content`]).

#![forbid(unsafe_code)]

mod announcement;
pub mod content;
mod deliver;
mod desktop;
mod display;
pub mod files;
mod relay;
pub mod transfer;

pub use announcement::{Announcement, AnnouncementProblem, Here, Id, Origin, format, selection};
pub use deliver::{Outbox, Sent, Wanted, deliver};
pub use desktop::{Desk, keep};
pub use display::{connect, desktop};
pub use relay::{Dropped, Place, Policy, Relay, Step};
