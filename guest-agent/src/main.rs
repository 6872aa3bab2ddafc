//! The agent's command line; see the library.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use agent_link::{Address, Role, TOKEN_FILE, Token};
use clap::{Parser, Subcommand};
use guest_agent::exec::{Begin, begin};
use guest_agent::link::Identity;
use guest_agent::notifications::urls::{self, NotOpened};
use guest_agent::user::User;
use guest_agent::windows::memory;
use guest_agent::{proofs, relay};

/// The agent of macrohard-hypervisor in a Linux guest
#[derive(Debug, Parser)]
#[command(name = "macrohard-guest-agent", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the host as root, from the guest's start on
    System {
        /// Where the host listens: vsock, vsock:CID:PORT, serial, serial:PATH or unix:PATH; what this guest
        /// has unless given
        #[arg(long)]
        host: Option<Address>,
        /// File with the token of this boot, instead of the one the VM's firmware interface shows
        #[arg(long, value_name = "FILE")]
        token: Option<PathBuf>,
        /// Where session agents ask for their proof
        #[arg(long, value_name = "SOCKET", default_value = proofs::SOCKET)]
        proofs: PathBuf,
        /// Where session agents are carried to the host where it is reached over a serial port
        #[arg(long, value_name = "SOCKET", default_value = relay::SOCKET)]
        relay: PathBuf,
        /// Where session agents ask for the memory that windows are drawn in
        #[arg(long, value_name = "SOCKET", default_value = memory::SOCKET)]
        window_memory: PathBuf,
    },
    /// Serve the host in the session of the user who runs this
    Session {
        /// Where the host listens: vsock, vsock:CID:PORT, serial, serial:PATH or unix:PATH; what this guest
        /// has unless given
        #[arg(long)]
        host: Option<Address>,
        /// Where the system agent gives proofs
        #[arg(long, value_name = "SOCKET", default_value = proofs::SOCKET)]
        proofs: PathBuf,
    },
    /// Open a URL with the host's browser
    ///
    /// Exit codes: 0 it is open, 1 it could not be opened, 3 the host refuses it.
    OpenUrl {
        /// The URL
        url: String,
    },
    /// Become a program; used by the agent itself
    #[command(hide = true)]
    Start(Begin),
}

/// Exit code of `start` when the program cannot be run, as of a shell (POSIX sh, "exit status for
/// commands").
const NOT_FOUND: u8 = 127;
/// Exit code of `open-url` when the host refuses the URL.
const REFUSED: u8 = 3;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Command::Start(start) = &arguments.command {
        let Err(error) = begin(start);
        eprintln!("cannot run {:?}: {error}", start.arguments[0]);
        return ExitCode::from(NOT_FOUND);
    }
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("MACROHARD_LOG")
                .unwrap_or_else(|_| "info".into()),
        )
        .with_ansi(false)
        // The journal has its own clock.
        .without_time()
        .init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    if let (Ok(runtime), Command::OpenUrl { url }) = (&runtime, &arguments.command) {
        return match runtime.block_on(urls::open(url)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(problem) => {
                eprintln!("macrohard-guest-agent: {url:?} is not opened: {problem}");
                ExitCode::from(if matches!(problem, NotOpened::Refused(_)) { REFUSED } else { 1 })
            }
        };
    }
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(run(arguments.command)),
        Err(error) => format!("cannot start: {error}"),
    };
    eprintln!("macrohard-guest-agent: {ended}");
    ExitCode::FAILURE
}

/// Runs until it cannot go on, and says why.
async fn run(command: Command) -> String {
    let served = match command {
        Command::System { host, token, proofs, relay, window_memory } => {
            let host = host.unwrap_or_else(Address::of_this_guest);
            system(host, token.as_deref(), &proofs, &relay, &window_memory).await
        }
        Command::Session { host, proofs } => {
            let host = host.unwrap_or_else(|| match Address::of_this_guest() {
                // The system agent has the port.
                Address::Serial(_) => Address::Unix(relay::SOCKET.into()),
                host => host,
            });
            session(host, &proofs).await
        }
        Command::Start(_) | Command::OpenUrl { .. } => return "this is done before".to_owned(),
    };
    served.unwrap_or_else(|error| error)
}

async fn system(
    host: Address,
    token: Option<&Path>,
    proofs: &Path,
    relay: &Path,
    window_memory: &Path,
) -> Result<String, String> {
    let firmware = Path::new("/sys/firmware/qemu_fw_cfg/by_name").join(TOKEN_FILE).join("raw");
    let path = token.unwrap_or(&firmware);
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("no token in {}: {error}", path.display()))?;
    let token: Token = text
        .trim()
        .parse()
        .map_err(|error| format!("the token in {} is wrong: {error}", path.display()))?;
    let listen = |path: &Path| {
        let listener = proofs::listen(path);
        listener.map_err(|error| format!("cannot listen at {}: {error}", path.display()))
    };
    let listener = listen(proofs)?;
    if matches!(host, Address::Serial(_)) {
        tokio::spawn(relay::carry(listen(relay)?, host.clone()));
    }
    // A guest whose windows are not shown has no use for it.
    match listen(window_memory) {
        Ok(listener) => drop(tokio::spawn(memory::give(listener, memory::of_this_machine))),
        Err(problem) => tracing::warn!(problem, "no window memory for sessions"),
    }
    let role = Role::System;
    let identity = Identity { host, role, proof: token.proof(role), user: String::new() };
    tokio::spawn(proofs::give(listener, token));
    Ok(format!("the host turns this agent away: {}", identity.hold().await))
}

async fn session(host: Address, proofs: &Path) -> Result<String, String> {
    let user = User::own().map_err(|error| format!("who runs this: {error}"))?;
    let proof = proofs::ask(proofs).await.map_err(|error| {
        format!("no proof from the system agent at {}: {error}", proofs.display())
    })?;
    let identity = Identity { host, role: Role::User(user.number), proof, user: user.name };
    Ok(format!("the host turns this agent away: {}", identity.hold().await))
}
