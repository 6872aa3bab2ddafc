//! The lines themselves: one JSON document per line, bounded, over any stream. Everything here
//! blocks; a caller in an async runtime uses a blocking thread.

use crate::{LaunchSpec, Reply, Request};
use serde::{Serialize, de::DeserializeOwned};
use std::io::{self, BufRead, BufReader, Read, Write};
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
    stream: BufReader<UnixStream>,
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
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// The stream broke, the process ended, or no answer came in time.
    pub fn ask(&mut self, request: &Request) -> Result<Reply, WireError> {
        write_line(self.stream.get_mut(), request)?;
        read_document(&mut self.stream)?.ok_or(WireError::Closed)
    }
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

    fn conversation(handle: impl FnMut(Request) -> Reply + Send + 'static) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(move || serve(theirs, handle));
        ours
    }

    fn client(stream: UnixStream) -> Client {
        Client { stream: BufReader::new(stream) }
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
