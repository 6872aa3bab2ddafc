//! Tells the guest of a new screen size on QEMU's behalf.
//!
//! With a graphics device served over vhost-user the bit `events_read` and its interrupt stay with
//! QEMU, which sets them only when one of QEMU's own displays changes size (QEMU 10,
//! hw/display/vhost-user-gpu.c: `vhost_user_gpu_get_config`, and its refusal of changes by the back
//! end). The smallest display QEMU has for that is VNC: one connection over a Unix socket that asks
//! for a desktop size and looks at nothing. The guest then asks our device, which knows the size.

use crate::MachineError;
use display::Size;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// RFC 6143, 7.1.1: the last version of the protocol.
const VERSION: &[u8; 12] = b"RFB 003.008\n";
/// RFC 6143, 7.1.2: no authentication. The socket lies in a folder of the user's own, and is removed
/// as soon as this connection stands.
const NO_SECURITY: u8 = 1;
/// RFC 6143, 7.5.2, and the registry of RFB messages: `SetEncodings`, `SetDesktopSize`.
const SET_ENCODINGS: u8 = 2;
const SET_DESKTOP_SIZE: u8 = 251;
/// The pseudo-encoding by which a client says that it knows desktop sizes.
const EXTENDED_DESKTOP_SIZE: i32 = -308;
/// How long QEMU may take for the greeting.
const PATIENCE: Duration = Duration::from_secs(10);
/// A desktop's name is short.
const LONGEST_NAME: usize = 4096;

/// The connection.
pub(super) struct Resizer {
    stream: UnixStream,
}

impl Resizer {
    /// Connects to QEMU's VNC server at `socket`.
    pub(super) fn connect(socket: &Path) -> Result<Self, MachineError> {
        let failed = |error| MachineError::system("cannot reach QEMU's display", error);
        let stream = UnixStream::connect(socket).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        let mut resizer = Self { stream };
        resizer.greet().map_err(failed)?;
        resizer.stream.set_nonblocking(true).map_err(failed)?;
        Ok(resizer)
    }

    fn greet(&mut self) -> io::Result<()> {
        let odd = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let mut version = [0; 12];
        self.stream.read_exact(&mut version)?;
        if &version != VERSION {
            return Err(odd("VNC of another version"));
        }
        self.stream.write_all(VERSION)?;
        let mut count = [0];
        self.stream.read_exact(&mut count)?;
        let mut kinds = vec![0; count[0].into()];
        self.stream.read_exact(&mut kinds)?;
        if !kinds.contains(&NO_SECURITY) {
            return Err(odd("VNC with authentication"));
        }
        self.stream.write_all(&[NO_SECURITY])?;
        let mut result = [0; 4];
        self.stream.read_exact(&mut result)?;
        if result != [0; 4] {
            return Err(odd("VNC refused the connection"));
        }
        // Shared with others, of which there are none.
        self.stream.write_all(&[1])?;
        // Size, pixel format, length of the name.
        let mut start = [0; 24];
        self.stream.read_exact(&mut start)?;
        let length = u32::from_be_bytes([start[20], start[21], start[22], start[23]]) as usize;
        if length > LONGEST_NAME {
            return Err(odd("VNC with a name out of all proportion"));
        }
        self.stream.read_exact(&mut vec![0; length])?;
        let [a, b, c, d] = EXTENDED_DESKTOP_SIZE.to_be_bytes();
        self.stream.write_all(&[SET_ENCODINGS, 0, 0, 1, a, b, c, d])
    }

    /// Makes QEMU tell the guest that its screen should have another size.
    pub(super) fn tell(&mut self, size: Size) {
        // Sides are far below 65,536.
        let (width, height) = (size.width as u16, size.height as u16);
        let (width, height) = (width.to_be_bytes(), height.to_be_bytes());
        let mut message = vec![SET_DESKTOP_SIZE, 0];
        message.extend([width, height].concat());
        // One screen, number 0, at 0,0.
        message.extend([1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        message.extend([width, height].concat());
        message.extend([0; 4]);
        // What QEMU says about it is of no interest, but must not fill the socket.
        let mut said = [0; 4096];
        while matches!(self.stream.read(&mut said), Ok(1..)) {}
        if let Err(error) = self.stream.write_all(&message) {
            tracing::warn!(%error, "QEMU does not hear of the screen's size");
        }
    }
}
