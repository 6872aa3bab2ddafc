//! The daemon: owns the definitions of one user, starts and watches one process per VM, and serves
//! clients over gRPC on a Unix socket that only this user can open.
//!
//! It holds nothing that is not also on disk or in a VM process, so it may be killed at any time:
//! VMs go on, and the next daemon finds them ([`vms`]).

mod agents;
mod clock;
mod desktop;
mod exec;
mod integration;
mod launch;
mod logs;
mod ping;
mod process;
mod records;
mod service;
mod shells;
mod socket;
mod update;
mod vm;
mod vms;

use crate::problem::{EXIT_FAILURE, Kind, Problem};
use clap::Parser;
use definition::Places;
use log_limits::StandardError;
use proto::v1::control_server::ControlServer;
use rustix::fs::Mode;
use socket::Listener;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tonic::transport::Server;

/// The per-user daemon of macrohard-hypervisor. Clients start it when they need it; systemd may do
/// so by socket activation.
#[derive(Debug, Parser)]
#[command(name = "macrohardd", version)]
struct Arguments {
    /// Say `ready`, or why not, on standard output, then close it.
    #[arg(long, hide = true)]
    announce: bool,
}

/// The word a daemon started with `--announce` says when it serves.
pub const READY: &str = "ready";
/// The word it says when another daemon runs.
pub const BUSY: &str = "busy";

/// The daemon's `main`.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Without places it ends at once, and says so.
    let log = Places::from_environment().map(|places| places.daemon_log()).unwrap_or_default();
    tracing_subscriber::fmt()
        .with_writer(StandardError::new(log))
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("MACROHARD_LOG")
                .unwrap_or_else(|_| "info".into()),
        )
        .with_ansi(false)
        .init();
    // What the daemon and its VM processes create is this user's alone.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    // Its own session, so that no terminal's end reaches it. Refused when it leads a process group
    // already, as in the foreground of a shell, where it should end with the terminal.
    let _ = rustix::process::setsid();
    match run(arguments.announce) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            if arguments.announce {
                match problem.kind {
                    Kind::Taken => announce(BUSY),
                    _ => announce(&problem.to_string()),
                }
            }
            eprintln!("macrohardd: {problem}");
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

/// Tells the starter how it went. It may have gone away, which is no failure.
fn announce(message: &str) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{message}").and_then(|()| out.flush());
    if let Ok(null) = std::fs::File::open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(null);
    }
}

fn run(announced: bool) -> Result<(), Problem> {
    let places = Places::from_environment()?;
    let _lock = socket::lock(&places)?;
    let (listener, passed) = match socket::listener(&places)? {
        Listener::Passed(listener) => (listener, true),
        Listener::Made(listener) => (listener, false),
    };
    let runtime = threads("clients", 2)?;
    // A call to a guest passes several tasks. On one thread none of them has to wake another thread, which
    // costs as much as all the rest; and whatever guests do, clients are answered elsewhere.
    let guests = threads("guests", 1)?;
    let vms = vms::Vms::new(places.clone(), guests.handle().clone());
    let done = runtime.block_on(serve(vms, listener, announced));
    // Waiting for answers of VM processes is not worth holding up the end.
    runtime.shutdown_background();
    guests.shutdown_background();
    if !passed {
        socket::remove(&places);
    }
    done
}

/// So many threads that run tasks.
fn threads(name: &str, count: usize) -> Result<Runtime, Problem> {
    Builder::new_multi_thread()
        .worker_threads(count)
        .thread_name(name)
        .enable_all()
        .build()
        .map_err(|error| Problem::failed(format!("cannot start worker threads: {error}")))
}

async fn serve(
    vms: vms::Vms,
    listener: std::os::unix::net::UnixListener,
    announced: bool,
) -> Result<(), Problem> {
    let failed = |error: std::io::Error| Problem::failed(format!("cannot serve: {error}"));
    let incoming = socket::own_clients(listener).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    vms.adopt_all().await;
    let end = Arc::new(Notify::new());
    let on_bus = tokio::spawn(shells::serve(vms.clone()));
    if let Err(error) = clock::follow(vms.clone()) {
        tracing::warn!(%error, "guests are not told when the host's clock jumps");
    }
    let service = service::Service::new(vms, Arc::clone(&end));
    tracing::info!(pid = std::process::id(), "ready");
    if announced {
        announce(READY);
    }
    let asked = async {
        tokio::select! {
            () = end.notified() => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let serving =
        Server::builder().add_service(ControlServer::new(service)).serve_with_incoming(incoming);
    let done = tokio::select! {
        served = serving => served.map_err(Problem::failed),
        // Streams that follow a log never end by themselves, so a graceful end would wait for them;
        // a moment suffices for the answer to the one who asked.
        () = asked => {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            Ok(())
        }
    };
    on_bus.abort();
    done
}
