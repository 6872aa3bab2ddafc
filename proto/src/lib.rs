//! The gRPC interfaces of macrohard-hypervisor, generated at build time from `proto/`. Used by the
//! daemon (serves [`v1::control_server`]) and its clients ([`v1::control_client`]); holds no logic
//! beyond what keeps both ends agreed.
#![forbid(unsafe_code)]

/// Protocol version both ends state in the handshake; raised with every incompatible change.
pub const PROTOCOL: u32 = 1;

/// Most bytes of a program's input or output in one message of `Exec`.
pub const EXEC_CHUNK: usize = 64 << 10;

mod lists;

pub use lists::{LONGEST_APPLICATION, MOST_APPLICATIONS};

/// Version 1 of the interfaces (package `macrohard.v1`).
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod v1 {
    pub use crate::lists::ApplicationList;
    tonic::include_proto!("macrohard.v1");
}

/// The same services, where a call that is not written answers `Unimplemented`: for tests that stand in for one side and
/// need few of its calls. Programs implement [`v1`]'s, where the compiler misses each call that is not written.
#[doc(hidden)]
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod stand_in {
    include!(concat!(env!("OUT_DIR"), "/stand_in/macrohard.v1.rs"));
}
