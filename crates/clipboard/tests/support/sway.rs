//! A Wayland compositor without screen or input.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;

use tokio::process::{Child, Command};

use super::{Ending, LIMIT, owner, pasted};

pub struct Sway {
    process: Ending,
    folder: tempfile::TempDir,
    pub socket: PathBuf,
}

impl Sway {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = folder.path().join("settings");
        std::fs::write(&settings, "xwayland disable\n").unwrap();
        let mut sway = std::process::Command::new("sway");
        if rustix::process::getuid().is_root() {
            // Root it refuses to be.
            let (nobody, nogroup) = (65534, 65534);
            std::os::unix::fs::chown(folder.path(), Some(nobody), Some(nogroup)).unwrap();
            sway = std::process::Command::new("setpriv");
            sway.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sway"]);
        }
        let child = sway
            .arg("-c")
            .arg(&settings)
            .env("XDG_RUNTIME_DIR", folder.path())
            .envs([
                ("WLR_BACKENDS", "headless"),
                ("WLR_LIBINPUT_NO_DEVICES", "1"),
                ("WLR_RENDERER", "pixman"),
            ])
            .env_remove("WAYLAND_DISPLAY")
            .env_remove("DISPLAY")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start sway");
        let mut sway =
            Self { process: Ending(child), socket: folder.path().join("wayland-1"), folder };
        let end = Instant::now() + LIMIT;
        while std::os::unix::net::UnixStream::connect(&sway.socket).is_err() {
            assert!(!sway.process.has_ended(), "sway ended at once");
            assert!(Instant::now() < end, "sway has no socket");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        sway
    }

    pub fn program(&self, name: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(name);
        command
            .env("XDG_RUNTIME_DIR", self.folder.path())
            .env("WAYLAND_DISPLAY", "wayland-1")
            .env_remove("DISPLAY")
            .kill_on_drop(true);
        command
    }

    /// wl-copy owns the selection until it is dropped.
    pub async fn copy(&self, arguments: &[&str], content: &[u8]) -> Child {
        let mut command = self.program("wl-copy");
        command.arg("--foreground").args(arguments);
        owner(command, content).await
    }

    /// What wl-paste gets; nothing when it fails.
    pub async fn paste(&self, arguments: &[&str]) -> Option<Vec<u8>> {
        let mut command = self.program("wl-paste");
        command.arg("--no-newline").args(arguments);
        pasted(command).await
    }

    pub fn kill(self) {
        drop(self.process);
    }
}
