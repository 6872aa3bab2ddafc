//! Ends of byte streams: vsock, TCP, and the Unix sockets that stand for vsock on the host side.

use crate::{Result, clock};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Instant;
use vsock::{VMADDR_CID_ANY, VsockListener, VsockStream};

/// Bytes per call.
const CHUNK: usize = 64 * 1024;

pub(crate) fn send(to: &str) -> Result {
    let stream = connect(to)?;
    let mut sender = stream.another()?;
    // Both ways at once: a peer that echoes stops reading when nobody takes its answers.
    let sending = std::thread::spawn(move || -> std::io::Result<()> {
        std::io::copy(&mut std::io::stdin().lock(), &mut sender)?;
        sender.end_sending()
    });
    std::io::copy(&mut { stream }, &mut std::io::stdout().lock())?;
    sending.join().map_err(|_| "the sending thread failed")??;
    Ok(())
}

pub(crate) fn vsock_echo(port: u32) -> Result {
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, port)?;
    println!("listening on vsock port {port}");
    let (mut stream, peer) = listener.accept()?;
    println!("connection from {peer:?}");
    let mut back = stream.try_clone()?;
    std::io::copy(&mut stream, &mut back)?;
    back.shutdown(Shutdown::Write)?;
    Ok(())
}

fn number(text: &str) -> Result<u32> {
    text.parse().map_err(|_| format!("`{text}` is not a number").into())
}

fn parts(address: &str) -> Result<(&str, &str)> {
    address.split_once(':').ok_or_else(|| format!("`{address}` is not KIND:ADDRESS").into())
}

/// Where connections come in.
enum Door {
    Tcp(TcpListener),
    Vsock(VsockListener),
    Unix(UnixListener),
}

impl Door {
    fn open(at: &str) -> Result<Self> {
        let (kind, place) = parts(at)?;
        Ok(match kind {
            "tcp" => Self::Tcp(TcpListener::bind(("0.0.0.0", u16::try_from(number(place)?)?))?),
            "vsock" => {
                Self::Vsock(VsockListener::bind_with_cid_port(VMADDR_CID_ANY, number(place)?)?)
            }
            "unix" => Self::Unix(UnixListener::bind(place)?),
            _ => return Err(format!("unknown kind of stream `{kind}`: tcp, vsock, unix").into()),
        })
    }

    fn accept(&self) -> Result<Stream> {
        Ok(match self {
            Self::Tcp(door) => Stream::Tcp(door.accept()?.0),
            Self::Vsock(door) => Stream::Vsock(door.accept()?.0),
            Self::Unix(door) => Stream::Unix(door.accept()?.0),
        })
    }
}

pub(crate) fn sink(at: &str) -> Result {
    let mut stream = Door::open(at)?.accept()?;
    let mut buffer = vec![0; CHUNK];
    let mut bytes = stream.read(&mut buffer)? as u64;
    let clock = Instant::now();
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            read => bytes += read as u64,
        }
    }
    println!("bytes {bytes} nanoseconds {}", clock.elapsed().as_nanos());
    Ok(())
}

pub(crate) fn source(to: &str, mebibytes: u64) -> Result {
    give(&mut connect(to)?, mebibytes)
}

fn give(stream: &mut Stream, mebibytes: u64) -> Result {
    let buffer = vec![0x5a; CHUNK];
    for _ in 0..(mebibytes << 20) / CHUNK as u64 {
        stream.write_all(&buffer)?;
    }
    Ok(())
}

pub(crate) fn serve(at: &str, mebibytes: u64) -> Result {
    let door = Door::open(at)?;
    loop {
        let mut stream = door.accept()?;
        if let Err(error) = give(&mut stream, mebibytes) {
            eprintln!("a connection ended early: {error}");
        }
    }
}

pub(crate) fn fetch(from: &str, count: usize) -> Result {
    let mut times = Vec::new();
    let mut buffer = vec![0; CHUNK];
    for _ in 0..count {
        let start = Instant::now();
        let mut stream = connect(from)?;
        let mut bytes = 0;
        loop {
            match stream.read(&mut buffer)? {
                0 => break,
                read => bytes += read,
            }
        }
        if bytes == 0 {
            return Err("nothing came".into());
        }
        times.push(start.elapsed());
    }
    clock::print_median(times)
}

/// One byte there and back, `count` times.
pub(crate) fn round_trips(to: &str, count: usize) -> Result {
    let mut stream = connect(to)?;
    let mut times = Vec::new();
    for _ in 0..count {
        let start = Instant::now();
        stream.write_all(&[0x5a])?;
        stream.read_exact(&mut [0])?;
        times.push(start.elapsed());
    }
    clock::print_median(times)
}

/// A connected stream of any kind.
enum Stream {
    Tcp(TcpStream),
    Vsock(VsockStream),
    Unix(UnixStream),
}

fn connect(to: &str) -> Result<Stream> {
    let (kind, place) = parts(to)?;
    let (host, port) = place.rsplit_once(':').ok_or_else(|| format!("`{place}` has no port"))?;
    let port = number(port)?;
    Ok(match kind {
        "tcp" => Stream::Tcp(TcpStream::connect((host, u16::try_from(port)?))?),
        "vsock" => Stream::Vsock(VsockStream::connect_with_cid_port(number(host)?, port)?),
        "unix" => Stream::Unix(connect_through(host, port)?),
        _ => return Err(format!("unknown kind of stream `{kind}`: tcp, vsock, unix").into()),
    })
}

impl Stream {
    fn another(&self) -> std::io::Result<Self> {
        Ok(match self {
            Self::Tcp(stream) => Self::Tcp(stream.try_clone()?),
            Self::Vsock(stream) => Self::Vsock(stream.try_clone()?),
            Self::Unix(stream) => Self::Unix(stream.try_clone()?),
        })
    }

    fn end_sending(&self) -> std::io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Vsock(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Vsock(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buffer),
            Self::Vsock(stream) => stream.write(buffer),
            Self::Unix(stream) => stream.write(buffer),
        }
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Reaches a guest's vsock port through the VM's Unix socket: `CONNECT port`, answered `OK ...`.
fn connect_through(path: &str, port: u32) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(path)?;
    writeln!(stream, "CONNECT {port}")?;
    let mut answer = String::new();
    // The answer is one short line; a byte at a time so that nothing behind it is swallowed.
    BufReader::with_capacity(1, &stream).read_line(&mut answer)?;
    if !answer.starts_with("OK ") {
        return Err(format!("CONNECT {port} was answered with `{}`", answer.trim()).into());
    }
    Ok(stream)
}
