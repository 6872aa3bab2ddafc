//! What is seen of a lab machine from outside while it runs: whether its kernel has come to the script, whether
//! the core beneath has given up, and what its processors do when it is ended.

use std::fmt;
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The serial console's file in a run's folder.
pub(super) const CONSOLE: &str = "console.log";
/// What init says: `begun` before the script, `status N` behind it.
pub(super) const STATUS: &str = "status";
/// QEMU's monitor.
const MONITOR: &str = "monitor";

/// A kernel has this long to come to the script. A machine does it within ten seconds where nothing else runs, and
/// within a minute where instructions are counted.
const BEGIN: Duration = Duration::from_secs(180);
const BEGIN_COUNTED: Duration = Duration::from_secs(600);
/// The core's last words where it stops the machine (`hypervisor/core/src/main.rs`).
const CORE_STOPPED: &str = "core: the machine is stopped";

/// Why a machine is ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Its kernel has not come to the script.
    NoScript,
    /// The core beneath it has given up.
    CoreStopped,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoScript => f.write_str("the kernel had not come to the script in good time"),
            Self::CoreStopped => f.write_str("the core has stopped the machine"),
        }
    }
}

/// The argument of `-monitor`: a socket in the run's folder, or none where its path is too long for one
/// (`sun_path` has 108 bytes, unix(7)).
pub(super) fn monitor(folder: &Path) -> String {
    let path = folder.join(MONITOR);
    if path.as_os_str().len() < 108 {
        format!("unix:{},server=on,wait=off", path.display())
    } else {
        "none".to_owned()
    }
}

/// One run's watch.
pub(super) struct Watch {
    folder: PathBuf,
    /// The script has begun by then.
    begin: Instant,
    begun: bool,
    /// Why it was ended, if it was before its limit.
    pub(super) found: Option<Found>,
    /// What its processors did when it was ended.
    pub(super) state: String,
}

impl Watch {
    pub(super) fn new(folder: &Path, counted: bool) -> Self {
        Self {
            folder: folder.to_owned(),
            begin: Instant::now() + if counted { BEGIN_COUNTED } else { BEGIN },
            begun: false,
            found: None,
            state: String::new(),
        }
    }

    /// Looks at the machine; `limit`: it is about to be killed.
    pub(super) fn look(&mut self, limit: bool) -> ControlFlow<()> {
        let text = |name| std::fs::read(self.folder.join(name)).unwrap_or_default();
        self.begun = self.begun || !text(STATUS).is_empty();
        let console = text(CONSOLE);
        if String::from_utf8_lossy(&console).contains(CORE_STOPPED) {
            self.found = Some(Found::CoreStopped);
        } else if !self.begun && Instant::now() > self.begin {
            self.found = Some(Found::NoScript);
        }
        if self.found.is_none() && !limit {
            return ControlFlow::Continue(());
        }
        self.state = processors(&self.folder.join(MONITOR))
            .unwrap_or_else(|error| format!("(no word from the emulator's monitor: {error})"));
        ControlFlow::Break(())
    }
}

/// Lines on a local APIC that tell why its processor hears nothing.
const TELLING: [&str; 6] = ["LVTT\t", "Timer", "SPIV", "ISR", "IRR", "APR"];

/// Where each processor is, and what its local APIC holds: twice, so that what stands still shows.
fn processors(monitor: &Path) -> std::io::Result<String> {
    let mut monitor = Monitor::connect(monitor)?;
    let mut state = String::new();
    for turn in 1..=2 {
        state += &format!("what its processors did, look {turn}:\n");
        let registers = monitor.ask("info registers -a")?;
        let mut apic_ids = 0;
        for line in registers.lines().map(str::trim) {
            if line.starts_with("CPU#") {
                apic_ids += 1;
            }
            if ["CPU#", "RIP=", "EIP="].iter().any(|start| line.starts_with(start)) {
                state += &format!("  {line}\n");
            }
        }
        for id in 0..apic_ids {
            let apic = monitor.ask(&format!("info lapic {id}"))?;
            state += &format!("  local APIC {id}\n");
            for line in apic.lines().filter(|line| TELLING.iter().any(|w| line.starts_with(w))) {
                state += &format!("    {}\n", line.replace('\t', " ").trim_end());
            }
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    Ok(state)
}

/// QEMU's monitor for people: every answer ends with its prompt.
struct Monitor {
    stream: UnixStream,
}

impl Monitor {
    const PROMPT: &str = "(qemu) ";

    fn connect(path: &Path) -> std::io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut monitor = Self { stream };
        monitor.answer()?;
        Ok(monitor)
    }

    fn ask(&mut self, question: &str) -> std::io::Result<String> {
        self.stream.write_all(format!("{question}\n").as_bytes())?;
        let answer = self.answer()?;
        // The first line repeats the question, as its editor shows it.
        Ok(answer.split_once('\n').map(|(_, rest)| rest.to_owned()).unwrap_or_default())
    }

    fn answer(&mut self) -> std::io::Result<String> {
        let mut bytes = Vec::new();
        let mut piece = [0; 4096];
        while !bytes.ends_with(Self::PROMPT.as_bytes()) {
            match self.stream.read(&mut piece)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                count => bytes.extend_from_slice(&piece[..count]),
            }
        }
        bytes.truncate(bytes.len() - Self::PROMPT.len());
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}
