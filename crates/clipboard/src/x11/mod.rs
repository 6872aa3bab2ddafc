//! X11 selections (ICCCM 2) as a [`Backend`].
//!
//! A thread of its own holds the connection and sleeps on its socket. Waiting for a reply of the server
//! blocks, and a server may be grabbed by another program for seconds; that must not hold up a worker of
//! tokio. Nobody waits for the thread without a limit.
//!
//! - `worker`: the thread's loop; where events and commands go.
//! - `watching`: who owns the selections, and what they offer.
//! - `reading`: content that others offer.
//! - `owning`: selections that are this side's.
//! - `serving`, `sending`: others paste from this side, in one piece or by INCR.
//! - `authority`: the keys of displays.

mod authority;
mod owning;
mod reading;
mod sending;
mod serving;
mod watching;
mod worker;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;
use x11rb::reexports::x11rb_protocol::parse_display::parse_display;
use x11rb::reexports::x11rb_protocol::xauth::get_auth;
use x11rb::rust_connection::{DefaultStream, RustConnection};

use crate::changes::Changes;
use crate::commands::{Outbox, answer_of, commands};
use crate::{
    Backend, Boxed, ConnectError, Connected, Content, FetchError, Format, Offer, Selection, limits,
};
use worker::{Command, Setup, Worker};

/// Connects to a display, `DISPLAY` by default.
///
/// # Errors
/// Nobody listens, or it lets nobody in, or it has no XFixes.
pub async fn connect(display: Option<&str>) -> Result<Connected, ConnectError> {
    connect_with(display, None).await
}

/// Connects with the keys of a file, `XAUTHORITY` by default.
///
/// # Errors
/// As [`connect`].
pub async fn connect_with(
    display: Option<&str>,
    authority: Option<&Path>,
) -> Result<Connected, ConnectError> {
    let address = match display {
        Some(display) => display.to_owned(),
        None => std::env::var("DISPLAY").map_err(|_| ConnectError::NoDisplay)?,
    };
    let name = format!("X11 {address}");
    let refused = |reason: String| ConnectError::Refused { display: name.clone(), reason };
    let authority = authority.map(Path::to_owned);
    let runtime = Handle::current();
    let (outbox, inbox) = commands().map_err(|error| refused(error.to_string()))?;
    let (changes, receiver) = Changes::channel(&runtime);
    let (ready, up) = oneshot::channel();
    let for_worker = outbox.clone();
    let run = move || {
        let worker = open(&address, authority.as_deref()).map_err(Setup::Refused).and_then(
            |(connection, screen)| {
                Worker::new(connection, screen, inbox, for_worker, changes, runtime)
            },
        );
        match worker {
            Err(error) => drop(ready.send(Err(error))),
            Ok(worker) => {
                // Nobody waits any more: the thread ends, and so does the connection.
                if ready.send(Ok(())).is_ok()
                    && let Err(lost) = worker.run()
                {
                    tracing::info!(%lost, "clipboard: the display is gone: X11 {address}");
                }
            }
        }
    };
    std::thread::Builder::new()
        .name("clipboard-x11".to_owned())
        .spawn(run)
        .map_err(|error| refused(format!("start a thread: {error}")))?;
    match timeout(limits::CONNECT, up).await {
        Ok(Ok(Ok(()))) => Ok((Arc::new(X11 { name, outbox }), receiver)),
        Ok(Ok(Err(Setup::Refused(reason)))) => Err(refused(reason)),
        Ok(Ok(Err(Setup::Lacks(lacks)))) => {
            Err(ConnectError::Lacks { display: name.clone(), lacks })
        }
        Ok(Err(_)) => Err(refused("the thread ended early".to_owned())),
        Err(_) => Err(refused("it does not answer".to_owned())),
    }
}

/// The first address of the display that lets this program in.
fn open(display: &str, authority: Option<&Path>) -> Result<(RustConnection, usize), String> {
    let parsed = parse_display(Some(display)).map_err(|error| error.to_string())?;
    let mut last = "it has no address".to_owned();
    for address in parsed.connect_instruction() {
        let (stream, (family, peer)) = match DefaultStream::connect(&address) {
            Ok(connected) => connected,
            Err(error) => {
                last = error.to_string();
                continue;
            }
        };
        let key = match authority {
            Some(file) => authority::key(file, family, &peer, parsed.display),
            None => get_auth(family, &peer, parsed.display).ok().flatten(),
        };
        let (name, data) = key.unwrap_or_default();
        let screen = usize::from(parsed.screen);
        return RustConnection::connect_to_stream_with_auth_info(stream, screen, name, data)
            .map(|connection| (connection, screen))
            .map_err(|error| error.to_string());
    }
    Err(last)
}

/// The holder's end.
struct X11 {
    name: String,
    outbox: Outbox<Command>,
}

impl fmt::Debug for X11 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Drop for X11 {
    fn drop(&mut self) {
        self.outbox.send(Command::End);
    }
}

impl Backend for X11 {
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
