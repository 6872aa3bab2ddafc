//! The gRPC interfaces of macrohard-hypervisor, generated at build time from `proto/`. Used by the
//! daemon (serves [`v1::control_server`]) and its clients ([`v1::control_client`]); holds no logic
//! beyond what keeps both ends agreed.
#![forbid(unsafe_code)]

/// Protocol version both ends state in the handshake; raised with every incompatible change.
pub const PROTOCOL: u32 = 1;

/// Version 1 of the interfaces (package `macrohard.v1`).
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("macrohard.v1");
}
