//! passt: user-mode networking for one card.

use super::{ExitCode, Service};
use crate::MachineError;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;

/// Kernel memory for frames on their way to passt: a few of the longest.
const SOCKET_BYTES: usize = 512 * 1024;

/// Starts passt and gives the socket on which it speaks Ethernet frames, each behind its length in
/// 4 bytes, big-endian (QEMU's `stream` protocol).
///
/// # Errors
/// passt is not installed or cannot be started.
pub fn passt() -> Result<(Service, UnixStream), MachineError> {
    let (ours, theirs) = UnixStream::pair()
        .map_err(|e| MachineError::system("cannot make a socket for passt", e))?;
    // The system's default only costs time.
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(&ours, SOCKET_BYTES);
    let number = theirs.as_raw_fd().to_string();
    let arguments = ["--foreground", "--quiet", "--fd", &number].map(Into::into);
    let service = Service::start(
        "passt",
        "install the package passt",
        &arguments,
        &[theirs.as_fd()],
        ExitCode::Usual,
    )?;
    Ok((service, ours))
}
