//! Programs that are started, and end with what started them.

use crate::failure::{Failure, Result, system};
use std::ffi::OsStr;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a program may take to end when asked.
const PATIENCE: Duration = Duration::from_secs(5);

/// A running program. Dropped, it is ended.
#[derive(Debug)]
pub(crate) struct Program(Child);

impl Program {
    /// Starts it; what it says goes to the end of `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let out = std::fs::File::options().create(true).append(true).open(log);
        let out = out.map_err(system(format!("write {}", log.display())))?;
        let also = out.try_clone().map_err(system(format!("write {}", log.display())))?;
        command.stdin(Stdio::null()).stdout(also).stderr(out);
        Ok(Self(command.spawn().map_err(system(format!("run {name}")))?))
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.0.id().cast_signed())
            && matches!(self.0.try_wait(), Ok(None))
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let end = Instant::now() + PATIENCE;
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        // It has ended, or ends now.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command that ends when this program does, whatever ends that.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--"]).arg(program);
    command
}

/// An X server without a screen.
#[derive(Debug)]
pub(crate) struct Xvfb {
    program: Program,
    /// As in `:5`.
    pub(crate) display: String,
}

impl Xvfb {
    /// Starts one of 1920x1080 pixels.
    pub(crate) fn start(logs: &Path) -> Result<Self> {
        let (mut said, says) = std::io::pipe().map_err(system("make a pipe"))?;
        let mut command = command("Xvfb");
        command.args(["-displayfd", "1", "-screen", "0", "1920x1080x24"]);
        command.args(["-nolisten", "tcp", "-noreset", "-dpi", "96", "-s", "0"]);
        let log = std::fs::File::options().create(true).append(true).open(logs.join("xvfb.log"));
        command.stdin(Stdio::null()).stdout(says).stderr(log.map_err(system("write xvfb.log"))?);
        let program = Program(command.spawn().map_err(system("run Xvfb"))?);
        // The pipe's other end is the server's alone.
        drop(command);
        let mut number = String::new();
        while !number.ends_with('\n') {
            let mut byte = [0];
            let read = said.read(&mut byte).map_err(system("hear Xvfb"))?;
            if read == 0 {
                return Err(Failure::X("Xvfb has ended at once".into()));
            }
            number.push(char::from(byte[0]));
        }
        Ok(Self { program, display: format!(":{}", number.trim()) })
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.program.id()
    }
}

/// This program's own file.
pub(crate) fn own() -> Result<PathBuf> {
    std::env::current_exe().map_err(system("find this program"))
}
