//! Many connections over one serial line: for guests without vsock, whose VM has a virtio-serial port.
//!
//! A port is one stream of bytes that is there from the machine's start to its end, whoever runs at either
//! end of it. So each program that opens it gives its run a number and says it ([`Kind::Hello`]); a number that is
//! new tells the other that everything before is gone. Within a pair of runs the agent opens channels, each a
//! stream both ways with a window of its own, so that one that stands still holds up no other.

mod frame;
mod inbox;
pub(crate) mod port;
mod pump;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use frame::{Finder, Frame, Kind, MOST_DATA};
use inbox::Inbox;
pub use port::socket;
use pump::Said;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;

/// Bytes of a channel on their way in one direction at once.
const WINDOW: usize = 64 << 10;
/// Channels at once.
const MOST_CHANNELS: usize = 128;
/// Frames that wait for the line.
const QUEUE: usize = 64;
/// Pause between an agent's greetings until it is answered.
const GREETING: Duration = Duration::from_millis(500);
/// How long a new channel may wait for the other end of the line.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks for a channel to a port of the host.
type Wish = (u32, oneshot::Sender<DuplexStream>);

/// The agent's end of a line: opens channels.
#[derive(Clone, Debug)]
pub struct Line(mpsc::Sender<Wish>);

/// The host's end of a line: receives the channels that the agent opens.
#[derive(Debug)]
pub struct Channels(mpsc::Receiver<Opened>);

/// A channel that the agent has opened.
#[derive(Debug)]
pub struct Opened {
    /// To which of the host's ports, as over vsock; the guest may name any.
    pub port: u32,
    /// The channel.
    pub stream: DuplexStream,
}

impl Line {
    /// A connection to this port of the host.
    ///
    /// # Errors
    /// The line has ended, or nobody is at its other end.
    pub async fn open(&self, port: u32) -> io::Result<DuplexStream> {
        let (wish, granted) = oneshot::channel();
        self.0
            .send((port, wish))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::NotConnected))?;
        match tokio::time::timeout(PATIENCE, granted).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(_)) => Err(io::ErrorKind::ConnectionReset.into()),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "nobody answers on the line")),
        }
    }

    /// Whether the line has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

impl Channels {
    /// The next connection; none when the line has ended.
    pub async fn next(&mut self) -> Option<Opened> {
        self.0.recv().await
    }
}

/// The agent's end of a line, and what carries it: to be polled as long as the line is wanted.
pub fn call<S>(stream: S) -> (Line, impl Future<Output = io::Result<()>> + Send)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (line, wishes) = mpsc::channel(1);
    (Line(line), carry(stream, End::Calls(wishes)))
}

/// The host's end of a line, and what carries it: to be polled as long as the line is wanted.
pub fn answer<S>(stream: S) -> (Channels, impl Future<Output = io::Result<()>> + Send)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (to, channels) = mpsc::channel(MOST_CHANNELS);
    (Channels(channels), carry(stream, End::Answers(to)))
}

/// Which end this is.
enum End {
    Calls(mpsc::Receiver<Wish>),
    Answers(mpsc::Sender<Opened>),
}

/// One channel.
struct Channel {
    /// To the one who reads it.
    inbox: Arc<Inbox>,
    /// Bytes that the other side may send before it is told more.
    allowed: usize,
    /// Bytes that may be sent.
    credit: Arc<Semaphore>,
    ended_here: bool,
    ended_there: bool,
    tasks: [AbortHandle; 2],
}

impl Channel {
    fn cut(self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

struct Carrier {
    own: u32,
    other: Option<u32>,
    channels: HashMap<u16, Channel>,
    last: u16,
    to_line: mpsc::Sender<Frame>,
    said: mpsc::Sender<Said>,
    /// Tells apart channels that had the same number.
    births: u64,
    born: HashMap<u16, u64>,
}

fn number_of_run() -> io::Result<u32> {
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    // 0 means none.
    Ok(u32::from_le_bytes(bytes).max(1))
}

async fn carry<S>(stream: S, end: End) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut reading, mut writing) = tokio::io::split(stream);
    let (to_line, mut frames) = mpsc::channel::<Frame>(QUEUE);
    let (said, mut sayings) = mpsc::channel(QUEUE);
    let own = number_of_run()?;
    let mut carrier = Carrier {
        own,
        other: None,
        channels: HashMap::new(),
        last: 0,
        to_line: to_line.clone(),
        said,
        births: 0,
        born: HashMap::new(),
    };
    // Of its own, so that two ends that both have much to say still listen.
    let writer = async move {
        while let Some(frame) = frames.recv().await {
            writing.write_all(&frame.encode()).await?;
            writing.flush().await?;
        }
        Ok(())
    };
    let (mut wishes, mut incoming) = match end {
        End::Calls(wishes) => (Some(wishes), None),
        End::Answers(incoming) => (None, Some(incoming)),
    };
    let ended = async {
        let mut finder = Finder::default();
        let mut bytes = vec![0; 16 << 10];
        let mut greeting = tokio::time::interval(GREETING);
        loop {
            // What a channel says is taken when the line has room for it.
            let saying = async {
                let room = to_line.reserve().await;
                (room, sayings.recv().await)
            };
            let wish = async {
                match &mut wishes {
                    Some(wishes) => wishes.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                read = reading.read(&mut bytes) => {
                    let count = read?;
                    if count == 0 {
                        return Ok(());
                    }
                    finder.take(&bytes[..count], |frame| carrier.hear(frame, &mut incoming));
                }
                (Ok(room), Some(said)) = saying => {
                    if let Some(frame) = carrier.say(said) {
                        room.send(frame);
                    }
                }
                wish = wish, if carrier.other.is_some() => match wish {
                    Some(wish) => carrier.grant(wish).await,
                    // The line is not wanted any more, but what was opened on it is.
                    None => wishes = None,
                },
                _ = greeting.tick(), if carrier.other.is_none() => carrier.greet(0),
            }
            if incoming.as_ref().is_some_and(mpsc::Sender::is_closed) {
                return Ok(());
            }
        }
    };
    let ended: io::Result<()> = tokio::select! {
        ended = ended => ended,
        written = writer => written,
    };
    carrier.cut_all();
    ended
}

impl Carrier {
    /// Something that need not be said when the line is busy: it is said again when it is asked for again.
    fn mention(&self, to: u32, channel: u16, kind: Kind) {
        let _ = self.to_line.try_send(Frame { from: self.own, to, channel, kind });
    }

    fn greet(&self, to: u32) {
        self.mention(to, 0, Kind::Hello);
    }

    fn cut_all(&mut self) {
        self.born.clear();
        self.channels.drain().for_each(|(_, channel)| channel.cut());
    }

    fn hear(&mut self, frame: Frame, incoming: &mut Option<mpsc::Sender<Opened>>) {
        let Frame { from, to, channel, kind } = frame;
        if from == 0 || from == self.own {
            // An echo, as of a line that is looped back.
            return;
        }
        if kind == Kind::Hello {
            if self.other != Some(from) {
                self.cut_all();
                self.other = Some(from);
            }
            if to != self.own {
                self.greet(from);
            }
            return;
        }
        if to != self.own || self.other != Some(from) {
            // Meant for an earlier run, or from one that this does not know.
            self.greet(0);
            return;
        }
        match (kind, incoming) {
            (Kind::Open(port), Some(incoming)) => self.opened(from, channel, port, incoming),
            (kind, _) => self.of_channel(from, channel, kind),
        }
    }

    fn opened(&mut self, from: u32, number: u16, port: u32, incoming: &mpsc::Sender<Opened>) {
        if self.channels.contains_key(&number) || self.channels.len() >= MOST_CHANNELS {
            self.cut(number);
            self.mention(from, number, Kind::Reset);
            return;
        }
        let stream = self.add(number);
        if incoming.try_send(Opened { port, stream }).is_err() {
            self.cut(number);
            self.mention(from, number, Kind::Reset);
        }
    }

    fn of_channel(&mut self, from: u32, number: u16, kind: Kind) {
        let Some(channel) = self.channels.get_mut(&number) else {
            if matches!(kind, Kind::Data(_) | Kind::End | Kind::Open(_)) {
                self.mention(from, number, Kind::Reset);
            }
            return;
        };
        let kept = match kind {
            Kind::Data(data) if !channel.ended_there => {
                let left = channel.allowed.checked_sub(data.len());
                channel.allowed = left.unwrap_or(0);
                if left.is_some() {
                    channel.inbox.put(&data);
                }
                left.is_some()
            }
            Kind::Window(more) => {
                let more = usize::try_from(more).unwrap_or(usize::MAX);
                let sum = channel.credit.available_permits().checked_add(more);
                let within = sum.is_some_and(|sum| sum <= WINDOW);
                if within {
                    channel.credit.add_permits(more);
                }
                within
            }
            Kind::End if !channel.ended_there => {
                channel.ended_there = true;
                channel.inbox.end();
                true
            }
            Kind::Reset => {
                self.cut(number);
                return;
            }
            // More after the end, or a channel opened twice.
            _ => false,
        };
        if !kept {
            self.cut(number);
            self.mention(from, number, Kind::Reset);
        } else {
            self.forget_ended(number);
        }
    }

    /// What a channel's own tasks say, as a frame.
    fn say(&mut self, said: Said) -> Option<Frame> {
        let Said { channel: number, birth, kind } = said;
        let to = self.other?;
        if self.born.get(&number) != Some(&birth) {
            return None;
        }
        if let Some(channel) = self.channels.get_mut(&number) {
            match &kind {
                Kind::Window(more) => channel.allowed += *more as usize,
                Kind::End => channel.ended_here = true,
                _ => {}
            }
        }
        if kind == Kind::Reset {
            self.cut(number);
        } else {
            self.forget_ended(number);
        }
        Some(Frame { from: self.own, to, channel: number, kind })
    }

    async fn grant(&mut self, (port, wish): Wish) {
        let Some(to) = self.other else {
            return;
        };
        if self.channels.len() >= MOST_CHANNELS {
            return;
        }
        loop {
            self.last = self.last.wrapping_add(1);
            if !self.channels.contains_key(&self.last) {
                break;
            }
        }
        let number = self.last;
        let opening = Frame { from: self.own, to, channel: number, kind: Kind::Open(port) };
        if self.to_line.send(opening).await.is_err() {
            return;
        }
        let stream = self.add(number);
        if wish.send(stream).is_err() {
            self.cut(number);
            self.mention(to, number, Kind::Reset);
        }
    }

    /// Makes a channel; the other end of its stream is the caller's.
    fn add(&mut self, number: u16) -> DuplexStream {
        self.births += 1;
        let (ours, theirs) = tokio::io::duplex(MOST_DATA);
        let (from_stream, to_stream) = tokio::io::split(ours);
        let credit = Arc::new(Semaphore::new(WINDOW));
        let inbox = Arc::new(Inbox::default());
        let mouth = pump::Mouth { channel: number, birth: self.births, to: self.said.clone() };
        let talk = tokio::spawn(pump::talk(from_stream, Arc::clone(&credit), mouth.clone()));
        let listen = tokio::spawn(pump::listen(to_stream, Arc::clone(&inbox), mouth));
        let tasks = [talk.abort_handle(), listen.abort_handle()];
        let (ended_here, ended_there) = (false, false);
        let channel = Channel { inbox, allowed: WINDOW, credit, ended_here, ended_there, tasks };
        self.channels.insert(number, channel);
        self.born.insert(number, self.births);
        theirs
    }

    fn cut(&mut self, number: u16) {
        self.born.remove(&number);
        if let Some(channel) = self.channels.remove(&number) {
            channel.cut();
        }
    }

    /// Leaves a channel alone that has ended both ways: its tasks end by themselves.
    fn forget_ended(&mut self, number: u16) {
        let ended = |channel: &Channel| channel.ended_here && channel.ended_there;
        if self.channels.get(&number).is_some_and(ended) {
            self.channels.remove(&number);
        }
    }
}

/// What a fuzzer says on a line, and hears.
#[doc(hidden)]
pub mod fuzzing {
    use super::frame::{Finder, Frame, Kind};

    /// A frame as it goes on the line; none when there is no such frame.
    #[must_use]
    pub fn frame(kind: u8, from: u32, to: u32, channel: u16, data: &[u8]) -> Option<Vec<u8>> {
        let kind = Kind::of(kind, data)?;
        Some(Frame { from, to, channel, kind }.encode())
    }

    /// The runs that speak in what came on the line.
    #[must_use]
    pub fn speakers(line: &[u8]) -> Vec<u32> {
        let mut speakers = Vec::new();
        Finder::default().take(line, |frame| speakers.push(frame.from));
        speakers
    }
}

#[cfg(test)]
mod tests;
