//! This machine's own screen, with its keyboard and pointer: whose X server has them.
//!
//! A session agent asks the system agent for its user's X server there ([`ask`]). The system agent looks whether
//! anybody else has the screen and starts the user's unit `macrohard-guest-screen@UID.service` ([`give`]). That is
//! a session of logind on a console of its own; in it [`become_server`] makes the process an X server, as that
//! user and with no other rights: logind opens screen, keyboard and pointer for it, as long as its session is in
//! front.

use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixListener;

use super::memory::FIRST_PERSON;

/// Where the system agent listens.
pub const SOCKET: &str = "/run/macrohard-guest-screen.sock";
/// What the system agent says when the X server is started; what else it says is why it is not.
const HERE: &str = "here";
/// Most bytes it says.
const MOST_SAID: u64 = 200;
/// How long the system agent may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long systemd may take for an answer.
const OF_SYSTEMD: Duration = Duration::from_secs(60);

/// The X server: where distributions put the program itself, which needs no other rights (beside it may be a
/// script that looks for one with root's).
const SERVERS: [&str; 4] =
    ["/usr/lib/xorg/Xorg", "/usr/libexec/Xorg", "/usr/lib/Xorg.bin", "/usr/lib64/Xorg"];
/// Where the kernel shows screens.
const CARDS: &str = "/dev/dri";
/// The console of the unit, unless logind says another (pam_systemd(8)): text consoles are 1 to 6 (logind.conf(5)).
const CONSOLE: &str = "7";

/// In the folder of the session's X server: what it writes its number to when it is ready.
pub const READY: &str = "display.new";
/// The key of the X server.
pub const AUTHORITY: &str = "authority";
/// What it says.
const LOG: &str = "Xorg.log";

/// The unit of a user's X server.
#[must_use]
pub fn unit(user: u32) -> String {
    format!("macrohard-guest-screen@{user}.service")
}

/// Asks the system agent at `socket` for an X server on this machine's screen. Waits until it is started, which
/// is before it can be used.
///
/// # Errors
/// There is no system agent, no screen, or somebody else has it.
pub fn ask(socket: &Path) -> io::Result<()> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut said = String::new();
    stream.take(MOST_SAID).read_to_string(&mut said)?;
    match said.trim_end() {
        HERE => Ok(()),
        "" => Err(io::ErrorKind::UnexpectedEof.into()),
        reason => Err(io::Error::other(reason.to_owned())),
    }
}

/// Starts X servers for those who ask, for ever. `start` does it for a user ([`start`]).
pub async fn give(listener: UnixListener, start: impl AsyncFn(u32) -> io::Result<()>) {
    loop {
        match listener.accept().await {
            Ok((mut stream, _)) => {
                let Ok(user) = stream.peer_cred().map(|peer| peer.uid()) else { continue };
                let started = match user < FIRST_PERSON {
                    true => Err(io::Error::other("the system's accounts have no windows")),
                    false => start(user).await,
                };
                let line = match started {
                    Ok(()) => format!("{HERE}\n"),
                    Err(error) => {
                        tracing::info!(user, %error, "no X server on this machine's screen");
                        format!("{error}\n")
                    }
                };
                // A line fits into any socket's buffer: nobody can hold this up.
                if let Err(error) = stream.write_all(line.as_bytes()).await {
                    tracing::debug!(%error, "a session agent asked and went away");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a session agent");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Starts the X server of a user on this machine's screen, unless it runs.
///
/// # Errors
/// There is no screen, no X server, no systemd, or somebody else has the screen.
pub async fn start(user: u32) -> io::Result<()> {
    let screens = std::fs::read_dir(CARDS).into_iter().flatten().flatten();
    if !screens.into_iter().any(|entry| entry.file_name().as_encoded_bytes().starts_with(b"card")) {
        return Err(io::Error::other("this machine has no screen"));
    }
    if server().is_none() {
        return Err(io::Error::other("Xorg is not installed"));
    }
    // Whoever logs in at a desktop's own login screen has that desktop.
    let login = systemctl(&["show", "--property=LoadState", "display-manager.service"]).await?;
    if login.trim() == "LoadState=loaded" {
        return Err(io::Error::other("the screen is the display manager's"));
    }
    let own = unit(user);
    let states = "--state=active,activating,deactivating";
    let list = ["list-units", "--plain", "--no-legend", states, "macrohard-guest-screen@*.service"];
    if others(&systemctl(&list).await?, &own) {
        return Err(io::Error::other("another user has the screen"));
    }
    systemctl(&["start", &own]).await?;
    Ok(())
}

/// Whether a list of units has another one.
fn others(list: &str, own: &str) -> bool {
    list.lines().filter_map(|line| line.split_whitespace().next()).any(|unit| unit != own)
}

/// What systemd says.
async fn systemctl(arguments: &[&str]) -> io::Result<String> {
    let mut command = tokio::process::Command::new("systemctl");
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let ended = tokio::time::timeout(OF_SYSTEMD, command.output());
    let output = ended.await.map_err(|_| io::Error::other("systemd does not answer"))??;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(io::Error::other(said.lines().next().unwrap_or("systemctl fails").to_owned()))
        }
    }
}

fn server() -> Option<&'static str> {
    SERVERS.into_iter().find(|path| Path::new(path).is_file())
}

/// In the unit: makes this process the X server whose files are in `folder`. Comes back only where that fails.
pub fn become_server(folder: &Path) -> io::Error {
    let Some(server) = server() else { return io::Error::other("Xorg is not installed") };
    let ready = match std::fs::File::create(folder.join(READY)) {
        Ok(file) => file,
        Err(error) => return error,
    };
    let digits = |text: &String| text.bytes().all(|byte| byte.is_ascii_digit());
    let console = std::env::var("XDG_VTNR").ok().filter(digits);
    Command::new(server)
        .arg(format!("vt{}", console.as_deref().unwrap_or(CONSOLE)))
        // The console stays that of logind's session: it is what opens devices.
        .args(["-keeptty", "-displayfd", "1", "-nolisten", "tcp", "-noreset", "-dpi", "96"])
        // What is to be seen is for the host to say.
        .args(["-s", "0", "-dpms"])
        .args([Path::new("-auth"), &folder.join(AUTHORITY)])
        .args([Path::new("-logfile"), &folder.join(LOG)])
        .stdout(ready)
        .exec()
}

/// The folder of this user's own X server.
#[must_use]
pub fn folder() -> Option<PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|value| !value.is_empty());
    runtime.map(|runtime| PathBuf::from(runtime).join("macrohard-windows"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proofs::listen;

    #[test]
    fn a_unit_of_another_user_is_another() {
        let own = unit(1000);
        assert!(!others("", &own));
        assert!(!others(&format!("{own} loaded active running X server\n"), &own));
        assert!(others(&format!("{own} loaded\n{} loaded\n", unit(1001)), &own));
    }

    #[tokio::test]
    async fn who_asks_is_told_that_it_runs_or_why_not() {
        let path = tempfile::tempdir().unwrap();
        let socket = path.path().join("socket");
        let asked = || {
            let socket = socket.clone();
            tokio::task::spawn_blocking(move || ask(&socket))
        };
        // Where the tests run as root there is no person to ask.
        let person = rustix::process::getuid().as_raw() >= FIRST_PERSON;
        let refused = if person { "taken" } else { "the system's accounts have no windows" };
        let given = tokio::spawn(give(listen(&socket).unwrap(), async |_| Ok(())));
        assert_eq!(asked().await.unwrap().is_ok(), person);
        given.abort();
        let _ = given.await;
        tokio::spawn(give(listen(&socket).unwrap(), async |_| Err(io::Error::other("taken"))));
        assert_eq!(asked().await.unwrap().unwrap_err().to_string(), refused);
    }
}
