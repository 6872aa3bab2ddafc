//! What a VM is, as a person writes it. A [`VmDefinition`] is one TOML file; this crate parses it
//! (with line and column in errors), validates every field, and stores it atomically.
//!
//! Used by the CLI (to check input early), the daemon (which owns the files) and the VM process
//! (which runs one). Knows no engine and opens no device.
#![forbid(unsafe_code)]

mod machine;

pub use machine::{
    Boot, Disk, DiskFormat, EngineChoice, Network, NetworkMode, RateLimit, Share, ShareKind,
    VmDefinition,
};
