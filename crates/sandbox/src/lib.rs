//! Walls that a process builds around itself, from Linux's two means: landlock for the [`Files`] it reaches, seccomp
//! for the [`Calls`] it makes, or for those that are [`Refused`] it. Each process has its own list of both, where its code is; here is what all lists
//! share: how they become walls, and that no process makes another one.
#![forbid(unsafe_code)]

mod calls;
mod files;

pub use calls::{Argument, Calls, Refused, without_clone3};
pub use files::Files;
pub use landlock::AccessFs;
pub use seccompiler::{BpfProgram, SeccompAction as Action};

/// A wall cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// That of files.
    #[error("landlock: {0}")]
    Files(#[from] landlock::RulesetError),
    /// A file or folder to be reached cannot be opened.
    #[error("landlock: {0}")]
    Path(#[from] landlock::PathFdError),
    /// The list of system calls does not become a filter.
    #[error("seccomp: {0}")]
    Filter(#[from] seccompiler::BackendError),
    /// The kernel does not take the filter.
    #[error("seccomp: {0}")]
    Calls(#[from] seccompiler::Error),
}
