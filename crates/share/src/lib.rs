//! The process that serves one folder of the host to the users of one running VM, `macrohard-share`.
//!
//! It needs no device: the guest's system agent connects to a vsock port of its host, which the VM process
//! brings to a Unix socket ([`agent_link::Direction::Share`] in the first line says for which user), and
//! hands the connection to its kernel, which speaks 9P2000.L on it. So a folder can be shared while the VM
//! runs, with every engine.
//!
//! Whoever starts it ([`start`]) hands it everything open: the folder, both listening sockets, the VM
//! process, a locked file that shows that it lives. It opens nothing but what lies in the folder, walls
//! itself in (module `walls`), ends with the VM and outlives whoever started it.
#![forbid(unsafe_code)]

mod connection;
mod control;
mod launch;
mod log;
pub mod name_list;
mod process;
mod server;
mod walls;

pub use control::{Reply, Request, ask};
pub use launch::{Handed, LaunchError, MOST_BYTES, Spec, start};
pub use log::LimitedError;
pub use process::run;

/// Connections at once, one for each user of the guest who has the folder mounted, and some more for mounts
/// that programs still use after they were left.
pub const MOST_CONNECTIONS: usize = 32;
