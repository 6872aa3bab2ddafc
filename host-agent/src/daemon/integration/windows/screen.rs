//! The way to a VM's screen: a socket of packets in its runtime folder, where the VM has a screen.

use super::Picture;
use crate::problem::{Kind, Problem};
use display::{Viewer, ViewerError};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect as connect_to, socket_with,
};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a guest's screen may show nothing.
const PATIENCE: Duration = Duration::from_secs(2);

fn path(runtime: &Path) -> PathBuf {
    runtime.join("display.sock")
}

/// Whether the VM with this runtime folder has a screen.
pub(super) fn is_there(runtime: &Path) -> bool {
    path(runtime).exists()
}

/// Connects to it; none where there is none.
pub(super) fn connect(runtime: &Path) -> Option<OwnedFd> {
    let address = SocketAddrUnix::new(path(runtime)).ok()?;
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    // Not waiting where too many wait already.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, kind, flags, None).ok()?;
    connect_to(&socket, &address).ok()?;
    Some(socket)
}

/// What it shows now.
///
/// # Errors
/// It shows nothing, or cannot be reached.
pub(super) async fn picture(runtime: &Path) -> Result<Picture, Problem> {
    let path = path(runtime);
    let taken = tokio::task::spawn_blocking(move || {
        let picture = Viewer::screenshot(&path, PATIENCE).map_err(|error| match error {
            ViewerError::Nothing { .. } => {
                Problem::new(Kind::Refused, "the guest's screen shows nothing")
                    .advise("a guest shows something there when it has booted")
            }
            error => Problem::failed(format!("the guest's screen: {error}")),
        })?;
        let png = picture
            .to_png()
            .map_err(|error| Problem::failed(format!("the guest's screen: {error}")))?;
        Picture::of_bytes(&png)
    });
    taken.await.map_err(Problem::failed)?
}
