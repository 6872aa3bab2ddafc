//! 9P2000.L on a stream: one request after the other, each judged before it is carried out.

use plan9::message::{HEADER_BYTES, WRITE_HEADER, error, kind};
use plan9::{Buffer, Guard};
use rustix::io::Errno;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};

/// Longer than any request that is no write.
const BUFFER: usize = 8 << 10;

/// Of the whole process.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) requests: AtomicU64,
    pub(crate) refused: AtomicU64,
    /// Names that listings left out.
    pub(crate) left_out: AtomicU64,
}

/// Serves until the other side closes.
///
/// # Errors
/// The stream broke, or what came is no message: a stream has no second start to look for.
pub(crate) fn serve(
    mut stream: &UnixStream,
    guard: &mut Guard,
    counters: &Counters,
) -> io::Result<()> {
    let mut request = Vec::new();
    let mut answer = Buffer::default();
    // Most requests come whole in one call; written bytes beyond go past the buffer.
    let mut requests = BufReader::with_capacity(BUFFER, stream);
    loop {
        if requests.fill_buf()?.is_empty() {
            return Ok(());
        }
        let mut start = [0; HEADER_BYTES];
        requests.read_exact(&mut start)?;
        let tag = u16::from_le_bytes([start[5], start[6]]);
        let size = u32::from_le_bytes([start[0], start[1], start[2], start[3]]) as usize;
        let most = guard.msize();
        if !(HEADER_BYTES..=most).contains(&size) {
            let what = format!("a message of {size} bytes; allowed: {HEADER_BYTES} to {most}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        request.resize(size.max(request.len()), 0);
        let request = &mut request[..size];
        request[..HEADER_BYTES].copy_from_slice(&start);
        requests.read_exact(&mut request[HEADER_BYTES..])?;
        counters.requests.fetch_add(1, Ordering::Relaxed);
        let fixed = match start[4] {
            kind::WRITE => size.min(WRITE_HEADER),
            _ => size,
        };
        let (head, data) = request.split_at_mut(fixed);
        answer.clear();
        let mut refused = guard.handle(head, &*data, &mut answer, most)?;
        if answer.bytes().len() > most {
            answer.clear();
            answer.write_all(&error(tag, Errno::MSGSIZE.raw_os_error()))?;
            refused = true;
        }
        counters.left_out.fetch_add(guard.take_left_out(), Ordering::Relaxed);
        if refused {
            counters.refused.fetch_add(1, Ordering::Relaxed);
        }
        stream.write_all(answer.bytes())?;
    }
}
