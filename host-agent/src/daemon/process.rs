//! One VM process as the daemon holds it: started or found, watched by its pidfd, asked through its
//! control socket.

use crate::launch::sibling;
use crate::problem::{Kind, Problem};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;
use vm_control::{Client, Files, LaunchSpec, Reply, Request};

/// A living (or just ended) VM process.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    pidfd: Arc<OwnedFd>,
}

impl Process {
    /// Starts a VM process in its own process group, so that a signal to the daemon's group does
    /// not reach it, and hands it the specification.
    pub(super) fn start(spec: &LaunchSpec) -> Result<(Self, Child), Problem> {
        let program = sibling("macrohard-vm")?;
        let log_path = Files::new(&spec.runtime, &spec.state).log();
        let failed = |what: String| move |error| Problem::failed(format!("{what}: {error}"));
        let log = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&log_path)
            .map_err(failed(format!("cannot open {}", log_path.display())))?;
        let mut child = Command::new(&program)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(failed(format!("cannot start {}", program.display())))?;
        let process = Self::of(child.id())
            .map_err(|error| Problem::failed(format!("cannot watch the VM process: {error}")));
        let handed = match child.stdin.take() {
            Some(mut stdin) => spec.write_to(&mut stdin).map_err(|error| {
                Problem::failed(format!("the VM process took no specification: {error}"))
            }),
            None => Err(Problem::failed("the VM process has no standard input")),
        };
        match (process, handed) {
            (Ok(process), Ok(())) => Ok((process, child)),
            (Err(problem), _) | (_, Err(problem)) => {
                let _ = child.kill().and_then(|()| child.wait());
                Err(problem)
            }
        }
    }

    /// The process of this number, which the caller knows to live.
    pub(super) fn of(pid: u32) -> io::Result<Self> {
        let raw =
            i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self { pid, pidfd: Arc::new(pidfd_open(raw, PidfdFlags::empty())?) })
    }

    /// The process that holds the lock of a VM, if any.
    pub(super) fn find(pid_file: &Path) -> Option<Self> {
        let pid = lock_holder(pid_file)?;
        let process = Self::of(pid).ok()?;
        // The number may have been reused between the two steps unless its lock is still held.
        (lock_holder(pid_file) == Some(pid)).then_some(process)
    }

    /// What others watch it by.
    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// It has not ended.
    pub(super) fn is_alive(&self) -> bool {
        let mut fds = [PollFd::new(&*self.pidfd, PollFlags::IN)];
        // A pidfd becomes readable when its process ends.
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready == 0)
    }

    /// Waits for its end, on a thread of its own.
    pub(super) async fn ended(&self) -> io::Result<()> {
        let pidfd = Arc::clone(&self.pidfd);
        let waiting = tokio::task::spawn_blocking(move || {
            loop {
                let mut fds = [PollFd::new(&*pidfd, PollFlags::IN)];
                match poll(&mut fds, None) {
                    Err(Errno::INTR) => {}
                    other => return other.map(drop),
                }
            }
        });
        Ok(waiting.await.map_err(io::Error::other)??)
    }

    /// Ends it without asking.
    pub(super) fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&*self.pidfd, Signal::KILL) {
            Err(Errno::SRCH) => Ok(()),
            other => Ok(other?),
        }
    }
}

/// The process id in a locked pid file. A file that nobody locks is a leftover.
fn lock_holder(pid_file: &Path) -> Option<u32> {
    let file = File::open(pid_file).ok()?;
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Err(Errno::WOULDBLOCK) => io::read_to_string(file).ok()?.trim().parse().ok(),
        _ => None,
    }
}

/// Asks a VM process one question. Never blocks the runtime's workers.
pub(super) async fn ask(
    control: PathBuf,
    request: Request,
    patience: Duration,
) -> Result<Reply, Problem> {
    let asked = tokio::task::spawn_blocking(move || {
        let mut client = Client::connect(&control, patience)?;
        client.ask(&request)
    });
    match asked.await {
        Ok(Ok(Reply::Refused { message })) => Err(Problem::new(Kind::Refused, message)),
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(error)) => Err(Problem::failed(format!("the VM process does not answer: {error}"))),
        Err(error) => Err(Problem::failed(error)),
    }
}

/// Why a process ended that left no record.
pub(super) fn describe_end(status: Option<ExitStatus>) -> String {
    let Some(status) = status else {
        return "the VM process was killed or failed without a record (it was started by an \
                earlier daemon, so the signal is not known)"
            .to_owned();
    };
    match (status.signal(), status.code()) {
        (Some(signal), _) => {
            format!("the VM process was killed by signal {signal}{}", meaning(signal))
        }
        (None, Some(code)) => {
            format!("the VM process ended with code {code} and without a record")
        }
        (None, None) => format!("the VM process ended: {status}"),
    }
}

/// What a signal that ends a VM process stands for.
fn meaning(signal: i32) -> &'static str {
    let Some(signal) = Signal::from_named_raw(signal) else {
        return "";
    };
    match signal {
        Signal::KILL => " (SIGKILL: by someone, or by the kernel when memory ran out)",
        Signal::SYS => " (SIGSYS: a system call that its sandbox denies)",
        Signal::SEGV => " (SIGSEGV: an invalid memory access)",
        Signal::BUS => " (SIGBUS: memory that could not be had, such as a full /dev/shm)",
        Signal::ABORT => " (SIGABRT: it gave up)",
        Signal::ILL => " (SIGILL: an invalid instruction)",
        Signal::TERM => " (SIGTERM)",
        Signal::XCPU => " (SIGXCPU: its limit of CPU time)",
        Signal::XFSZ => " (SIGXFSZ: its limit of file size)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_counts_only_while_it_is_locked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        assert_eq!(lock_holder(&path), None);
        std::fs::write(&path, "77\n").unwrap();
        assert_eq!(lock_holder(&path), None);
        let holder = File::open(&path).unwrap();
        flock(&holder, FlockOperation::LockExclusive).unwrap();
        assert_eq!(lock_holder(&path), Some(77));
        drop(holder);
        assert_eq!(lock_holder(&path), None);
    }

    #[test]
    fn an_end_without_a_record_names_signal_or_code() {
        let killed = ExitStatus::from_raw(9);
        assert!(describe_end(Some(killed)).contains("signal 9 (SIGKILL"));
        let failed = ExitStatus::from_raw(101 << 8);
        assert!(describe_end(Some(failed)).contains("code 101"));
    }
}
