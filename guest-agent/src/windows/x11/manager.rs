//! The guest's own window manager, which has the windows in desktop mode.
//!
//! Window managers alone are started, no whole sessions: a session that ends takes its programs along, and desktop
//! mode ends whenever the host's user wants. What is started from a window manager's menu goes on without it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::server;

/// The system's own choice first (Debian Policy 11.8.4).
const MANAGERS: [&str; 11] = [
    "x-window-manager",
    "openbox",
    "xfwm4",
    "marco",
    "metacity",
    "kwin_x11",
    "icewm",
    "jwm",
    "fluxbox",
    "fvwm3",
    "twm",
];
/// How long one may take to end.
const PATIENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(10);
/// In the folder of the agent's own X server: which process it is.
const FILE: &str = "manager";

/// One that runs.
#[derive(Debug)]
pub(super) struct Manager {
    child: Child,
    /// Its file, as it was found.
    pub(super) program: PathBuf,
    pub(super) since: Instant,
    folder: Option<PathBuf>,
}

impl Manager {
    /// Starts it, in a unit of its own where the user has a systemd: an agent that ends does not end it.
    pub(super) fn start(
        program: PathBuf,
        display: &str,
        authority: Option<&Path>,
        folder: Option<&Path>,
    ) -> std::io::Result<Self> {
        let mut command = server::scope(&program, "Window manager of desktop mode");
        command
            .env("DISPLAY", display)
            .env("XDG_SESSION_TYPE", "x11")
            .env_remove("WAYLAND_DISPLAY");
        if let Some(file) = authority {
            command.env("XAUTHORITY", file);
        }
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // systemd-run becomes the program: the process stays the same.
        let child = command.spawn()?;
        let this =
            Self { child, program, since: Instant::now(), folder: folder.map(Path::to_owned) };
        if let (Some(folder), Some(began)) = (&this.folder, pid(this.child.id()).and_then(began)) {
            let line = format!("{} {began}\n", this.child.id());
            if let Err(error) = std::fs::write(folder.join(FILE), line) {
                tracing::warn!(%error, "the next agent will not find the window manager");
            }
        }
        Ok(this)
    }

    /// Whether it has ended by itself.
    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it to end, and ends it if it does not.
    pub(super) fn end(mut self) {
        if let Some(pid) = pid(self.child.id()) {
            // It may have ended already.
            let _ = kill_process(pid, Signal::TERM);
        }
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline && !self.has_ended() {
            std::thread::sleep(PAUSE);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder {
            let _ = std::fs::remove_file(folder.join(FILE));
        }
    }
}

/// Those that there are.
pub(super) fn installed() -> Vec<PathBuf> {
    let places = std::env::var_os("PATH").unwrap_or_default();
    let places: Vec<PathBuf> = std::env::split_paths(&places).collect();
    let all = MANAGERS
        .iter()
        .filter_map(|name| places.iter().map(|place| place.join(name)).find(|path| path.is_file()));
    let mut known = BTreeSet::new();
    all.filter(|path| known.insert(path.canonicalize().unwrap_or_else(|_| path.clone()))).collect()
}

/// Ends the one that an agent before has left running on the X server with this folder.
pub(super) fn end_left(folder: &Path) {
    let Ok(line) = std::fs::read_to_string(folder.join(FILE)) else { return };
    let _ = std::fs::remove_file(folder.join(FILE));
    let mut fields = line.split_whitespace().map(str::parse::<u64>);
    let (Some(Ok(number)), Some(Ok(since))) = (fields.next(), fields.next()) else { return };
    let Some(left) = u32::try_from(number).ok().and_then(pid) else { return };
    // Another process may have its number now.
    let runs = || began(left) == Some(since);
    let deadline = Instant::now() + PATIENCE;
    if runs() {
        tracing::info!(number, "the window manager of an agent before is ended");
        let _ = kill_process(left, Signal::TERM);
    }
    while runs() {
        if Instant::now() >= deadline {
            let _ = kill_process(left, Signal::KILL);
            return;
        }
        std::thread::sleep(PAUSE);
    }
}

fn pid(number: u32) -> Option<Pid> {
    i32::try_from(number).ok().and_then(Pid::from_raw)
}

/// When a process began, in the kernel's ticks since it did itself (proc(5), field 22 of `stat`).
fn began(process: Pid) -> Option<u64> {
    let number = process.as_raw_nonzero();
    let text = std::fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
    // The name may have spaces and brackets.
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let state = fields.next()?;
    (state != "Z").then(|| fields.nth(18)?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_an_agent_before_has_left_is_ended_and_no_other_process() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let left = pid(child.id()).unwrap();
        let since = began(left).unwrap();
        let note = |since: u64| {
            std::fs::write(folder.path().join(FILE), format!("{} {since}\n", child.id())).unwrap();
            end_left(folder.path());
            assert!(!folder.path().join(FILE).exists());
        };
        // Somebody else has the number since.
        note(since + 1);
        assert_eq!(began(left), Some(since));
        note(since);
        assert_eq!(began(left), None);
        child.wait().unwrap();
    }

    #[test]
    fn what_is_no_note_of_one_ends_nothing() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["", "x y", "1", "-1 -1", "99999999999 1"] {
            std::fs::write(folder.path().join(FILE), text).unwrap();
            end_left(folder.path());
        }
    }
}
