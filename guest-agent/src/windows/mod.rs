//! The windows of a session, shown by the host as its own.

pub mod memory;
