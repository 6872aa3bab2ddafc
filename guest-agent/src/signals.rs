//! Signals that end this program, and why it takes each of them itself.
//!
//! A program that a shell starts in the background, or nohup(1) starts, finds some signals ignored, and what
//! it starts finds them ignored too: `exec` could then interrupt nothing. A signal with a handler is back
//! at its default in a started program (execve(2)).

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals, taken from when this is made.
#[derive(Debug)]
pub struct Ends {
    hangup: Signal,
    interrupt: Signal,
    quit: Signal,
    terminate: Signal,
    first: Signal,
    second: Signal,
}

impl Ends {
    /// Takes them.
    ///
    /// # Errors
    /// The system refuses.
    pub fn take() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            terminate: signal(SignalKind::terminate())?,
            first: signal(SignalKind::user_defined1())?,
            second: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for one of them; its name.
    pub async fn came(&mut self) -> &'static str {
        tokio::select! {
            _ = self.hangup.recv() => "SIGHUP",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.quit.recv() => "SIGQUIT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.first.recv() => "SIGUSR1",
            _ = self.second.recv() => "SIGUSR2",
        }
    }
}
