//! The compositor's process: started, or found where an earlier daemon left it. Its standard input is
//! the socket at which it listens for daemons; its standard output is the file with its process id, which is
//! locked as long as it lives (a lock of flock(2) belongs to what was opened, and goes with it to the child).

use crate::daemon::process::Process;
use crate::launch::sibling;
use crate::problem::Problem;
use clipboard::Display;
use rustix::fs::{FlockOperation, flock};
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Names another compositor.
const PROGRAM: &str = "MACROHARD_COMPOSITOR";

/// Where the compositor of a VM is found.
#[derive(Clone, Debug)]
pub(super) struct Where {
    /// Its socket.
    pub(super) socket: PathBuf,
    pid: PathBuf,
    log: PathBuf,
}

impl Where {
    /// In the VM's folders.
    pub(super) fn new(runtime: &Path, state: &Path) -> Self {
        Self {
            socket: runtime.join("compositor.sock"),
            pid: runtime.join("compositor.pid"),
            log: state.join("compositor.log"),
        }
    }

    /// The one that runs.
    pub(super) fn find(&self) -> Option<Process> {
        Process::find(&self.pid)
    }

    /// Starts one on the desktop `display`.
    ///
    /// # Errors
    /// The program is not there, or a file of it cannot be made.
    pub(super) fn start(&self, display: &Display) -> Result<(Process, Child), Problem> {
        let program = program()?;
        let failed = |what: &Path| {
            let what = what.display().to_string();
            move |error: io::Error| Problem::failed(format!("cannot make {what}: {error}"))
        };
        let lock = self.lock().map_err(failed(&self.pid))?;
        let listener = self.listen().map_err(failed(&self.socket))?;
        let log = log_limits::open(&self.log).map_err(failed(&self.log))?;
        let mut command = Command::new(&program);
        command
            .current_dir("/")
            .stdin(OwnedFd::from(listener))
            .stdout(lock)
            .stderr(Stdio::from(log))
            .process_group(0);
        let variables: [(&str, Option<&OsStr>); 4] = [
            ("WAYLAND_DISPLAY", display.wayland.as_deref()),
            ("XDG_RUNTIME_DIR", display.runtime.as_deref().map(Path::as_os_str)),
            ("DISPLAY", display.x11.as_deref().map(OsStr::new)),
            ("XAUTHORITY", display.authority.as_deref().map(Path::as_os_str)),
        ];
        for (name, value) in variables {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let mut child = command.spawn().map_err(|error| {
            Problem::failed(format!("cannot start {}: {error}", program.display()))
        })?;
        // Behind the lock: whoever finds it locked finds the number, or looks again.
        let noted = std::fs::write(&self.pid, format!("{}\n", child.id()));
        match noted.and_then(|()| Process::of(child.id())) {
            Ok(process) => Ok((process, child)),
            Err(error) => {
                let _ = child.kill().and_then(|()| child.wait());
                Err(Problem::failed(format!("cannot watch the compositor: {error}")))
            }
        }
    }

    fn lock(&self) -> io::Result<File> {
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.pid)?;
        // For reading only: what the program prints by mistake goes nowhere.
        let file = File::open(&self.pid)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(file)
    }

    fn listen(&self) -> io::Result<UnixListener> {
        match std::fs::remove_file(&self.socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        UnixListener::bind(&self.socket)
    }
}

/// The compositor to start.
fn program() -> Result<PathBuf, Problem> {
    match std::env::var_os(PROGRAM) {
        Some(named) => Ok(named.into()),
        None => sibling("macrohard-compositor"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compositor_is_found_by_its_lock_as_long_as_it_lives() {
        let folder = tempfile::tempdir().unwrap();
        let place = Where::new(folder.path(), folder.path());
        assert!(place.find().is_none());
        let held = place.lock().unwrap();
        std::fs::write(&place.pid, format!("{}\n", std::process::id())).unwrap();
        assert_eq!(place.find().map(|process| process.pid), Some(std::process::id()));
        assert!(place.lock().is_err(), "a second one beside it");
        drop(held);
        assert!(place.find().is_none());
    }
}
