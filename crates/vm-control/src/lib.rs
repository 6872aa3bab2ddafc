//! How a VM process is started and steered. The daemon (or the CLI, for `run`) starts
//! `macrohard-vm` with a [`LaunchSpec`] as the first line of its standard input (in the foreground
//! the keyboard follows on the same stream). A specification that cannot run leaves an
//! [`ExitRecord`] with [`Ending::Failed`]; else the control socket appears, and from then on it
//! speaks one JSON [`Request`] per line on the process's control socket and gets one JSON [`Reply`]
//! per line back, in order. Several clients may be connected at once.
//!
//! The console is a second socket that carries raw bytes both ways; the newest client gets the
//! keyboard, all get the output. The guest's vsock ports are reached through a third socket with
//! the `CONNECT port` line protocol. Both ends of this protocol ship together; `version` catches a
//! daemon that meets a VM process of another release. One answer brings a descriptor beside its line
//! ([`Reply::WindowMemory`]).
#![forbid(unsafe_code)]

mod wire;

pub use wire::{Client, MAX_LINE, WindowMemory, WireError, read_line, serve, write_line};

use definition::VmDefinition;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Version of this protocol; a client that meets another one only asks for status and stop.
pub const VERSION: u32 = 3;

/// Name of the fw_cfg file that shows [`LaunchSpec::agent_token`] to the guest.
pub const AGENT_TOKEN_FILE: &str = "opt/org.macrohard/agent-token";
/// Name of the guest's serial port for agents.
pub const AGENT_PORT: &str = "org.macrohard.agent";

/// What a VM process needs to know, all paths absolute, the engine already chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchSpec {
    /// Version of this protocol.
    pub version: u32,
    /// The VM.
    pub definition: VmDefinition,
    /// The engine to use: never `Auto`.
    pub engine: definition::EngineChoice,
    /// Folder for the sockets and the pid file; made by the caller, mode 0700.
    pub runtime: PathBuf,
    /// Folder for what outlives the process: NVRAM, console log, exit record.
    pub state: PathBuf,
    /// Connect the guest's first serial console to the process's own standard input and output
    /// instead of only the console socket (`run`).
    pub foreground: bool,
    /// What the guest's agent proves itself with: a secret of this run, shown to root in the guest.
    pub agent_token: Option<String>,
    /// Give up after this many seconds (`run --timeout`); the exit is [`Ending::TimedOut`].
    pub timeout: Option<u64>,
}

/// Names of the files a VM process keeps, so that no two places spell them.
#[derive(Clone, Debug)]
pub struct Files<'a> {
    runtime: &'a Path,
    state: &'a Path,
}

impl<'a> Files<'a> {
    /// For the two folders of a [`LaunchSpec`].
    #[must_use]
    pub fn new(runtime: &'a Path, state: &'a Path) -> Self {
        Self { runtime, state }
    }
    /// The control socket.
    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.runtime.join("control.sock")
    }
    /// The console socket.
    #[must_use]
    pub fn console(&self) -> PathBuf {
        self.runtime.join("console.sock")
    }
    /// The socket of the virtio console (`hvc0`).
    #[must_use]
    pub fn virtio_console(&self) -> PathBuf {
        self.runtime.join("hvc0.sock")
    }
    /// The screen's socket, where the VM has one (crate `display`).
    #[must_use]
    pub fn display(&self) -> PathBuf {
        self.runtime.join("display.sock")
    }
    /// The guest's vsock ports (`CONNECT port\n`, answered `OK port\n`); a guest that connects out
    /// to host port P reaches the socket `vsock.sock_P`.
    #[must_use]
    pub fn vsock(&self) -> PathBuf {
        self.runtime.join("vsock.sock")
    }
    /// Where a program of the host listens for the guest's connections to this host port.
    #[must_use]
    pub fn host_port(&self, port: u32) -> PathBuf {
        self.runtime.join(format!("vsock.sock_{port}"))
    }
    /// The host's end of the guest's serial port for agents, where the engine has one.
    #[must_use]
    pub fn agent_port(&self) -> PathBuf {
        self.runtime.join("agent-port.sock")
    }
    /// The agent's token, for a program that takes it as a file only.
    #[must_use]
    pub fn agent_token(&self) -> PathBuf {
        self.runtime.join("agent-token")
    }
    /// Process id, held locked (flock) as long as the process lives.
    #[must_use]
    pub fn pid(&self) -> PathBuf {
        self.runtime.join("pid")
    }
    /// UEFI variables.
    #[must_use]
    pub fn nvram(&self) -> PathBuf {
        self.state.join("nvram.fd")
    }
    /// Everything the guest wrote to its first serial console.
    #[must_use]
    pub fn console_log(&self) -> PathBuf {
        self.state.join("console.log")
    }
    /// Everything the guest wrote to its virtio console.
    #[must_use]
    pub fn virtio_console_log(&self) -> PathBuf {
        self.state.join("hvc0.log")
    }
    /// The VM process's own log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.state.join("vm.log")
    }
    /// How the last run ended ([`ExitRecord`] as JSON); removed at start, written at the end. None
    /// there and no process: it was killed.
    #[must_use]
    pub fn exit_record(&self) -> PathBuf {
        self.state.join("exit.json")
    }
}

/// What a client may ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// [`Reply::Status`].
    Status,
    /// Stops all processors and devices; memory stays.
    Pause,
    /// Goes on after a pause.
    Resume,
    /// As the reset button.
    Reset,
    /// Presses the power button; the guest decides. `stop` without `--force`.
    PowerButton,
    /// Ends the VM now. `stop --force`.
    Quit,
    /// [`Reply::Statistics`].
    Statistics,
    /// [`Reply::Inspect`]: the live state of every device.
    Inspect,
    /// [`Reply::WindowMemory`], with the memory's file beside it.
    WindowMemory,
    /// Sets the balloon: MiB of RAM the guest should give back.
    Balloon {
        /// Target in MiB, at most the guest's RAM less 64.
        target: u64,
    },
}

/// The answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// Done.
    Done,
    /// The request cannot be done now; the text is for a person.
    Refused {
        /// What was asked, what was found, what to do.
        message: String,
    },
    /// To [`Request::Status`].
    Status(Status),
    /// To [`Request::Statistics`].
    Statistics(Statistics),
    /// To [`Request::WindowMemory`]: the memory in which the guest draws its windows, a memfd that is sealed
    /// against shrinking and growing, or a part of the core's pool (SCM_RIGHTS with the line).
    WindowMemory {
        /// Where it begins in the file.
        #[serde(default)]
        offset: u64,
        /// Its bytes.
        length: u64,
    },
    /// To [`Request::Inspect`].
    Inspect {
        /// A tree of devices.
        tree: serde_json::Value,
    },
}

/// Where a running VM process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Setting up; no guest instruction has run.
    Starting,
    /// Processors run.
    Running,
    /// Processors and devices stand still.
    Paused,
}

/// To [`Request::Status`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Protocol version of the process.
    pub version: u32,
    /// Name of the VM.
    pub name: String,
    /// Where it stands.
    pub phase: Phase,
    /// The engine that runs it.
    pub engine: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since the process started.
    pub uptime: u64,
    /// Guest RAM in MiB.
    pub memory: u64,
    /// Virtual CPUs.
    pub cpus: u32,
}

/// Counters of one virtual CPU, by name (`port_read`, `memory_write`, ... and the engine's own).
pub type Counters = std::collections::BTreeMap<String, u64>;

/// To [`Request::Statistics`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// One per virtual CPU: exits by reason.
    pub processors: Vec<Counters>,
    /// Per device: requests, bytes, refusals.
    pub devices: std::collections::BTreeMap<String, Counters>,
    /// Memory of this process beyond guest RAM, in KiB.
    pub overhead: u64,
}

/// How a VM ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ending", rename_all = "kebab-case")]
pub enum Ending {
    /// The guest powered itself off.
    PoweredOff,
    /// The guest wrote this value to the debug-exit port; the process's exit code is the value
    /// itself.
    DebugExit {
        /// The value.
        code: u8,
    },
    /// [`Request::Quit`] or a termination signal.
    Stopped,
    /// The guest reset a machine that is not to be restarted (`run`).
    Reset,
    /// [`LaunchSpec::timeout`] passed.
    TimedOut,
    /// The guest shut down its processor (triple fault).
    TripleFault,
    /// The VM process failed.
    Failed {
        /// What happened.
        message: String,
    },
}

/// Written as `exit.json` when a VM process ends in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// How.
    #[serde(flatten)]
    pub ending: Ending,
    /// Seconds since 1970.
    pub time: u64,
}
