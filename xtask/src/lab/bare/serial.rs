//! Follows the file an emulator writes its first serial line to.

use crate::failure::{Context, Result};
use std::fs::File;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A line without an end is given when nothing was added to it for this long: it is a prompt.
const SILENCE: Duration = Duration::from_millis(300);

/// One line, or the beginning of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Said<'a> {
    /// Its text.
    pub(crate) text: &'a str,
    /// Whether it has its end. A prompt has none, and comes again with whatever follows it.
    pub(crate) complete: bool,
}

/// The file and what of it makes no line yet.
pub(crate) struct Serial {
    path: PathBuf,
    file: Option<File>,
    pending: Vec<u8>,
    grown: Instant,
    /// How much of `pending` was given as a beginning.
    given: usize,
}

impl Serial {
    /// Follows `path`, which may not exist yet.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, file: None, pending: Vec::new(), grown: Instant::now(), given: 0 }
    }

    /// Gives what was added since to `each`, until that breaks; at the `last` time also a line without
    /// its end.
    pub(crate) fn read(
        &mut self,
        last: bool,
        each: &mut dyn FnMut(Said<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        if self.file.is_none() {
            self.file = File::open(&self.path).ok();
        }
        let mut added = Vec::new();
        if let Some(file) = &mut self.file {
            file.read_to_end(&mut added).context(|| format!("read {}", self.path.display()))?;
        }
        if last && !(added.is_empty() && self.pending.is_empty()) && !added.ends_with(b"\n") {
            added.push(b'\n');
        }
        Ok(self.add(&added, Instant::now(), each))
    }

    fn add(
        &mut self,
        added: &[u8],
        now: Instant,
        each: &mut dyn FnMut(Said<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        if !added.is_empty() {
            self.pending.extend_from_slice(added);
            self.grown = now;
        }
        while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            self.given = 0;
            let text = String::from_utf8_lossy(&line);
            each(Said { text: text.trim_end_matches(['\n', '\r']), complete: true })?;
        }
        if self.pending.len() > self.given && now.duration_since(self.grown) >= SILENCE {
            self.given = self.pending.len();
            let text = String::from_utf8_lossy(&self.pending);
            each(Said { text: &text, complete: false })?;
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_and_a_prompt_after_a_silence() {
        let mut serial = Serial::new(PathBuf::new());
        let start = Instant::now();
        let mut said = Vec::new();
        let mut add = |bytes: &[u8], after: u64| {
            let now = start + Duration::from_millis(after);
            let _ = serial.add(bytes, now, &mut |line| {
                said.push((line.text.to_owned(), line.complete));
                ControlFlow::Continue(())
            });
        };
        add(b"one\r\ntw", 0);
        add(b"o\n~ #", 10);
        add(b" ", 20);
        add(b"", 100);
        add(b"", 400);
        add(b"", 900);
        add(b"ls\n", 1000);
        let expected = [("one", true), ("two", true), ("~ # ", false), ("~ # ls", true)];
        assert_eq!(said, expected.map(|(text, complete)| (text.to_owned(), complete)));
    }

    #[test]
    fn nothing_is_given_after_a_break() {
        let mut serial = Serial::new(PathBuf::new());
        let mut count = 0;
        let flow = serial.add(b"a\nb\n", Instant::now(), &mut |_| {
            count += 1;
            ControlFlow::Break(())
        });
        assert!(flow.is_break());
        assert_eq!(count, 1);
    }
}
