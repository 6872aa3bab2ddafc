//! `cargo xtask demo`: from a clean clone to the login prompt of a Debian guest, with the commands a
//! person would type.

use crate::failure::{Context, Failure, Result};
use crate::process::{Output, Step};
use crate::{binaries, packages, workspace};
use std::io::{BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Name of the demo's VM.
const NAME: &str = "demo";
/// Its kernel's command line: the first serial console, the one file system.
const APPEND: &str = "root=/dev/vda rw console=ttyS0";
/// What a person waits for.
const PROMPT: &str = "login:";
/// What the check of the whole desktop needs in the guest.
const DESKTOP: &str = "xvfb,xclip,l3afpad,git,procps,libnotify-bin";
/// A display for the guest's session, where the agent of that session finds it.
const GUEST_DISPLAY: &str = "systemd-run --user --quiet --unit=display Xvfb :0 -screen 0 800x600x24 -nolisten tcp && \
                             systemctl --user set-environment DISPLAY=:0";
/// A software CPU on two busy cores takes minutes to boot Debian.
const LIMIT: Duration = Duration::from_secs(900);

/// The demo with the user's own settings and folders, on the engine `auto` picks.
pub(crate) fn run() -> Result<i32> {
    let demo = Demo::prepare("debian", "", None)?;
    demo.boot("auto")?;
    println!();
    if std::io::stdin().is_terminal() {
        let folder = demo.programs.display();
        println!(
            "The guest runs. Log in as `guest` with the password `guest`. What now (PATH=\"{folder}:$PATH\" saves typing):"
        );
        for command in [
            "console demo      # its terminal; Ctrl-] leaves it",
            "list",
            "exec demo -- id",
            "shell demo        # Ctrl-] leaves it",
            "pause demo",
            "resume demo",
            "stats demo",
            "stop demo",
            "delete demo",
        ] {
            println!("  {folder}/macrohard-hypervisor {command}");
        }
        return Ok(0);
    }
    demo.command(&["stop", NAME, "--timeout", "180"])?;
    println!(
        "The guest was shut down: this is no terminal. From one, `cargo xtask demo` leaves it running."
    );
    Ok(0)
}

/// The same as a test: on engine tcg, in folders of its own, from the login prompt on to the desktop, ended
/// and deleted.
pub(crate) fn check() -> Result {
    packages::require(packages::DESKTOP)?;
    let folders = workspace::folder("test/demo")?;
    let display = Display::start(&folders)?;
    let mut demo = Demo::prepare("desktop", DESKTOP, Some(&folders))?;
    demo.environment.push(("DISPLAY".to_owned(), display.name.clone()));
    let booted = demo.boot("tcg").and_then(|()| {
        demo.command(&["exec", "--wait", "300", NAME, "--", "id"])?;
        demo.command(&["exec", "--user", "root", NAME, "--", "id", "-un"])?;
        demo.command(&["status", NAME])?;
        demo.command(&["exec", NAME, "--", "sh", "-c", GUEST_DISPLAY])?;
        demo.desktop()?;
        demo.command(&["stop", NAME, "--timeout", "180"])
    });
    if booted.is_err() {
        let _ = demo.command(&["stop", NAME, "--force"]);
    }
    let deleted = demo.command(&["delete", NAME, "--yes"]);
    let _ = demo.command(&["daemon", "stop"]);
    booted.and(deleted)
}

/// An X server of this machine that nobody looks at; ended when dropped.
struct Display {
    name: PathBuf,
    server: std::process::Child,
}

impl Display {
    fn start(folder: &Path) -> Result<Self> {
        let log = folder.join("xvfb.log");
        let log = std::fs::File::create(&log).context(|| format!("make {}", log.display()))?;
        let mut server = Command::new("Xvfb")
            .args(["-displayfd", "1", "-screen", "0", "800x600x24", "-nolisten", "tcp"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context(|| "start Xvfb".to_owned())?;
        let mut number = String::new();
        let said = server.stdout.take().map(BufReader::new);
        let read = said.map(|mut said| said.read_line(&mut number)).transpose();
        let display = Self { name: format!(":{}", number.trim()).into(), server };
        read.context(|| "read the number of Xvfb's display".to_owned())?;
        if number.trim().is_empty() {
            return Err(Failure::new("Xvfb does not start"));
        }
        Ok(display)
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.server.kill().and_then(|()| self.server.wait());
    }
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
        if !(demo.disk.exists() && parts.iter().all(|part| part.exists())) {
            demo.cli()
                .arguments(["image", "build", "--force", "--output"])
                .argument(&demo.disk)
                .arguments(if include.is_empty() { vec![] } else { vec!["--include", include] })
                .limit(Duration::from_secs(1800))
                .run(Output::Shown)?;
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

    /// The check of the whole desktop against the guest that runs.
    fn desktop(&self) -> Result {
        let check = workspace::root().join("tests/desktop/end-to-end.sh");
        let search = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(self.programs.clone()).chain(std::env::split_paths(&search));
        let search = std::env::join_paths(folders)
            .map_err(|error| Failure::new(format!("{}: {error}", self.programs.display())))?;
        let step = Step::new(check).argument(NAME).variable("PATH", search).limit(LIMIT);
        let step =
            self.environment.iter().fold(step, |step, (name, value)| step.variable(name, value));
        step.run(Output::Shown)
    }

    /// Creates the VM unless it is there, starts it, shows its console to the login prompt.
    fn boot(&self, engine: &str) -> Result {
        let known = self.cli().arguments(["list", "--all", "--json"]).text().unwrap_or_default();
        let known: serde_json::Value = serde_json::from_str(&known).unwrap_or_default();
        let vm = known.as_array().and_then(|vms| vms.iter().find(|vm| vm["name"] == NAME));
        if vm.is_none() {
            let path = |ending: &str| self.disk.with_extension(ending).display().to_string();
            self.command(&[
                "create",
                "--name",
                NAME,
                "--memory",
                "1024",
                "--cpus",
                "2",
                "--engine",
                engine,
                "--disk",
                &path("qcow2"),
                "--kernel",
                &path("vmlinuz"),
                "--initrd",
                &path("initrd"),
                "--append",
                APPEND,
            ])?;
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
