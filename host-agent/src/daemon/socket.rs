//! The daemon's lock and socket: one daemon per user, no client of another user.

use crate::problem::{Kind, Problem};
use definition::Places;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdListener;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt};

/// Held as long as the daemon runs.
#[derive(Debug)]
pub(super) struct Lock(#[allow(dead_code, reason = "its drop unlocks")] File);

/// Becomes the one daemon of this user.
pub(super) fn lock(places: &Places) -> Result<Lock, Problem> {
    let path = places.daemon_lock();
    let failed =
        |error: io::Error| Problem::failed(format!("cannot lock {}: {error}", path.display()));
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid).map_err(failed)?;
            return Err(Problem::new(
                Kind::Taken,
                format!(
                    "a daemon already runs for this user (process {}, socket {})",
                    pid.trim(),
                    places.daemon_socket().display()
                ),
            )
            .advise("use it, or end it with `macrohard-hypervisor daemon stop`"));
        }
        Err(error) => return Err(failed(error.into())),
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(failed)?;
    Ok(Lock(file))
}

/// Whose socket the daemon serves.
#[derive(Debug)]
pub(super) enum Listener {
    /// Passed by systemd, which starts the next daemon through it.
    Passed(StdListener),
    /// Made by this daemon.
    Made(StdListener),
}

/// The socket that was passed, or a new one. Only the holder of the lock may call this: it removes
/// what a killed daemon left.
pub(super) fn listener(places: &Places) -> Result<Listener, Problem> {
    let path = places.daemon_socket();
    let failed =
        |error: io::Error| Problem::failed(format!("cannot listen on {}: {error}", path.display()));
    if let Some(passed) = listenfd::ListenFd::from_env().take_unix_listener(0).map_err(failed)? {
        return Ok(Listener::Passed(passed));
    }
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = StdListener::bind(&path).map_err(failed)?;
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).map_err(failed)?;
    Ok(Listener::Made(listener))
}

/// Takes a socket of the daemon's own away at its end.
pub(super) fn remove(places: &Places) {
    let _ = std::fs::remove_file(places.daemon_socket());
}

/// Connections of this user. The folder and the socket's mode keep others out already; this holds
/// even if someone opens them up.
pub(super) fn own_clients(
    listener: StdListener,
) -> io::Result<impl Stream<Item = io::Result<UnixStream>>> {
    listener.set_nonblocking(true)?;
    let me = rustix::process::getuid().as_raw();
    let incoming = UnixListenerStream::new(UnixListener::from_std(listener)?);
    Ok(incoming.filter(move |connection| match connection {
        Ok(stream) => match stream.peer_cred() {
            Ok(peer) if peer.uid() == me => true,
            Ok(peer) => {
                tracing::warn!(uid = peer.uid(), "client of another user turned away");
                false
            }
            Err(error) => {
                tracing::warn!(%error, "client without credentials turned away");
                false
            }
        },
        Err(_) => true,
    }))
}
