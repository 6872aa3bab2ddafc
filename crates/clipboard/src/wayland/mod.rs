//! Wayland's data-control as a [`Backend`]: ext-data-control-v1, or the older wlr-data-control of the same
//! shape. Both let a program without a window see and set the clipboard; compositors without either leave
//! it to X11.
//!
//! A thread of its own holds the connection, as for X11. Content goes through pipes, in tasks.
//!
//! - `control`: the two protocols behind one face.
//! - `worker`: the thread's loop and state.
//! - `pipes`: content that comes and goes.

mod control;
mod pipes;
mod worker;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::handle::start;
use crate::{ConnectError, Connected};

/// Connects to a compositor, `WAYLAND_DISPLAY` by default.
///
/// # Errors
/// Nobody listens, or it offers no data-control.
pub async fn connect(display: Option<&OsStr>) -> Result<Connected, ConnectError> {
    connect_at(display, None).await
}

/// Connects to a compositor whose socket is in a folder, `XDG_RUNTIME_DIR` by default.
///
/// # Errors
/// As [`connect`].
pub async fn connect_at(
    display: Option<&OsStr>,
    runtime: Option<&Path>,
) -> Result<Connected, ConnectError> {
    let of_this_process = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let display = display
        .map(OsStr::to_owned)
        .or_else(|| of_this_process("WAYLAND_DISPLAY"))
        .ok_or(ConnectError::NoDisplay)?;
    let name = format!("Wayland {}", display.to_string_lossy());
    let refused = |reason: String| ConnectError::Refused { display: name.clone(), reason };
    // An absolute name stands for itself.
    let folder = runtime
        .map(Path::to_owned)
        .or_else(|| of_this_process("XDG_RUNTIME_DIR").map(PathBuf::from))
        .unwrap_or_default();
    let socket = folder.join(display);
    if !socket.is_absolute() {
        return Err(refused("XDG_RUNTIME_DIR is not set".to_owned()));
    }
    start(name, "clipboard-wl", move |ends| {
        let running = worker::open(&socket, ends)?;
        Ok(move || running.run())
    })
    .await
}
