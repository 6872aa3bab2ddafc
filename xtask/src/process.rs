//! Runs other programs: shows which, bounds how long, keeps what they wrote.
//!
//! A step that hangs must fail loudly instead of eating a CI machine's whole time, so every run has
//! a limit, and a program does not outlive the task runner (`setpriv --pdeathsig`).

use crate::failure::{Context, Failure, Result};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::process::{Pid, Signal};
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::ops::ControlFlow;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Where a program's output goes.
pub(crate) enum Output {
    /// To this terminal as it comes.
    Shown,
    /// To this file, appended; its last lines are part of the error.
    Logged(PathBuf),
}

/// Time between two looks at a program whose lines are read.
const LOOK: Duration = Duration::from_secs(1);

/// One program to run.
pub(crate) struct Step {
    program: OsString,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    folder: PathBuf,
    input: Option<PathBuf>,
    limit: Duration,
    /// What ends it when this task runner ends.
    death: Death,
}

/// A signal that ends a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    Term,
    Kill,
}

impl Step {
    /// Runs `program` in the root of the clone for at most ten minutes unless told otherwise.
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            folder: crate::workspace::root(),
            input: None,
            limit: Duration::from_secs(600),
            death: Death::Term,
        }
    }

    /// As root: as it is for root, through sudo for everyone else.
    pub(crate) fn as_root(program: impl AsRef<OsStr>) -> Self {
        if rustix::process::geteuid().is_root() {
            Self::new(program)
        } else {
            Self::new("sudo").argument(program)
        }
    }

    /// Adds one argument.
    pub(crate) fn argument(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().into());
        self
    }

    /// Adds several arguments.
    pub(crate) fn arguments<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(
        mut self,
        arguments: I,
    ) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().into()));
        self
    }

    /// Sets an environment variable.
    pub(crate) fn variable(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.into(), value.as_ref().into()));
        self
    }

    /// Runs in this folder.
    pub(crate) fn within(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = folder.into();
        self
    }

    /// Its standard input is this file; without, it has none.
    pub(crate) fn input(mut self, file: impl Into<PathBuf>) -> Self {
        self.input = Some(file.into());
        self
    }

    /// Kills the program after this long.
    pub(crate) fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// For a program that ignores the polite signal.
    pub(crate) fn stubborn(mut self) -> Self {
        self.death = Death::Kill;
        self
    }

    /// The command line, for messages.
    pub(crate) fn line(&self) -> String {
        let mut line = self.program.to_string_lossy().into_owned();
        for argument in &self.arguments {
            line.push(' ');
            line.push_str(&argument.to_string_lossy());
        }
        line
    }

    fn command(&self) -> Result<Command> {
        let mut command = Command::new("setpriv");
        command
            .args([
                "--pdeathsig",
                match self.death {
                    Death::Term => "TERM",
                    Death::Kill => "KILL",
                },
                "--",
            ])
            .arg(&self.program)
            .args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.current_dir(&self.folder).stdin(match &self.input {
            Some(file) => {
                std::fs::File::open(file).context(|| format!("read {}", file.display()))?.into()
            }
            None => Stdio::null(),
        });
        Ok(command)
    }

    /// Runs it to its end and fails unless it ends with status 0.
    pub(crate) fn run(self, output: Output) -> Result {
        let line = self.line();
        let mut command = self.command()?;
        let log = match &output {
            Output::Shown => None,
            Output::Logged(path) => {
                let file = std::fs::File::options()
                    .create(true)
                    .append(true)
                    .open(path)
                    .context(|| format!("write {}", path.display()))?;
                let again = file.try_clone().context(|| format!("write {}", path.display()))?;
                command.stdout(file).stderr(again);
                Some(path.clone())
            }
        };
        let mut running = Running::start(command, &line)?;
        let status = running.finish(self.limit)?;
        let limit = self.limit.as_secs();
        match status {
            Some(status) if status.success() => Ok(()),
            ended => {
                let how = ended.map_or_else(
                    || format!("was killed after its limit of {limit} s"),
                    |status| format!("ended with {status}"),
                );
                let tail = log
                    .map(|path| format!("\n{}\nall of it: {}", tail(&path, 30), path.display()))
                    .unwrap_or_default();
                Err(Failure::new(format!("{} {how}{tail}", shorten(&line))))
            }
        }
    }

    /// Runs it to its end, gives every line of its standard output to `each`, and returns how it ended
    /// (`None`: killed at its limit). Standard error is shown.
    pub(crate) fn lines(self, each: &mut dyn FnMut(&str)) -> Result<Option<ExitStatus>> {
        self.lines_watched(each, &mut |_| ControlFlow::Continue(()))
    }

    /// As [`Self::lines`]. Calls `look` once a second, and with `true` before it is killed at its limit; ends
    /// it when `look` says so (`None`, too).
    pub(crate) fn lines_watched(
        self,
        each: &mut dyn FnMut(&str),
        look: &mut dyn FnMut(bool) -> ControlFlow<()>,
    ) -> Result<Option<ExitStatus>> {
        let line = self.line();
        let mut command = self.command()?;
        command.stdout(Stdio::piped());
        let mut running = Running::start(command, &line)?;
        let stdout = running.child.stdout.take().expect("standard output is a pipe");
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stdout);
            let mut bytes = Vec::new();
            while matches!(reader.read_until(b'\n', &mut bytes), Ok(n) if n > 0) {
                let text =
                    String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']).to_owned();
                bytes.clear();
                if sender.send(text).is_err() {
                    break;
                }
            }
        });
        let end = Instant::now() + self.limit;
        let mut next = Instant::now() + LOOK;
        loop {
            match receiver.recv_timeout(end.min(next).saturating_duration_since(Instant::now())) {
                Ok(text) => each(&text),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
            let now = Instant::now();
            if now >= end || now >= next {
                next = now + LOOK;
                if look(now >= end).is_break() || now >= end {
                    running.kill();
                    return Ok(None);
                }
            }
        }
        running.finish(end.saturating_duration_since(Instant::now()).max(Duration::from_secs(10)))
    }

    /// Runs it, gives its standard output to `each` as it comes, and ends it when `each` says `false`.
    pub(crate) fn bytes(self, each: &mut dyn FnMut(&str) -> bool) -> Result {
        let line = self.line();
        let mut command = self.command()?;
        command.stdout(Stdio::piped());
        let mut running = Running::start(command, &line)?;
        let mut stdout = running.child.stdout.take().expect("standard output is a pipe");
        let mut buffer = [0; 4096];
        loop {
            match stdout.read(&mut buffer).context(|| format!("read from {}", shorten(&line)))? {
                0 => break,
                read if each(&String::from_utf8_lossy(&buffer[..read])) => {}
                _ => return Ok(()),
            }
        }
        running.finish(self.limit).map(drop)
    }

    /// Runs it with its output in `log`, calls `look` fifty times a second, and once after its end with
    /// `true`; ends it when `look` says so or at its limit. `None` when it was ended.
    pub(crate) fn watched(
        self,
        log: &std::path::Path,
        look: &mut dyn FnMut(bool) -> Result<ControlFlow<()>>,
    ) -> Result<Option<ExitStatus>> {
        let line = self.line();
        let file = std::fs::File::create(log).context(|| format!("write {}", log.display()))?;
        let again = file.try_clone().context(|| format!("write {}", log.display()))?;
        let mut command = self.command()?;
        command.stdout(file).stderr(again);
        let mut running = Running::start(command, &line)?;
        running.death = self.death;
        let end = Instant::now() + self.limit;
        loop {
            let ended = running.ended()?;
            if look(ended.is_some())?.is_break() || (ended.is_none() && Instant::now() >= end) {
                if ended.is_none() {
                    running.kill();
                }
                return Ok(ended);
            }
            if ended.is_some() {
                return Ok(ended);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs it and returns its standard output when it ends with status 0.
    pub(crate) fn text(self) -> Option<String> {
        let output = self.command().ok()?.stderr(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// A started program in a process group of its own; killed with its group when dropped.
struct Running {
    child: Child,
    done: bool,
    death: Death,
}

impl Running {
    fn start(mut command: Command, line: &str) -> Result<Self> {
        command.process_group(0);
        let child = command.spawn().context(|| format!("run {}", shorten(line)))?;
        Ok(Self { child, done: false, death: Death::Term })
    }

    fn finish(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(Some(status));
            }
            if Instant::now() >= end {
                self.kill();
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let status = self.child.try_wait().context(|| "wait for a program".to_owned())?;
        self.done |= status.is_some();
        Ok(status)
    }

    fn kill(&mut self) {
        if let Some(group) = Pid::from_raw(self.child.id().cast_signed()) {
            if self.death == Death::Term {
                let _ = rustix::process::kill_process_group(group, Signal::TERM);
                let end = Instant::now() + Duration::from_millis(300);
                while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            // The group may outlive the program that was started.
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
        self.done = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.done {
            self.kill();
        }
    }
}

/// The last `count` lines of a file, or nothing.
pub(crate) fn tail(path: &std::path::Path, count: usize) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

fn shorten(line: &str) -> String {
    if line.chars().count() > 160 {
        line.chars().take(157).chain("...".chars()).collect()
    } else {
        line.to_owned()
    }
}

/// Says what is being done: a spinner on a terminal, one line elsewhere.
pub(crate) fn during<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    if !std::io::stderr().is_terminal() {
        eprintln!("==> {what}");
        let _ = std::io::stderr().flush();
        return work();
    }
    let bar = ProgressBar::new_spinner().with_message(what.to_owned()).with_style(
        ProgressStyle::with_template("{spinner} {msg} ({elapsed})")
            .expect("the template is well formed"),
    );
    bar.enable_steady_tick(Duration::from_millis(120));
    let result = work();
    bar.finish_and_clear();
    let mark = if result.is_ok() { "done" } else { "failed" };
    eprintln!("==> {what}: {mark} after {} s", start.elapsed().as_secs());
    result
}
