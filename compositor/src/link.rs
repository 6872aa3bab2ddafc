//! The connection to a guest's agent. A thread reads and decodes, so that a guest that sends much waits for
//! itself; what is said goes out at once, and what the guest does not take waits in a bounded buffer.

use proto::v1::{FromGuest, FromHost, from_guest, from_host};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use window_link::{Decoder, latency};

/// Most messages that are handed over together.
const BATCH: usize = 256;
/// Batches that wait to be taken.
const WAITING: usize = 2;
/// Bytes that are read at once.
const READ: usize = 64 << 10;
/// Most bytes that a guest may leave untaken.
const UNTAKEN: usize = 4 << 20;

/// What came.
#[derive(Debug)]
pub(crate) enum Heard {
    /// At most `BATCH` messages, not checked.
    Messages(Vec<FromGuest>),
    /// Nothing more will come, for this reason.
    End(String),
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Link {
    stream: UnixStream,
    heard: Receiver<Heard>,
    out: Arc<Out>,
}

#[derive(Debug, Default)]
struct Out {
    state: Mutex<Waiting>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// The thread has taken bytes and not written all of them.
    writing: bool,
    closed: bool,
}

impl Link {
    /// Speaks on `stream`; calls `wake` whenever something can be taken.
    ///
    /// # Errors
    /// The stream has no second handle, or there can be no more threads.
    pub(crate) fn new(
        stream: UnixStream,
        wake: impl Fn() + Send + 'static,
    ) -> std::io::Result<Self> {
        stream.set_nonblocking(false)?;
        let (sender, heard) = sync_channel(WAITING);
        let reading = stream.try_clone()?;
        let writing = stream.try_clone()?;
        let out = Arc::new(Out::default());
        let for_writer = Arc::clone(&out);
        std::thread::Builder::new()
            .name("guest-read".into())
            .spawn(move || read(reading, &sender, &wake))?;
        std::thread::Builder::new()
            .name("guest-write".into())
            .spawn(move || write(writing, &for_writer))?;
        Ok(Self { stream, heard, out })
    }

    /// What came next, if anything did.
    #[must_use]
    pub(crate) fn take(&self) -> Option<Heard> {
        match self.heard.try_recv() {
            Ok(heard) => Some(heard),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Heard::End("the reader has ended".into())),
        }
    }

    /// Says something. A guest that takes nothing is disconnected; the end comes as [`Heard::End`].
    pub(crate) fn say(&self, message: from_host::Message) {
        let mut bytes = Vec::new();
        if let Err(error) = window_link::encode(&FromHost { message: Some(message) }, &mut bytes) {
            tracing::error!("a message for the guest is not sent: {error}");
            return;
        }
        let mut waiting = self.out.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rest = &bytes[..];
        if waiting.bytes.is_empty() && !waiting.writing {
            use rustix::net::SendFlags;
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&self.stream, rest, flags) {
                Ok(sent) => rest = &rest[sent..],
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                // The reader meets the same end.
                Err(_) => return,
            }
        }
        if rest.is_empty() || waiting.closed {
            return;
        }
        if waiting.bytes.len() + rest.len() > UNTAKEN {
            tracing::warn!("the guest takes nothing of what it is told: it is disconnected");
            waiting.closed = true;
            let _ = self.stream.shutdown(Shutdown::Both);
        } else {
            waiting.bytes.extend_from_slice(rest);
        }
        self.out.more.notify_one();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let mut waiting = self.out.state.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.closed = true;
        self.out.more.notify_one();
        // Both threads end; the guest may have gone before.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

fn read(mut stream: UnixStream, heard: &SyncSender<Heard>, wake: &dyn Fn()) {
    let mut decoder = Decoder::<FromGuest>::default();
    let mut buffer = vec![0; READ];
    let end = loop {
        let bytes = match stream.read(&mut buffer) {
            Ok(0) => break "the agent has closed the connection".to_owned(),
            Ok(length) => &buffer[..length],
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => break format!("the connection broke: {error}"),
        };
        decoder.give(bytes);
        let mut end = None;
        while end.is_none() {
            let mut batch = Vec::new();
            while batch.len() < BATCH {
                match decoder.take() {
                    Ok(Some(message)) => batch.push(message),
                    Ok(None) => break,
                    Err(error) => {
                        end = Some(error.to_string());
                        break;
                    }
                }
            }
            let whole = batch.len() == BATCH;
            if latency::runs() && batch.iter().any(presents) {
                latency::pass("said", "read");
            }
            if !batch.is_empty() {
                // Nobody listens any longer.
                let Ok(()) = heard.send(Heard::Messages(batch)) else { return };
                wake();
            }
            if !whole {
                break;
            }
        }
        if let Some(end) = end {
            break end;
        }
    };
    let _ = stream.shutdown(Shutdown::Both);
    if heard.send(Heard::End(end)).is_ok() {
        wake();
    }
}

fn presents(message: &FromGuest) -> bool {
    matches!(message.message, Some(from_guest::Message::Present(_)))
}

fn write(mut stream: UnixStream, out: &Out) {
    loop {
        let mut waiting = out.state.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.writing = false;
        while waiting.bytes.is_empty() && !waiting.closed {
            waiting = out.more.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        if waiting.closed {
            return;
        }
        let bytes = std::mem::take(&mut waiting.bytes);
        waiting.writing = true;
        drop(waiting);
        if stream.write_all(&bytes).is_err() {
            let _ = stream.shutdown(Shutdown::Both);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Heard, Link, UNTAKEN};
    use proto::v1::{Ping, from_host};
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc::channel;

    #[test]
    fn a_guest_that_takes_nothing_is_disconnected_and_nothing_blocks() {
        let (ours, mut guest) = UnixStream::pair().unwrap();
        let (wake, woken) = channel();
        let link = Link::new(ours, move || wake.send(()).unwrap_or_default()).unwrap();
        // The largest message to a guest has some hundred bytes.
        for number in 0..(UNTAKEN as u64) {
            link.say(from_host::Message::Ping(Ping { number }));
            if link.out.state.lock().unwrap().closed {
                break;
            }
        }
        woken.recv().unwrap();
        assert!(matches!(link.take(), Some(Heard::End(_))));
        let mut rest = Vec::new();
        guest.read_to_end(&mut rest).unwrap();
        assert!(!rest.is_empty());
    }

    #[test]
    fn what_is_no_message_ends_the_connection() {
        let (ours, mut guest) = UnixStream::pair().unwrap();
        let (wake, woken) = channel();
        let link = Link::new(ours, move || wake.send(()).unwrap_or_default()).unwrap();
        guest.write_all(&[1, 0, 0, 0, 0xff]).unwrap();
        woken.recv().unwrap();
        let Some(Heard::End(reason)) = link.take() else { panic!("it goes on") };
        assert!(reason.contains("cannot be read"), "{reason}");
        assert_eq!(guest.read(&mut [0]).unwrap(), 0);
    }
}
