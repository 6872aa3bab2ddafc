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

use std::path::Path;

use x11rb::reexports::x11rb_protocol::parse_display::parse_display;
use x11rb::reexports::x11rb_protocol::xauth::get_auth;
use x11rb::rust_connection::{DefaultStream, RustConnection};

use crate::handle::{Setup, start};
use crate::{ConnectError, Connected};
use worker::Worker;

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
    let authority = authority.map(Path::to_owned);
    start(name, "clipboard-x11", move |ends| {
        let (connection, screen) = open(&address, authority.as_deref()).map_err(Setup::Refused)?;
        let worker = Worker::new(connection, screen, ends)?;
        Ok(move || worker.run())
    })
    .await
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
