//! A process beside the VM process that may do one thing the VM process may not: connect to the
//! sockets on which programs of the host listen for the guest, `vsock.sock_PORT` in the VM's runtime
//! folder. It is asked for a port, connects, and passes the connection back.
//!
//! It trusts nobody: the name is made from the port, in a folder it opened before, and what bears
//! the name must be a socket itself, not a link to one. It has walls of its own, and ends when the
//! VM process closes its end or dies.
#![allow(unsafe_code)]

use super::{every_thread, sandbox};
use crate::MachineError;
use rustix::fs::{FileType, Mode, OFlags, fstat, open, openat};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv,
    recvmsg, sendmsg, socket_with, socketpair, sockopt,
};
use std::ffi::CStr;
use std::fmt::Write;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use virtio::vsock::HostPorts;

/// How long an answer may take. A connection is made at once or not at all.
const PATIENCE: Duration = Duration::from_secs(5);
/// A request: its number and the port. An answer: the request's number and an error number, 0 with
/// a connection.
type Message = [u8; 8];

fn message(first: u32, second: u32) -> Message {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_ne_bytes());
    bytes[4..].copy_from_slice(&second.to_ne_bytes());
    bytes
}

fn fields(message: Message) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = message;
    (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]))
}

/// The VM process's end.
pub(super) struct Broker(Mutex<Connection>);

struct Connection {
    /// `None` once the broker did not answer.
    socket: Option<OwnedFd>,
    last: u32,
}

impl Broker {
    /// Makes the process. `device` is the path of the VM's vsock socket. Called before any thread
    /// is made, and before anything is open that the process must not keep.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) fn start(device: &Path) -> Result<Self, MachineError> {
        let failed = |e: Errno| MachineError::system("cannot make the vsock broker", e.into());
        let folder = device.parent().unwrap_or(device);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = open(folder, flags, Mode::empty())
            .map_err(|e| MachineError::file("cannot open", folder, e.into()))?;
        let name = device.file_name().unwrap_or_default();
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(failed)?;
        sockopt::set_socket_timeout(&ours, sockopt::Timeout::Recv, Some(PATIENCE))
            .map_err(failed)?;
        let serving =
            Serving { socket: theirs, folder, prefix: name.as_encoded_bytes().to_owned() };
        // All that needs memory is made before the fork.
        let walls = sandbox::broker_walls()?;
        let parent = rustix::process::getpid();
        // SAFETY: the child makes system calls on what was prepared above and never comes back.
        match unsafe { libc::fork() } {
            -1 => Err(MachineError::system(
                "cannot make the vsock broker",
                io::Error::last_os_error(),
            )),
            0 => {
                let parent = parent.as_raw_nonzero().get();
                // Nothing may unwind into the parent's code, of which this process has a copy.
                let served = catch_unwind(AssertUnwindSafe(|| serving.run(parent, &walls)));
                let code = i32::from(!matches!(served, Ok(Ok(()))));
                // SAFETY: ends the process at once; nothing of the parent's is cleaned up twice.
                unsafe { libc::_exit(code) }
            }
            _ => Ok(Self(Mutex::new(Connection { socket: Some(ours), last: 0 }))),
        }
    }
}

impl HostPorts for Broker {
    fn connect(&self, port: u32) -> io::Result<OwnedFd> {
        let mut connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        connection.last = connection.last.wrapping_add(1);
        let number = connection.last;
        let Some(socket) = &connection.socket else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        match ask(socket, number, port) {
            Ok(answer) => answer.map_err(Into::into),
            Err(error) => {
                tracing::error!(%error, "the vsock broker is lost: the guest reaches no host port");
                connection.socket = None;
                Err(error.into())
            }
        }
    }
}

/// The inner error is the connection's, the outer one the broker's.
fn ask(socket: &OwnedFd, number: u32, port: u32) -> Result<Result<OwnedFd, Errno>, Errno> {
    rustix::net::send(socket, &message(number, port), SendFlags::NOSIGNAL)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut answer: Message = [0; 8];
    let mut parts = [IoSliceMut::new(&mut answer)];
    let received = loop {
        match recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    let stream = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let (answered, error) = fields(answer);
    if received.bytes != answer.len() || answered != number {
        return Err(Errno::CONNRESET);
    }
    Ok(match (error, stream) {
        (0, Some(stream)) => Ok(stream),
        (0, None) => Err(Errno::MFILE),
        (error, _) => Err(Errno::from_raw_os_error(error as i32)),
    })
}

/// What the broker has; its prefix is the name of the device's socket.
struct Serving {
    socket: OwnedFd,
    folder: OwnedFd,
    prefix: Vec<u8>,
}

impl Serving {
    /// Runs in the new process: allocates nothing, takes no lock.
    fn run(&self, parent: i32, walls: &sandbox::BrokerWalls) -> Result<(), Errno> {
        // SAFETY: plain system calls on numbers.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            // The parent may have died before the line above.
            if libc::getppid() != parent {
                return Ok(());
            }
            libc::prctl(libc::PR_SET_NAME, c"vsock broker".as_ptr());
        }
        if let Some(ruleset) = &walls.files {
            check(every_thread::restrict_here(ruleset.as_raw_fd()))?;
        }
        self.close_the_rest();
        seccompiler::apply_filter(&walls.calls).map_err(|_| Errno::PERM)?;
        loop {
            let mut request: Message = [0; 8];
            match recv(&self.socket, &mut request, RecvFlags::empty()) {
                Ok((8, _)) => {}
                Err(Errno::INTR) => continue,
                // The VM process is gone, or speaks nonsense.
                Ok(_) => return Ok(()),
                Err(error) => return Err(error),
            }
            let (number, port) = fields(request);
            match self.connect(port) {
                Ok(stream) => self.answer(number, 0, Some(stream.as_fd()))?,
                Err(error) => self.answer(number, error.raw_os_error() as u32, None)?,
            }
        }
    }

    /// Leaves nothing open but the two descriptors it works with.
    fn close_the_rest(&self) {
        let (one, other) = (self.socket.as_raw_fd(), self.folder.as_raw_fd());
        let (low, high) = (one.min(other), one.max(other));
        for (first, last) in [(0, low - 1), (low + 1, high - 1), (high + 1, RawFd::MAX)] {
            if first <= last {
                // SAFETY: nothing in this process uses what it closes.
                unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
            }
        }
    }

    fn connect(&self, port: u32) -> Result<OwnedFd, Errno> {
        let mut name = Text::<128>::new();
        name.push(&self.prefix);
        let _ = write!(name, "_{port}");
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = openat(&self.folder, name.text()?, flags, Mode::empty())?;
        if FileType::from_raw_mode(fstat(&target)?.st_mode) != FileType::Socket {
            return Err(Errno::CONNREFUSED);
        }
        // By the descriptor: the name may mean another file by now.
        let mut path = Text::<32>::new();
        let _ = write!(path, "/proc/self/fd/{}", target.as_raw_fd());
        let stream = socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
            None,
        )?;
        connect(&stream, &SocketAddrUnix::new(path.text()?)?)?;
        Ok(stream)
    }

    fn answer(&self, number: u32, error: u32, stream: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if let Some(stream) = &stream {
            control.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(stream)));
        }
        let answer = message(number, error);
        let parts = [IoSlice::new(&answer)];
        sendmsg(&self.socket, &parts, &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

fn check(errno: i32) -> Result<(), Errno> {
    match errno {
        0 => Ok(()),
        errno => Err(Errno::from_raw_os_error(errno)),
    }
}

/// A text that needs no memory beyond itself; one that is too long is none.
struct Text<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Text<N> {
    fn new() -> Self {
        Self { bytes: [0; N], length: 0 }
    }

    fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if let Some(place) = self.bytes.get_mut(self.length) {
                *place = *byte;
            }
            self.length += 1;
        }
    }

    fn text(&self) -> Result<&CStr, Errno> {
        let bytes = self.bytes.get(..=self.length).ok_or(Errno::NAMETOOLONG)?;
        CStr::from_bytes_with_nul(bytes).map_err(|_| Errno::INVAL)
    }
}

impl<const N: usize> Write for Text<N> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};

    fn connected(broker: &Broker, port: u32) -> UnixStream {
        let stream = UnixStream::from(broker.connect(port).unwrap());
        stream.set_nonblocking(false).unwrap();
        stream
    }

    #[test]
    fn the_sockets_of_the_guests_host_ports_are_reached_one_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let device = folder.path().join("vsock.sock");
        let broker = Broker::start(&device).unwrap();
        for port in [5, u32::MAX, 5] {
            let path = folder.path().join(format!("vsock.sock_{port}"));
            let _ = std::fs::remove_file(&path);
            let listener = UnixListener::bind(&path).unwrap();
            let mut stream = connected(&broker, port);
            stream.write_all(b"from the guest").unwrap();
            drop(stream);
            let mut text = String::new();
            listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
            assert_eq!(text, "from the guest");
        }
    }

    #[test]
    fn no_other_socket_is_reached_neither_by_name_nor_by_link() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let broker = Broker::start(&folder.path().join("vsock.sock")).unwrap();
        let refused = |port| broker.connect(port).unwrap_err().raw_os_error();
        assert_eq!(refused(1), Some(libc::ENOENT));
        let other = outside.path().join("agent");
        let _listener = UnixListener::bind(&other).unwrap();
        std::os::unix::fs::symlink(&other, folder.path().join("vsock.sock_2")).unwrap();
        assert_eq!(refused(2), Some(libc::ECONNREFUSED));
        std::fs::write(folder.path().join("vsock.sock_3"), "").unwrap();
        assert_eq!(refused(3), Some(libc::ECONNREFUSED));
        drop(UnixListener::bind(folder.path().join("vsock.sock_4")).unwrap());
        assert_eq!(refused(4), Some(libc::ECONNREFUSED));
        // It goes on after each.
        let _listener = UnixListener::bind(folder.path().join("vsock.sock_5")).unwrap();
        connected(&broker, 5);
    }

    #[test]
    fn it_ends_with_the_vm_process_and_its_loss_costs_only_connections() {
        let folder = tempfile::tempdir().unwrap();
        let broker = Broker::start(&folder.path().join("vsock.sock")).unwrap();
        let socket = broker.0.lock().unwrap().socket.take().unwrap();
        // A request that is none ends it.
        rustix::net::send(&socket, b"?", SendFlags::empty()).unwrap();
        assert_eq!(recv(&socket, &mut [0; 8], RecvFlags::empty()), Ok((0, 0)));
        broker.0.lock().unwrap().socket = Some(socket);
        for _ in 0..2 {
            assert!(broker.connect(1).is_err());
        }
    }
}
