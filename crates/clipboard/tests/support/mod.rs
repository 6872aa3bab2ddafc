//! Real display servers and real programs for the tests; everything ends with the test.
#![allow(dead_code, unreachable_pub, unused_macros, reason = "each test binary uses its part")]

pub mod raw;
pub mod renamed;
pub mod sway;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use clipboard::{
    Backend, Boxed, Connected, Content, FetchError, Format, Offer, Offered, Selection, Source,
};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

/// What a test waits at most; nothing is measured by it.
pub const LIMIT: Duration = Duration::from_secs(60);

pub const MIB: usize = 1 << 20;

/// An X server, or the end of a test that cannot have one.
macro_rules! xvfb {
    () => {{
        if $crate::support::skipped(&["Xvfb", "xclip"]) {
            return;
        }
        $crate::support::Xvfb::start()
    }};
}

/// True, after saying so, when a program this test needs is not there.
pub fn skipped(programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |program: &&&str| std::env::split_paths(&path).any(|at| at.join(program).is_file());
    match programs.iter().find(|program| !there(program)) {
        Some(missing) => {
            eprintln!("SKIPPED: no {missing}");
            true
        }
        None => false,
    }
}

/// A process that ends with the test.
pub struct Ending(std::process::Child);

impl Ending {
    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An X server without a window manager.
pub struct Xvfb {
    process: Ending,
    pub display: String,
}

impl Xvfb {
    pub fn start() -> Self {
        let mut child = std::process::Command::new("Xvfb")
            .args(["-displayfd", "1", "-screen", "0", "320x240x24", "-nolisten", "tcp"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("start Xvfb");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(!line.trim().is_empty(), "Xvfb ended before it had a display");
        Self { process: Ending(child), display: format!(":{}", line.trim()) }
    }

    /// A program on this display.
    pub fn program(&self, name: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(name);
        command.env("DISPLAY", &self.display).env_remove("WAYLAND_DISPLAY").kill_on_drop(true);
        command
    }

    /// xclip owns the selection until it is dropped.
    pub async fn xclip_in(&self, arguments: &[&str], content: &[u8]) -> Child {
        let mut command = self.program("xclip");
        // Quiet, against its name, means in the foreground.
        command.args(["-quiet", "-i"]).args(arguments);
        owner(command, content).await
    }

    /// What xclip pastes; nothing when it fails.
    pub async fn xclip_out(&self, arguments: &[&str]) -> Option<Vec<u8>> {
        let mut command = self.program("xclip");
        command.arg("-o").args(arguments);
        pasted(command).await
    }

    pub fn kill(self) {
        drop(self.process);
    }
}

/// Starts a program that owns a selection and gives it its content.
pub async fn owner(mut command: Command, content: &[u8]) -> Child {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("start the owner");
    child.stdin.take().unwrap().write_all(content).await.unwrap();
    child
}

/// What a program writes; nothing when it fails.
pub async fn pasted(mut command: Command) -> Option<Vec<u8>> {
    command.stdin(Stdio::null()).stderr(Stdio::null());
    let output = timeout(LIMIT, command.output()).await.expect("a paste ends").unwrap();
    output.status.success().then_some(output.stdout)
}

/// Content that is there already, or an error; counts how often it is asked for.
pub struct Fixed {
    pub content: Result<Content, FetchError>,
    pub asked: AtomicU32,
    pub takes: Duration,
}

impl Fixed {
    pub fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Source for Fixed {
    fn fetch(&self, _: Format) -> Boxed<Result<Content, FetchError>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let content = self.content.clone();
        let takes = self.takes;
        Box::pin(async move {
            tokio::time::sleep(takes).await;
            content
        })
    }
}

pub fn fixed(content: Result<Content, FetchError>) -> Arc<Fixed> {
    Arc::new(Fixed { content, asked: AtomicU32::new(0), takes: Duration::ZERO })
}

pub fn bytes(content: impl AsRef<[u8]>) -> Arc<Fixed> {
    fixed(Ok(Content::Bytes(content.as_ref().to_vec())))
}

pub fn offer(formats: &[Format], source: &Arc<Fixed>) -> Offer {
    let source = Arc::clone(source) as Arc<dyn Source>;
    Offer { formats: formats.iter().copied().collect(), secret: false, source }
}

pub fn offered(selection: Selection, formats: &[Format]) -> Offered {
    let formats: BTreeSet<Format> = formats.iter().copied().collect();
    Offered { selection, number: 0, formats, secret: false }
}

/// What is offered on a display; remembers which offer was the last of each selection.
#[derive(Debug)]
pub struct Changes {
    receiver: Receiver<Offered>,
    numbers: BTreeMap<Selection, u64>,
}

impl Changes {
    pub fn of((backend, receiver): Connected) -> (Arc<dyn Backend>, Self) {
        (backend, Self { receiver, numbers: BTreeMap::new() })
    }

    /// The next change. Its number never goes down; it is kept here, and zero in what is given.
    pub async fn recv(&mut self) -> Option<Offered> {
        let mut offered = self.receiver.recv().await?;
        let number = std::mem::take(&mut offered.number);
        let last = self.numbers.insert(offered.selection, number);
        assert!(last.is_none_or(|last| last <= number), "{number} after {last:?}");
        Some(offered)
    }

    pub fn number(&self, selection: Selection) -> u64 {
        self.numbers.get(&selection).copied().unwrap_or_default()
    }

    /// Content of the last offer.
    pub fn fetch(
        &self,
        backend: &Arc<dyn Backend>,
        selection: Selection,
        format: Format,
        most: usize,
    ) -> Boxed<Result<Content, FetchError>> {
        backend.fetch(selection, self.number(selection), format, most)
    }
}

/// The next change.
pub async fn next(changes: &mut Changes) -> Offered {
    timeout(LIMIT, changes.recv()).await.expect("a change comes").expect("the display is there")
}

/// Skips changes until this one.
pub async fn until(changes: &mut Changes, wanted: &Offered) {
    while next(changes).await != *wanted {}
}

/// The state of a display where nobody offers anything.
pub async fn empty(changes: &mut Changes) {
    assert_eq!(next(changes).await, offered(Selection::Clipboard, &[]));
    assert_eq!(next(changes).await, offered(Selection::Primary, &[]));
}

/// Text with letters of every length that does not repeat in pieces of a power of two.
pub fn long_text(length: usize) -> Vec<u8> {
    let mut text = String::with_capacity(length + 8);
    for number in 0_u32.. {
        if text.len() >= length {
            break;
        }
        text.push_str(&number.to_string());
        text.push(['a', 'ü', '€', '😀'][number as usize % 4]);
    }
    while text.len() > length {
        text.pop();
    }
    let rest = length - text.len();
    text.push_str(&"x".repeat(rest));
    text.into_bytes()
}

pub const PNG: &[u8] =
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\x1f\x15\xc4\x89\
    \0\0\0\rIDATx\x9cc\xf8\xcf\xc0\xf0\x1f\0\x05\0\x01\xff\x89\x99=\x1d\0\0\0\0IEND\xaeB`\x82";
