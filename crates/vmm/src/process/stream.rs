//! A client's stream that never makes the loop wait: what it does not take now is kept, up to a
//! bound.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};

/// What became of a read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Go on.
    Open,
    /// The other side is gone.
    Closed,
}

/// What waits to be written to a client.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    bytes: VecDeque<u8>,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// Adds `bytes`; of more than `limit` waiting bytes the oldest are lost.
    pub(super) fn push_bounded(&mut self, bytes: &[u8], limit: usize) {
        self.push(bytes);
        let excess = self.bytes.len().saturating_sub(limit);
        self.bytes.drain(..excess);
    }

    /// Writes what the stream takes without waiting, at most `most` bytes in one go.
    pub(super) fn flush(&mut self, to: &mut impl Write, most: usize) -> Outcome {
        while !self.bytes.is_empty() {
            let (front, _) = self.bytes.as_slices();
            let chunk = &front[..front.len().min(most)];
            match to.write(chunk) {
                Ok(0) => return Outcome::Closed,
                Ok(count) => {
                    self.bytes.drain(..count);
                    if most != usize::MAX {
                        break;
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Outcome::Closed,
            }
        }
        if self.bytes.is_empty() && self.bytes.capacity() > 64 << 10 {
            self.bytes = VecDeque::new();
        }
        Outcome::Open
    }
}

/// Reads what is there, at most a buffer full, into `into`.
pub(super) fn read_some(from: &mut impl Read, into: &mut Vec<u8>) -> Outcome {
    let mut buffer = [0; 4096];
    match from.read(&mut buffer) {
        Ok(0) => Outcome::Closed,
        Ok(count) => {
            into.extend_from_slice(&buffer[..count]);
            Outcome::Open
        }
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Outcome::Open
        }
        Err(_) => Outcome::Closed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_client_loses_the_oldest_output() {
        let mut backlog = Backlog::default();
        backlog.push_bounded(b"0123456789", 8);
        backlog.push_bounded(b"ab", 8);
        let mut out = Vec::new();
        assert_eq!(backlog.flush(&mut out, usize::MAX), Outcome::Open);
        assert_eq!(out, b"456789ab");
        assert!(backlog.is_empty());
    }
}
