//! What the process may say.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

/// Standard error of a process that may open no file, and so cannot begin its log anew: it writes so many bytes
/// and no more.
#[derive(Debug)]
pub struct LimitedError {
    left: AtomicU64,
}

/// What one such process may write.
const MOST_OF_ONE: u64 = 1 << 20;
const LAST_WORDS: &[u8] = b"the log of this process is full\n";

impl Default for LimitedError {
    fn default() -> Self {
        Self { left: AtomicU64::new(MOST_OF_ONE) }
    }
}

impl LimitedError {
    /// Takes bytes off what is left; what of them, or else, is to be written.
    fn take<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let count = bytes.len() as u64;
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            (left > 0).then(|| left.saturating_sub(count))
        });
        match taken {
            Ok(left) if left > count => bytes,
            Ok(_) => LAST_WORDS,
            Err(_) => &[],
        }
    }
}

impl Write for &LimitedError {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(self.take(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_writes_too_much_says_so_once() {
        let log = LimitedError { left: AtomicU64::new(10) };
        assert_eq!(log.take(b"12345"), b"12345");
        assert_eq!(log.take(b"123456"), LAST_WORDS);
        assert_eq!(log.take(b"1"), b"");
        assert_eq!(log.take(&[0; 100]), b"");
    }
}
