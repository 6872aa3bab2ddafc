//! What was pasted, written down without its content: one line for each VM that gave or got something, in
//! the file `clipboard.log` of the daemon's state folder. The file is kept twice at most.

use crate::launch::unix_time;
use clipboard::{Content, FetchError, Format};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Bytes after which the file is put aside.
const MOST: u64 = 1 << 20;

/// Which way content goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::daemon) enum Way {
    /// From the host into a VM.
    ToGuest,
    /// Out of a VM to the host.
    ToHost,
    /// Out of one VM into another.
    Between,
}

/// A paste that goes on. Dropped without [`Self::end`], it was broken off.
#[derive(Debug)]
pub(in crate::daemon) struct Entry {
    file: PathBuf,
    vm: String,
    way: Way,
    format: Format,
    open: bool,
}

impl Entry {
    pub(super) fn new(file: PathBuf, vm: &str, way: Way, format: Format) -> Self {
        Self { file, vm: vm.to_owned(), way, format, open: true }
    }

    /// How it went.
    pub(in crate::daemon) fn end(mut self, pasted: &Result<Content, FetchError>) {
        match pasted {
            Ok(content) => self.write(size(content), "done"),
            Err(FetchError::Gone) => self.write(0, "not offered any more"),
            Err(FetchError::Large(_)) => self.write(0, "too large"),
            Err(FetchError::Late) => self.write(0, "not in time"),
            Err(FetchError::Denied) => self.write(0, "denied"),
            Err(FetchError::Failed(_)) => self.write(0, "failed"),
        }
    }

    fn write(&mut self, bytes: usize, outcome: &str) {
        self.open = false;
        let way = match self.way {
            Way::ToGuest => "to-guest",
            Way::ToHost => "to-host",
            Way::Between => "between",
        };
        let format = name(self.format);
        let line =
            format!("{} {way} {:?} {format} {bytes} bytes: {outcome}\n", unix_time(), self.vm);
        if let Err(error) = append(&self.file, &line) {
            tracing::warn!(vm = self.vm, %error, "a paste is not written down");
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if self.open {
            self.write(0, "broken off");
        }
    }
}

/// A format for a person.
pub(super) fn name(format: Format) -> &'static str {
    match format {
        Format::Text => "text",
        Format::Html => "html",
        Format::Png => "image",
        Format::Files => "files",
    }
}

/// Bytes that count as pasted.
pub(super) fn size(content: &Content) -> usize {
    match content {
        Content::Bytes(bytes) => bytes.len(),
        Content::Files { paths, .. } => paths.iter().map(|path| path.as_os_str().len()).sum(),
    }
}

fn append(path: &Path, line: &str) -> std::io::Result<()> {
    // One line at a time, so that none is put aside twice.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let open = || OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    let mut file = open()?;
    if file.metadata()?.len() + line.len() as u64 > MOST {
        std::fs::rename(path, path.with_extension("log.1"))?;
        file = open()?;
    }
    file.write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_paste_is_one_line_without_its_content_and_the_file_stays_small() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("clipboard.log");
        let entry = || Entry::new(file.clone(), "a b", Way::ToHost, Format::Text);
        entry().end(&Ok(Content::Bytes(b"geheim".to_vec())));
        entry().end(&Err(FetchError::Denied));
        drop(entry());
        let text = std::fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
        assert_eq!(
            lines,
            [
                "to-host \"a b\" text 6 bytes: done",
                "to-host \"a b\" text 0 bytes: denied",
                "to-host \"a b\" text 0 bytes: broken off"
            ]
        );
        let long = "x".repeat(600_000);
        for _ in 0..5 {
            append(&file, &long).unwrap();
        }
        let files = std::fs::read_dir(folder.path()).unwrap();
        let sizes: Vec<u64> = files.map(|file| file.unwrap().metadata().unwrap().len()).collect();
        assert_eq!(sizes.len(), 2);
        assert!(sizes.iter().all(|size| *size <= MOST), "{sizes:?}");
    }
}
