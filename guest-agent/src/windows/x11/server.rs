//! The X server: one that runs already and has no window manager, or one of the agent's own.
//!
//! The agent's own is Xorg on this machine's screen where the user may have that ([`seat`]), so that desktop mode
//! shows it; else Xvfb, which needs no device and no rights. It listens on its Unix socket alone, with a key that
//! only this user can read, and outlives the agent: the next agent of this user finds it by the files in its
//! folder, with all applications as they are.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use x11rb::reexports::x11rb_protocol::parse_display::parse_display;
use x11rb::rust_connection::{DefaultStream, RustConnection};

use crate::windows::seat;

/// The one method of access that needs no library (Xsecurity(7)).
const METHOD: &[u8] = b"MIT-MAGIC-COOKIE-1";
/// Bytes of a key of that method.
const KEY: usize = 16;
/// How long an X server may take to start: a slow guest reads the program and its keyboard's compiler from a cold
/// disk. What is killed too soon is only begun anew.
const PATIENCE: Duration = Duration::from_secs(120);
/// The same for one on a screen, which looks for devices first.
const ON_SCREEN: Duration = Duration::from_secs(90);
/// Pauses while it starts, and how often systemd is asked whether it has ended.
const PAUSE: Duration = Duration::from_millis(20);
const LOOK: Duration = Duration::from_secs(1);
/// Any address (Xauth.h, FamilyWild).
const ANY: u16 = 0xffff;

/// Which X server.
#[derive(Clone, Debug)]
pub enum Place {
    /// One that runs: `$DISPLAY` and `$XAUTHORITY` of its session.
    Join {
        /// As in `:1`.
        display: String,
        /// File with its key; that of this process unless given.
        authority: Option<PathBuf>,
    },
    /// The agent's own, started unless it runs.
    Own {
        /// Of this user alone; made if missing.
        folder: PathBuf,
        /// Pixels of the largest screen that Xvfb can have. It takes four bytes of memory for each.
        most: (u16, u16),
        /// Where the system agent starts one on this machine's screen; never there without it.
        seat: Option<PathBuf>,
    },
}

/// No X server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// It cannot be talked to.
    #[error("cannot connect to the X server {display}: {reason}")]
    Connect {
        /// Which.
        display: String,
        /// What happened.
        reason: String,
    },
    /// It does not start.
    #[error("cannot start Xvfb: {0}")]
    Start(io::Error),
    /// Its folder cannot be used.
    #[error("cannot use {path}: {source}")]
    Folder {
        /// Which file or folder.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
}

/// An X server, connected.
#[derive(Debug)]
pub(super) struct Connected {
    /// The connection.
    pub(super) connection: RustConnection,
    /// Number of the screen.
    pub(super) screen: usize,
    /// For `$DISPLAY`.
    pub(super) display: String,
    /// For `$XAUTHORITY`.
    pub(super) authority: Option<PathBuf>,
    /// With the files of the agent's own.
    pub(super) folder: Option<PathBuf>,
}

/// Connects to the server, which may be started for it.
pub(super) fn connect(place: &Place) -> Result<Connected, ServerError> {
    match place {
        Place::Join { display, authority } => {
            let key = authority.as_deref().map(|file| key_in(file, display));
            let connected = connect_to(display, key.transpose()?.flatten());
            let (connection, screen) = connected?;
            let (display, authority) = (display.clone(), authority.clone());
            Ok(Connected { connection, screen, display, authority, folder: None })
        }
        Place::Own { folder, most, seat } => own(folder, *most, seat.as_deref()),
    }
}

fn own(folder: &Path, most: (u16, u16), seat: Option<&Path>) -> Result<Connected, ServerError> {
    let unusable = |path: &Path| {
        let path = path.to_owned();
        move |source| ServerError::Folder { path, source }
    };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(unusable(folder))?;
    let owned = std::fs::metadata(folder).map_err(unusable(folder))?;
    if owned.uid() != rustix::process::getuid().as_raw() || owned.mode() & 0o077 != 0 {
        let error = io::Error::new(io::ErrorKind::PermissionDenied, "others may write there");
        return Err(unusable(folder)(error));
    }
    let (file, name) = (folder.join(seat::AUTHORITY), folder.join("display"));
    let found = |connection, screen, display| {
        let (authority, folder) = (Some(file.clone()), Some(folder.to_owned()));
        Connected { connection, screen, display, authority, folder }
    };
    if let (Ok(display), Ok(bytes)) = (std::fs::read_to_string(&name), std::fs::read(&file)) {
        let key = bytes.last_chunk::<KEY>().map(|key| key.to_vec());
        // Another user's server may have taken the number since.
        let own = |connection: &RustConnection| {
            let peer = rustix::net::sockopt::socket_peercred(connection.stream());
            peer.is_ok_and(|peer| peer.uid == rustix::process::getuid())
        };
        if let Ok((connection, screen)) = connect_to(&display, key)
            && own(&connection)
        {
            let server = display.as_str();
            tracing::info!(server, "the X server of an agent before runs still");
            return Ok(found(connection, screen, display));
        }
    }
    let mut key = [0; KEY];
    let random = rustix::rand::getrandom(&mut key, rustix::rand::GetRandomFlags::empty());
    if random.map_err(|error| ServerError::Start(error.into()))? != KEY {
        return Err(ServerError::Start(io::Error::other("no random bytes")));
    }
    // A new file: who has the old one open reads nothing of the new key.
    let _ = std::fs::remove_file(&file);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut written = options.open(&file).map_err(unusable(&file))?;
    written.write_all(&authority(&key)).map_err(unusable(&file))?;
    let seen = seat.and_then(|seat| match on_screen(folder, seat) {
        Ok(display) => Some(display),
        Err(error) => {
            tracing::info!(%error, "windows of this session are on no screen of this machine");
            None
        }
    });
    let on_screen = seen.is_some();
    let display = seen.map_or_else(|| start(&file, most), Ok).map_err(ServerError::Start)?;
    std::fs::write(&name, &display).map_err(unusable(&name))?;
    let (connection, screen) = connect_to(&display, Some(key.to_vec()))?;
    let server = display.as_str();
    tracing::info!(server, on_screen, "an X server for this session's windows");
    Ok(found(connection, screen, display))
}

/// Has an X server started on this machine's screen, and gives the name of its display.
fn on_screen(folder: &Path, seat: &Path) -> io::Result<String> {
    let ready = folder.join(seat::READY);
    match std::fs::remove_file(&ready) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    seat::ask(seat)?;
    let unit = seat::unit(rustix::process::getuid().as_raw());
    let deadline = Instant::now() + ON_SCREEN;
    let mut look = Instant::now() + LOOK;
    loop {
        // Not there before its program has begun.
        let said = std::fs::read_to_string(&ready).unwrap_or_default();
        if said.ends_with('\n') {
            return numbered(&said);
        }
        let now = Instant::now();
        if now >= deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not say its display"));
        }
        if now >= look {
            look = now + LOOK;
            let ended = Command::new("systemctl").args(["is-failed", "--quiet", &unit]).status()?;
            if ended.success() {
                return Err(io::Error::other("it has ended at once"));
            }
        }
        std::thread::sleep(PAUSE);
    }
}

/// The name of the display with this number, as X servers say it (`-displayfd`).
fn numbered(said: &str) -> io::Result<String> {
    let digits = said.trim();
    match digits.parse::<u16>() {
        Ok(number) => Ok(format!(":{number}")),
        Err(_) => Err(io::Error::other(format!("its display is {digits:?}"))),
    }
}

/// A file for `$XAUTHORITY` with one key, which opens whatever display it is tried at.
fn authority(key: &[u8; KEY]) -> Vec<u8> {
    let mut bytes = ANY.to_be_bytes().to_vec();
    for field in [&[][..], &[], METHOD, key] {
        // None is longer than a name.
        bytes.extend(u16::try_from(field.len()).unwrap_or(0).to_be_bytes());
        bytes.extend(field);
    }
    bytes
}

/// The command up to the program's name: where the user has a systemd in a unit of its own, which does not end
/// with that of the agent.
pub(super) fn scope(program: &Path, description: &str) -> Command {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let managed = runtime.is_some_and(|runtime| runtime.join("systemd/private").exists());
    let found = |place: PathBuf| place.join("systemd-run").is_file();
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !managed || !std::env::split_paths(&path).any(found) {
        return Command::new(program);
    }
    let mut command = Command::new("systemd-run");
    command.args(["--user", "--scope", "--quiet", "--collect", "--slice=session.slice"]);
    command.arg(format!("--description={description}")).arg("--").arg(program);
    command
}

/// Starts Xvfb and gives the name of its display.
fn start(authority: &Path, (width, height): (u16, u16)) -> io::Result<String> {
    let mut command = scope(Path::new("Xvfb"), "X server for windows on the host");
    command.args(["-displayfd", "1", "-screen", "0"]).arg(format!("{width}x{height}x24"));
    command.args(["-dpi", "96", "-nolisten", "tcp", "-noreset", "-s", "0"]);
    command.arg("-auth").arg(authority);
    // A group of its own: what ends the agent at a terminal does not end it.
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let Some(mut said) = child.stdout.take() else {
        return Err(io::Error::other("it has no output"));
    };
    let deadline = Instant::now() + PATIENCE;
    let mut number = String::new();
    while !number.ends_with('\n') {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
        let watched = PollFd::new(&said, PollFlags::IN);
        if poll(&mut [watched], Some(&left))? == 0 {
            let _ = child.kill();
            let _ = child.wait();
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not say its display"));
        }
        let mut byte = [0];
        if said.read(&mut byte)? == 0 {
            let ended = child.wait()?;
            return Err(io::Error::other(format!("it has ended at once: {ended}")));
        }
        number.push(char::from(byte[0]));
    }
    // It ends with the session, or by itself; until then somebody has to wait for it.
    std::thread::spawn(move || child.wait());
    numbered(&number)
}

fn connect_to(display: &str, key: Option<Vec<u8>>) -> Result<(RustConnection, usize), ServerError> {
    let failed = |reason: String| ServerError::Connect { display: display.to_owned(), reason };
    let Some(key) = key else {
        return RustConnection::connect(Some(display)).map_err(|error| failed(error.to_string()));
    };
    let parsed = parse_display(Some(display)).map_err(|error| failed(error.to_string()))?;
    let mut reason = "nobody listens there".to_owned();
    for address in parsed.connect_instruction() {
        let stream = match DefaultStream::connect(&address) {
            Ok((stream, _)) => stream,
            Err(error) => {
                reason = error.to_string();
                continue;
            }
        };
        let screen = usize::from(parsed.screen);
        let method = METHOD.to_vec();
        return RustConnection::connect_to_stream_with_auth_info(stream, screen, method, key)
            .map(|connection| (connection, screen))
            .map_err(|error| failed(error.to_string()));
    }
    Err(failed(reason))
}

/// The key of a display in a file as libXau writes them: family, address, number, method and key, each but
/// the first after its length, all big-endian 16 bits.
fn key_in(file: &Path, display: &str) -> Result<Option<Vec<u8>>, ServerError> {
    let bytes = std::fs::read(file)
        .map_err(|source| ServerError::Folder { path: file.to_owned(), source })?;
    let number = display.rsplit_once(':').map_or(display, |(_, number)| number);
    let number = number.split('.').next().unwrap_or_default();
    Ok(find_key(&bytes, number.as_bytes()))
}

fn find_key(mut bytes: &[u8], number: &[u8]) -> Option<Vec<u8>> {
    fn field<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let (field, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        *bytes = rest;
        Some(field)
    }
    while let Some((_family, rest)) = bytes.split_first_chunk::<2>() {
        bytes = rest;
        let _address = field(&mut bytes)?;
        let (display, method, key) = (field(&mut bytes)?, field(&mut bytes)?, field(&mut bytes)?);
        if (display.is_empty() || display == number) && method == METHOD {
            return Some(key.to_vec());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_that_is_written_is_found_again() {
        let bytes = authority(&[7; KEY]);
        assert_eq!(find_key(&bytes, b"12"), Some(vec![7; KEY]));
        for end in 0..bytes.len() {
            assert_eq!(find_key(&bytes[..end], b"12"), None, "{end}");
        }
    }

    #[test]
    fn a_display_has_a_number() {
        assert_eq!(numbered("0\n").unwrap(), ":0");
        for wrong in ["\n", "x\n", "-1\n", "65536\n", "1 2\n"] {
            numbered(wrong).unwrap_err();
        }
    }

    #[test]
    fn a_server_that_is_not_there_is_named() {
        let error = connect_to(":9999", Some(vec![0; KEY])).unwrap_err();
        assert!(error.to_string().contains(":9999"), "{error}");
    }
}
