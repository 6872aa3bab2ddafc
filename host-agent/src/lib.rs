//! The host side: CLI `macrohard-hypervisor`, daemon `macrohardd`, VM process `macrohard-vm`, and
//! `macrohard-share`, which serves a shared folder. `macrohard-compositor` is a package of its own.
//!
//! The CLI ([`cli`]) is a client of the daemon and nothing more, except for what needs none
//! (`run`, `doctor`, `image build`). The daemon ([`daemon`]) owns the definitions and starts one
//! process per VM; it can be killed at any time without harm to a VM, and finds the running ones
//! again. [`lifecycle`] says what a state is and what it allows; [`problem`] is how all of them
//! refuse.
#![forbid(unsafe_code)]

pub mod cli;
pub mod client;
pub mod contents;
pub mod daemon;
pub mod engines;
pub mod image;
pub mod launch;
pub mod launchers;
pub mod lifecycle;
pub mod problem;
pub mod untrusted;
