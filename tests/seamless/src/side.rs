//! The two ways to show the windows of one X server on another: ours and xpra.
//!
//! Both get an X server of the same kind and size to show (of xpra `--use-display`), a Unix socket between
//! their two processes, and pixels in memory that both map. xpra's other work (sound, printers, clipboard,
//! notifications, tray) is switched off.

use crate::desktop::Desktop;
use crate::failure::{Failure, Result, system};
use crate::program::{Program, Xvfb, command};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes of window memory: the default of a VM.
const MEMORY: u64 = 256 << 20;
/// Most pictures in a second: as many as the subject makes.
const FRAME_RATE: &str = "240";
/// How long a side may take to start.
const PATIENCE: Duration = Duration::from_secs(120);

/// Programs, and where they write what they say.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) agent: PathBuf,
    pub(crate) compositor: PathBuf,
    pub(crate) logs: PathBuf,
}

/// Which side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// macrohard-guest-agent and macrohard-compositor.
    Ours,
    /// xpra of the system's package.
    Xpra,
}

/// A side that runs; ends with this.
#[derive(Debug)]
pub(crate) struct Side {
    // In this order: the X server last.
    programs: Vec<Program>,
    guest: Xvfb,
    _folder: tempfile::TempDir,
}

impl Side {
    /// Starts one that shows its windows on `host`.
    pub(crate) fn start(kind: Kind, programs: &Programs, host: &Desktop) -> Result<Self> {
        let guest = Xvfb::start(&programs.logs)?;
        // Where files are memory: neither side waits for a disk.
        let shared = Path::new("/dev/shm");
        let above = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
        let folder = tempfile::tempdir_in(above).map_err(system("make a folder"))?;
        let started = match kind {
            Kind::Ours => ours(programs, host, &guest, folder.path())?,
            Kind::Xpra => xpra(programs, host, &guest, folder.path())?,
        };
        Ok(Self { programs: started, guest, _folder: folder })
    }

    /// Where programs are started whose windows it shows.
    pub(crate) fn display(&self) -> &str {
        &self.guest.display
    }

    /// Its processes without the X server.
    pub(crate) fn programs(&self) -> Vec<u32> {
        self.programs.iter().map(Program::id).collect()
    }

    /// The X server that it shows.
    pub(crate) fn server(&self) -> u32 {
        self.guest.id()
    }
}

fn ours(programs: &Programs, host: &Desktop, guest: &Xvfb, folder: &Path) -> Result<Vec<Program>> {
    let memory = folder.join("memory");
    let file = std::fs::File::create(&memory).map_err(system("make window memory"))?;
    file.set_len(MEMORY).map_err(system("make window memory"))?;
    let socket = folder.join("socket");
    let address = format!("unix:{}", socket.display());
    let mut compositor = command(&programs.compositor);
    compositor.args(["--listen", &address, "--painter", "software", "--vm", "bench"]);
    // Xvfb has no pictures in a second of its own; xpra goes as fast as it can, too.
    compositor.args(["--frame-rate", FRAME_RATE]);
    compositor.arg("--memory").arg(&memory).env("DISPLAY", host.display());
    let compositor = Program::start(&mut compositor, &programs.logs.join("compositor.log"))?;
    wait_for("the compositor", &programs.logs, || socket.exists())?;
    let mut agent = command(&programs.agent);
    agent.args(["windows", "--connect", &address, "--display", &guest.display, "--memory"]);
    agent.arg(&memory);
    let log = programs.logs.join("agent.log");
    let before = count(&log, "windows are told to the host");
    let agent = Program::start(&mut agent, &log)?;
    wait_for("the agent", &programs.logs, || count(&log, "windows are told to the host") > before)?;
    Ok(vec![agent, compositor])
}

fn xpra(programs: &Programs, host: &Desktop, guest: &Xvfb, folder: &Path) -> Result<Vec<Program>> {
    let socket = folder.join("socket");
    let run = |arguments: &[&str], display: &str, log: &str| {
        let mut xpra = command("xpra");
        xpra.args(arguments).env("DISPLAY", display);
        for variable in ["HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"] {
            xpra.env(variable, folder);
        }
        xpra.args([
            "--mmap=yes",
            "--pulseaudio=no",
            "--speaker=off",
            "--microphone=off",
            "--webcam=no",
            "--printing=no",
            "--file-transfer=no",
            "--clipboard=no",
            "--notifications=no",
            "--bell=no",
            "--cursors=yes",
            "--pings=no",
            "--remote-logging=no",
            "--mdns=no",
            "--html=off",
        ]);
        Program::start(&mut xpra, &programs.logs.join(log))
    };
    let bind = format!("--bind={}", socket.display());
    let server_log = programs.logs.join("xpra-server.log");
    let ready = count(&server_log, "xpra is ready");
    let server = run(
        &[
            "start",
            &guest.display,
            "--use-display",
            "--daemon=no",
            "--start-new-commands=no",
            "--systemd-run=no",
            "--dbus-proxy=no",
            "--dbus-launch=",
            "--dbus-control=no",
            // Debian's configuration starts a session's programs.
            "--start=",
            &bind,
        ],
        &guest.display,
        "xpra-server.log",
    )?;
    wait_for("xpra's server", &programs.logs, || count(&server_log, "xpra is ready") > ready)?;
    let log = programs.logs.join("xpra-client.log");
    let before = count(&log, "enabled fast mmap") + count(&log, "Attached to");
    let address = format!("socket:{}", socket.display());
    let client =
        run(&["attach", &address, "--tray=no", "--border=off"], host.display(), "xpra-client.log")?;
    wait_for("xpra's client", &programs.logs, || {
        count(&log, "enabled fast mmap") + count(&log, "Attached to") >= before + 2
    })?;
    Ok(vec![client, server])
}

fn count(log: &Path, words: &str) -> usize {
    std::fs::read_to_string(log).unwrap_or_default().matches(words).count()
}

fn wait_for(what: &str, logs: &Path, mut there: impl FnMut() -> bool) -> Result {
    let end = Instant::now() + PATIENCE;
    while !there() {
        if Instant::now() > end {
            let (what, seconds) = (what.to_owned(), PATIENCE.as_secs());
            return Err(Failure::Late { what, seconds, logs: logs.to_owned() });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
