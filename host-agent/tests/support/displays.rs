//! Two desktops, each an X server of its own: the host's, which the daemon finds, and the guest's, in which
//! the session agent runs. Programs copy and paste on either.

use super::{Desk, kill, wait_until};
use agent_link::Token;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// True when X servers and xclip are here; says so loudly otherwise.
pub fn displays() -> bool {
    let missing = ["Xvfb", "xclip"].into_iter().find(|program| {
        Command::new(program)
            .arg("-version")
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .is_err()
    });
    if let Some(program) = missing {
        eprintln!("SKIPPED: {program} cannot be started");
    }
    missing.is_none()
}

/// One X server.
pub struct Display {
    server: Child,
    pub name: String,
}

impl Display {
    pub fn start() -> Self {
        let mut command = Command::new("Xvfb");
        command.args(["-displayfd", "1", "-screen", "0", "640x480x24", "-nolisten", "tcp"]);
        let mut server = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut number = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut number).unwrap();
        Self { server, name: format!(":{}", number.trim()) }
    }

    fn xclip(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["60", "xclip"]).args(arguments).env("DISPLAY", &self.name);
        command.stderr(Stdio::null());
        command
    }

    /// Copies; the process that gives the content.
    pub fn copy_to(&self, selection: &str, target: &str, content: &[u8]) -> Child {
        let arguments = ["-quiet", "-selection", selection, "-i", "-t", target];
        let mut command = Command::new("xclip");
        command.args(arguments).env("DISPLAY", &self.name).stderr(Stdio::null());
        let mut owner = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        owner.stdin.take().unwrap().write_all(content).unwrap();
        owner
    }

    pub fn copy(&self, target: &str, content: &[u8]) -> Owner {
        Owner(self.copy_to("clipboard", target, content))
    }

    /// What a paste gives; nothing when it is refused.
    pub fn paste_from(&self, selection: &str, target: &str) -> Option<Vec<u8>> {
        let output = self.xclip(&["-selection", selection, "-o", "-t", target]).output().unwrap();
        output.status.success().then_some(output.stdout)
    }

    pub fn paste(&self, target: &str) -> Option<Vec<u8>> {
        self.paste_from("clipboard", target)
    }

    pub fn wait_for(&self, target: &str, content: &[u8]) {
        let what = format!("{} bytes of {target} on {}", content.len(), self.name);
        wait_until(&what, || self.paste(target).as_deref() == Some(content));
    }

    /// Names of what is offered.
    pub fn targets(&self) -> String {
        String::from_utf8(self.paste("TARGETS").unwrap_or_default()).unwrap()
    }

    /// Nobody offers anything.
    pub fn wait_for_nothing(&self) {
        wait_until(&format!("nothing on {}", self.name), || self.targets().is_empty());
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// A program that has copied something.
pub struct Owner(pub Child);

impl Owner {
    /// It does not answer any more.
    pub fn stop(&self) {
        let pid = i32::try_from(self.0.id()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A VM that runs, with both desktops and the agent.
pub struct Two {
    pub agent: Option<Child>,
    pub daemon: Option<Child>,
    pub guest: Display,
    pub host: Display,
    pub desk: Desk,
    bus: Option<String>,
}

impl Two {
    pub fn new() -> Self {
        Self::with_bus(None)
    }

    /// The daemon finds its session's bus at an address.
    pub fn with_bus(bus: Option<&str>) -> Self {
        let mut two = Self {
            agent: None,
            daemon: None,
            guest: Display::start(),
            host: Display::start(),
            desk: Desk::new(),
            bus: bus.map(str::to_owned),
        };
        two.start_daemon();
        two.desk.start("vm");
        two
    }

    pub fn with_agent() -> Self {
        let mut two = Self::new();
        two.start_agent();
        two
    }

    pub fn start_daemon(&mut self) {
        let mut options = std::fs::File::options();
        let log = options.create(true).append(true).open(self.desk.path("daemon.log")).unwrap();
        let mut command = self.desk.daemon();
        command.env("DISPLAY", &self.host.name).stderr(log);
        let nowhere = "unix:path=/nonexistent/bus".to_owned();
        command.env("DBUS_SESSION_BUS_ADDRESS", self.bus.as_ref().unwrap_or(&nowhere));
        self.daemon = Some(super::detached(&mut command));
        wait_until("the daemon", || self.desk.daemon_answers());
    }

    pub fn folder(&self) -> PathBuf {
        let mut folders = std::fs::read_dir(self.desk.runtime().join("vms")).unwrap();
        folders.next().unwrap().unwrap().path()
    }

    pub fn host_socket(&self) -> PathBuf {
        self.folder().join(format!("vsock.sock_{}", agent_link::PORT))
    }

    pub fn token(&self) -> Token {
        let launch = std::fs::read(self.folder().join("launch.json")).unwrap();
        let launch: serde_json::Value = serde_json::from_slice(&launch).unwrap();
        launch["agent_token"].as_str().unwrap().parse().unwrap()
    }

    pub fn start_agent(&mut self) {
        let tests = std::env::current_exe().unwrap();
        let program = tests.ancestors().nth(2).unwrap().join("examples/session_agent");
        let mut command = Command::new(program);
        command.arg(format!("unix:{}", self.host_socket().display()));
        command.arg(self.token().to_string());
        command.env("DISPLAY", &self.guest.name).env_remove("WAYLAND_DISPLAY");
        command.env("HOME", self.desk.path("home"));
        let log = std::fs::File::create(self.desk.path("agent.log")).unwrap();
        self.agent = Some(command.stdin(Stdio::null()).stderr(log).spawn().unwrap());
        wait_until("an agent", || self.agents() == 1);
    }

    pub fn kill_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }

    pub fn kill_daemon(&mut self) {
        kill(self.desk.daemon_pid());
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.wait();
        }
    }

    pub fn agents(&self) -> usize {
        self.desk.status("vm")["agents"].as_array().map_or(0, Vec::len)
    }

    pub fn set(&self, settings: &[&str]) {
        let mut arguments = vec!["clipboard", "vm"];
        arguments.extend(settings);
        self.desk.cli(&arguments).ok();
    }

    /// What was written down of pastes.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.desk.path("home/.local/state/macrohard/clipboard.log"))
            .unwrap_or_default()
    }

    /// Time for something that must not happen.
    pub fn a_while(&self) {
        std::thread::sleep(Duration::from_millis(700));
    }
}

impl Drop for Two {
    fn drop(&mut self) {
        self.kill_agent();
        if std::thread::panicking() {
            for log in ["daemon.log", "agent.log"] {
                eprintln!("{}", std::fs::read_to_string(self.desk.path(log)).unwrap_or_default());
            }
        }
        if let Some(daemon) = &mut self.daemon {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}
