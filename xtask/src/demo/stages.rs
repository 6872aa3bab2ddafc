//! `cargo xtask bench seamless-vm`: the way from a key on the host to its pixels there, by stage, through a VM on
//! engine `tcg`, which is the demo's with nothing opened but the program that is measured.
//!
//! The crate `tests/seamless` presses keys and puts the times together; here the VM is made, and what its
//! programs have written is fetched.

use super::{APPLICATIONS, Demo, Display, NAME};
use crate::failure::{Context, Failure, Result};
use crate::process::{Output, Step};
use crate::{binaries, packages, workspace};
use std::path::Path;
use std::time::Duration;

/// Of the host's screen: the program's window is 1280x720, at 200,150.
const SCREEN: [u16; 2] = [1920, 1080];
/// What compositor and agent write to their logs.
const LOG: &str = "info,latency=trace";
/// Where the program that is measured lies in the guest.
const PROGRAM: &str = "/tmp/seamless-bench";
/// For keys on an emulated machine.
const LIMIT: Duration = Duration::from_secs(1800);

/// Gives each line about a stage to `each`.
pub(crate) fn measure(each: &mut dyn FnMut(&str)) -> Result {
    packages::require(packages::DESKTOP)?;
    let folders = workspace::folder("bench/stages")?;
    let display = Display::start(&folders, SCREEN)?;
    let mut demo = Demo::prepare("applications", APPLICATIONS, Some(&folders))?;
    let programs = binaries::build(&["seamless-bench"])?;
    let program = folders.join("seamless-bench");
    binaries::stripped(&programs.join("seamless-bench"), &program)?;
    for (name, value) in [
        ("DISPLAY", display.name.clone()),
        ("MACROHARD_COMPOSITOR", binaries::compositor()?),
        ("MACROHARD_PAINTER", "software".into()),
        ("MACROHARD_LOG", LOG.into()),
    ] {
        demo.environment.push((name.to_owned(), value));
    }
    for ending in ["qcow2", "vmlinuz", "initrd"] {
        let (from, to) = (demo.disk.with_extension(ending), folders.join("measured"));
        std::fs::copy(&from, to.with_extension(ending))
            .context(|| format!("copy {}", from.display()))?;
    }
    demo.disk = folders.join("measured.qcow2");
    let measured = demo.boot("tcg").and_then(|()| demo.stages(&folders, &program, each));
    let stopped = demo.command(&["stop", NAME, "--force"]);
    let deleted = demo.command(&["delete", NAME, "--yes"]);
    let _ = demo.command(&["daemon", "stop"]);
    measured.and(stopped).and(deleted)
}

impl Demo {
    fn stages(&self, folders: &Path, program: &Path, each: &mut dyn FnMut(&str)) -> Result {
        self.command(&["exec", "--wait", "300", NAME, "--", "id"])?;
        self.command(&["seamless", NAME, "--enable"])?;
        self.cli()
            .arguments(["exec", NAME, "--", "sh", "-c"])
            .argument(format!("cat >{PROGRAM} && chmod +x {PROGRAM}"))
            .input(program)
            .run(Output::Shown)?;
        // This very connection ends with the agent that is started anew.
        let again = "systemctl --user set-environment MACROHARD_LOG={LOG} && \
            systemctl --user --no-block restart macrohard-guest-session.service";
        let _ = self.command(&["exec", NAME, "--", "sh", "-c", &again.replace("{LOG}", LOG)]);
        std::thread::sleep(Duration::from_secs(5));
        self.command(&["exec", "--wait", "120", NAME, "--", "id"])?;
        // What the agent starts has the display of its windows.
        let start = "for i in $(seq 600); do \
            eval \"$(systemctl --user show-environment | sed -n 's/^\\(DISPLAY\\|XAUTHORITY\\)=/export \\1=/p')\"; \
            [ -n \"$DISPLAY\" ] && break; sleep 0.2; done; \
            setsid {PROGRAM} subject still </dev/null >/tmp/subject.log 2>&1 & sleep 1";
        let start = start.replace("{PROGRAM}", PROGRAM);
        self.command(&["exec", NAME, "--", "sh", "-c", &start])?;
        let [strikes, host, guest, subject] =
            ["strikes", "compositor", "agent", "subject"].map(|name| folders.join(name));
        let mut struck = String::new();
        let step = self.environment.iter().fold(
            Step::new(program).arguments(["strike", "--keys", "160", "--logs"]).argument(folders),
            |step, (name, value)| step.variable(name, value),
        );
        let ended = step.limit(LIMIT).lines(&mut |line| {
            struck.push_str(line);
            struck.push('\n');
        })?;
        let write = |file: &Path, text: &str| {
            std::fs::write(file, text).context(|| format!("write {}", file.display()))
        };
        write(&strikes, &struck)?;
        let says = |what: &[&str]| {
            let said = self.cli().arguments(["exec", NAME, "--"]).arguments(what).text();
            said.ok_or_else(|| Failure::new(format!("the guest does not say {what:?}")))
        };
        write(&guest, &says(&["journalctl", "--user", "--no-pager", "--output=cat"])?)?;
        write(&subject, &says(&["cat", "/tmp/subject.log"])?)?;
        let log = folders.join("state/macrohard/vms").join(NAME).join("compositor.log");
        std::fs::copy(&log, &host).context(|| format!("copy {}", log.display()))?;
        if !ended.is_some_and(|status| status.success()) {
            return Err(Failure::new("the keys did not come to their end"));
        }
        let split = Step::new(program).argument("split");
        let files = [
            ("--strikes", &strikes),
            ("--host", &host),
            ("--guest", &guest),
            ("--subject", &subject),
        ];
        let split =
            files.iter().fold(split, |step, (name, file)| step.argument(name).argument(file));
        match split.lines(each)? {
            Some(status) if status.success() => Ok(()),
            _ => Err(Failure::new("the logs do not tell the stages")),
        }
    }
}
