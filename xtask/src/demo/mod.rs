//! `cargo xtask demo`: from a clean clone to applications of a Debian guest as windows of this desktop, with
//! the commands a person would type.

mod display;
mod film;
pub(crate) mod stages;

use crate::failure::{Context, Failure, Result};
use crate::process::{Output, Step};
use crate::{binaries, packages, workspace};
use display::Display;
use film::Camera;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Name of the demo's VM.
const NAME: &str = "demo";
/// Of the second VM of the check.
const OTHER: &str = "other";
/// Its kernel's command line: the first serial console, the one file system.
const APPEND: &str = "root=/dev/vda rw console=ttyS0";
/// What a person waits for.
const PROMPT: &str = "login:";
/// What a person finds in the guest's menu: a terminal, two editors (of GTK and of Qt), a calculator; for desktop mode
/// an X server on the guest's screen and a window manager.
const APPLICATIONS: &str = "xvfb,xserver-xorg-core,xserver-xorg-input-libinput,openbox,x11-xkb-utils,\
                            xterm,l3afpad,featherpad,galculator,fonts-dejavu-core";
/// What the checks of the desktop need in the guest beyond these.
const CHECKS: &str = "xclip,git,procps,libnotify-bin,xdotool,x11-utils";
/// What the demo opens.
const OPENED: [&str; 2] = ["debian-xterm", "l3afpad"];
/// Of a desktop that nobody looks at.
const SCREEN: [u16; 2] = [1280, 800];
/// Of one that is filmed.
const FILM: [u16; 2] = [960, 600];
/// A software CPU on two busy cores takes minutes to boot Debian.
const LIMIT: Duration = Duration::from_secs(900);

/// The demo with the user's own settings and folders, on the engine `auto` picks, on the user's desktop or, where
/// there is none, on one of its own that leaves pictures.
pub(crate) fn run() -> Result<i32> {
    let mut demo = Demo::prepare("applications", APPLICATIONS, None)?;
    let compositor = binaries::compositor()?;
    demo.environment.push(("MACROHARD_COMPOSITOR".to_owned(), compositor));
    let has_desktop = ["DISPLAY", "WAYLAND_DISPLAY"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    let display = if has_desktop {
        None
    } else {
        packages::require(packages::DESKTOP)?;
        println!("No desktop is here: the demo starts one, and leaves pictures of it.");
        let display = Display::start(&workspace::folder("demo")?, SCREEN)?;
        demo.environment.push(("DISPLAY".to_owned(), display.name.clone()));
        Some(display)
    };
    // The daemon that runs may know of another desktop.
    let _ = demo.command(&["daemon", "stop"]);
    demo.boot("auto")?;
    demo.open(display.as_ref())?;
    println!();
    if std::io::stdin().is_terminal() && display.is_none() {
        let folder = demo.programs.display();
        println!(
            "Two applications of the guest are windows of this desktop; all of them are in its menu. What now (PATH=\"{folder}:$PATH\" saves typing):"
        );
        for command in [
            "apps demo         # what else it has",
            "launch demo galculator",
            "windows demo",
            "share add demo ~/Documents",
            "console demo      # its terminal, user guest, password guest; Ctrl-] leaves it",
            "shell demo        # Ctrl-] leaves it",
            "seamless demo --toggle",
            "stop demo",
            "delete demo",
        ] {
            println!("  {folder}/macrohard-hypervisor {command}");
        }
        return Ok(0);
    }
    demo.command(&["stop", NAME, "--timeout", "180"])?;
    if display.is_some() {
        demo.command(&["daemon", "stop"])?;
    }
    println!(
        "The guest was shut down: no person is here. From a terminal of a desktop, `cargo xtask demo` leaves it running."
    );
    Ok(0)
}

/// The same as a test: on engine tcg, in folders of its own, from the login prompt on to the desktop, ended
/// and deleted.
pub(crate) fn check() -> Result {
    packages::require(packages::DESKTOP)?;
    let folders = workspace::folder("test/demo")?;
    let display = Display::start(&folders, SCREEN)?;
    let include = format!("{APPLICATIONS},{CHECKS}");
    let mut demo = Demo::prepare("desktop", &include, Some(&folders))?;
    demo.environment.push(("DISPLAY".to_owned(), display.name.clone()));
    // As the tests have built it: another build of it takes minutes.
    let compositor = binaries::compositor_of_tests()?;
    demo.environment.push(("MACROHARD_COMPOSITOR".to_owned(), compositor));
    let pictures = folders.join("pictures");
    // On copies: what a check leaves in its guest is not there for the next.
    for ending in ["qcow2", "vmlinuz", "initrd"] {
        let (from, to) = (demo.disk.with_extension(ending), folders.join("first"));
        std::fs::copy(&from, to.with_extension(ending))
            .context(|| format!("copy {}", from.display()))?;
    }
    demo.disk = folders.join("first.qcow2");
    let second = folders.join("other.qcow2");
    std::fs::copy(&demo.disk, &second).context(|| format!("copy {}", demo.disk.display()))?;
    let booted = demo.boot("tcg").and_then(|()| {
        demo.command(&["exec", "--wait", "300", NAME, "--", "id"])?;
        demo.command(&["exec", "--user", "root", NAME, "--", "id", "-un"])?;
        demo.command(&["status", NAME])?;
        let shown = pictures.display().to_string();
        demo.script("windows.sh", &[NAME, &shown])?;
        demo.create(OTHER, "tcg", &second)?;
        demo.script("two-vms.sh", &[NAME, OTHER, &shown])?;
        demo.command(&["delete", OTHER, "--yes"])?;
        demo.script("end-to-end.sh", &[NAME])?;
        demo.command(&["stop", NAME, "--timeout", "180"])
    });
    if booted.is_err() {
        let _ = demo.command(&["stop", NAME, "--force"]);
        let _ = demo.command(&["stop", OTHER, "--force"]);
        let _ = demo.command(&["delete", OTHER, "--yes"]);
    }
    let deleted = demo.command(&["delete", NAME, "--yes"]);
    let _ = demo.command(&["daemon", "stop"]);
    booted.and(deleted)
}

/// A film of what a person does first, in folders of its own: a terminal and an editor of the guest, typing, moving, the
/// guest's screen and back. The VM is deleted in the end.
pub(crate) fn film(file: &Path) -> Result {
    packages::require(packages::DESKTOP)?;
    let folders = workspace::folder("demo/film")?;
    let display = Display::start(&folders, FILM)?;
    let mut demo = Demo::prepare("applications", APPLICATIONS, Some(&folders))?;
    demo.environment.push(("DISPLAY".to_owned(), display.name.clone()));
    demo.environment.push(("MACROHARD_COMPOSITOR".to_owned(), binaries::compositor()?));
    for ending in ["qcow2", "vmlinuz", "initrd"] {
        let (from, to) = (demo.disk.with_extension(ending), folders.join("film"));
        std::fs::copy(&from, to.with_extension(ending))
            .context(|| format!("copy {}", from.display()))?;
    }
    demo.disk = folders.join("film.qcow2");
    let taken = demo.boot("auto").and_then(|()| {
        demo.command(&["exec", "--wait", "300", NAME, "--", "id"])?;
        demo.command(&["seamless", NAME, "--enable"])?;
        let camera = Camera::start(&display.name, FILM);
        let played = demo.play(&display);
        camera.stop(file).and(played)
    });
    let stopped = demo.command(&["stop", NAME, "--force"]);
    let deleted = demo.command(&["delete", NAME, "--yes"]);
    let _ = demo.command(&["daemon", "stop"]);
    taken.and(stopped).and(deleted)?;
    let length = std::fs::metadata(file).map_or(0, |facts| facts.len());
    println!("film: {} ({} KiB)", file.display(), length / 1024);
    Ok(())
}

/// What tells one build of the guest's agent from another.
fn agent(programs: &Path) -> Result<String> {
    let program = programs.join("macrohard-guest-agent");
    let facts = std::fs::metadata(&program).and_then(|facts| Ok((facts.len(), facts.modified()?)));
    let facts = facts.context(|| format!("look at {}", program.display()))?;
    Ok(format!("{facts:?}"))
}

struct Demo {
    programs: PathBuf,
    disk: PathBuf,
    environment: Vec<(String, PathBuf)>,
}

impl Demo {
    /// Installs, builds, and makes the guest image `name` with these packages unless it is there.
    fn prepare(name: &str, include: &str, folders: Option<&Path>) -> Result<Self> {
        packages::require(packages::DEMO)?;
        let programs = binaries::product()?;
        let disk = workspace::folder("demo")?.join(format!("{name}.qcow2"));
        let mut environment = Vec::new();
        if let Some(folders) = folders {
            for (name, folder) in [
                ("XDG_CONFIG_HOME", "config"),
                ("XDG_STATE_HOME", "state"),
                ("XDG_DATA_HOME", "data"),
            ] {
                environment.push((name.to_owned(), folders.join(folder)));
            }
            // Socket paths are short (unix(7): 108 bytes), a clone's need not be.
            let runtime =
                std::env::temp_dir().join(format!("macrohard-test-{}", std::process::id()));
            std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700)
                .recursive(true)
                .create(&runtime)
                .context(|| format!("make {}", runtime.display()))?;
            environment.push(("XDG_RUNTIME_DIR".to_owned(), runtime));
        }
        let demo = Self { programs, disk, environment };
        let parts = ["vmlinuz", "initrd"].map(|ending| demo.disk.with_extension(ending));
        // With the agent in it that is tried out here.
        let (agent, stamp) = (agent(&demo.programs)?, demo.disk.with_extension("agent"));
        let same = std::fs::read_to_string(&stamp).is_ok_and(|within| within == agent);
        if !(same && demo.disk.exists() && parts.iter().all(|part| part.exists())) {
            demo.cli()
                .arguments(["image", "build", "--force", "--output"])
                .argument(&demo.disk)
                .arguments(if include.is_empty() { vec![] } else { vec!["--include", include] })
                .limit(Duration::from_secs(1800))
                .run(Output::Shown)?;
            std::fs::write(&stamp, agent).context(|| format!("write {}", stamp.display()))?;
        }
        Ok(demo)
    }

    fn cli(&self) -> Step {
        let step = Step::new(self.programs.join("macrohard-hypervisor"));
        self.environment.iter().fold(step, |step, (name, value)| step.variable(name, value))
    }

    fn command(&self, arguments: &[&str]) -> Result {
        println!("$ macrohard-hypervisor {}", arguments.join(" "));
        self.cli().arguments(arguments).run(Output::Shown)
    }

    /// Opens applications of the guest and waits for their windows.
    fn open(&self, display: Option<&Display>) -> Result {
        let pictures = workspace::folder("demo/pictures")?;
        self.command(&["seamless", NAME, "--enable"])?;
        for (number, application) in OPENED.into_iter().enumerate() {
            self.command(&["launch", NAME, application])?;
            let end = Instant::now() + LIMIT;
            while self.windows() <= number {
                if Instant::now() >= end {
                    return Err(Failure::new(format!("no window of {application} has come")));
                }
                std::thread::sleep(Duration::from_millis(200));
            }
            if let Some(display) = display {
                // A program draws some time after its window is there.
                std::thread::sleep(Duration::from_secs(3));
                let file = pictures.join(format!("{}-{application}.png", number + 1));
                display.picture(&file)?;
                println!("picture: {}", file.display());
            }
        }
        self.command(&["windows", NAME])
    }

    /// How many windows of the guest are open here.
    fn windows(&self) -> usize {
        self.hosts().len()
    }

    /// Their ids on the desktop, in the order in which they were opened.
    fn hosts(&self) -> Vec<String> {
        let text = self.cli().arguments(["windows", NAME, "--json"]).text().unwrap_or_default();
        let windows: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let windows = windows.as_array().map(Vec::as_slice).unwrap_or_default();
        windows
            .iter()
            .filter_map(|window| window["host"].as_u64())
            .map(|id| id.to_string())
            .collect()
    }

    /// Waits until so many windows are open; the last one.
    fn wait_for_windows(&self, count: usize) -> Result<String> {
        let end = Instant::now() + LIMIT;
        loop {
            let hosts = self.hosts();
            if let Some(last) = hosts.last().filter(|_| hosts.len() == count) {
                return Ok(last.clone());
            }
            if Instant::now() >= end {
                return Err(Failure::new(format!("{} windows in place of {count}", hosts.len())));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// What the film shows.
    fn play(&self, display: &Display) -> Result {
        let xdotool = |arguments: &[&str]| {
            let step = Step::new("xdotool").arguments(arguments).variable("DISPLAY", &display.name);
            step.run(Output::Shown)
        };
        let watch = |seconds| std::thread::sleep(Duration::from_secs(seconds));
        self.command(&["launch", NAME, OPENED[0]])?;
        let terminal = self.wait_for_windows(1)?;
        // A program draws some time after its window is there.
        watch(5);
        xdotool(&["windowmove", &terminal, "40", "60"])?;
        xdotool(&["windowactivate", "--sync", &terminal])?;
        xdotool(&["type", "--delay", "150", "uname -sr; whoami\n"])?;
        watch(4);
        self.command(&["launch", NAME, OPENED[1]])?;
        let editor = self.wait_for_windows(2)?;
        watch(5);
        xdotool(&["windowactivate", "--sync", &editor])?;
        xdotool(&["type", "--delay", "150", "A guest's editor"])?;
        // A line's end in the text would be the key Linefeed, which GTK does not know.
        xdotool(&["key", "Return"])?;
        xdotool(&["type", "--delay", "150", "on the host's desktop"])?;
        watch(3);
        for step in 0..12 {
            let (x, y) = ((100 + 30 * step).to_string(), (80 + 14 * step).to_string());
            xdotool(&["windowmove", &editor, &x, &y])?;
            std::thread::sleep(Duration::from_millis(250));
        }
        xdotool(&["windowactivate", "--sync", &terminal])?;
        watch(2);
        self.command(&["seamless", NAME, "--toggle"])?;
        self.wait_for_windows(1)?;
        watch(4);
        self.command(&["seamless", NAME, "--toggle"])?;
        self.wait_for_windows(2)?;
        watch(4);
        Ok(())
    }

    /// A check of the desktop against the guest that runs.
    fn script(&self, name: &str, arguments: &[&str]) -> Result {
        let check = workspace::root().join("tests/desktop").join(name);
        let search = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(self.programs.clone()).chain(std::env::split_paths(&search));
        let search = std::env::join_paths(folders)
            .map_err(|error| Failure::new(format!("{}: {error}", self.programs.display())))?;
        let step = Step::new(check).arguments(arguments).variable("PATH", search).limit(LIMIT);
        let step =
            self.environment.iter().fold(step, |step, (name, value)| step.variable(name, value));
        step.run(Output::Shown)
    }

    /// Creates a VM with this disk, a copy of the image.
    fn create(&self, name: &str, engine: &str, disk: &Path) -> Result {
        let part = |ending: &str| self.disk.with_extension(ending).display().to_string();
        let (disk, kernel, initrd) = (disk.display().to_string(), part("vmlinuz"), part("initrd"));
        let machine = ["--memory", "1024", "--cpus", "2", "--display", "1024x700"];
        let boot = ["--disk", &disk, "--kernel", &kernel, "--initrd", &initrd, "--append", APPEND];
        let head = ["create", "--name", name, "--engine", engine];
        self.command(&[&head[..], &machine, &boot].concat())
    }

    /// Creates the VM unless it is there, starts it, shows its console to the login prompt.
    fn boot(&self, engine: &str) -> Result {
        let known = self.cli().arguments(["list", "--all", "--json"]).text().unwrap_or_default();
        let known: serde_json::Value = serde_json::from_str(&known).unwrap_or_default();
        let vm = known.as_array().and_then(|vms| vms.iter().find(|vm| vm["name"] == NAME));
        if vm.is_none() {
            self.create(NAME, engine, &self.disk)?;
        }
        if vm.is_some_and(|vm| vm["state"] == "running") {
            println!("The VM `{NAME}` runs already.");
            return Ok(());
        }
        self.command(&["start", NAME])?;
        self.command(&["status", NAME])?;
        println!("--- the guest's console");
        let mut prompted = false;
        let follow = Step::new("timeout")
            .argument(LIMIT.as_secs().to_string())
            .argument(self.programs.join("macrohard-hypervisor"))
            .arguments(["logs", NAME, "--console", "--follow"])
            .limit(LIMIT + Duration::from_secs(10));
        let follow =
            self.environment.iter().fold(follow, |step, (name, value)| step.variable(name, value));
        follow.bytes(&mut |text| {
            print!("{text}");
            let _ = std::io::Write::flush(&mut std::io::stdout());
            prompted |= text.contains(PROMPT);
            !prompted
        })?;
        println!();
        if prompted {
            Ok(())
        } else {
            Err(Failure::new(format!(
                "the guest did not reach its login prompt within {} s",
                LIMIT.as_secs()
            )))
        }
    }
}
