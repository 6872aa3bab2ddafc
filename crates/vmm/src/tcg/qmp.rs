//! QEMU's machine protocol: one JSON document per line, commands answered in order, events at any
//! time (QEMU docs/interop/qmp-spec). What QEMU says is not trusted to be well formed.

use crate::MachineError;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long QEMU may think about a command. A busy host and a snapshot of a large disk take
/// seconds; minutes mean that it hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest line taken; the largest answer asked for here has a few KiB per vCPU.
const LONGEST_LINE: u64 = 16 << 20;

/// A message about something that happened.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Event {
    /// Its name, e.g. `SHUTDOWN`.
    pub(super) name: String,
    /// Its facts; null when it has none.
    pub(super) data: Value,
}

/// QEMU's answer to one command.
#[derive(Debug)]
struct Reply {
    id: u64,
    result: Result<Value, String>,
}

/// What a line may be.
#[derive(Debug)]
enum Message {
    Greeting(Value),
    Reply(Reply),
    Event(Event),
}

/// The version QEMU greets with.
pub(super) type Version = (u64, u64, u64);

/// A connection to QEMU's monitor.
pub(super) struct Qmp {
    session: Mutex<Session>,
    version: Version,
}

struct Session {
    stream: UnixStream,
    replies: Receiver<Reply>,
    last_id: u64,
}

impl Qmp {
    /// Waits for the greeting, agrees on the protocol, and gives every event to `on_event` from a
    /// thread of its own, which ends when QEMU hangs up.
    ///
    /// # Errors
    /// QEMU hung up or does not speak the protocol.
    pub(super) fn connect(
        stream: UnixStream,
        on_event: impl Fn(Event) + Send + 'static,
    ) -> Result<(Self, JoinHandle<()>), MachineError> {
        let system = |e| MachineError::system("cannot talk to QEMU", e);
        stream.set_read_timeout(Some(PATIENCE)).map_err(system)?;
        let mut lines = Lines(BufReader::new(stream.try_clone().map_err(system)?));
        let version = loop {
            match lines.next().map_err(|e| failed("no greeting", &e))? {
                Some(Message::Greeting(version)) => break version_of(&version),
                Some(_) => {}
                None => return Err(failed("no greeting", &"it hung up")),
            }
        };
        stream.set_read_timeout(None).map_err(system)?;
        let (sender, replies) = channel();
        let reader = std::thread::Builder::new()
            .name("qmp".to_owned())
            .spawn(move || read(lines, &sender, on_event))
            .map_err(|e| MachineError::system("cannot start a thread", e))?;
        let qmp = Self { session: Mutex::new(Session { stream, replies, last_id: 0 }), version };
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok((qmp, reader))
    }

    /// QEMU's version.
    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// Runs a command and waits for its answer.
    ///
    /// # Errors
    /// QEMU refused, hung up, or does not answer.
    pub(super) fn execute(&self, command: &str, arguments: Value) -> Result<Value, MachineError> {
        self.execute_with(command, arguments, None)
    }

    /// As [`Self::execute`], with a descriptor for QEMU.
    ///
    /// # Errors
    /// As for [`Self::execute`].
    pub(super) fn execute_with(
        &self,
        command: &str,
        arguments: Value,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<Value, MachineError> {
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        session.last_id += 1;
        let id = session.last_id;
        let mut line = json!({"execute": command, "arguments": arguments, "id": id}).to_string();
        line.push('\n');
        let mut rest = line.as_bytes();
        if let Some(descriptor) = descriptor {
            let sent = send_with(&session.stream, rest, descriptor);
            rest = &rest[sent.map_err(|e| failed(command, &e))?..];
        }
        session.stream.write_all(rest).map_err(|e| failed(command, &e))?;
        loop {
            match session.replies.recv_timeout(PATIENCE) {
                // An answer to a command that was given up earlier.
                Ok(reply) if reply.id != id => {}
                Ok(reply) => return reply.result.map_err(|why| failed(command, &why)),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(failed(command, &"it does not answer"));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(failed(command, &"it has ended"));
                }
            }
        }
    }
}

/// Sends as much as goes, the descriptor with it.
fn send_with(
    stream: &UnixStream,
    bytes: &[u8],
    descriptor: BorrowedFd<'_>,
) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    // There is room for one.
    let _ = control.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
}

fn failed(command: &str, why: &dyn std::fmt::Display) -> MachineError {
    MachineError::Child { program: "qemu-system-x86_64", reason: format!("{command}: {why}") }
}

fn version_of(greeting: &Value) -> Version {
    let number = |name| greeting["qemu"][name].as_u64().unwrap_or(0);
    (number("major"), number("minor"), number("micro"))
}

fn read<R: Read>(mut lines: Lines<R>, replies: &Sender<Reply>, on_event: impl Fn(Event)) {
    loop {
        match lines.next() {
            // Nobody waits for it when the machine is going away.
            Ok(Some(Message::Reply(reply))) => drop(replies.send(reply)),
            Ok(Some(Message::Event(event))) => on_event(event),
            Ok(Some(Message::Greeting(_))) => {}
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "QEMU's monitor is lost");
                return;
            }
        }
    }
}

/// Messages from a stream; lines that are none are logged and skipped.
struct Lines<R>(BufReader<R>);

impl<R: Read> Lines<R> {
    /// `None` at the end of the stream.
    fn next(&mut self) -> io::Result<Option<Message>> {
        let mut line = Vec::new();
        loop {
            line.clear();
            self.0.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line)?;
            match line.last() {
                None => return Ok(None),
                Some(b'\n') => {}
                Some(_) if line.len() as u64 == LONGEST_LINE => {
                    return Err(io::Error::other("a line longer than 16 MiB"));
                }
                Some(_) => return Ok(None),
            }
            match message(&line) {
                Some(message) => return Ok(Some(message)),
                None => tracing::debug!(
                    line = %String::from_utf8_lossy(&line[..line.len().min(200)]),
                    "not understood"
                ),
            }
        }
    }
}

fn message(line: &[u8]) -> Option<Message> {
    let mut value: Value = serde_json::from_slice(line).ok()?;
    if let Some(greeting) = value.get_mut("QMP") {
        return Some(Message::Greeting(greeting["version"].take()));
    }
    if let Some(name) = value.get("event").and_then(Value::as_str) {
        return Some(Message::Event(Event {
            name: name.to_owned(),
            data: value.get("data").cloned().unwrap_or(Value::Null),
        }));
    }
    let id = value.get("id")?.as_u64()?;
    let result = if let Some(answer) = value.get_mut("return") {
        Ok(answer.take())
    } else {
        let why = value.get("error")?.get("desc")?.as_str()?;
        Err(why.to_owned())
    };
    Some(Message::Reply(Reply { id, result }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}}, "capabilities": []}}"#;

    /// A QEMU that says `before` its greeting and answers each command line with `answer`.
    fn qemu(
        before: &'static str,
        answer: impl Fn(&Value) -> String + Send + 'static,
    ) -> (UnixStream, JoinHandle<()>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let thread = std::thread::spawn(move || {
            let mut theirs = theirs;
            writeln!(theirs, "{before}{GREETING}").unwrap();
            let commands = BufReader::new(theirs.try_clone().unwrap());
            for line in commands.lines().map_while(Result::ok) {
                let command: Value = serde_json::from_str(&line).unwrap();
                let text = if command["execute"] == "qmp_capabilities" {
                    format!("{{\"return\": {{}}, \"id\": {}}}\n", command["id"])
                } else {
                    answer(&command)
                };
                if theirs.write_all(text.as_bytes()).is_err() {
                    return;
                }
            }
        });
        (ours, thread)
    }

    #[test]
    fn commands_are_answered_and_events_reported() {
        let (stream, _qemu) = qemu("", |command| {
            format!(
                "{{\"event\": \"STOP\", \"data\": {{\"a\": 1}}}}\n{{\"return\": [7], \"id\": {}}}\n",
                command["id"]
            )
        });
        let events = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&events);
        let (qmp, _reader) =
            Qmp::connect(stream, move |event| seen.lock().unwrap().push(event)).unwrap();
        assert_eq!(qmp.version(), (10, 0, 2));
        assert_eq!(qmp.execute("stop", json!({})).unwrap(), json!([7]));
        let stop = Event { name: "STOP".to_owned(), data: json!({"a": 1}) };
        assert_eq!(*events.lock().unwrap(), [stop]);
    }

    #[test]
    fn garbage_between_messages_is_skipped() {
        let (stream, _qemu) = qemu("not json\n{}\n[1,2]\n\u{fffd}\n", |command| {
            format!(
                "{{\"return\": 1}}\n{{\"id\": \"x\"}}\n\n{{\"return\": 2, \"id\": {}}}\n",
                command["id"]
            )
        });
        let (qmp, _reader) = Qmp::connect(stream, |_| {}).unwrap();
        assert_eq!(qmp.execute("x", json!({})).unwrap(), json!(2));
    }

    #[test]
    fn a_refusal_says_which_command_and_why() {
        let (stream, _qemu) = qemu("", |command| {
            format!(
                "{{\"error\": {{\"class\": \"GenericError\", \"desc\": \"no balloon\"}}, \"id\": {}}}\n",
                command["id"]
            )
        });
        let (qmp, _reader) = Qmp::connect(stream, |_| {}).unwrap();
        let error = qmp.execute("balloon", json!({})).unwrap_err().to_string();
        assert!(error.contains("balloon: no balloon"), "{error}");
    }

    #[test]
    fn a_qemu_that_hangs_up_is_noticed() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(Qmp::connect(ours, |_| {}).is_err());
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"{\"QMP\": {\"version\"").unwrap();
        drop(theirs);
        assert!(Qmp::connect(ours, |_| {}).is_err());
    }

    #[test]
    fn any_bytes_are_survived() {
        let mut seed = 7u64;
        for _ in 0..2000 {
            let mut bytes = Vec::new();
            for _ in 0..64 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let alphabet = b"{}[]\":,\n \\eventiddatarurQMP0129\xff\x00";
                bytes.push(alphabet[(seed >> 33) as usize % alphabet.len()]);
            }
            let mut lines = Lines(BufReader::new(&bytes[..]));
            while let Ok(Some(_)) = lines.next() {}
        }
    }
}
