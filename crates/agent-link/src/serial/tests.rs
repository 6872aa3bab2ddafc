//! Lines between two programs, with a Unix socket pair as the serial port.

use super::*;
use crate::PORT;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

/// Bound on waits for things that take milliseconds.
const LONG: Duration = Duration::from_secs(60);

async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, work).await.expect("it takes too long")
}

fn calling<S>(stream: S) -> (Line, JoinHandle<io::Result<()>>)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (line, carrying) = call(stream);
    (line, tokio::spawn(carrying))
}

fn answering<S>(stream: S) -> (Channels, JoinHandle<io::Result<()>>)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (channels, carrying) = answer(stream);
    (channels, tokio::spawn(carrying))
}

/// A port that outlives the programs at either end: what each end writes comes out at the other, whoever
/// has it open, as QEMU's does.
struct Port {
    agent: Arc<tokio::sync::Mutex<UnixStream>>,
}

/// One program's use of the agent's end of a port, which stays when the program is killed.
fn port() -> (Port, UnixStream) {
    let (agent, host) = UnixStream::pair().unwrap();
    (Port { agent: Arc::new(tokio::sync::Mutex::new(agent)) }, host)
}

impl Port {
    /// Opens it: a stream whose end does not end the port.
    fn open(&self) -> (DuplexStream, JoinHandle<()>) {
        let (program, mut wire) = tokio::io::duplex(100);
        let port = Arc::clone(&self.agent);
        let copying = tokio::spawn(async move {
            let mut port = port.lock().await;
            let _ = tokio::io::copy_bidirectional(&mut wire, &mut *port).await;
        });
        (program, copying)
    }
}

async fn echo(mut channels: Channels) {
    while let Some(Opened { stream, .. }) = channels.next().await {
        tokio::spawn(async move {
            let (mut from, mut to) = tokio::io::split(stream);
            let _ = tokio::io::copy(&mut from, &mut to).await;
            let _ = to.shutdown().await;
        });
    }
}

/// Sends this over a new channel and reads it back.
async fn round_trip(line: &Line, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let (mut from, mut to) = tokio::io::split(line.open(PORT).await?);
    let writing = async {
        to.write_all(bytes).await?;
        to.shutdown().await
    };
    let mut back = Vec::new();
    let (written, read) = tokio::join!(writing, from.read_to_end(&mut back));
    written?;
    read?;
    Ok(back)
}

#[tokio::test]
async fn many_channels_carry_what_is_written_and_end_in_order() {
    let (agent, host) = UnixStream::pair().unwrap();
    let (line, _agent) = calling(agent);
    let (channels, _host) = answering(host);
    tokio::spawn(echo(channels));
    let text: Vec<u8> = (0..1 << 20).map(|n: u32| (n / 7) as u8).collect();
    let mut trips = tokio::task::JoinSet::new();
    for length in [0, 1, MOST_DATA, WINDOW, WINDOW + 1, 1 << 20, 100, 1 << 19] {
        let (line, text) = (line.clone(), text[..length].to_vec());
        trips.spawn(async move {
            let back = round_trip(&line, &text).await.unwrap();
            assert!(back == text, "{} bytes of {}", back.len(), text.len());
        });
    }
    soon(trips.join_all()).await;
    // None is left: more than there may be at once, one after the other.
    for _ in 0..2 * MOST_CHANNELS {
        assert_eq!(soon(round_trip(&line, b"x")).await.unwrap(), b"x");
    }
}

#[tokio::test]
async fn a_channel_that_nobody_reads_holds_up_no_other() {
    let (agent, host) = UnixStream::pair().unwrap();
    let (line, _agent) = calling(agent);
    let (mut channels, _host) = answering(host);
    let mut stuck = soon(line.open(PORT)).await.unwrap();
    let _unread = soon(channels.next()).await.unwrap().stream;
    let filling = tokio::spawn(async move {
        let bytes = vec![0; 16 * WINDOW];
        stuck.write_all(&bytes).await
    });
    tokio::spawn(echo(channels));
    assert_eq!(soon(round_trip(&line, &[7; 100_000])).await.unwrap(), [7; 100_000]);
    assert!(!filling.is_finished());
}

#[tokio::test]
async fn an_end_that_is_dropped_is_noticed() {
    let (agent, host) = UnixStream::pair().unwrap();
    let (line, _agent) = calling(agent);
    let (mut channels, host) = answering(host);
    let mut here = soon(line.open(PORT)).await.unwrap();
    let there = soon(channels.next()).await.unwrap().stream;
    drop(there);
    assert_eq!(soon(here.read(&mut [0; 8])).await.unwrap(), 0);
    // The line itself.
    let mut here = soon(line.open(PORT)).await.unwrap();
    let _there = soon(channels.next()).await.unwrap().stream;
    host.abort();
    assert_eq!(soon(here.read(&mut [0; 8])).await.unwrap(), 0);
    soon(async {
        while !line.is_closed() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(line.open(PORT).await.is_err());
}

#[tokio::test]
async fn an_agent_killed_within_a_frame_is_gone_and_the_next_begins_anew() {
    let (port, host) = port();
    let (mut channels, _host) = answering(host);
    for _ in 0..5 {
        let (program, copying) = port.open();
        let (line, agent) = calling(program);
        let mut stream = soon(line.open(PORT)).await.unwrap();
        let mut there = soon(channels.next()).await.unwrap().stream;
        let writing = tokio::spawn(async move {
            // Through a wire of 100 bytes: whenever it is killed, it is within a frame.
            let _ = stream.write_all(&vec![1; 1 << 20]).await;
        });
        there.read_exact(&mut [0; 20_000]).await.unwrap();
        agent.abort();
        copying.abort();
        writing.abort();
        let _ = (agent.await, copying.await);
        // The port stays. The next agent's first words tell that the one before is gone.
        let (program, copying) = port.open();
        let (line, agent) = calling(program);
        let mut rest = Vec::new();
        let ended = soon(there.read_to_end(&mut rest));
        let (_, next) = tokio::join!(ended, soon(line.open(PORT)));
        let mut next = next.unwrap();
        let mut there = soon(channels.next()).await.unwrap().stream;
        next.write_all(b"anew").await.unwrap();
        let mut said = [0; 4];
        soon(there.read_exact(&mut said)).await.unwrap();
        assert_eq!(&said, b"anew");
        agent.abort();
        copying.abort();
        let _ = (agent.await, copying.await);
    }
}

#[tokio::test]
async fn a_host_that_starts_again_is_greeted_and_old_channels_end() {
    let (agent, host) = UnixStream::pair().unwrap();
    let host = host.into_std().unwrap();
    let again = || UnixStream::from_std(host.try_clone().unwrap()).unwrap();
    let (line, _agent) = calling(agent);
    let (mut channels, first) = answering(again());
    let mut stream = soon(line.open(PORT)).await.unwrap();
    let _there = soon(channels.next()).await.unwrap().stream;
    first.abort();
    let _ = first.await;
    let (channels, _second) = answering(again());
    tokio::spawn(echo(channels));
    // It learns of the new one when it speaks.
    let _ = stream.write_all(b"to the old one").await;
    let mut rest = Vec::new();
    let _ = soon(stream.read_to_end(&mut rest)).await;
    assert!(rest.is_empty());
    let mut back = round_trip(&line, b"new").await;
    while back.is_err() {
        back = soon(round_trip(&line, b"new")).await;
    }
    assert_eq!(back.unwrap(), b"new");
}

#[tokio::test]
async fn garbage_before_and_between_disturbs_nothing() {
    let (mut wire, agent) = UnixStream::pair().unwrap();
    let (mut other, host) = UnixStream::pair().unwrap();
    let (line, _agent) = calling(agent);
    let (channels, _host) = answering(host);
    tokio::spawn(echo(channels));
    // A kernel that prints on the port before the agent has it, and a host's stale bytes.
    other.write_all(b"[    0.000000] Linux version\r\nlogin: \xff\x00\x01\x00").await.unwrap();
    wire.write_all(&[0xaa; 5000]).await.unwrap();
    tokio::spawn(async move {
        let _ = tokio::io::copy_bidirectional(&mut wire, &mut other).await;
    });
    assert_eq!(soon(round_trip(&line, b"hello")).await.unwrap(), b"hello");
}

/// A guest that knows the frames and none of the rules.
struct Hostile {
    wire: UnixStream,
    own: u32,
    host: u32,
    finder: Finder,
}

impl Hostile {
    async fn meet(wire: UnixStream) -> Self {
        let mut hostile = Self { wire, own: 77, host: 0, finder: Finder::default() };
        hostile.send(0, Kind::Hello).await;
        hostile.host = soon(hostile.next()).await.unwrap().from;
        hostile
    }

    async fn send(&mut self, channel: u16, kind: Kind) {
        let frame = Frame { from: self.own, to: self.host, channel, kind };
        self.wire.write_all(&frame.encode()).await.unwrap();
    }

    async fn next(&mut self) -> Option<Frame> {
        let (mut bytes, mut found) = ([0; 1], None);
        while found.is_none() {
            if self.wire.read(&mut bytes).await.ok()? == 0 {
                return None;
            }
            self.finder.take(&bytes, |frame| found = Some(frame));
        }
        found
    }

    /// The next that is about this channel.
    async fn about(&mut self, channel: u16) -> Kind {
        loop {
            let frame = soon(self.next()).await.unwrap();
            if frame.channel == channel {
                return frame.kind;
            }
        }
    }
}

#[tokio::test]
async fn who_breaks_the_rules_loses_the_channel_and_no_more() {
    let (wire, host) = UnixStream::pair().unwrap();
    let (mut channels, _host) = answering(host);
    let mut hostile = Hostile::meet(wire).await;
    // Never opened, opened twice, more than the window, more room than was taken, more after the end.
    hostile.send(9, Kind::Data(vec![1])).await;
    assert_eq!(hostile.about(9).await, Kind::Reset);
    hostile.send(1, Kind::Open(PORT)).await;
    let _first = soon(channels.next()).await.unwrap().stream;
    hostile.send(1, Kind::Open(PORT)).await;
    assert_eq!(hostile.about(1).await, Kind::Reset);
    hostile.send(2, Kind::Open(PORT)).await;
    let _unread = soon(channels.next()).await.unwrap().stream;
    for _ in 0..=WINDOW / MOST_DATA {
        hostile.send(2, Kind::Data(vec![0; MOST_DATA])).await;
    }
    while !matches!(hostile.about(2).await, Kind::Reset) {}
    hostile.send(3, Kind::Open(PORT)).await;
    let _third = soon(channels.next()).await.unwrap().stream;
    hostile.send(3, Kind::Window(1)).await;
    assert_eq!(hostile.about(3).await, Kind::Reset);
    hostile.send(4, Kind::Open(PORT)).await;
    let _fourth = soon(channels.next()).await.unwrap().stream;
    hostile.send(4, Kind::End).await;
    hostile.send(4, Kind::Data(vec![1])).await;
    assert_eq!(hostile.about(4).await, Kind::Reset);
    // More channels than there may be, and an honest one after they are gone.
    let mut held = Vec::new();
    for number in 100..100 + 2 * MOST_CHANNELS as u16 {
        hostile.send(number, Kind::Open(PORT)).await;
    }
    assert_eq!(hostile.about(100 + MOST_CHANNELS as u16).await, Kind::Reset);
    while let Ok(Some(channel)) =
        tokio::time::timeout(Duration::from_millis(200), channels.next()).await
    {
        held.push(channel);
    }
    assert_eq!(held.len(), MOST_CHANNELS);
    for number in 100..100 + MOST_CHANNELS as u16 {
        hostile.send(number, Kind::Reset).await;
    }
    hostile.send(5, Kind::Open(PORT)).await;
    let mut honest = soon(channels.next()).await.unwrap().stream;
    hostile.send(5, Kind::Data(b"fine".to_vec())).await;
    let mut said = [0; 4];
    soon(honest.read_exact(&mut said)).await.unwrap();
    assert_eq!(&said, b"fine");
}

#[tokio::test]
async fn answers_that_are_not_read_are_not_kept() {
    // A wire that holds little, so that what is kept is kept by the host.
    let (mut wire, host) = tokio::io::duplex(1000);
    let (_channels, _carrying) = answering(host);
    let say = |from, to, channel, kind| Frame { from, to, channel, kind }.encode();
    const FLOOD: u32 = 20_000;
    for number in 1..FLOOD {
        let from = number | 1 << 31;
        soon(wire.write_all(&say(from, 0, 0, Kind::Hello))).await.unwrap();
        soon(wire.write_all(&say(from, number, 3, Kind::Data(vec![0; 100])))).await.unwrap();
    }
    // All answers up to the one to a run that comes after the flood. It is asked for until it finds room.
    const LAST: u32 = 7;
    let (mut reading, mut writing) = tokio::io::split(wire);
    let asking = async {
        loop {
            writing.write_all(&say(LAST, 0, 0, Kind::Hello)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let counting = async {
        let (mut finder, mut bytes) = (Finder::default(), [0; 1000]);
        let (mut answers, mut done) = (0, false);
        while !done {
            let count = reading.read(&mut bytes).await.unwrap();
            assert!(count > 0, "the line has ended");
            finder.take(&bytes[..count], |frame| {
                answers += 1;
                done |= frame.to == LAST;
            });
        }
        answers
    };
    let answers = soon(async {
        tokio::select! {
            answers = counting => answers,
            () = asking => 0,
        }
    })
    .await;
    let most = QUEUE + 2 * 1000 / say(1, 1, 0, Kind::Hello).len();
    assert!((1..=most).contains(&answers), "{answers} of {FLOOD} answers were kept");
}
