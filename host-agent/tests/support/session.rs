//! Sessions for tests, without a display: a message bus of each one's own, the real guest agent in one that
//! stands for the guest's, and a notification service that remembers in one that stands for the host's.
#![allow(dead_code, reason = "not every test file uses all of it")]
#![allow(unreachable_pub, reason = "each test file is a crate of its own")]

#[path = "notes.rs"]
mod notes;

use agent_link::Token;
#[allow(unused_imports, reason = "not every test file uses all of it")]
pub use notes::{Notes, Program, bus, there};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The real agent, built when it is not.
pub fn agent_program() -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_macrohardd")).parent().unwrap();
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", "guest-agent", "--bin", "macrohard-guest-agent"])
        .arg("--target-dir")
        .arg(folder.parent().unwrap())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .unwrap();
    assert!(built.success());
    folder.join("macrohard-guest-agent")
}

/// A user's session in a guest.
pub struct GuestSession {
    pub folder: tempfile::TempDir,
    _bus: Program,
    runtime: tokio::runtime::Runtime,
    program: PathBuf,
}

impl GuestSession {
    /// With a proof for a user's agent of the VM with `token`.
    pub fn new(token: &Token) -> Self {
        let folder = tempfile::Builder::new().prefix("guest").tempdir().unwrap();
        let bus = bus(folder.path());
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let token = token.clone();
        let socket = folder.path().join("proofs");
        runtime.block_on(async {
            let listener = guest_agent::proofs::listen(&socket).unwrap();
            tokio::spawn(guest_agent::proofs::give(listener, token));
        });
        Self { folder, _bus: bus, runtime, program: agent_program() }
    }

    /// A program in the session.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.folder.path())
            .env("XDG_RUNTIME_DIR", self.folder.path())
            .stdin(Stdio::null());
        command
    }

    /// The agent with arguments, not started.
    pub fn agent_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&self.program);
        command.args(arguments);
        command
    }

    /// The session's agent.
    pub fn agent(&self, host: &Path) -> Program {
        let mut command = self.agent_command(&["session"]);
        command.arg("--host").arg(format!("unix:{}", host.display()));
        command.arg("--proofs").arg(self.folder.path().join("proofs"));
        Program(command.spawn().unwrap())
    }

    /// Runs something of the test's in the session's runtime.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }
}
