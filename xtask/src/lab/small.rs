//! A lab machine without disks and without a Debian userland: the core beneath the Debian kernel, and an
//! initial RAM disk with busybox, the product and a script. It fits Bochs, whose processor is Intel's kind and
//! slow; QEMU runs it, too.

use super::bare::{Emulator, End, Machine, Said};
use super::{core, guest, product_files};
use crate::cpio::Archive;
use crate::failure::{Context, Failure, Result};
use crate::image::{self, Image};
use crate::process::Step;
use crate::{bare_metal, binaries, packages, workspace};
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// First program of the machine.
const INIT: &str = include_str!("../../../tests/lab/machine/small.sh");
/// What it loads: the pool's drivers.
const MODULES: &[&str] = &["device_dax", "dax_hmem"];
/// The kernel's command line. Bochs' clocks are all made of instructions.
const COMMAND_LINE: &str =
    "console=ttyS0 quiet panic=-1 mitigations=off loglevel=4 random.trust_cpu=on tsc=reliable";
/// What boot loader and core take, in MiB.
const OWN_MEMORY: u64 = 96;

/// What the machine is made of.
#[derive(Clone, Debug)]
pub(crate) struct Small {
    /// Which emulator runs it.
    pub(crate) emulator: Emulator,
    /// RAM for the Debian kernel, in MiB.
    pub(crate) memory: u64,
    /// RAM for guests, in MiB.
    pub(crate) pool: u64,
    /// Processors.
    pub(crate) cpus: u32,
    /// What it runs, by busybox' shell.
    pub(crate) script: PathBuf,
    /// More files and where they lie.
    pub(crate) files: Vec<(PathBuf, String)>,
    /// It is killed after this long.
    pub(crate) limit: Duration,
}

impl Small {
    /// Runs the machine to its end; gives every line it says to `each`; returns the script's status.
    pub(crate) fn run(&self, each: &mut dyn FnMut(&str)) -> Result<i32> {
        packages::require(packages::CORE)?;
        let image = image::prepare()?;
        let mut archive = Archive::new();
        let kernel = image.kernel();
        let read = |path: &Path| std::fs::read(path).context(|| format!("read {}", path.display()));
        archive.file("root", 0o644, &read(&kernel)?);
        archive.file("initrd", 0o644, &self.initrd(&image)?);
        archive.file("command-line", 0o644, COMMAND_LINE.as_bytes());
        let module =
            workspace::folder("lab/runs")?.join(format!("small-{}.cpio", std::process::id()));
        std::fs::write(&module, archive.finish())
            .context(|| format!("write {}", module.display()))?;
        let machine = Machine {
            emulator: self.emulator,
            image: bare_metal::images()?.core,
            module: module.clone(),
            command_line: format!("pool={}", self.pool),
            cpus: self.cpus,
            cpu: None,
            lenient: true,
            memory: self.memory + self.pool + OWN_MEMORY,
            disc: false,
            icount: false,
            disk: None,
            terminal: false,
            net: false,
            limit: self.limit,
        };
        let end = machine.run(&mut |said: Said<'_>| {
            if said.complete {
                each(said.text);
            }
            ControlFlow::Continue(())
        });
        let _ = std::fs::remove_file(&module);
        match end? {
            End::Exit(status) => Ok(i32::from(status)),
            other => Err(Failure::new(core::describe(&other, &machine))),
        }
    }

    fn initrd(&self, image: &Image) -> Result<Vec<u8>> {
        let read = |path: &Path| std::fs::read(path).context(|| format!("read {}", path.display()));
        let mut archive = Archive::new();
        for folder in ["/dev", "/proc", "/sys", "/tmp", "/run", "/root"] {
            archive.folder(folder);
        }
        archive.device("/dev/console", 5, 1);
        archive.file("/bin/busybox", 0o755, &read(&image.busybox())?);
        let applets = Step::new(image.busybox()).argument("--list").text().unwrap_or_default();
        for applet in applets.lines().filter(|applet| *applet != "busybox") {
            archive.link(&format!("/bin/{applet}"), "busybox");
        }
        archive.file("/init", 0o755, INIT.as_bytes());
        archive.file("/lab/engine", 0o644, b"core\n");
        let mut script = read(&self.script)?;
        if !script.starts_with(b"#!") {
            script.splice(0..0, b"#!/bin/sh\n".iter().copied());
        }
        archive.file("/lab/script", 0o755, &script);
        let mut files = product_files()?;
        files.extend(guest::files(image)?);
        files.extend(self.files.iter().cloned());
        let folder = workspace::folder("lab/small")?;
        for (from, to) in &files {
            let content = read(from)?;
            let mode = std::fs::metadata(from).map_or(0o644, |about| about.permissions().mode());
            if content.starts_with(b"\x7fELF") {
                let small = folder.join(from.file_name().unwrap_or_default());
                binaries::stripped(from, &small)?;
                archive.file(to, 0o755, &read(&small)?);
            } else {
                archive.file(to, mode & 0o777, &content);
            }
        }
        image.add_modules(&mut archive, MODULES)?;
        Ok(archive.finish())
    }
}
