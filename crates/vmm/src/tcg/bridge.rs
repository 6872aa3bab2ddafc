//! Carries a console between QEMU's sockets and [`Console`].

use crate::{Console, MachineError};
use rustix::event::{PollFd, PollFlags, poll};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Bytes moved at once.
const CHUNK: usize = 4096;

/// Moves bytes between `console` and `terminal`, and what comes out of `printers` to `console`,
/// until QEMU has closed them all.
///
/// # Errors
/// No thread or descriptor could be made.
pub(super) fn bridge(
    name: &str,
    console: Arc<Console>,
    terminal: UnixStream,
    printers: Vec<UnixStream>,
) -> Result<JoinHandle<()>, MachineError> {
    let system = |e| MachineError::system("cannot connect a console", e);
    let typed = Arc::new(EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(system)?);
    let wake = Arc::clone(&typed);
    console.on_input(move || {
        // Full only after 2^64 - 2 wake-ups.
        let _ = wake.write(1);
    });
    let mut ends = vec![terminal];
    ends.extend(printers);
    for end in &ends {
        end.set_nonblocking(true).map_err(system)?;
    }
    let bridge = Bridge {
        console,
        open: ends.iter().map(|_| true).collect(),
        ends,
        typed,
        waiting: Vec::new(),
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(move || bridge.run()).map_err(system)
}

struct Bridge {
    console: Arc<Console>,
    /// The terminal first, then what only prints.
    ends: Vec<UnixStream>,
    open: Vec<bool>,
    typed: Arc<EventFd>,
    /// Typed, but QEMU has no room yet.
    waiting: Vec<u8>,
}

impl Bridge {
    fn run(mut self) {
        while self.open.contains(&true) {
            if let Err(error) = self.wait() {
                tracing::warn!(%error, "a console is lost");
                return;
            }
            for index in 0..self.ends.len() {
                self.print(index);
            }
            self.type_on();
        }
    }

    fn wait(&self) -> io::Result<()> {
        let typed = crate::descriptor::borrow(&self.typed);
        let mut watched = vec![PollFd::from_borrowed_fd(typed, PollFlags::IN)];
        for (index, end) in self.ends.iter().enumerate() {
            if self.open[index] {
                let mut wanted = PollFlags::IN;
                if index == 0 && !self.waiting.is_empty() {
                    wanted |= PollFlags::OUT;
                }
                watched.push(PollFd::new(end, wanted));
            }
        }
        match poll(&mut watched, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn print(&mut self, index: usize) {
        let mut chunk = [0; CHUNK];
        match self.ends[index].read(&mut chunk) {
            Ok(0) => self.open[index] = false,
            Ok(count) => self.console.output(&chunk[..count]),
            Err(error) if later(&error) => {}
            Err(_) => self.open[index] = false,
        }
    }

    fn type_on(&mut self) {
        // Not readable is no error: nothing was typed.
        let _ = self.typed.read();
        if self.waiting.is_empty() {
            self.waiting = self.console.take_input(CHUNK);
        }
        while !self.waiting.is_empty() {
            match self.ends[0].write(&self.waiting) {
                Ok(count) => {
                    self.waiting.drain(..count);
                    if self.waiting.is_empty() {
                        self.waiting = self.console.take_input(CHUNK);
                    }
                }
                Err(error) if later(&error) => return,
                // QEMU is going away; nobody will read it.
                Err(_) => self.waiting.clear(),
            }
        }
    }
}

fn later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_printed_before_the_end_arrives_and_typing_goes_the_other_way() {
        let folder = tempfile::tempdir().unwrap();
        let console = Arc::new(Console::new(&folder.path().join("log")).unwrap());
        let (terminal, mut theirs) = UnixStream::pair().unwrap();
        let (printer, mut debug) = UnixStream::pair().unwrap();
        let thread = bridge("test", Arc::clone(&console), terminal, vec![printer]).unwrap();
        console.offer_input(b"typed");
        let mut typed = [0; 5];
        theirs.read_exact(&mut typed).unwrap();
        assert_eq!(&typed, b"typed");
        debug.write_all(b"debug").unwrap();
        drop(debug);
        theirs.write_all(&[b'x'; 20_000]).unwrap();
        drop(theirs);
        thread.join().unwrap();
        let output = console.drain().output;
        assert_eq!(output.len(), 20_005);
        assert!(output.windows(5).any(|bytes| bytes == b"debug"));
    }
}
