//! Windows of a session on the host's desktop.
//!
//! Each window of the guest is one of the host's desktop. A thread of its own ([`run::run`]) tells the host of
//! windows ([`telling`]) over a connection that carries nothing else ([`link`]; crate `window-link`), and
//! does what the host's user does with them. Pixels lie in memory that guest and host share (crate
//! `window-memory`) and that the display server writes into. What is special to a display server is behind
//! [`screen::Screen`]; X11 ([`x11`]) is the first.
//!
//! The session agent makes the connections ([`session`]) and runs for as long as the session; a host that
//! goes away and comes back finds all windows. Programs are hostile: what they say of their windows is cut to
//! the limits of the protocol ([`record`]) and what is refused is counted ([`count`]). Nothing here may
//! end because of what a program does.

pub mod count;
pub mod damage;
pub mod link;
pub mod mailbox;
pub mod memory;
pub mod record;
pub mod run;
pub mod screen;
pub mod seat;
pub mod session;
pub mod telling;
pub mod x11;
