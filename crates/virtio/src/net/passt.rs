//! User-mode networking by a passt process: it does the addressing (DHCP, NDP), the translation to
//! ordinary sockets of the host, and needs no privilege.
#![allow(unsafe_code)]

use super::backend::{Backend, Frame, LinkDown, Next, Offloads, Sent};
use super::stream::Stream;
use crate::scatter::Writable;
use rustix::io::FdFlags;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The MTU passt gives its guests: the longest Ethernet payload it can carry in 32-bit words
/// (passt(1), `--mtu`). Long frames spare both sides work, as segmentation would.
const MTU: u16 = 65520;

/// Kernel memory for frames on their way to passt: a few of the longest.
const SOCKET_BYTES: usize = 512 * 1024;

/// passt cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum PasstError {
    /// There is no such program.
    #[error("passt is not installed (looked for {program:?}); install the package passt")]
    Missing {
        /// What was looked for.
        program: String,
    },
    /// The system refused.
    #[error("cannot start passt: {0}")]
    Start(#[from] io::Error),
}

/// The process and the socket to it. It ends when the socket closes, so it never outlives us.
pub struct Passt {
    stream: Stream,
    child: Child,
}

impl Passt {
    /// Starts `program` (`passt`, or a path to it) with `arguments` behind our own, such as port
    /// forwards.
    ///
    /// # Errors
    /// It is not installed, or the system gives no process. A passt that starts and then gives up
    /// shows as a link that goes down.
    pub fn start(program: &str, arguments: &[String]) -> Result<Self, PasstError> {
        let (ours, theirs) = UnixStream::pair()?;
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&ours, SOCKET_BYTES);
        let descriptor = theirs.as_raw_fd();
        let mut command = Command::new(program);
        command
            .args(["--foreground", "--quiet", "--stderr", "--fd"])
            .arg(descriptor.to_string())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        // SAFETY: runs in the child between fork and exec and only makes one system call, on a
        // descriptor `theirs` keeps open until after the spawn.
        unsafe {
            command.pre_exec(move || {
                let theirs = BorrowedFd::borrow_raw(descriptor);
                rustix::io::fcntl_setfd(theirs, FdFlags::empty())?;
                Ok(())
            });
        }
        let child = command.spawn().map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                PasstError::Missing {
                    program: program.to_owned(),
                }
            } else {
                error.into()
            }
        })?;
        drop(theirs);
        Ok(Self {
            stream: Stream::new(OwnedFd::from(ours), MTU),
            child,
        })
    }

    /// The process, for whoever watches it.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Adds what became of the process to what became of the socket.
    fn explain(&mut self, down: LinkDown) -> LinkDown {
        // It may still be on its way out; the link is down anyway, so a moment costs nothing.
        for _ in 0..20 {
            if let Ok(Some(status)) = self.child.try_wait() {
                return LinkDown {
                    reason: format!("passt ended ({status}): {}", down.reason),
                };
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        LinkDown {
            reason: format!("passt: {}", down.reason),
        }
    }
}

impl Drop for Passt {
    fn drop(&mut self) {
        // It would end by itself once the socket closes; waiting for it needs certainty.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Backend for Passt {
    fn describe(&self) -> String {
        format!("passt, process {}", self.child.id())
    }

    fn mtu(&self) -> Option<u16> {
        self.stream.mtu()
    }

    fn offloads(&self) -> bool {
        self.stream.offloads()
    }

    fn set_offloads(&mut self, offloads: Offloads) -> io::Result<()> {
        self.stream.set_offloads(offloads)
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.stream.descriptor()
    }

    fn send(&mut self, frames: &[Frame<'_>]) -> Result<Sent, LinkDown> {
        self.stream.send(frames).map_err(|down| self.explain(down))
    }

    fn next(&mut self) -> Result<Next, LinkDown> {
        self.stream.next().map_err(|down| self.explain(down))
    }

    fn receive(&mut self, room: &mut Writable<'_>, rest: &mut Vec<u8>) -> Result<usize, LinkDown> {
        self.stream.receive(room, rest)
    }
}
