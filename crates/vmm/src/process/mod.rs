//! The process of one VM: what stands around a [`crate::Machine`]. One thread (the caller of
//! [`run`]) waits for everything outside the guest: control and console clients, signals, the
//! timeout, the machine's own end. It never touches guest memory.
//!
//! Order of a life: lock the pid file, open the log, build the machine, listen, close the sandbox,
//! start the guest, serve, end, leave an exit record.

mod broker;
mod control;
mod every_thread;
mod last_words;
mod log;
pub(crate) mod overhead;
mod requests;
mod sandbox;
mod server;
mod stream;
mod syscall_names;
mod terminal;

pub use sandbox::Denied;

use crate::native::{HvtMachine, NativeMachine};
use crate::tcg::TcgMachine;
use crate::{Console, EndingSlot, LifeCycle, Machine, MachineError, Surroundings};
use broker::Broker;
use control::Subject;
use definition::EngineChoice;
use engine::EngineKind;
use rustix::fs::{FlockOperation, flock};
use server::Server;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use terminal::{Standard, Terminal};
use vm_control::{Ending, ExitRecord, Files, LaunchSpec};

/// Exit code of a VM process that ran into its timeout, as of `timeout(1)`.
pub const EXIT_TIMED_OUT: u8 = 124;
/// Exit code of a VM process that failed, or whose guest met a triple fault.
pub const EXIT_FAILURE: u8 = 1;

/// How to run, beyond the specification.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// What a system call outside the sandbox does.
    pub denied: Denied,
    /// Log more.
    pub verbose: bool,
}

/// Runs the VM to its end and answers the exit code of the process: a debug-exit code as it is, 0
/// after power off, stop or reset, [`EXIT_TIMED_OUT`], else [`EXIT_FAILURE`]. `typed` is console
/// input that was read together with the specification.
#[must_use]
pub fn run(spec: LaunchSpec, typed: Vec<u8>, options: Options) -> u8 {
    let started = Instant::now();
    let (lock, broker) = match prepare(&spec, options) {
        Ok(prepared) => prepared,
        Err(error) => {
            eprintln!("{}: {error}", spec.definition.name);
            return EXIT_FAILURE;
        }
    };
    let record = Files::new(&spec.runtime, &spec.state).exit_record();
    let name = spec.definition.name.clone();
    let ending = catch_unwind(AssertUnwindSafe(|| live(spec, typed, options, started, broker)))
        .unwrap_or_else(|_| {
            Err(MachineError::Part {
                part: "VM process",
                reason: "panicked; see its log".to_owned(),
            })
        })
        .unwrap_or_else(|error| {
            tracing::error!("{error}");
            eprintln!("{name}: {error}");
            Ending::Failed { message: error.to_string() }
        });
    tracing::info!(?ending, "ended");
    if let Err(error) = leave_record(&record, &ending) {
        tracing::error!(%error, "no exit record");
    }
    // Held until here: while it is, the VM counts as alive.
    drop(lock);
    exit_code(&ending)
}

fn exit_code(ending: &Ending) -> u8 {
    match ending {
        Ending::DebugExit { code } => *code,
        Ending::PoweredOff | Ending::Stopped | Ending::Reset => 0,
        Ending::TimedOut => EXIT_TIMED_OUT,
        Ending::TripleFault | Ending::Failed { .. } => EXIT_FAILURE,
    }
}

/// Becomes the process of this VM: files private, pid file locked, log open, signals held.
fn prepare(spec: &LaunchSpec, options: Options) -> Result<(File, Broker), MachineError> {
    use rustix::process::{DumpableBehavior, Signal};
    use rustix::process::{set_dumpable_behavior, set_parent_process_death_signal, umask};
    let failed = |what| move |e: rustix::io::Errno| MachineError::system(what, e.into());
    if spec.version != vm_control::VERSION {
        return Err(MachineError::Definition {
            field: "version".into(),
            value: spec.version.to_string(),
            reason: format!("this program speaks version {}", vm_control::VERSION),
        });
    }
    umask(rustix::fs::Mode::from_raw_mode(0o077));
    // Guest memory must not land in a core file or be read by another process of the user.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(failed("cannot forbid core files"))?;
    if spec.foreground {
        // Whoever started it is all there is to end it.
        set_parent_process_death_signal(Some(Signal::TERM))
            .map_err(failed("cannot tie the VM to its starter"))?;
    }
    server::hold_signals()?;
    let files = Files::new(&spec.runtime, &spec.state);
    let broker = Broker::start(&files.vsock())?;
    let lock = lock_pid_file(&files.pid())?;
    let record = files.exit_record();
    match std::fs::remove_file(&record) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(MachineError::file("cannot remove", record, e));
        }
        _ => {}
    }
    let level = if options.verbose { tracing::Level::DEBUG } else { tracing::Level::INFO };
    let log_failed = |e| MachineError::file("cannot open log", files.log(), e);
    let log = log::Log::open(&files.log(), level).map_err(log_failed)?;
    last_words::prepare(log.descriptor().map_err(log_failed)?, &record)?;
    // Only a test has set another one before.
    let _ = tracing::subscriber::set_global_default(log);
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    tracing::info!(name = spec.definition.name, engine = ?spec.engine, "starting");
    Ok((lock, broker))
}

/// Writes our number into the pid file, which stays locked as long as the process lives.
fn lock_pid_file(path: &Path) -> Result<File, MachineError> {
    let failed = |e| MachineError::file("cannot lock pid file", path, e);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|e| {
        if e == rustix::io::Errno::WOULDBLOCK {
            MachineError::Part {
                part: "VM",
                reason: format!("already running: {} is locked by another process", path.display()),
            }
        } else {
            failed(e.into())
        }
    })?;
    file.set_len(0).map_err(failed)?;
    writeln!(file, "{}", std::process::id()).map_err(failed)?;
    Ok(file)
}

/// Writes the record beside its place and moves it there, so that nobody reads half of one.
fn leave_record(path: &Path, ending: &Ending) -> std::io::Result<()> {
    let record = ExitRecord {
        ending: ending.clone(),
        time: SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
    };
    let temporary = path.with_extension("new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(&serde_json::to_vec(&record)?)?;
    file.sync_all()?;
    std::fs::rename(temporary, path)
}

/// From the specification to the ending.
fn live(
    spec: LaunchSpec,
    typed: Vec<u8>,
    options: Options,
    started: Instant,
    broker: Broker,
) -> Result<Ending, MachineError> {
    let files = Files::new(&spec.runtime, &spec.state);
    let ending = Arc::new(EndingSlot::new()?);
    let surroundings = Surroundings {
        console: Arc::new(Console::new(&files.console_log())?),
        virtio_console: Arc::new(Console::new(&files.virtio_console_log())?),
        ending: Arc::clone(&ending),
        end_on_reset: spec.foreground,
        host_ports: Some(Arc::new(broker)),
    };
    let machine = build(&spec, surroundings.clone())?;
    let control = control::listen(&files.control())?;
    let terminals = vec![
        Terminal::new(surroundings.console, &files.console())?,
        Terminal::new(surroundings.virtio_console, &files.virtio_console())?,
    ];
    let standard = spec.foreground.then(|| Standard::new(typed)).transpose()?;
    sandbox::close(&reach(&spec), options.denied)?;
    let subject =
        Subject { life: LifeCycle::new(machine, Arc::clone(&ending)), ending, spec, started };
    Server::new(control, terminals, standard, subject)?.serve()
}

/// The machine on the engine the specification names.
fn build(spec: &LaunchSpec, surroundings: Surroundings) -> Result<Box<dyn Machine>, MachineError> {
    let native = |kind, surroundings| -> Result<Box<dyn Machine>, MachineError> {
        let engine = engine::open(kind)?;
        if spec.definition.boot.hvt.is_some() {
            return Ok(Box::new(HvtMachine::new(&*engine, spec, surroundings)?));
        }
        Ok(Box::new(NativeMachine::new(&*engine, spec, surroundings)?))
    };
    match spec.engine {
        EngineChoice::Core => native(EngineKind::Core, surroundings),
        EngineChoice::Kvm => native(EngineKind::Kvm, surroundings),
        EngineChoice::Tcg => Ok(Box::new(TcgMachine::new(spec, &surroundings)?)),
        EngineChoice::Auto => Err(MachineError::Definition {
            field: "engine".into(),
            value: "auto".to_owned(),
            reason: "whoever starts a VM process chooses the engine first".to_owned(),
        }),
    }
}

/// What of the host the process needs once it runs: everything else is open already.
fn reach(spec: &LaunchSpec) -> sandbox::Reach {
    let mut reach = sandbox::Reach {
        own: vec![spec.runtime.clone(), spec.state.clone()],
        writable: Vec::new(),
        // Its own memory figures.
        readable: vec!["/proc/self".into()],
    };
    for share in spec.definition.shares.iter().filter(|share| share.kind.has_device()) {
        if share.read_only {
            reach.readable.push(share.path.clone());
        } else {
            reach.writable.push(share.path.clone());
        }
    }
    reach
}
