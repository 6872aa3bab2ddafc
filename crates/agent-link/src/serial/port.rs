//! A virtio-serial port of this machine, and the one line that this process has on it: the kernel lets only
//! one program open a port.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Mode, OFlags, open};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, join};
use tokio::net::unix::pipe;

use super::{Line, call};

/// Lines of this process, by port.
static LINES: Mutex<BTreeMap<PathBuf, Line>> = Mutex::new(BTreeMap::new());

/// A new connection over the port at `path`.
///
/// # Errors
/// There is no such port, another program has it, or nobody is at its other end.
pub(crate) async fn connect(path: &Path) -> io::Result<DuplexStream> {
    let line = {
        let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
        match lines.get(path).filter(|line| !line.is_closed()) {
            Some(line) => line.clone(),
            None => {
                let (line, carrying) = call(open_port(path)?);
                tokio::spawn(carrying);
                lines.insert(path.to_owned(), line.clone());
                line
            }
        }
    };
    line.open().await
}

/// The port as a stream. Reading nothing means that the host has let go of it.
fn open_port(path: &Path) -> io::Result<impl AsyncRead + AsyncWrite + Send + use<>> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let port = File::from(open(path, flags, Mode::empty())?);
    // A port is read, written and waited for as a pipe is.
    let writing = pipe::Sender::from_file_unchecked(port.try_clone()?)?;
    Ok(join(pipe::Receiver::from_file_unchecked(port)?, writing))
}
