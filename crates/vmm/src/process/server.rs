//! The loop that serves a running VM.

use super::control::{ControlClient, Subject};
use super::requests::{ClientId, Requests};
use super::terminal::{Standard, Terminal};
use crate::MachineError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vm_control::{Ending, Files};

/// Signals that end the VM in order.
const ENDING_SIGNALS: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];
/// How long clients may take to fetch the last output.
const FAREWELL: Duration = Duration::from_millis(500);

/// Keeps the ending signals from ending the process; the loop reads them from a descriptor. Called
/// before any thread is made, so that all inherit it.
pub(super) fn hold_signals() -> Result<(), MachineError> {
    signals::block(&ENDING_SIGNALS)
}

#[allow(unsafe_code)]
mod signals {
    use crate::MachineError;
    use std::os::fd::{FromRawFd, OwnedFd};

    fn set(signals: &[libc::c_int]) -> libc::sigset_t {
        // SAFETY: sigemptyset makes the zeroed set valid; the numbers are of real signals.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            for signal in signals {
                libc::sigaddset(&mut set, *signal);
            }
            set
        }
    }

    pub(super) fn block(signals: &[libc::c_int]) -> Result<(), MachineError> {
        let set = set(signals);
        // SAFETY: the set is valid and the old mask is not asked for.
        match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) } {
            0 => Ok(()),
            error => Err(MachineError::system(
                "cannot hold signals",
                std::io::Error::from_raw_os_error(error),
            )),
        }
    }

    /// A descriptor that is readable when one of the (blocked) signals came.
    pub(super) fn descriptor(signals: &[libc::c_int]) -> Result<OwnedFd, MachineError> {
        let set = set(signals);
        // SAFETY: the set is valid; a new descriptor is asked for and owned at once.
        unsafe {
            let fd = libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if fd < 0 {
                return Err(MachineError::system(
                    "cannot watch signals",
                    std::io::Error::last_os_error(),
                ));
            }
            Ok(OwnedFd::from_raw_fd(fd))
        }
    }
}

/// What a descriptor in the poll set stands for.
#[derive(Clone, Copy)]
enum Source {
    Ending,
    Signal,
    Control,
    Answers,
    ControlClient(usize),
    Output(usize),
    Terminal(usize),
    TerminalClient(usize, usize),
    StandardInput,
    StandardOutput,
}

pub(super) struct Server {
    control: UnixListener,
    clients: Vec<ControlClient>,
    terminals: Vec<Terminal>,
    standard: Option<Standard>,
    signals: OwnedFd,
    subject: Arc<Subject>,
    requests: Requests,
    last_client: u64,
    deadline: Option<Instant>,
}

impl Server {
    pub(super) fn new(
        control: UnixListener,
        terminals: Vec<Terminal>,
        standard: Option<Standard>,
        subject: Subject,
    ) -> Result<Self, MachineError> {
        let deadline = subject
            .spec
            .timeout
            .and_then(|seconds| subject.started.checked_add(Duration::from_secs(seconds)));
        let subject = Arc::new(subject);
        Ok(Self {
            control,
            clients: Vec::new(),
            terminals,
            standard,
            signals: signals::descriptor(&ENDING_SIGNALS)?,
            requests: Requests::new(Arc::clone(&subject))?,
            subject,
            last_client: 0,
            deadline,
        })
    }

    /// Starts the guest, serves until the VM ends, and takes it down.
    pub(super) fn serve(mut self) -> Result<Ending, MachineError> {
        let served = self.subject.life.start().and_then(|()| self.wait());
        let ended = self.subject.life.quit();
        self.say_goodbye();
        self.remove_sockets();
        // The process ends now and the kernel takes everything back at once, helper processes
        // included (their sockets close). To drop the machine piece by piece would only cost time,
        // and signals to helpers that the sandbox does not allow.
        std::mem::forget(self.subject);
        // How the guest ended counts less than that its data may be lost.
        ended.and(served)
    }

    /// Waits for the ending.
    fn wait(&mut self) -> Result<Ending, MachineError> {
        loop {
            if let Some(ending) = self.subject.ending.get() {
                return Ok(ending);
            }
            if self.deadline.is_some_and(|at| at <= Instant::now()) {
                self.subject.ending.end(Ending::TimedOut);
            }
            for (source, flags) in self.poll(self.deadline)? {
                self.serve_one(source, flags);
            }
            self.clients.retain(|client| !client.finished());
            for terminal in &mut self.terminals {
                terminal.sweep();
            }
        }
    }

    /// What is ready, after waiting no longer than `until`.
    fn poll(&self, until: Option<Instant>) -> Result<Vec<(Source, PollFlags)>, MachineError> {
        let mut sources = Vec::with_capacity(16);
        let mut set = Vec::with_capacity(16);
        let mut add = |source, fd, read: bool, write: bool| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, read);
            flags.set(PollFlags::OUT, write);
            sources.push(source);
            set.push(PollFd::from_borrowed_fd(fd, flags));
        };
        add(Source::Ending, self.subject.ending.as_fd(), true, false);
        add(Source::Signal, self.signals.as_fd(), true, false);
        add(Source::Control, self.control.as_fd(), true, false);
        add(Source::Answers, self.requests.as_fd(), true, false);
        for (i, client) in self.clients.iter().enumerate() {
            let (read, write) = (client.wants_read(), client.wants_write());
            // One nobody waits for would still report a hang-up, over and over.
            if read || write {
                add(Source::ControlClient(i), client.as_fd(), read, write);
            }
        }
        for (i, terminal) in self.terminals.iter().enumerate() {
            add(Source::Output(i), terminal.console.as_fd(), true, false);
            add(Source::Terminal(i), terminal.listener.as_fd(), true, false);
            for (j, client) in terminal.clients.iter().enumerate() {
                let (read, write) = (client.wants_read(), client.wants_write());
                add(Source::TerminalClient(i, j), client.as_fd(), read, write);
            }
        }
        if let Some(standard) = &self.standard {
            let input: Option<BorrowedFd<'_>> = standard.input();
            if let Some(input) = input {
                add(Source::StandardInput, input, true, false);
            }
            if let Some(output) = standard.output() {
                add(Source::StandardOutput, output, false, true);
            }
        }
        let timeout = until.map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            Timespec {
                tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        match poll(&mut set, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(MachineError::system("cannot wait for clients", e.into())),
        }
        Ok(sources
            .into_iter()
            .zip(set.iter().map(PollFd::revents))
            .filter(|(_, flags)| !flags.is_empty())
            .collect())
    }

    fn serve_one(&mut self, source: Source, flags: PollFlags) {
        // A hang-up or error shows in the next read.
        let readable = flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
        let writable = flags.contains(PollFlags::OUT);
        match source {
            Source::Ending => {}
            Source::Signal => self.subject.ending.end(Ending::Stopped),
            Source::Control => {
                let present = self.clients.len();
                self.last_client += 1;
                let id = ClientId(self.last_client);
                self.clients.extend(ControlClient::accept(&self.control, present, id));
            }
            Source::Answers => {
                while let Some((id, reply)) = self.requests.take() {
                    if let Some(client) = self.clients.iter_mut().find(|it| it.id == id) {
                        client.answered(&reply, &mut self.requests);
                    }
                }
            }
            Source::ControlClient(i) => {
                if let Some(client) = self.clients.get_mut(i) {
                    if writable {
                        client.writable();
                    }
                    if readable {
                        client.readable(&mut self.requests);
                    }
                }
            }
            Source::Output(i) => self.spread(i),
            Source::Terminal(i) => {
                if let Some(terminal) = self.terminals.get_mut(i) {
                    terminal.accept();
                }
            }
            Source::TerminalClient(i, j) => {
                if let Some(terminal) = self.terminals.get_mut(i) {
                    if writable && let Some(client) = terminal.clients.get_mut(j) {
                        client.writable();
                    }
                    if readable {
                        terminal.readable(j);
                    }
                }
            }
            Source::StandardInput => {
                if let (Some(standard), Some(first)) = (&mut self.standard, self.terminals.first())
                {
                    standard.readable(&first.console);
                }
            }
            Source::StandardOutput => {
                if let Some(standard) = &mut self.standard {
                    standard.writable();
                }
            }
        }
    }

    /// Brings what console `index` has to its clients.
    fn spread(&mut self, index: usize) {
        let Some(terminal) = self.terminals.get_mut(index) else {
            return;
        };
        let drained = terminal.console.drain();
        terminal.spread(&drained.output);
        if drained.room {
            terminal.room();
        }
        // Standard input and output belong to the first serial console.
        if index == 0
            && let Some(standard) = &mut self.standard
        {
            standard.push(&drained.output);
            if drained.room {
                standard.offer(&terminal.console);
            }
        }
    }

    /// The last output and answers, to those who fetch them.
    fn say_goodbye(&mut self) {
        for index in 0..self.terminals.len() {
            self.spread(index);
        }
        if let Some(standard) = &mut self.standard {
            standard.finish();
        }
        let until = Instant::now() + FAREWELL;
        let waiting = |server: &Self| {
            server.clients.iter().any(ControlClient::wants_write)
                || server.terminals.iter().any(|t| t.clients.iter().any(|c| c.wants_write()))
        };
        while waiting(self) && Instant::now() < until {
            for client in &mut self.clients {
                client.writable();
            }
            for client in self.terminals.iter_mut().flat_map(|t| &mut t.clients) {
                client.writable();
            }
            if waiting(self) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// Nobody can connect to a VM that has ended. What cannot be removed is removed at the next
    /// start.
    fn remove_sockets(&self) {
        let spec = &self.subject.spec;
        let files = Files::new(&spec.runtime, &spec.state);
        for path in [files.control(), files.console(), files.virtio_console()] {
            let _ = std::fs::remove_file(path);
        }
    }
}
