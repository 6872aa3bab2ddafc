//! Why nothing can be measured.

use std::io;
use std::path::PathBuf;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("cannot {action}: {source}")]
    System { action: String, source: io::Error },
    #[error("X server: {0}")]
    X(String),
    #[error("{what} has not come in {seconds} s; logs: {logs}")]
    Late { what: String, seconds: u64, logs: PathBuf },
    #[error("the stages cannot be told: {0}")]
    Stages(String),
}

pub(crate) type Result<T = ()> = std::result::Result<T, Failure>;

/// For `map_err`: what was tried.
pub(crate) fn system(action: impl Into<String>) -> impl FnOnce(io::Error) -> Failure {
    let action = action.into();
    move |source| Failure::System { action, source }
}

macro_rules! from_x {
    ($($error:ident),*) => {$(
        impl From<x11rb::errors::$error> for Failure {
            fn from(error: x11rb::errors::$error) -> Self {
                Self::X(error.to_string())
            }
        }
    )*};
}
from_x!(ConnectError, ConnectionError, ReplyError, ReplyOrIdError);
