//! `run`: one VM in the foreground, without a daemon and without leaving anything behind.

use super::arguments::RunArguments;
use super::machine::{DefaultNetwork, NewDisks, definition};
use super::terminal::{Raw, Silence, type_into};
use super::vm::block_on;
use crate::contents;
use crate::engines;
use crate::launch::sibling;
use crate::lifecycle::describe;
use crate::problem::Problem;
use definition::Places;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::DirBuilder;
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use vm_control::{Ending, ExitRecord, Files, LaunchSpec};

/// Exit code when the time given ran out, as of `timeout(1)`.
const EXIT_TIMED_OUT: u8 = 124;
/// Bytes of the VM process's standard error that are kept.
const STDERR_SHOWN: u64 = 64 << 10;
/// How long a VM process may take to end in order.
const END_PATIENCE: Duration = vmm::QUIT_PATIENCE.saturating_add(Duration::from_secs(5));

/// Folders that vanish with the VM.
struct Folders {
    runtime: PathBuf,
    state: PathBuf,
}

impl Folders {
    fn make(places: &Places) -> Result<Self, Problem> {
        let runtime = places.runtime_of_run(std::process::id());
        let state = runtime.join("state");
        // A leftover of a killed process that had this number.
        let _ = std::fs::remove_dir_all(&runtime);
        for folder in [&runtime, &state] {
            DirBuilder::new().mode(0o700).create(folder).map_err(|error| {
                Problem::failed(format!("cannot make {}: {error}", folder.display()))
            })?;
        }
        Ok(Self { runtime, state })
    }
}

impl Drop for Folders {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.runtime);
    }
}

pub(super) fn run(arguments: RunArguments) -> Result<ExitCode, Problem> {
    let definition = definition("run", &arguments.machine, DefaultNetwork::None)?;
    let disks = NewDisks::make(&arguments.machine)?;
    definition.check_host(&engines::host_facts())?;
    contents::check(&definition)?;
    let (engine, choice) = engines::choose(definition.engine)?;
    if definition.engine != engine {
        eprintln!("{choice}");
    }
    let folders = Folders::make(&Places::from_environment()?)?;
    let spec = LaunchSpec {
        version: vm_control::VERSION,
        definition,
        engine,
        runtime: folders.runtime.clone(),
        state: folders.state.clone(),
        foreground: true,
        agent_token: None,
        timeout: arguments.timeout,
    };
    let raw = Raw::enter()
        .map_err(|error| Problem::failed(format!("cannot use the terminal: {error}")))?;
    disks.keep();
    let ended = block_on(foreground(&spec));
    drop(raw);
    let (status, said) = ended?;
    let record = exit_record(&folders.runtime, &folders.state);
    exit_code(status, record, &said)
}

/// Starts the VM process and joins it with the terminal until it ends.
/// Gives its status and what it said on standard error, which its record repeats if it left one.
async fn foreground(spec: &LaunchSpec) -> Result<(ExitStatus, String), Problem> {
    let program = sibling("macrohard-vm")?;
    let failed = |error: io::Error| Problem::failed(format!("the VM process: {error}"));
    let mut child =
        Command::new(&program).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(
            |error| Problem::failed(format!("cannot start {}: {error}", program.display())),
        )?;
    let pid = child.id();
    let stdin = child.stdin.take();
    let (escape, mut escaped) = mpsc::channel(1);
    let line = spec.clone();
    // Not joined: it may wait for a key for ever.
    std::thread::spawn(move || {
        let Some(mut stdin) = stdin else { return };
        // When the process has ended already, its record says why.
        if line.write_to(&mut stdin).is_ok()
            && type_into(io::stdin(), &mut stdin) == Silence::Escape
        {
            let _ = escape.blocking_send(());
        }
    });
    let mut waiting = tokio::task::spawn_blocking(move || {
        let mut said = Vec::new();
        if let Some(mut stderr) = child.stderr.take() {
            // Whatever was read is shown; the status is what counts.
            let _ = (&mut stderr).take(STDERR_SHOWN).read_to_end(&mut said);
            let _ = io::copy(&mut stderr, &mut io::sink());
        }
        let status = child.wait()?;
        Ok((status, String::from_utf8_lossy(&said).trim().to_owned()))
    });
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    tokio::select! {
        status = &mut waiting => return status.map_err(Problem::failed)?.map_err(failed),
        Some(()) = escaped.recv() => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    send(pid, Signal::TERM);
    match tokio::time::timeout(END_PATIENCE, &mut waiting).await {
        Ok(status) => status.map_err(Problem::failed)?.map_err(failed),
        Err(_) => {
            send(pid, Signal::KILL);
            waiting.await.map_err(Problem::failed)?.map_err(failed)
        }
    }
}

/// The process is a child that has not been waited for, so the number is still its own.
fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

fn exit_record(runtime: &Path, state: &Path) -> Option<ExitRecord> {
    let bytes = std::fs::read(Files::new(runtime, state).exit_record()).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn exit_code(
    status: ExitStatus,
    record: Option<ExitRecord>,
    said: &str,
) -> Result<ExitCode, Problem> {
    match record.as_ref().map(|record| &record.ending) {
        Some(Ending::PoweredOff | Ending::Reset | Ending::Stopped) => Ok(ExitCode::SUCCESS),
        Some(Ending::DebugExit { code }) => Ok(ExitCode::from(*code)),
        Some(Ending::TimedOut) => {
            eprintln!("{}", describe(record.as_ref()));
            Ok(ExitCode::from(EXIT_TIMED_OUT))
        }
        Some(Ending::TripleFault | Ending::Failed { .. }) => {
            Err(Problem::failed(describe(record.as_ref())))
        }
        None if said.is_empty() => {
            Err(Problem::failed(format!("the VM process left no record ({status})")))
        }
        None => Err(Problem::failed(format!(
            "the VM process left no record ({status}). It said:\n{said}"
        ))),
    }
}
