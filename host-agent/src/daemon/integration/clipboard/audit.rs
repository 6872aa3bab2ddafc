//! What was pasted, written down without its content: one line for each VM that gave or got something, in
//! the file `clipboard.log` of the daemon's state folder. The file is kept twice at most.
//!
//! A guest that pastes without end would fill it, and wash out what it says of other VMs. So each VM has a number of
//! lines, which grows with time; what is more than that is added up, and the sums are written once in a while.

use super::meter::Bucket;
use crate::launch::unix_time;
use clipboard::{Content, FetchError, Format};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// Bytes after which the file is put aside.
const MOST: u64 = 1 << 20;
/// Lines of a VM at once.
const LINES: u32 = 100;
/// One more after each of these, and the sums of what had none.
const LINE: Duration = Duration::from_secs(60);

/// Which way content goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::daemon) enum Way {
    /// From the host into a VM.
    ToGuest,
    /// Out of a VM to the host.
    ToHost,
    /// Out of one VM into another.
    Between,
}

impl Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ToGuest => "to-guest",
            Self::ToHost => "to-host",
            Self::Between => "between",
        })
    }
}

/// The pastes of one VM.
#[derive(Debug)]
pub(super) struct Ledger {
    this: Weak<Self>,
    file: PathBuf,
    vm: String,
    /// After which sums are written.
    pause: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    lines: Bucket,
    sums: BTreeMap<Way, Sum>,
}

/// Pastes that have no line of their own.
#[derive(Debug)]
struct Sum {
    /// Seconds since 1970.
    since: u64,
    done: u64,
    bytes: u64,
    not: u64,
}

/// A paste that goes on. Dropped without [`Self::end`], it was broken off.
#[derive(Debug)]
pub(in crate::daemon) struct Entry {
    ledger: Arc<Ledger>,
    way: Way,
    format: Format,
    open: bool,
}

impl Ledger {
    pub(super) fn new(file: PathBuf, vm: &str) -> Arc<Self> {
        Self::with_pause(file, vm, LINE)
    }

    fn with_pause(file: PathBuf, vm: &str, pause: Duration) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            file,
            vm: vm.to_owned(),
            pause,
            state: Mutex::new(State {
                lines: Bucket::new(LINES, LINE, Instant::now()),
                sums: BTreeMap::new(),
            }),
        })
    }

    pub(super) fn entry(self: &Arc<Self>, way: Way, format: Format) -> Entry {
        Entry { ledger: Arc::clone(self), way, format, open: true }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, way: Way, format: Format, bytes: usize, outcome: &str, now: Instant) {
        let mut state = self.state();
        if state.lines.take(now) {
            self.write_sums(&mut state);
            let format = name(format);
            self.append(&format!(
                "{} {way} {:?} {format} {bytes} bytes: {outcome}\n",
                unix_time(),
                self.vm
            ));
            return;
        }
        let first = state.sums.is_empty();
        let sum = || Sum { since: unix_time(), done: 0, bytes: 0, not: 0 };
        let sum = state.sums.entry(way).or_insert_with(sum);
        if outcome == DONE {
            sum.done += 1;
            sum.bytes = sum.bytes.saturating_add(bytes as u64);
        } else {
            sum.not += 1;
        }
        // Without tokio, as when everything ends, they are written when this is dropped.
        if let (true, Ok(runtime)) = (first, Handle::try_current()) {
            let (ledger, pause) = (Weak::clone(&self.this), self.pause);
            runtime.spawn(async move {
                tokio::time::sleep(pause).await;
                if let Some(ledger) = ledger.upgrade() {
                    ledger.write_sums(&mut ledger.state());
                }
            });
        }
    }

    fn write_sums(&self, state: &mut State) {
        for (way, Sum { since, done, bytes, not }) in std::mem::take(&mut state.sums) {
            self.append(&format!(
                "{} {way} {:?} {} more since {since}: {done} done with {bytes} bytes, {not} not\n",
                unix_time(),
                self.vm,
                done + not,
            ));
        }
    }

    fn append(&self, line: &str) {
        if let Err(error) = append(&self.file, line) {
            tracing::warn!(vm = self.vm, %error, "a paste is not written down");
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.write_sums(&mut self.state());
    }
}

/// The outcome of a paste that got its content.
const DONE: &str = "done";

impl Entry {
    /// How it went.
    pub(in crate::daemon) fn end(mut self, pasted: &Result<Content, FetchError>) {
        match pasted {
            Ok(content) => self.write(size(content), DONE),
            Err(FetchError::Gone) => self.write(0, "not offered any more"),
            Err(FetchError::Large(_)) => self.write(0, "too large"),
            Err(FetchError::Late) => self.write(0, "not in time"),
            Err(FetchError::Denied) => self.write(0, "denied"),
            Err(FetchError::Failed(_)) => self.write(0, "failed"),
        }
    }

    fn write(&mut self, bytes: usize, outcome: &str) {
        self.open = false;
        self.ledger.write(self.way, self.format, bytes, outcome, Instant::now());
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

    /// Lines without their times.
    fn lines(file: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let line = |line: &str| {
            let (_, rest) = line.split_once(' ').unwrap();
            match rest.split_once(" since ") {
                Some((before, after)) => format!("{before}{}", after.split_once(':').unwrap().1),
                None => rest.to_owned(),
            }
        };
        text.lines().map(line).collect()
    }

    #[test]
    fn each_paste_is_one_line_without_its_content_and_the_file_stays_small() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("clipboard.log");
        let ledger = Ledger::new(file.clone(), "a b");
        let entry = || ledger.entry(Way::ToHost, Format::Text);
        entry().end(&Ok(Content::Bytes(b"geheim".to_vec())));
        entry().end(&Err(FetchError::Denied));
        drop(entry());
        assert_eq!(
            lines(&file),
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

    #[tokio::test]
    async fn a_flood_of_one_vm_is_added_up_and_leaves_the_lines_of_others() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("clipboard.log");
        let quiet = Ledger::new(file.clone(), "quiet");
        let loud = Ledger::with_pause(file.clone(), "loud", Duration::from_millis(10));
        let paste = |way, pasted: &Result<Content, FetchError>| {
            loud.entry(way, Format::Text).end(pasted);
        };
        quiet.entry(Way::ToGuest, Format::Text).end(&Ok(Content::Bytes(vec![0; 7])));
        for _ in 0..30_000 {
            paste(Way::ToGuest, &Ok(Content::Bytes(vec![0; 10])));
            paste(Way::ToHost, &Err(FetchError::Denied));
        }
        let lines_now = lines(&file);
        assert_eq!(lines_now[0], "to-guest \"quiet\" text 7 bytes: done");
        assert_eq!(lines_now.len(), 1 + LINES as usize);
        // The sums come by themselves.
        while lines(&file).len() < lines_now.len() + 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let sums = [
            "to-guest \"loud\" 29950 more 29950 done with 299500 bytes, 0 not",
            "to-host \"loud\" 29950 more 0 done with 0 bytes, 29950 not",
        ];
        assert_eq!(lines(&file)[lines_now.len()..], sums);
        // And before the next line, and with the end.
        paste(Way::ToHost, &Err(FetchError::Gone));
        let later = Instant::now() + LINE;
        loud.write(Way::ToHost, Format::Text, 0, "failed", later);
        paste(Way::ToHost, &Err(FetchError::Gone));
        drop(loud);
        let one = "to-host \"loud\" 1 more 0 done with 0 bytes, 1 not";
        let last = [one, "to-host \"loud\" text 0 bytes: failed", one];
        assert_eq!(lines(&file)[lines_now.len() + 2..], last);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
