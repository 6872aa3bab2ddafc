//! A folder of the host for a guest, by 9P2000.L: which requests of a hostile client are carried out.
//!
//! A small server (module `server`) carries requests out. Before it stands a [`Guard`], which judges each, so that
//! nothing outside the folder is reachable, a read-only folder stays as it is, and no device or pipe is
//! ever opened. Whose files they seem to be is a matter of [`Owner`]; a folder of which a guest may see
//! single files only has a list of [`Names`]. The transport (virtio, a socket) is the caller's.
#![forbid(unsafe_code)]

#[cfg(any(test, feature = "test-support"))]
pub mod client;
mod guard;
mod identity;
pub mod message;
mod names;
mod owner;
mod portal;
mod server;
#[cfg(test)]
mod tests;
mod transfer;

pub use guard::{Guard, MAX_MESSAGE, Options, most_handles};
pub use names::{MOST_NAMES, Names};
pub use owner::Owner;
pub use transfer::{Answer, Buffer, Data};
