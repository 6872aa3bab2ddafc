//! A connection over a serial port as a socket that a kernel can have, with a pseudo-terminal as the port.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use agent_link::PORT;
use agent_link::serial::{Channels, Opened, answer, socket};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// Bound on waits for things that take milliseconds.
const LONG: Duration = Duration::from_secs(60);

/// The guest's end of a port, something that keeps it, and the stream at the host's end.
fn port() -> (PathBuf, File, std::os::unix::net::UnixStream) {
    let port = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&port).unwrap();
    unlockpt(&port).unwrap();
    let path = PathBuf::from(ptsname(&port, Vec::new()).unwrap().into_string().unwrap());
    let held = File::options().read(true).write(true).open(&path).unwrap();
    let mut settings = tcgetattr(&held).unwrap();
    settings.make_raw();
    tcsetattr(&held, OptionalActions::Now, &settings).unwrap();
    let (wire, line) = std::os::unix::net::UnixStream::pair().unwrap();
    let (from_guest, to_guest) = (File::from(port.try_clone().unwrap()), File::from(port));
    let (to_host, from_host) = (wire.try_clone().unwrap(), wire);
    std::thread::spawn(move || copy(from_guest, to_host));
    std::thread::spawn(move || copy(from_host, to_guest));
    line.set_nonblocking(true).unwrap();
    (path, held, line)
}

fn copy(mut from: impl Read, mut to: impl Write) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..count]).is_err() {
            return;
        }
    }
}

/// A host on a thread of its own, which does this with each channel.
fn host<W>(
    line: std::os::unix::net::UnixStream,
    work: impl Fn(u32, DuplexStream) -> W + Send + 'static,
) where
    W: Future<Output = ()> + Send + 'static,
{
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut channels, carrying): (Channels, _) =
                answer(tokio::net::UnixStream::from_std(line).unwrap());
            tokio::spawn(carrying);
            while let Some(Opened { port, stream }) = channels.next().await {
                tokio::spawn(work(port, stream));
            }
        });
    });
}

async fn echo(port: u32, mut stream: DuplexStream) {
    stream.write_all(&port.to_le_bytes()).await.unwrap();
    let (mut from, mut to) = tokio::io::split(stream);
    let _ = tokio::io::copy(&mut from, &mut to).await;
    let _ = to.shutdown().await;
}

#[tokio::test]
async fn it_is_served_while_this_process_waits_for_nothing_else() {
    let (path, _held, line) = port();
    host(line, echo);
    let socket = tokio::time::timeout(LONG, socket(&path, PORT + 7)).await.unwrap().unwrap();
    // From here on nothing runs on this thread's runtime, as when a mount is waited for.
    let mut socket = socket.into_std().unwrap();
    socket.set_nonblocking(false).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    let mut said = [0; 4];
    socket.read_exact(&mut said).unwrap();
    assert_eq!(u32::from_le_bytes(said), PORT + 7);
    let sent: Vec<u8> = (0..1_000_000u32).map(|number| (number % 251) as u8).collect();
    let mut writing = socket.try_clone().unwrap();
    let sending = sent.clone();
    let writer = std::thread::spawn(move || writing.write_all(&sending).unwrap());
    let mut back = vec![0; sent.len()];
    socket.read_exact(&mut back).unwrap();
    writer.join().unwrap();
    assert!(back == sent);
}

#[tokio::test]
async fn an_end_on_either_side_is_one_both_ways() {
    let (path, _held, line) = port();
    let (tell, told) = std::sync::mpsc::channel();
    host(line, move |port, mut stream| {
        let tell = tell.clone();
        async move {
            if port == 1 {
                // Ends what it says and goes on listening.
                stream.shutdown().await.unwrap();
            }
            let mut bytes = Vec::new();
            let _ = stream.read_to_end(&mut bytes).await;
            tell.send((port, bytes)).unwrap();
        }
    });
    let open = |number| tokio::time::timeout(LONG, socket(&path, number));
    let mut first = open(1).await.unwrap().unwrap();
    assert_eq!(tokio::time::timeout(LONG, first.read(&mut [0; 10])).await.unwrap().unwrap(), 0);
    let gone = async { while first.write_all(b"x").await.is_ok() {} };
    tokio::time::timeout(LONG, gone).await.expect("the other way stays open");
    let mut second = open(2).await.unwrap().unwrap();
    second.write_all(b"last").await.unwrap();
    drop(second);
    let ends = [told.recv_timeout(LONG).unwrap(), told.recv_timeout(LONG).unwrap()];
    assert!(ends.contains(&(2, b"last".to_vec())), "{ends:?}");
}
