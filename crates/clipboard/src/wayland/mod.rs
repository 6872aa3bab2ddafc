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
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::changes::Changes;
use crate::commands::{Outbox, answer_of, commands};
use crate::{
    Backend, Boxed, ConnectError, Connected, Content, FetchError, Format, Offer, Selection, limits,
};
use worker::{Command, Setup};

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
    let handle = Handle::current();
    let (outbox, inbox) = commands().map_err(|error| refused(error.to_string()))?;
    let (changes, receiver) = Changes::channel(&handle);
    let (ready, up) = oneshot::channel();
    let for_worker = outbox.clone();
    let run = move || match worker::open(&socket, for_worker, changes, handle) {
        Err(error) => drop(ready.send(Err(error))),
        Ok(worker) => {
            // Nobody waits any more: the thread ends, and so does the connection.
            if ready.send(Ok(())).is_ok()
                && let Err(lost) = worker.run(&inbox)
            {
                tracing::info!(%lost, "clipboard: the display is gone: {}", socket.display());
            }
        }
    };
    std::thread::Builder::new()
        .name("clipboard-wl".to_owned())
        .spawn(run)
        .map_err(|error| refused(format!("start a thread: {error}")))?;
    match timeout(limits::CONNECT, up).await {
        Ok(Ok(Ok(()))) => Ok((Arc::new(Wayland { name, outbox }), receiver)),
        Ok(Ok(Err(Setup::Refused(reason)))) => Err(refused(reason)),
        Ok(Ok(Err(Setup::Lacks(lacks)))) => {
            Err(ConnectError::Lacks { display: name.clone(), lacks })
        }
        Ok(Err(_)) => Err(refused("the thread ended early".to_owned())),
        Err(_) => Err(refused("it does not answer".to_owned())),
    }
}

/// The holder's end.
struct Wayland {
    name: String,
    outbox: Outbox<Command>,
}

impl fmt::Debug for Wayland {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Drop for Wayland {
    fn drop(&mut self) {
        self.outbox.send(Command::End);
    }
}

impl Backend for Wayland {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn fetch(
        &self,
        selection: Selection,
        format: Format,
        most: usize,
    ) -> Boxed<Result<Content, FetchError>> {
        let (answer, answered) = oneshot::channel();
        self.outbox.send(Command::Fetch { selection, format, most, answer });
        answer_of(answered)
    }

    fn offer(&self, selection: Selection, offer: Offer) -> Boxed<Result<(), FetchError>> {
        let (answer, answered) = oneshot::channel();
        self.outbox.send(Command::Offer { selection, offer, answer });
        answer_of(answered)
    }

    fn clear(&self, selection: Selection) -> Boxed<()> {
        let (answer, answered) = oneshot::channel();
        self.outbox.send(Command::Clear { selection, answer });
        let answered = answer_of(answered);
        Box::pin(async move { drop(answered.await) })
    }
}
