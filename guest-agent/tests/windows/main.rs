//! The agent tells a host of the windows of real programs under a real X server, without a VM: what the host
//! knows of them, their pixels, and what the host's user does with them.
#![allow(unreachable_pub, reason = "a crate of its own")]

mod client;
mod desktop;
mod exchange;
mod host;
mod hostile;
mod programs;
mod session;
#[path = "../support/mod.rs"]
mod support;
