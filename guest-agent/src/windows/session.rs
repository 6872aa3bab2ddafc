//! The windows of a session that an agent serves: window memory, the X server, and a connection to the host
//! that is made again whenever it is lost.

use std::ffi::OsString;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use agent_link::{Address, Hello, introduce};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::sync::{oneshot, watch};
use tokio_vsock::{VsockAddr, VsockStream};
use window_memory::WindowMemory;

use super::mailbox::Mailbox;
use super::screen::Lost;
use super::x11::server::Place;
use super::x11::{StartError, X11};
use super::{memory, run, seat};

/// Pause before the second try to connect; doubled with each that fails.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause: a compositor that comes back does not wait longer for its windows.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A connection that ends sooner counts as a try that failed: a host that takes connections and has no use for them
/// is not asked without a pause.
const LASTING: Duration = Duration::from_secs(2);
/// How long a program's start waits for its display: longer than X servers may take to start (`x11::server`). Without
/// it the program would start where nobody sees it, or not at all.
const PATIENCE: Duration = Duration::from_secs(240);
/// Largest screen of the agent's own X server: two monitors of 4K in a row.
const MOST: (u16, u16) = (7680, 4320);

/// Where a session's programs show their windows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Display {
    /// `$DISPLAY`.
    pub name: String,
    /// `$XAUTHORITY`, where that of this process is not it.
    pub authority: Option<PathBuf>,
}

/// Whether windows are told.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Shown {
    /// Not known yet.
    Unknown,
    /// They are not: programs start in the session as it is.
    Not,
    /// They are, of programs there.
    At(Display),
}

/// Of this process, as its environment is.
static SHOWN: LazyLock<watch::Sender<Shown>> = LazyLock::new(|| watch::Sender::new(Shown::Not));

/// Variables for programs whose windows are to be told, and names of those that would lead them elsewhere.
/// Waits until it is known whether there is such a place.
pub async fn variables() -> Option<(Vec<(&'static str, OsString)>, [&'static str; 1])> {
    let mut shown = SHOWN.subscribe();
    let known = shown.wait_for(|shown| *shown != Shown::Unknown);
    let shown = tokio::time::timeout(PATIENCE, known).await.ok()?.ok()?.clone();
    let Shown::At(display) = shown else { return None };
    let mut variables = vec![
        ("DISPLAY", display.name.into()),
        ("GDK_BACKEND", "x11".into()),
        ("QT_QPA_PLATFORM", "xcb".into()),
        ("XDG_SESSION_TYPE", "x11".into()),
    ];
    variables.extend(display.authority.map(|file| ("XAUTHORITY", file.into_os_string())));
    Some((variables, ["WAYLAND_DISPLAY"]))
}

/// A thread that tells of windows.
#[derive(Debug)]
pub struct Running {
    /// Where programs are to show their windows.
    pub display: Display,
    /// For connections to the host.
    pub mailbox: Arc<Mailbox>,
    lost: oneshot::Receiver<Lost>,
}

impl Running {
    /// Waits for the end of the display server.
    pub async fn lost(&mut self) -> Lost {
        let lost = (&mut self.lost).await;
        lost.unwrap_or_else(|_| Lost("the thread for windows has ended".to_owned()))
    }
}

/// Becomes the window manager of an X server and tells of its windows from then on.
///
/// # Errors
/// There is no such server, or it has another window manager.
pub async fn start(place: Place, memory: OwnedFd) -> Result<Running, StartError> {
    let lost = |error: &dyn std::fmt::Display| StartError::Lost(Lost(error.to_string()));
    let memory = Arc::new(WindowMemory::map(memory).map_err(|error| lost(&error))?);
    let mailbox = Arc::new(Mailbox::new().map_err(|error| lost(&error))?);
    let (started, starting) = oneshot::channel();
    let (ended, end) = oneshot::channel();
    let box_of_thread = Arc::clone(&mailbox);
    let thread = std::thread::Builder::new().name("windows".to_owned());
    let spawned = thread.spawn(move || {
        let bytes = memory.len();
        let mut screen = match X11::start(&place, memory) {
            Ok(screen) => screen,
            Err(error) => return drop(started.send(Err(error))),
        };
        let display = Display {
            name: screen.display().to_owned(),
            authority: screen.authority().map(Path::to_owned),
        };
        // Nobody waits any more: then nobody gives connections either.
        if started.send(Ok(display)).is_ok() {
            let _ = ended.send(run::run(&mut screen, &box_of_thread, bytes));
        }
    });
    spawned.map_err(|error| lost(&error))?;
    let display = starting.await.unwrap_or_else(|error| Err(lost(&error)))?;
    Ok(Running { display, mailbox, lost: end })
}

/// Gives connections to the thread, each after the one before is over, until the display server is.
pub async fn keep<F>(running: &mut Running, mut connect: impl FnMut() -> F) -> Lost
where
    F: Future<Output = io::Result<OwnedFd>>,
{
    let mailbox = Arc::clone(&running.mailbox);
    let connections = async {
        let mut pause = FIRST_PAUSE;
        loop {
            let lasted = match connect().await {
                Ok(stream) => {
                    let start = Instant::now();
                    mailbox.serve(stream).await;
                    start.elapsed()
                }
                Err(error) => {
                    tracing::debug!(%error, "no connection for windows");
                    Duration::ZERO
                }
            };
            if lasted >= LASTING {
                pause = FIRST_PAUSE;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    };
    tokio::select! {
        lost = running.lost() => lost,
        () = connections => Lost("there are no more connections".to_owned()),
    }
}

/// Connects to where the host speaks of windows; says hello where a host expects it.
///
/// # Errors
/// Nobody listens there, the host turns this agent away, or the way there is none for windows.
pub async fn connect(address: &Address, hello: Option<&Hello>) -> io::Result<OwnedFd> {
    match address {
        Address::Unix(path) => {
            let mut stream = UnixStream::connect(path).await?;
            if let Some(hello) = hello {
                introduce(&mut stream, hello).await?;
            }
            Ok(stream.into_std()?.into())
        }
        Address::Vsock { cid, port } => {
            let mut stream = VsockStream::connect(VsockAddr::new(*cid, *port)).await?;
            if let Some(hello) = hello {
                introduce(&mut stream, hello).await?;
            }
            stream.as_fd().try_clone_to_owned()
        }
        Address::Serial(_) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "a serial port carries one agent: session agents go through the system agent",
        )),
    }
}

/// Tells the host of this session's windows, for as long as the agent runs. Ends only where there is no
/// window memory. From this call on programs wait until it is known where their windows go.
pub fn hold(
    address: Address,
    hello: Hello,
    socket: PathBuf,
    seat: PathBuf,
) -> impl Future<Output = ()> + Send {
    SHOWN.send_replace(Shown::Unknown);
    async move { tell(&address, &hello, socket, &seat).await }
}

async fn tell(address: &Address, hello: &Hello, socket: PathBuf, seat: &Path) {
    let asked = tokio::task::spawn_blocking(move || memory::open(&socket)).await;
    let given = match asked.map_err(io::Error::other).flatten() {
        Ok(given) => given,
        Err(error) => {
            SHOWN.send_replace(Shown::Not);
            return tracing::info!(%error, "no window memory");
        }
    };
    let mut pause = FIRST_PAUSE;
    loop {
        // Without a host that wants windows there is no need for an X server.
        let mut first = match connect(address, Some(hello)).await {
            Ok(stream) => Some(stream),
            Err(error) => {
                tracing::debug!(%error, "no connection for windows");
                SHOWN.send_replace(Shown::Not);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                continue;
            }
        };
        // A program that starts meanwhile waits for the display: elsewhere nobody would see it.
        SHOWN.send_replace(Shown::Unknown);
        let running = match given.memory.try_clone() {
            Ok(memory) => begin(memory, seat).await,
            Err(error) => Err(StartError::Lost(Lost(error.to_string()))),
        };
        match running {
            Ok(mut running) => {
                pause = FIRST_PAUSE;
                SHOWN.send_replace(Shown::At(running.display.clone()));
                tell_others(&running.display).await;
                let lost = keep(&mut running, || {
                    let first = first.take();
                    async move {
                        match first {
                            Some(stream) => Ok(stream),
                            None => connect(address, Some(hello)).await,
                        }
                    }
                });
                let lost = lost.await;
                tracing::warn!(%lost, "windows are not told any more");
            }
            Err(error) => tracing::warn!(%error, "windows are not told"),
        }
        SHOWN.send_replace(Shown::Not);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The session's X server where it has one without a window manager, else one of its own.
async fn begin(memory: OwnedFd, seat: &Path) -> Result<Running, StartError> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let folder = seat::folder().ok_or_else(|| Lost("XDG_RUNTIME_DIR is not set".to_owned()));
    let authority = variable("XAUTHORITY").map(PathBuf::from);
    // What an agent before has told the session's systemd is of the agents' own server.
    let own = |folder: &PathBuf| authority.as_deref() == Some(&folder.join(seat::AUTHORITY));
    let display = variable("DISPLAY").filter(|_| !folder.as_ref().is_ok_and(own));
    if let Some(display) = display.and_then(|name| name.into_string().ok()) {
        let again = memory.try_clone().map_err(|error| Lost(error.to_string()))?;
        match start(Place::Join { display, authority }, again).await {
            Ok(running) => return Ok(running),
            Err(error) => tracing::debug!(%error, "the session's own X server is not used"),
        }
    }
    start(Place::Own { folder: folder?, most: MOST, seat: Some(seat.to_owned()) }, memory).await
}

/// Lets programs that D-Bus and systemd start find the display, in a session that has no other.
async fn tell_others(display: &Display) {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let told = display.authority.is_some()
        && variable("XAUTHORITY").map(PathBuf::from) == display.authority;
    if variable("WAYLAND_DISPLAY").is_some() || (variable("DISPLAY").is_some() && !told) {
        return;
    }
    let mut command = Command::new("dbus-update-activation-environment");
    command.args(["--systemd", "DISPLAY"]).env("DISPLAY", &display.name).kill_on_drop(true);
    if let Some(file) = &display.authority {
        command.arg("XAUTHORITY").env("XAUTHORITY", file);
    }
    command.stdin(std::process::Stdio::null());
    match tokio::time::timeout(Duration::from_secs(2), command.output()).await {
        Ok(Ok(ended)) if ended.status.success() => {}
        _ => tracing::debug!("the session's D-Bus does not know of the display"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A host that closes every connection at once is asked less often with each.
    #[tokio::test]
    async fn a_host_without_a_use_for_connections_is_not_asked_without_a_pause() {
        let mailbox = Arc::new(Mailbox::new().unwrap());
        let (_ends, lost) = oneshot::channel();
        let display = Display { name: String::new(), authority: None };
        let mut running = Running { display, mailbox: Arc::clone(&mailbox), lost };
        let tries = Arc::new(AtomicUsize::new(0));
        let connect = || {
            tries.fetch_add(1, Ordering::Relaxed);
            let mailbox = Arc::clone(&mailbox);
            async move {
                tokio::spawn(async move {
                    while mailbox.take().is_none() {
                        tokio::task::yield_now().await;
                    }
                    mailbox.over();
                });
                Ok(rustix::event::eventfd(0, rustix::event::EventfdFlags::empty())?)
            }
        };
        let _ =
            tokio::time::timeout(Duration::from_millis(1000), keep(&mut running, connect)).await;
        // After 0, 50, 150, 350 and 750 ms; one each 50 ms would be twenty. A slow machine has fewer.
        let tries = tries.load(Ordering::Relaxed);
        assert!((2..=5).contains(&tries), "{tries} tries");
    }
}
