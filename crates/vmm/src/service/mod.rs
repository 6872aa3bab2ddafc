//! Processes that serve one VM: QEMU (engine `tcg`), passt, virtiofsd. A [`Service`] dies with the
//! VM process, its words go to the VM's log, and its end is noticed.
//!
//! Started before the sandbox closes, from the process's main thread: the kernel ties the child's
//! life to the thread that made it.
#![allow(unsafe_code)]

mod exit_code;
mod passt;
mod virtiofsd;

pub use passt::passt;
pub(crate) use virtiofsd::check_virtiofsd_maps_devices;
pub use virtiofsd::{shared_folder, virtiofsd};

use crate::MachineError;
use exit_code::ExitReports;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, getpid, pidfd_open, pidfd_send_signal,
    waitid,
};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Lines of a service's words that are kept for its obituary.
const LAST_LINES: usize = 8;
/// The longest line taken as one.
const LONGEST_LINE: u64 = 4096;

/// Listens at `path`, for a process of this VM to connect to. What an earlier run left there goes.
///
/// # Errors
/// The socket cannot be made.
pub fn listen_at(path: &Path) -> Result<UnixListener, MachineError> {
    let failed = |e| MachineError::file("cannot listen at", path, e);
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    UnixListener::bind(path).map_err(failed)
}

/// A running child process.
pub struct Service {
    program: &'static str,
    pid: u32,
    process: OwnedFd,
    exit: Option<ExitReports>,
    words: Arc<Mutex<VecDeque<String>>>,
    listener: Mutex<Option<JoinHandle<()>>>,
}

/// How much of the number it leaves with a service tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitCode {
    /// Eight bits, as every program.
    Usual,
    /// All, where the kernel can ask it (Linux 5.5).
    Whole,
}

/// How a service ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceEnd {
    /// It left with this code; of a program started with [`ExitCode::Whole`] all of it.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl std::fmt::Display for ServiceEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "ended with code {code}"),
            Self::Signal(signal) => write!(f, "was killed by signal {signal}"),
        }
    }
}

impl Service {
    /// Starts `program`; `install` says how to come by it. It keeps the descriptors `pass`
    /// under their present numbers and nothing else of ours.
    ///
    /// # Errors
    /// It is not installed or cannot be started.
    pub fn start(
        program: &'static str,
        install: &'static str,
        arguments: &[OsString],
        pass: &[BorrowedFd<'_>],
        exit: ExitCode,
    ) -> Result<Self, MachineError> {
        let failed = |reason| MachineError::Child { program, reason };
        let path = engine::discovery::program_path(program)
            .ok_or_else(|| failed(format!("it is not installed; {install}")))?;
        let mut command = Command::new(&path);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        bind(&mut command, pass);
        let reports = match exit {
            ExitCode::Usual => None,
            ExitCode::Whole => Some(
                tell_whole_exit_code(&mut command)
                    .map_err(|e| failed(format!("no socket for its exit code: {e}")))?,
            ),
        };
        let mut child = command
            .spawn()
            .map_err(|e| failed(format!("{} cannot be started: {e}", path.display())))?;
        let system = |e: rustix::io::Errno| failed(format!("it cannot be watched: {e}"));
        let pid = rustix::process::Pid::from_child(&child);
        let process = pidfd_open(pid, PidfdFlags::empty()).map_err(system)?;
        let words = Arc::<Mutex<VecDeque<String>>>::default();
        let listener = child.stderr.take().map(|stderr| {
            let words = Arc::clone(&words);
            std::thread::Builder::new()
                .name(format!("{program} log"))
                .spawn(move || listen(program, stderr, &words))
        });
        let listener =
            listener.transpose().map_err(|e| failed(format!("no thread for its messages: {e}")))?;
        Ok(Self {
            program,
            pid: child.id(),
            process,
            exit: reports.and_then(|(ours, _theirs)| ExitReports::receive(&ours)),
            words,
            listener: Mutex::new(listener),
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it said last, in one line; empty when it said nothing.
    #[must_use]
    pub fn last_words(&self) -> String {
        let words: Vec<String> = lock(&self.words).iter().cloned().collect();
        words.join("; ")
    }

    /// The error that says that it ended too early, with its last words.
    #[must_use]
    pub fn obituary(&self, end: ServiceEnd) -> MachineError {
        let words = self.last_words();
        let separator = if words.is_empty() { "" } else { ": " };
        MachineError::Child {
            program: self.program,
            reason: format!("it {end} before the VM started{separator}{words}"),
        }
    }

    /// Forgets what it said so far, so that [`Self::last_words`] are about what comes.
    pub fn forget_words(&self) {
        lock(&self.words).clear();
    }

    /// Asks it to end.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Kills it; does nothing when it has ended.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        if let Err(error) = pidfd_send_signal(&self.process, signal)
            && error != rustix::io::Errno::SRCH
        {
            tracing::warn!(program = self.program, %error, "no signal reaches it");
        }
    }

    /// Whether it has ended, and how. Does not wait.
    ///
    /// # Errors
    /// The system does not say.
    pub fn ended(&self) -> Result<Option<ServiceEnd>, MachineError> {
        self.ask(WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT)
    }

    /// Waits for its end; afterwards everything it said is in [`Self::last_words`]. Once only: the
    /// end is told to the first who asks.
    ///
    /// # Errors
    /// The system does not say, or somebody was told already.
    pub fn wait(&self) -> Result<ServiceEnd, MachineError> {
        let whole = self.wait_for_exit();
        let end = self.ask(WaitIdOptions::EXITED)?;
        let mut listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listener) = listener.take() {
            // A listener that panicked has nothing more to say.
            let _ = listener.join();
        }
        Ok(match (end, whole) {
            (Some(ServiceEnd::Code(_)), Some(code)) => ServiceEnd::Code(code),
            (end, _) => end.unwrap_or(ServiceEnd::Code(0)),
        })
    }

    /// Waits until it has left, and hears what it says about that.
    fn wait_for_exit(&self) -> Option<i32> {
        let reports = self.exit.as_ref()?;
        let mut code = None;
        loop {
            let mut watched =
                [PollFd::new(&self.process, PollFlags::IN), PollFd::new(reports, PollFlags::IN)];
            match poll(&mut watched, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return code,
            }
            if watched[1].revents().contains(PollFlags::IN) {
                code = reports.take().or(code);
            } else if !watched[0].revents().is_empty() || !watched[1].revents().is_empty() {
                return code;
            }
        }
    }

    fn ask(&self, options: WaitIdOptions) -> Result<Option<ServiceEnd>, MachineError> {
        loop {
            match waitid(WaitId::PidFd(self.process.as_fd()), options) {
                Ok(status) => return Ok(status.as_ref().map(end_of)),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    return Err(MachineError::Child {
                        program: self.program,
                        reason: format!("its end cannot be learned: {error}"),
                    });
                }
            }
        }
    }
}

impl AsFd for Service {
    /// Readable once it has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.kill();
        // It is dead; what is left is to take it off the process table, if nobody has.
        let _ = self.wait();
    }
}

fn end_of(status: &WaitIdStatus) -> ServiceEnd {
    match status.terminating_signal() {
        Some(signal) => ServiceEnd::Signal(signal),
        None => ServiceEnd::Code(status.exit_status().unwrap_or(0)),
    }
}

fn lock(words: &Mutex<VecDeque<String>>) -> MutexGuard<'_, VecDeque<String>> {
    words.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the child die with us and keep `pass`.
fn bind(command: &mut Command, pass: &[BorrowedFd<'_>]) {
    let parent = getpid();
    let keep: Vec<RawFd> = pass.iter().map(AsRawFd::as_raw_fd).collect();
    let prepare = move || {
        // SAFETY: plain system calls on numbers and on a signal set of our own, allowed between
        // fork and exec.
        unsafe {
            // Signals are blocked here so that a descriptor tells of them; no program expects that.
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before the line above.
            if libc::getppid() != parent.as_raw_nonzero().get() {
                libc::_exit(1);
            }
            for descriptor in &keep {
                if libc::fcntl(*descriptor, libc::F_SETFD, 0) != 0 {
                    return Err(io::Error::last_os_error());
                }
            }
        }
        Ok(())
    };
    // SAFETY: the closure allocates nothing and takes no lock; it makes async-signal-safe calls.
    unsafe { command.pre_exec(prepare) };
}

/// Makes the child report its whole exit code; both ends of the socket the reports' descriptor
/// comes over, the child's to be kept until it has started.
fn tell_whole_exit_code(command: &mut Command) -> io::Result<(UnixStream, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let parent = theirs.as_raw_fd();
    // SAFETY: the closure allocates nothing and takes no lock; it makes async-signal-safe calls.
    unsafe { command.pre_exec(move || exit_code::report_to(parent)) };
    Ok((ours, theirs))
}

/// Takes a service's messages to the log, line by line.
fn listen(program: &'static str, stderr: impl Read, words: &Mutex<VecDeque<String>>) {
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        match stderr.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        if text.is_empty() {
            continue;
        }
        tracing::info!(program, "{text}");
        let mut words = lock(words);
        if words.len() == LAST_LINES {
            words.pop_front();
        }
        words.push_back(text.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, pass: &[BorrowedFd<'_>]) -> Service {
        let arguments = ["-c".into(), script.into()];
        Service::start("sh", "install the package dash", &arguments, pass, ExitCode::Usual).unwrap()
    }

    #[test]
    fn a_service_that_tells_its_whole_exit_code_is_understood() {
        // The shell cuts its code to eight bits; Python hands it on as it is.
        let leave = |code: i32| {
            let script = format!("import ctypes; ctypes.CDLL(None)._exit({code})");
            let arguments = ["-c".into(), script.into()];
            Service::start(
                "python3",
                "install the package python3",
                &arguments,
                &[],
                ExitCode::Whole,
            )
        };
        if let Err(error) = leave(0) {
            eprintln!("SKIPPED: {error}");
            return;
        }
        for code in [0, 3, 255, 256, 401, 0x1fe, 0x1234_5701] {
            let service = leave(code).unwrap();
            assert_eq!(service.wait().unwrap(), ServiceEnd::Code(code));
        }
        let killed = leave(401).unwrap();
        killed.kill();
        let end = killed.wait().unwrap();
        assert!([ServiceEnd::Signal(9), ServiceEnd::Code(401)].contains(&end), "{end}");
    }

    #[test]
    fn the_end_and_the_last_words_of_a_service_are_known() {
        let service = shell("echo one >&2; echo two >&2; exit 7", &[]);
        assert_eq!(service.wait().unwrap(), ServiceEnd::Code(7));
        assert_eq!(service.last_words(), "one; two");
    }

    #[test]
    fn a_killed_service_names_its_signal() {
        // A shell that forked would leave a sleeper behind that holds its error output open.
        let service = shell("exec sleep 1000", &[]);
        assert_eq!(service.ended().unwrap(), None);
        service.kill();
        assert_eq!(service.wait().unwrap(), ServiceEnd::Signal(9));
    }

    #[test]
    fn a_service_gets_the_descriptors_meant_for_it_and_no_other() {
        let (ours, theirs) = std::io::pipe().unwrap();
        let (other, _end) = std::io::pipe().unwrap();
        // By what it is, not by its number: the shell opens files of its own.
        let pipe = |end: BorrowedFd<'_>| {
            let inode = rustix::fs::fstat(end).unwrap().st_ino;
            format!("pipe:[{inode}]")
        };
        let (meant, not_meant) = (pipe(theirs.as_fd()), pipe(other.as_fd()));
        let script =
            format!("echo hello > /proc/self/fd/{}; ls -l /proc/$$/fd >&2", theirs.as_raw_fd());
        let service = shell(&script, &[theirs.as_fd()]);
        drop(theirs);
        let mut text = String::new();
        (&ours).read_to_string(&mut text).unwrap();
        service.wait().unwrap();
        assert_eq!(text, "hello\n");
        let open = service.last_words();
        assert!(open.contains(&meant), "{meant} in {open}");
        assert!(!open.contains(&not_meant), "{not_meant} in {open}");
    }

    #[test]
    fn a_missing_program_says_how_to_come_by_it() {
        let missing =
            Service::start("no-such-program", "install the package x", &[], &[], ExitCode::Usual);
        let message = missing.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message.contains("install the package x"), "{message}");
    }
}
