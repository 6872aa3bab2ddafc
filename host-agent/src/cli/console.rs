//! `console`: joins the terminal with the console socket of a VM process.

use super::terminal::{Raw, Silence, type_into};
use crate::problem::Problem;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{SignalKind, signal};

/// Runs until the escape key, the end of the VM, or a signal that ends this program. When standard
/// input is a pipe, its end only ends the typing: output goes on.
pub(super) fn attach(name: &str, socket: &Path) -> Result<(), Problem> {
    let failed = |error: io::Error| {
        Problem::failed(format!("cannot connect to the console of VM \"{name}\": {error}"))
    };
    let stream = UnixStream::connect(socket).map_err(failed)?;
    let mut keyboard = stream.try_clone().map_err(failed)?;
    let raw = Raw::enter().map_err(failed)?;
    if raw.is_terminal() {
        eprint!("connected to the console of VM \"{name}\"; Ctrl-] ends the connection\r\n");
    }
    let left = Arc::new(AtomicBool::new(false));
    let leaving = Arc::clone(&left);
    // Not joined: it may wait for a key for ever.
    std::thread::spawn(move || {
        if type_into(io::stdin(), &mut keyboard) == Silence::Escape {
            leaving.store(true, Ordering::Release);
            // Ends the reader below; an error means that it has ended.
            let _ = keyboard.shutdown(Shutdown::Both);
        }
    });
    let shown = until_signal(stream, show);
    drop(raw);
    match shown {
        Some(result) => result.map_err(failed)?,
        None => return Ok(()),
    }
    if left.load(Ordering::Acquire) {
        eprintln!();
    } else {
        eprintln!("\nthe console of VM \"{name}\" was closed: the VM has ended");
    }
    Ok(())
}

fn show(mut stream: UnixStream) -> io::Result<()> {
    let mut out = io::stdout();
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                out.write_all(bytes.get(..count).unwrap_or_default())?;
                out.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Runs `work` on a thread; `None` when a signal came first. The terminal must be restored before
/// the program ends, so signals may not simply kill it.
fn until_signal(
    stream: UnixStream,
    work: fn(UnixStream) -> io::Result<()>,
) -> Option<io::Result<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return Some(Err(error)),
    };
    let done = runtime.block_on(async {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [interrupt, terminate, hangup] = kinds.map(signal);
        let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) = (interrupt, terminate, hangup)
        else {
            return Some(work(stream));
        };
        tokio::select! {
            done = tokio::task::spawn_blocking(move || work(stream)) => {
                Some(done.unwrap_or_else(|error| Err(io::Error::other(error))))
            }
            _ = interrupt.recv() => None,
            _ = terminate.recv() => None,
            _ = hangup.recv() => None,
        }
    });
    runtime.shutdown_background();
    done
}
