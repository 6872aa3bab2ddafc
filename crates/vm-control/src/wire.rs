//! The lines themselves: one JSON document per line, bounded, over any stream. Everything here
//! blocks; a caller in an async runtime uses a blocking thread.

use crate::{LaunchSpec, Reply, Request};
use passing::Passing;
use rustix::fs::{FileType, SealFlags};
use serde::{Serialize, de::DeserializeOwned};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest line either side accepts, in bytes. An `inspect` tree is the largest document.
pub const MAX_LINE: usize = 4 << 20;

/// A failure to speak with a VM process.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// No process listens there.
    #[error("cannot connect to {path}: {source}")]
    Connect {
        /// The control socket.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// The stream broke, or no answer came within the time allowed.
    #[error("{operation} on the control socket failed: {source}")]
    Stream {
        /// What was tried.
        operation: &'static str,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// The other side closed the stream.
    #[error("the control socket was closed before an answer came")]
    Closed,
    /// A line above [`MAX_LINE`].
    #[error("a control line is longer than {MAX_LINE} bytes")]
    TooLong,
    /// The process refuses; the text is for a person.
    #[error("{0}")]
    Refused(String),
    /// What came as window memory is none that can be mapped without danger.
    #[error("the VM process's window memory is not to be used: {0}")]
    WindowMemory(&'static str),
    /// A line that is not the JSON document expected.
    #[error("a control line is not understood: {0}")]
    Malformed(#[from] serde_json::Error),
}

fn stream_error(operation: &'static str) -> impl FnOnce(io::Error) -> WireError {
    move |source| WireError::Stream { operation, source }
}

/// Writes `document` as one line.
///
/// # Errors
/// The stream broke.
pub fn write_line<T: Serialize>(to: &mut impl Write, document: &T) -> Result<(), WireError> {
    let mut line = serde_json::to_vec(document)?;
    line.push(b'\n');
    to.write_all(&line).map_err(stream_error("write"))?;
    to.flush().map_err(stream_error("write"))
}

/// Reads one line without its end, or `None` at the end of the stream. Takes no byte beyond the
/// line out of `from`.
///
/// # Errors
/// The stream broke, or the line is longer than [`MAX_LINE`].
pub fn read_line(from: &mut impl BufRead) -> Result<Option<Vec<u8>>, WireError> {
    let mut line = Vec::new();
    let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
    from.take(limit).read_until(b'\n', &mut line).map_err(stream_error("read"))?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => {
            line.pop();
            Ok(Some(line))
        }
        Some(_) if line.len() >= MAX_LINE => Err(WireError::TooLong),
        // The stream ended inside a line: what is there may still be a whole document.
        Some(_) => Ok(Some(line)),
    }
}

fn read_document<T: DeserializeOwned>(from: &mut impl BufRead) -> Result<Option<T>, WireError> {
    match read_line(from)? {
        None => Ok(None),
        Some(line) => Ok(Some(serde_json::from_slice(&line)?)),
    }
}

impl LaunchSpec {
    /// Sends the specification as the first line of a VM process's standard input. What follows
    /// it on that stream is the keyboard of a foreground VM.
    ///
    /// # Errors
    /// The stream broke.
    pub fn write_to(&self, to: &mut impl Write) -> Result<(), WireError> {
        write_line(to, self)
    }

    /// Reads the specification from the first line of `from`; the bytes behind that line stay in
    /// `from` for the console.
    ///
    /// # Errors
    /// Nothing there, or not a specification of this release.
    pub fn read_from(from: &mut impl BufRead) -> Result<Self, WireError> {
        read_document(from)?.ok_or(WireError::Closed)
    }
}

/// The asking side of a control socket.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<Passing>,
}

impl Client {
    /// Connects to the control socket at `path`. Each later question fails when no answer comes
    /// within `patience`.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(path: &Path, patience: Duration) -> Result<Self, WireError> {
        let connect = || {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(patience))?;
            stream.set_write_timeout(Some(patience))?;
            Ok(stream)
        };
        let stream =
            connect().map_err(|source| WireError::Connect { path: path.to_owned(), source })?;
        Ok(Self::over(stream))
    }

    fn over(stream: UnixStream) -> Self {
        Self { stream: BufReader::new(Passing::new(stream)) }
    }

    /// Asks for the window memory.
    ///
    /// # Errors
    /// As [`Client::ask`]; the VM has none; what came is no file that keeps the length that was told
    /// (whoever maps one that shrinks is killed by its next look).
    pub fn window_memory(&mut self) -> Result<WindowMemory, WireError> {
        let (offset, length) = match self.ask(&Request::WindowMemory)? {
            Reply::WindowMemory { offset, length } => (offset, length),
            Reply::Refused { message } => return Err(WireError::Refused(message)),
            _ => return Err(WireError::WindowMemory("the answer is to another question")),
        };
        let wrong = WireError::WindowMemory;
        let file = self.stream.get_mut().take_descriptor().ok_or(wrong("no file came with it"))?;
        if length == 0 || offset.checked_add(length).is_none() {
            return Err(wrong("it has no place in its file"));
        }
        if is_pool(&file) {
            // A device keeps its size, and what lies where in it is not to be seen from outside.
            return Ok(WindowMemory { file, offset, length });
        }
        let seals = rustix::fs::fcntl_get_seals(&file).unwrap_or(SealFlags::empty());
        if !seals.contains(SealFlags::SHRINK) {
            return Err(wrong("its file may shrink"));
        }
        let size = rustix::fs::fstat(&file).map_or(0, |status| status.st_size);
        if offset != 0 || u64::try_from(size) != Ok(length) {
            return Err(wrong("its file has another length"));
        }
        Ok(WindowMemory { file, offset, length })
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// The stream broke, the process ended, or no answer came in time.
    pub fn ask(&mut self, request: &Request) -> Result<Reply, WireError> {
        write_line(&mut self.stream.get_ref().stream(), request)?;
        read_document(&mut self.stream)?.ok_or(WireError::Closed)
    }
}

/// The memory in which a guest draws its windows.
#[derive(Debug)]
pub struct WindowMemory {
    /// Its file, which keeps its length.
    pub file: OwnedFd,
    /// Where it begins in the file.
    pub offset: u64,
    /// Its bytes.
    pub length: u64,
}

/// Whether it is memory the kernel shows as a device (`dax`), as the core's pool is.
fn is_pool(file: &OwnedFd) -> bool {
    let Ok(status) = rustix::fs::fstat(file) else { return false };
    let character = FileType::from_raw_mode(status.st_mode) == FileType::CharacterDevice;
    let (major, minor) = (rustix::fs::major(status.st_rdev), rustix::fs::minor(status.st_rdev));
    let kind = std::fs::read_link(format!("/sys/dev/char/{major}:{minor}/subsystem"));
    character && kind.is_ok_and(|kind| kind.file_name().is_some_and(|name| name == "dax"))
}

/// Answers every line of one client with `handle` until the client hangs up. A line that is no
/// request is answered [`Reply::Refused`] and the conversation goes on.
///
/// # Errors
/// The stream broke, or the client sent an endless line.
pub fn serve(
    stream: UnixStream,
    mut handle: impl FnMut(Request) -> Reply,
) -> Result<(), WireError> {
    let mut stream = BufReader::new(stream);
    while let Some(line) = read_line(&mut stream)? {
        let reply = match serde_json::from_slice(&line) {
            Ok(request) => handle(request),
            Err(error) => Reply::Refused {
                message: format!(
                    "the request is not understood ({error}); this process speaks version {}",
                    crate::VERSION
                ),
            },
        };
        write_line(stream.get_mut(), &reply)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Phase, Status};
    use std::os::fd::{AsFd, BorrowedFd};

    fn conversation(handle: impl FnMut(Request) -> Reply + Send + 'static) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(move || serve(theirs, handle));
        ours
    }

    fn client(stream: UnixStream) -> Client {
        Client::over(stream)
    }

    #[test]
    fn every_question_gets_its_answer_in_order() {
        let mut client = client(conversation(|request| match request {
            Request::Status => Reply::Status(Status {
                version: crate::VERSION,
                name: "a".into(),
                phase: Phase::Paused,
                engine: "kvm".into(),
                pid: 1,
                uptime: 2,
                memory: 3,
                cpus: 4,
            }),
            Request::Balloon { target } => Reply::Refused { message: target.to_string() },
            _ => Reply::Done,
        }));
        assert_eq!(client.ask(&Request::Pause).unwrap(), Reply::Done);
        let Reply::Status(status) = client.ask(&Request::Status).unwrap() else {
            panic!("status expected")
        };
        assert_eq!(status.phase, Phase::Paused);
        assert_eq!(
            client.ask(&Request::Balloon { target: 7 }).unwrap(),
            Reply::Refused { message: "7".into() }
        );
    }

    #[test]
    fn a_line_that_is_no_request_is_refused_and_the_next_is_answered() {
        let mut stream = conversation(|_| Reply::Done);
        stream.write_all(b"{\"request\":\"dance\"}\n").unwrap();
        let mut client = client(stream);
        let refused: Reply = read_document(&mut client.stream).unwrap().unwrap();
        assert!(matches!(refused, Reply::Refused { .. }));
        assert_eq!(client.ask(&Request::Resume).unwrap(), Reply::Done);
    }

    /// A process that answers the question for window memory so.
    fn process(line: &str, files: &[BorrowedFd<'_>]) -> Client {
        let (ours, theirs) = UnixStream::pair().unwrap();
        passing::send(&theirs, line.as_bytes(), files).unwrap();
        // Kept open, so that the question finds somebody.
        std::mem::forget(theirs);
        Client::over(ours)
    }

    fn memory(seals: SealFlags) -> OwnedFd {
        use rustix::fs::{MemfdFlags, fcntl_add_seals, ftruncate, memfd_create};
        let file = memfd_create("test", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 4096).unwrap();
        fcntl_add_seals(&file, seals).unwrap();
        file
    }

    #[test]
    fn window_memory_comes_with_its_line() {
        let file = memory(SealFlags::SHRINK);
        let line = "{\"reply\":\"window-memory\",\"length\":4096}\n";
        let came = process(line, &[file.as_fd()]).window_memory().unwrap();
        assert_eq!((came.offset, came.length), (0, 4096));
        let inode = |file| rustix::fs::fstat(file).unwrap().st_ino;
        assert_eq!(inode(&came.file), inode(&file));
    }

    #[test]
    fn window_memory_that_could_kill_whoever_maps_it_is_refused() {
        let line = "{\"reply\":\"window-memory\",\"length\":4096}\n";
        let longer = line.replace("4096", "8192");
        let none = line.replace("4096", "0");
        let elsewhere = line.replace("4096", "4096,\"offset\":4096");
        let sealed = memory(SealFlags::SHRINK);
        let open = memory(SealFlags::GROW);
        let device: OwnedFd = std::fs::File::open("/dev/zero").unwrap().into();
        for (line, file) in [
            (line, None),
            (line, Some(&open)),
            (line, Some(&device)),
            (longer.as_str(), Some(&sealed)),
            (none.as_str(), Some(&sealed)),
            (elsewhere.as_str(), Some(&sealed)),
            ("{\"reply\":\"done\"}\n", Some(&sealed)),
        ] {
            let files: Vec<_> = file.into_iter().map(AsFd::as_fd).collect();
            let error = process(line, &files).window_memory().unwrap_err();
            assert!(matches!(error, WireError::WindowMemory(_)), "{line}: {error}");
        }
    }

    #[test]
    fn a_vm_without_window_memory_says_so() {
        let line = "{\"reply\":\"refused\",\"message\":\"none\"}\n";
        let error = process(line, &[]).window_memory().unwrap_err();
        assert!(matches!(error, WireError::Refused(message) if message == "none"));
    }

    #[test]
    fn an_endless_line_is_not_collected() {
        let endless = io::repeat(b'x');
        assert!(matches!(read_line(&mut BufReader::new(endless)), Err(WireError::TooLong)));
    }

    #[test]
    fn the_keyboard_follows_the_launch_specification() {
        let definition = serde_json::from_str(r#"{"name":"a","memory":16,"cpus":1}"#).unwrap();
        let spec = LaunchSpec {
            version: crate::VERSION,
            definition,
            engine: definition::EngineChoice::Kvm,
            runtime: "/r".into(),
            state: "/s".into(),
            foreground: true,
            agent_token: None,
            timeout: None,
        };
        let mut input = Vec::new();
        spec.write_to(&mut input).unwrap();
        input.extend_from_slice(b"typed");
        let mut input = &input[..];
        assert_eq!(LaunchSpec::read_from(&mut input).unwrap(), spec);
        assert_eq!(input, b"typed");
    }
}
