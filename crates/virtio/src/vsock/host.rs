//! The host's side: the socket programs connect to, and the sockets the guest connects to.

use super::VsockError;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Connections that wait to be accepted, while no driver runs or too many are half-open.
const BACKLOG: i32 = 128;

/// The listening socket; its file goes when the value is dropped.
pub(super) struct Listener {
    socket: OwnedFd,
    path: PathBuf,
}

impl Listener {
    /// Listens at `path`, for this user only. A file left there by a dead process is replaced.
    pub(super) fn bind(path: &Path) -> Result<Self, VsockError> {
        let failed = |tried| {
            move |error: rustix::io::Errno| VsockError::Socket {
                tried,
                path: path.to_owned(),
                error: error.into(),
            }
        };
        // The longest name a guest can make us connect to must be a socket address, too.
        address(&guest_target(path, u32::MAX))
            .map_err(|_| VsockError::PathTooLong { path: path.to_owned(), limit: LONGEST_PATH })?;
        let address = address(path).map_err(failed("name"))?;
        let socket = stream().map_err(failed("open"))?;
        // The mode of a socket before it is bound becomes the mode of its file.
        rustix::fs::fchmod(&socket, rustix::fs::Mode::from(0o600)).map_err(failed("restrict"))?;
        if let Err(error) = rustix::net::bind(&socket, &address) {
            if error != rustix::io::Errno::ADDRINUSE || alive(path) {
                return Err(failed("listen at")(error));
            }
            rustix::fs::unlink(path).map_err(failed("replace the dead"))?;
            rustix::net::bind(&socket, &address).map_err(failed("listen at"))?;
        }
        rustix::net::listen(&socket, BACKLOG).map_err(failed("listen at"))?;
        Ok(Self { socket, path: path.to_owned() })
    }

    /// The next program that waits; `None` when there is none.
    pub(super) fn accept(&self) -> Option<OwnedFd> {
        // Every failure (no descriptors left, the program gone again) concerns that program only;
        // the next one brings a new event.
        rustix::net::accept_with(&self.socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC).ok()
    }
}

/// The programs of the host that listen for the guest.
pub trait HostPorts: Send + Sync {
    /// A stream to the one that listens for connections to `port`. Does not wait, and neither does
    /// the stream.
    ///
    /// # Errors
    /// Nobody listens there, or it takes no more.
    fn connect(&self, port: u32) -> io::Result<OwnedFd>;
}

/// Those on the sockets named like the device's with `_PORT` behind.
pub(super) struct Beside(pub(super) PathBuf);

impl HostPorts for Beside {
    fn connect(&self, port: u32) -> io::Result<OwnedFd> {
        let socket = stream()?;
        // Does not wait: a full backlog is an error (unix(7), EAGAIN).
        rustix::net::connect(&socket, &address(&guest_target(&self.0, port))?)?;
        Ok(socket)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = rustix::fs::unlink(&self.path);
    }
}

/// Bytes a path may have so that `_` and the longest port still fit (unix(7): 108 with the end).
const LONGEST_PATH: usize = 107 - "_4294967295".len();

/// Where a program listens for the guest's connections to `port`.
fn guest_target(path: &Path, port: u32) -> PathBuf {
    let mut target = path.as_os_str().to_owned();
    target.push(format!("_{port}"));
    target.into()
}

fn address(path: &Path) -> Result<SocketAddrUnix, rustix::io::Errno> {
    SocketAddrUnix::new(path)
}

fn stream() -> Result<OwnedFd, rustix::io::Errno> {
    rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        None,
    )
}

/// True when something other than a socket nobody listens on is at `path`.
fn alive(path: &Path) -> bool {
    let connect = || rustix::net::connect(stream()?, &address(path)?);
    connect() != Err(rustix::io::Errno::CONNREFUSED) || !is_socket(path)
}

fn is_socket(path: &Path) -> bool {
    rustix::fs::lstat(path).is_ok_and(|stat| {
        rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Socket
    })
}
