//! The agent in a Linux guest.
//!
//! Two programs in one file. The system agent runs as root from the guest's start on: it powers off,
//! sets the clock, runs programs for the host, installs updates of the agent ([`update`]), mounts shared
//! folders ([`shares`]) and gives sessions the memory of windows ([`windows::memory`]). A session agent runs
//! as a user from the login on and does what belongs to that user's session: programs, applications, windows,
//! clipboard, notifications. Each holds its own connection to the host ([`link`]), on
//! which it tells what it has and answers calls ([`service`]). The system agent gives each user's agent
//! the proof of who it is ([`proofs`]).
//!
//! The host is trusted: it owns the machine. Other users of the guest are not.
#![forbid(unsafe_code)]

pub mod applications;
pub mod clipboard;
pub mod clock;
pub mod exec;
pub mod link;
pub mod notifications;
pub mod parts;
pub mod power;
pub mod proofs;
pub mod relay;
pub mod service;
pub mod shares;
pub mod signals;
pub mod status;
pub mod update;
pub mod user;
pub mod windows;
