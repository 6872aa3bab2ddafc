//! How long a log may become. Daemon and compositor write of what guests do, for months, and a guest can do the same
//! thing without end: their files begin anew when they are full ([`StandardError`], [`open`]), and of a flood of
//! lines some are written and the others counted ([`Seldom`]).

mod file;
mod seldom;

pub use file::{StandardError, Writer, open};
pub use seldom::Seldom;
