//! The way to a VM's screen: a socket of packets in its runtime folder, where the VM has a screen.

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect as connect_to, socket_with,
};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

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
