//! 9P2000.L on a stream: one request after the other, each judged before it is carried out.

use plan9::Guard;
use plan9::message::{HEADER_BYTES, WRITE_HEADER, error, kind};
use rustix::io::Errno;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};

/// Of the whole process.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) requests: AtomicU64,
    pub(crate) refused: AtomicU64,
}

/// Serves until the other side closes.
///
/// # Errors
/// The stream broke, or what came is no message: a stream has no second start to look for.
pub(crate) fn serve(
    stream: &mut (impl Read + Write),
    guard: &mut Guard,
    counters: &Counters,
) -> io::Result<()> {
    let mut request = Vec::new();
    let mut answer = Vec::new();
    loop {
        let mut start = [0; HEADER_BYTES];
        if stream.read(&mut start[..1])? == 0 {
            return Ok(());
        }
        stream.read_exact(&mut start[1..])?;
        let tag = u16::from_le_bytes([start[5], start[6]]);
        let size = u32::from_le_bytes([start[0], start[1], start[2], start[3]]) as usize;
        let most = guard.msize();
        if !(HEADER_BYTES..=most).contains(&size) {
            let what = format!("a message of {size} bytes; allowed: {HEADER_BYTES} to {most}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        request.clear();
        request.extend(start);
        request.resize(size, 0);
        stream.read_exact(&mut request[HEADER_BYTES..])?;
        counters.requests.fetch_add(1, Ordering::Relaxed);
        let fixed = match start[4] {
            kind::WRITE => size.min(WRITE_HEADER),
            _ => size,
        };
        let (head, data) = request.split_at_mut(fixed);
        answer.clear();
        let refused = match guard.handle(head, &*data, &mut answer, most) {
            Ok(refused) if answer.len() <= most => refused,
            Ok(_) => {
                answer = error(tag, Errno::MSGSIZE.raw_os_error());
                true
            }
            // The request ended too soon.
            Err(_) => {
                answer = error(tag, Errno::IO.raw_os_error());
                true
            }
        };
        if refused {
            counters.refused.fetch_add(1, Ordering::Relaxed);
        }
        stream.write_all(&answer)?;
    }
}
