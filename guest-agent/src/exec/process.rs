//! One program, its input and its outputs.

use std::io;
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use rustix::termios::Winsize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

use super::CHUNK;
use super::order::Order;
use super::terminal::{self, Keyboard, Screen};

/// What a program wrote.
#[derive(Debug)]
pub(super) enum Chunk {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
}

/// Where a program's outputs come from.
#[derive(Debug)]
enum Outputs {
    Pipes { output: Option<ChildStdout>, error: Option<ChildStderr> },
    Terminal(Option<Screen>),
}

/// A program that runs; dropped, it is killed with its group.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    group: Group,
    outputs: Outputs,
    buffers: [Vec<u8>; 2],
}

/// What goes into a program: bytes and signals. Apart from the rest, since a program that does not read
/// must not keep what it writes from being read.
#[derive(Debug)]
pub(super) struct Input {
    group: Group,
    end: InputEnd,
}

#[derive(Debug)]
enum InputEnd {
    Pipe(Option<ChildStdin>),
    Terminal(Keyboard),
}

/// A process group.
#[derive(Clone, Copy, Debug)]
struct Group(Pid);

impl Group {
    fn signal(self, signal: Signal) {
        // It may just have ended.
        let _ = kill_process_group(self.0, signal);
    }
}

/// What happened next.
#[derive(Debug)]
pub(super) enum Next {
    Wrote(Chunk),
    Ended(ExitStatus),
}

impl Process {
    pub(super) fn start(order: &Order) -> io::Result<(Self, Input)> {
        let mut command = command(order)?;
        command.envs(order.environment.iter().map(|(name, value)| (name, value)));
        command.current_dir(&order.folder).kill_on_drop(true);
        let terminal = match order.terminal {
            Some(size) => {
                let (screen, keyboard, end) = terminal::open(size)?;
                command.stdin(end.try_clone()?).stdout(end.try_clone()?).stderr(end);
                Some((screen, keyboard))
            }
            None => {
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
                // With a terminal, `start` makes a session, and with it a group.
                command.process_group(0);
                None
            }
        };
        let mut child = command.spawn()?;
        // The command holds the program's end of the terminal open.
        drop(command);
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let group = Group(group.ok_or_else(|| io::Error::other("it ended at once"))?);
        let (outputs, end) = match terminal {
            Some((screen, keyboard)) => {
                (Outputs::Terminal(Some(screen)), InputEnd::Terminal(keyboard))
            }
            None => {
                let (output, error) = (child.stdout.take(), child.stderr.take());
                (Outputs::Pipes { output, error }, InputEnd::Pipe(child.stdin.take()))
            }
        };
        let buffers = [vec![0; CHUNK], vec![0; CHUNK]];
        Ok((Self { child, group, outputs, buffers }, Input { group, end }))
    }

    /// Process id, which is also that of its group.
    pub(super) fn id(&self) -> u32 {
        self.group.0.as_raw_nonzero().get().unsigned_abs()
    }

    /// What it wrote next, or that it has ended.
    pub(super) async fn next(&mut self) -> io::Result<Next> {
        tokio::select! {
            biased;
            Some(chunk) = self.outputs.read(&mut self.buffers) => Ok(Next::Wrote(chunk)),
            status = self.child.wait() => Ok(Next::Ended(status?)),
        }
    }

    /// What it, or what it started, still writes; `None` when nobody can write any more.
    pub(super) async fn rest(&mut self) -> Option<Chunk> {
        self.outputs.read(&mut self.buffers).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.group.signal(Signal::KILL);
    }
}

impl Outputs {
    /// `None` when nobody can write any more.
    async fn read(&mut self, [first, second]: &mut [Vec<u8>; 2]) -> Option<Chunk> {
        match self {
            Self::Terminal(open) => match open.as_mut()?.read(first).await {
                Ok(count) if count > 0 => Some(Chunk::Stdout(first[..count].to_vec())),
                _ => {
                    *open = None;
                    None
                }
            },
            Self::Pipes { output, error } => loop {
                let (is_output, count) = match (&mut *output, &mut *error) {
                    (Some(out), Some(err)) => tokio::select! {
                        read = out.read(first) => (true, read),
                        read = err.read(second) => (false, read),
                    },
                    (Some(out), None) => (true, out.read(first).await),
                    (None, Some(err)) => (false, err.read(second).await),
                    (None, None) => return None,
                };
                match (is_output, count.unwrap_or(0)) {
                    (true, 0) => *output = None,
                    (false, 0) => *error = None,
                    (true, count) => return Some(Chunk::Stdout(first[..count].to_vec())),
                    (false, count) => return Some(Chunk::Stderr(second[..count].to_vec())),
                }
            },
        }
    }
}

impl Input {
    /// Bytes; lost when the program takes no more.
    pub(super) async fn write(&mut self, bytes: &[u8]) {
        match &mut self.end {
            // The program may have ended, and its terminal with it.
            InputEnd::Terminal(keyboard) => {
                let _ = keyboard.write(bytes).await;
            }
            InputEnd::Pipe(pipe) => {
                if let Some(open) = pipe
                    && open.write_all(bytes).await.is_err()
                {
                    *pipe = None;
                }
            }
        }
    }

    pub(super) async fn end(&mut self) {
        match &mut self.end {
            InputEnd::Terminal(keyboard) => {
                let _ = keyboard.end_input().await;
            }
            InputEnd::Pipe(pipe) => *pipe = None,
        }
    }

    pub(super) fn resize(&self, size: Winsize) {
        if let InputEnd::Terminal(keyboard) = &self.end {
            let _ = keyboard.resize(size);
        }
    }

    pub(super) fn signal(&self, signal: Signal) {
        self.group.signal(signal);
    }
}

/// The command for an order, through this program's `start` where steps are needed.
fn command(order: &Order) -> io::Result<Command> {
    let shell = [order.user.shell.clone().into(), "-l".into()];
    let arguments = if order.arguments.is_empty() { &shell[..] } else { &order.arguments };
    if order.terminal.is_none() && !order.other_user {
        let mut command = Command::new(&arguments[0]);
        command.args(&arguments[1..]);
        return Ok(command);
    }
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("start");
    if order.terminal.is_some() {
        command.arg("--terminal");
    }
    if order.other_user {
        command.args(["--user", &order.user.name]);
    }
    command.arg("--").args(arguments);
    Ok(command)
}
