//! What a VM is, as a person writes it. A [`VmDefinition`] is one TOML file; this crate parses it
//! (with line and column in errors), validates every field, and stores it atomically.
//!
//! Used by the CLI (to check input early), the daemon (which owns the files) and the VM process
//! (which runs one). Knows no engine and opens no device.
#![forbid(unsafe_code)]

mod atomic;
mod check;
mod desktop;
mod edit;
mod host;
mod machine;
mod name;
mod network;
mod places;
mod store;
mod text;
mod windows;

pub use atomic::{Existing, WriteError, write_atomically};
pub use check::{Field, FieldProblem, Step, limits};
pub use desktop::{Clipboard, ClipboardFormat, ClipboardPolicy, Integration, Permission};
pub use edit::{add_share, remove_share, set};
pub use host::HostFacts;
pub use machine::{
    Boot, Disk, DiskFormat, EngineChoice, Network, NetworkMode, RateLimit, Share, ShareKind,
    VmDefinition,
};
pub use name::check_name;
pub use network::MacAddress;
pub use places::{PlaceError, Places};
pub use store::{Store, StoreError};
pub use text::{TextError, parse};
/// What [`Store::change`] changes.
pub use toml_edit;
pub use windows::{Colour, Windows};
