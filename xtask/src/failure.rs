//! The one error of the task runner: a sentence for the person at the terminal.

use std::fmt;

/// What was tried, what was found, what to do.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl Failure {
    /// A failure with this message.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The result of every step.
pub(crate) type Result<T = ()> = std::result::Result<T, Failure>;

/// Adds what was being done to an error of the system.
pub(crate) trait Context<T> {
    /// `doing` completes "cannot ...".
    fn context(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Failure(format!("cannot {}: {error}", doing())))
    }
}
