//! How a guest's agent and its host find, prove and hold each other.
//!
//! The agent makes every connection, to one address of its host ([`Address`]); nothing in the guest
//! listens. The first line of a connection ([`Hello`]) says which agent it is, proves it with what only
//! that agent can know ([`Token`]), and says which way calls go: an agent keeps two connections, one on
//! which it calls and one on which it is called. From then on each carries gRPC over HTTP/2 ([`serve`],
//! [`channel`]) until either program ends, which closes it.
#![forbid(unsafe_code)]

mod address;
mod channel;
mod gathered;
mod hello;
mod rpc;
pub mod serial;
mod token;
mod watched;

pub use address::{Address, AddressError, BoxStream};
pub use channel::{Answer, Channel};
pub use hello::{Direction, Hello, HelloError, MAX_LINE, Refusal, Role, admit, introduce, receive};
pub use rpc::{MAX_MESSAGE, TransportError, channel, serve};
pub use token::{Proof, Token, TokenError};
pub use watched::{Gone, watch};

/// The vsock port of the host at which agents report: "MH".
pub const PORT: u32 = 0x4d48;

/// Ports of the host at which folders are shared, each at one of its own.
pub const SHARE_PORTS: std::ops::RangeInclusive<u32> = PORT + 1..=PORT + 64;

/// Name of the fw_cfg file with the VM's token, which the guest's kernel shows to root alone.
pub const TOKEN_FILE: &str = "opt/org.macrohard/agent-token";
