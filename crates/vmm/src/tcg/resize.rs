//! Tells the guest of a new screen size on QEMU's behalf.
//!
//! With a graphics device served over vhost-user the bit `events_read` and its interrupt stay with
//! QEMU, which sets them only when one of QEMU's own displays changes size, and refuses changes by
//! the back end (QEMU 10, hw/display/vhost-user-gpu.c). Of QEMU's displays one takes this device's
//! console without a GPU of the host: D-Bus. So there is one, peer to peer over a socket pair, with
//! one method called on it and nothing looked at. The guest then asks our device, which knows the
//! size.

use super::qmp::Qmp;
use crate::MachineError;
use display::Size;
use serde_json::json;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long QEMU may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// The longest message taken (QEMU's have some hundred bytes).
const LONGEST_MESSAGE: usize = 1 << 20;
/// The longest line of the authentication.
const LONGEST_LINE: u64 = 4096;

/// Message types and flags (D-Bus specification, "Message Format").
const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const NO_REPLY_EXPECTED: u8 = 1;

/// The one method (QEMU, ui/dbus-display1.xml) of the first console.
const PATH: &str = "/org/qemu/Display1/Console_0";
const INTERFACE: &str = "org.qemu.Display1.Console";
const MEMBER: &str = "SetUIInfo";
/// Width and height in millimetres, offsets, width and height in pixels.
const SIGNATURE: &str = "qqiiuu";

/// Whether this QEMU has the display; a package of its own on some systems.
pub(super) fn available(qemu: &str) -> bool {
    let asked = Command::new(qemu).args(["-display", "help"]).stdin(Stdio::null()).output();
    asked.is_ok_and(|output| output.stdout.split(|byte| *byte == b'\n').any(|line| line == b"dbus"))
}

/// The connection.
pub(super) struct Resizer {
    stream: UnixStream,
    serial: u32,
}

impl Resizer {
    /// Becomes the one client of QEMU's display; the screen has `size` at first.
    ///
    /// # Errors
    /// QEMU refuses it.
    pub(super) fn connect(qmp: &Qmp, size: Size) -> Result<Self, MachineError> {
        let failed = |error| MachineError::system("cannot reach QEMU's display", error);
        let (stream, theirs) = UnixStream::pair().map_err(failed)?;
        qmp.execute_with("getfd", json!({"fdname": "screen"}), Some(theirs.as_fd()))?;
        qmp.execute("add_client", json!({"protocol": "@dbus-display", "fdname": "screen"}))?;
        drop(theirs);
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        let mut resizer = Self { stream, serial: 0 };
        resizer.greet().map_err(failed)?;
        resizer.ask(size).map_err(failed)?;
        resizer.stream.set_nonblocking(true).map_err(failed)?;
        Ok(resizer)
    }

    /// D-Bus specification, "Authentication Protocol": as the user this process runs as.
    fn greet(&mut self) -> io::Result<()> {
        let user = rustix::process::geteuid().as_raw().to_string();
        let user: String = user.bytes().map(|digit| format!("{digit:02x}")).collect();
        self.stream.write_all(format!("\0AUTH EXTERNAL {user}\r\n").as_bytes())?;
        let mut line = String::new();
        // Nothing follows the line before we begin, so that no byte is lost with the buffer.
        BufReader::new((&self.stream).take(LONGEST_LINE)).read_line(&mut line)?;
        if !line.starts_with("OK ") {
            return Err(odd(&format!("it answers {:?}", line.trim_end())));
        }
        self.stream.write_all(b"BEGIN\r\n")
    }

    /// Calls and waits for the answer.
    fn ask(&mut self, size: Size) -> io::Result<()> {
        let call = self.call(size, 0);
        self.stream.write_all(&call)?;
        loop {
            match self.message()? {
                METHOD_RETURN => return Ok(()),
                ERROR => return Err(odd("it does not take the size of the screen")),
                // Signals.
                _ => {}
            }
        }
    }

    /// Takes one message; says its type.
    fn message(&mut self) -> io::Result<u8> {
        let mut head = [0; 16];
        self.stream.read_exact(&mut head)?;
        let number = |at: usize| {
            let bytes = [head[at], head[at + 1], head[at + 2], head[at + 3]];
            if head[0] == b'l' { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) }
        };
        let (body, fields) = (number(4) as usize, number(12) as usize);
        if body > LONGEST_MESSAGE || fields > LONGEST_MESSAGE {
            return Err(odd("a message out of all proportion"));
        }
        let mut rest = vec![0; fields.next_multiple_of(8) + body];
        self.stream.read_exact(&mut rest)?;
        Ok(head[1])
    }

    fn call(&mut self, size: Size, flags: u8) -> Vec<u8> {
        self.serial = self.serial.wrapping_add(1).max(1);
        call(self.serial, size, flags)
    }

    /// Makes QEMU tell the guest that its screen should have another size.
    pub(super) fn tell(&mut self, size: Size) {
        // What QEMU says about it is of no interest, but must not fill the socket.
        let mut said = [0; 4096];
        while matches!(self.stream.read(&mut said), Ok(1..)) {}
        let call = self.call(size, NO_REPLY_EXPECTED);
        if let Err(error) = self.stream.write_all(&call) {
            tracing::warn!(%error, "QEMU does not hear of the screen's size");
        }
    }
}

fn odd(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("QEMU's display: {what}"))
}

/// The method call as a message (D-Bus specification, "Message Format" and "Marshaling").
fn call(serial: u32, size: Size, flags: u8) -> Vec<u8> {
    let mut body = vec![0; 12];
    body.extend_from_slice(&size.width.to_le_bytes());
    body.extend_from_slice(&size.height.to_le_bytes());
    let mut fields = Vec::new();
    // Path, interface, member, signature: each a byte and a variant, at a multiple of 8.
    for (code, kind, text) in
        [(1, b'o', PATH), (2, b's', INTERFACE), (3, b's', MEMBER), (8, b'g', SIGNATURE)]
    {
        fields.resize(usize::next_multiple_of(fields.len(), 8), 0);
        fields.extend_from_slice(&[code, 1, kind, 0]);
        if kind == b'g' {
            fields.push(text.len() as u8);
        } else {
            fields.extend_from_slice(&(text.len() as u32).to_le_bytes());
        }
        fields.extend_from_slice(text.as_bytes());
        fields.push(0);
    }
    let mut message = vec![b'l', METHOD_CALL, flags, 1];
    for number in [body.len() as u32, serial, fields.len() as u32] {
        message.extend_from_slice(&number.to_le_bytes());
    }
    message.extend_from_slice(&fields);
    message.resize(message.len().next_multiple_of(8), 0);
    message.extend_from_slice(&body);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_says_how_long_its_parts_are() {
        let message = call(7, Size::new(800, 600).unwrap(), NO_REPLY_EXPECTED);
        let word = |at: usize| u32::from_le_bytes(message[at..at + 4].try_into().unwrap()) as usize;
        assert_eq!(message[..4], *b"l\x01\x01\x01");
        assert_eq!((word(4), word(8)), (20, 7));
        assert_eq!(message.len(), (16 + word(12)).next_multiple_of(8) + 20);
        assert_eq!((word(message.len() - 8), word(message.len() - 4)), (800, 600));
    }
}
