//! Chooses the display: Wayland where its compositor lets a program without a window see the clipboard,
//! else X11 (which under Wayland is Xwayland, whose clipboard the compositor keeps the same).

use std::ffi::OsString;
use std::path::PathBuf;

use crate::{Connected, wayland, x11};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The session has no display, or this program was not told.
    #[error("neither WAYLAND_DISPLAY nor DISPLAY is set: no desktop to share a clipboard with")]
    NoDisplay,
    /// Nobody listens there, or it does not let this program in.
    #[error("connect to {display}: {reason}")]
    Refused {
        /// As a person writes it.
        display: String,
        /// What the system says.
        reason: String,
    },
    /// The display server lacks what a clipboard needs.
    #[error("{display} does not offer {lacks}")]
    Lacks {
        /// As a person writes it.
        display: String,
        /// An extension or a protocol.
        lacks: &'static str,
    },
}

/// Where a desktop is, as the environment of its programs says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Display {
    /// `WAYLAND_DISPLAY`: a name below `runtime`, or an absolute path.
    pub wayland: Option<OsString>,
    /// `XDG_RUNTIME_DIR`.
    pub runtime: Option<PathBuf>,
    /// `DISPLAY`.
    pub x11: Option<String>,
    /// `XAUTHORITY`.
    pub authority: Option<PathBuf>,
}

impl Display {
    /// Of this process.
    pub fn of_this_process() -> Self {
        Self::from_variables(|name| std::env::var_os(name))
    }

    /// From the variables of another environment, as the user's service manager keeps one. Empty ones are
    /// unset ones.
    pub fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let variable = |name| variable(name).filter(|value| !value.is_empty());
        Self {
            wayland: variable("WAYLAND_DISPLAY"),
            runtime: variable("XDG_RUNTIME_DIR").map(PathBuf::from),
            x11: variable("DISPLAY").and_then(|value| value.into_string().ok()),
            authority: variable("XAUTHORITY").map(PathBuf::from),
        }
    }
}

/// Connects to the desktop this process belongs to.
///
/// # Errors
/// No display, or none that lets this program in.
pub async fn connect() -> Result<Connected, ConnectError> {
    connect_to(&Display::of_this_process()).await
}

/// Connects to a desktop.
///
/// # Errors
/// No display, or none that lets this program in. When both fail, what Wayland said comes only if there is
/// no X11 to try.
pub async fn connect_to(display: &Display) -> Result<Connected, ConnectError> {
    let wayland = match &display.wayland {
        None => None,
        Some(name) => match wayland::connect_at(Some(name), display.runtime.as_deref()).await {
            Ok(connected) => return Ok(connected),
            Err(error) => Some(error),
        },
    };
    match (&display.x11, wayland) {
        (Some(name), failed) => {
            if let Some(error) = failed {
                tracing::debug!(%error, "clipboard: X11 instead of Wayland");
            }
            x11::connect_with(Some(name), display.authority.as_deref()).await
        }
        (None, Some(error)) => Err(error),
        (None, None) => Err(ConnectError::NoDisplay),
    }
}
