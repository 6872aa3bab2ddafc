//! The agent's command line; see the library.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use agent_link::{Address, Direction, Hello, Role, TOKEN_FILE, Token};
use clap::{Parser, Subcommand};
use guest_agent::exec::{Begin, begin};
use guest_agent::link::Identity;
use guest_agent::notifications::urls::{self, NotOpened};
use guest_agent::signals::Ends;
use guest_agent::user::User;
use guest_agent::windows::session as windows;
use guest_agent::windows::x11::server::Place;
use guest_agent::windows::{memory, seat};
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
        /// Where session agents ask for an X server on this machine's screen
        #[arg(long, value_name = "SOCKET", default_value = seat::SOCKET)]
        screen: PathBuf,
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
        /// Where the system agent gives the memory of windows
        #[arg(long, value_name = "SOCKET", default_value = memory::SOCKET)]
        window_memory: PathBuf,
        /// Where the system agent gives this machine's screen
        #[arg(long, value_name = "SOCKET", default_value = seat::SOCKET)]
        screen: PathBuf,
    },
    /// Tell a compositor of the windows of an X server, without a VM
    Windows {
        /// Where the compositor listens: unix:PATH or vsock:CID:PORT
        #[arg(long)]
        connect: Address,
        /// Window memory: a file, or the number of a descriptor that this program was given
        #[arg(long, value_name = "FILE|FD")]
        memory: String,
        /// An X server that runs and has no window manager; one of its own unless given
        #[arg(long, value_name = ":N")]
        display: Option<String>,
        /// File with the key of that X server
        #[arg(long, value_name = "FILE", requires = "display")]
        authority: Option<PathBuf>,
        /// Folder for the files of its own X server
        #[arg(long, value_name = "FOLDER", conflicts_with = "display")]
        runtime: Option<PathBuf>,
        /// Largest screen of its own X server
        #[arg(long, value_name = "WIDTHxHEIGHT", default_value = "7680x4320", value_parser = size)]
        screen: (u16, u16),
        /// A program to run there, with its arguments
        #[arg(last = true)]
        program: Vec<std::ffi::OsString>,
    },
    /// Become the X server on this machine's screen; the unit macrohard-guest-screen@UID.service does this
    Screen,
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
    if matches!(arguments.command, Command::Screen) {
        let folder = seat::folder();
        let error = folder.map_or_else(
            || std::io::Error::other("XDG_RUNTIME_DIR is not set"),
            |folder| seat::become_server(&folder),
        );
        eprintln!("macrohard-guest-agent: no X server on this machine's screen: {error}");
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
    let mut ends = match Ends::take() {
        Ok(ends) => ends,
        Err(error) => return format!("cannot take signals: {error}"),
    };
    tokio::select! {
        ended = serve(command) => ended,
        signal = ends.came() => format!("ended by {signal}"),
    }
}

async fn serve(command: Command) -> String {
    let served = match command {
        Command::System { host, token, proofs, relay, window_memory, screen } => {
            let host = host.unwrap_or_else(Address::of_this_guest);
            system(host, token.as_deref(), &proofs, &relay, &window_memory, &screen).await
        }
        Command::Session { host, proofs, window_memory, screen } => {
            let host = host.unwrap_or_else(|| match Address::of_this_guest() {
                // The system agent has the port.
                Address::Serial(_) => Address::Unix(relay::SOCKET.into()),
                host => host,
            });
            session(host, &proofs, &window_memory, &screen).await
        }
        Command::Windows { connect, memory, display, authority, runtime, screen, program } => {
            let place = match display {
                Some(display) => Place::Join { display, authority },
                None => {
                    let folder = runtime.unwrap_or_else(own_folder);
                    Place::Own { folder, most: screen, seat: None }
                }
            };
            tell_windows(connect, &memory, place, &program).await
        }
        Command::Start(_) | Command::OpenUrl { .. } | Command::Screen => {
            return "this is done before".to_owned();
        }
    };
    served.unwrap_or_else(|error| error)
}

/// WIDTHxHEIGHT
fn size(text: &str) -> Result<(u16, u16), String> {
    let parsed = text.split_once('x').and_then(|(width, height)| {
        let side = |text: &str| text.parse().ok().filter(|side| (1..=16_384).contains(side));
        Some((side(width)?, side(height)?))
    });
    parsed.ok_or_else(|| "two numbers from 1 to 16384, as in 1920x1080".to_owned())
}

fn own_folder() -> PathBuf {
    let user = rustix::process::getuid().as_raw();
    seat::folder().unwrap_or_else(|| std::env::temp_dir().join(format!("macrohard-windows-{user}")))
}

async fn tell_windows(
    host: Address,
    memory: &str,
    place: Place,
    program: &[std::ffi::OsString],
) -> Result<String, String> {
    let path = match memory.parse::<u32>() {
        Ok(descriptor) => PathBuf::from(format!("/proc/self/fd/{descriptor}")),
        Err(_) => PathBuf::from(memory),
    };
    let memory = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|error| format!("window memory {}: {error}", path.display()))?;
    let mut running =
        windows::start(place, memory.into()).await.map_err(|error| error.to_string())?;
    println!("DISPLAY={}", running.display.name);
    if let Some(file) = &running.display.authority {
        println!("XAUTHORITY={}", file.display());
    }
    let _child = match program.split_first() {
        Some((name, arguments)) => {
            let mut command = tokio::process::Command::new(name);
            command.args(arguments).env("DISPLAY", &running.display.name);
            command.envs(running.display.authority.as_ref().map(|file| ("XAUTHORITY", file)));
            Some(command.spawn().map_err(|error| format!("cannot run {name:?}: {error}"))?)
        }
        None => None,
    };
    let lost = windows::keep(&mut running, || {
        let host = host.clone();
        async move { windows::connect(&host, None).await }
    });
    Ok(lost.await.to_string())
}

async fn system(
    host: Address,
    token: Option<&Path>,
    proofs: &Path,
    relay: &Path,
    window_memory: &Path,
    screen: &Path,
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
    match listen(screen) {
        Ok(listener) => drop(tokio::spawn(seat::give(listener, seat::start))),
        Err(problem) => tracing::warn!(problem, "no screen for sessions"),
    }
    let role = Role::System;
    let identity = Identity { host, role, proof: token.proof(role), user: String::new() };
    tokio::spawn(proofs::give(listener, token));
    Ok(format!("the host turns this agent away: {}", identity.hold().await))
}

async fn session(
    host: Address,
    proofs: &Path,
    memory: &Path,
    screen: &Path,
) -> Result<String, String> {
    let user = User::own().map_err(|error| format!("who runs this: {error}"))?;
    let proof = proofs::ask(proofs).await.map_err(|error| {
        format!("no proof from the system agent at {}: {error}", proofs.display())
    })?;
    let role = Role::User(user.number);
    // Windows have a connection of their own, to another process of the host, and go on while this one is lost.
    let hello = Hello { role, direction: Direction::Windows, proof: proof.clone() };
    tokio::spawn(windows::hold(host.clone(), hello, memory.to_owned(), screen.to_owned()));
    let identity = Identity { host, role, proof, user: user.name };
    Ok(format!("the host turns this agent away: {}", identity.hold().await))
}
