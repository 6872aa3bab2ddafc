//! A lab machine without disks and without a Debian userland: the core beneath the Debian kernel, and an
//! initial RAM disk with busybox, the product and a script. It fits Bochs, whose processor is Intel's kind and
//! slow; QEMU runs it, too.

use super::bare::{Emulator, End, Machine, Module, Said};
use super::{core, guest, product_files};
use crate::cpio::Archive;
use crate::failure::{Context, Failure, Result};
use crate::image::{self, Image};
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
/// Starts the line with a scenario's machine.
const WANTS: &str = "# lab:";
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
    /// The scenario in a script of `tests/lab/small`: the comment at its head is its claim, the line `# lab:` its
    /// machine, which Bochs emulates unless it says `qemu`.
    fn read(script: &Path) -> Result<(String, Self)> {
        let text =
            std::fs::read_to_string(script).context(|| format!("read {}", script.display()))?;
        let comment = || text.lines().skip(1).take_while(|line| line.starts_with('#'));
        let claim: Vec<&str> = comment()
            .take_while(|line| !line.starts_with(WANTS))
            .map(|line| line.trim_start_matches('#').trim())
            .collect();
        let mut small = Self {
            emulator: Emulator::Bochs,
            memory: 384,
            pool: 256,
            cpus: 1,
            script: script.to_path_buf(),
            files: Vec::new(),
            limit: Duration::from_secs(1800),
        };
        for word in
            comment().filter_map(|line| line.strip_prefix(WANTS)).flat_map(str::split_whitespace)
        {
            let number =
                word.split_once('=').and_then(|(key, value)| Some((key, value.parse().ok()?)));
            if word == "qemu" {
                small.emulator = Emulator::Qemu;
                continue;
            }
            match number {
                Some(("memory", value)) => small.memory = value,
                Some(("pool", value)) => small.pool = value,
                Some(("cpus", value)) => small.cpus = u32::try_from(value).unwrap_or(1),
                Some(("limit", value)) => small.limit = Duration::from_secs(value),
                _ => {
                    return Err(Failure::new(format!(
                        "{}: `{word}` is not qemu, nor memory=, pool=, cpus= or limit=NUMBER",
                        script.display()
                    )));
                }
            }
        }
        Ok((claim.join(" "), small))
    }

    /// All scenarios of such machines: name and claim.
    pub(crate) fn scenarios() -> Result<Vec<(String, String, Self)>> {
        let folder = workspace::root().join("tests/lab/small");
        let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder)
            .context(|| format!("read {}", folder.display()))?
            .flatten()
            .map(|entry| entry.path())
            .collect();
        paths.sort();
        let read = |path: &PathBuf| {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let (claim, small) = Self::read(path)?;
            Ok((format!("small-{name}@{}", small.emulator), claim, small))
        };
        paths.iter().map(read).collect()
    }

    /// Runs it and prints what it says; an error when it does not hold.
    pub(crate) fn check(&self, name: &str) -> Result {
        match self.run(&mut |line| println!("{line}"))? {
            0 => Ok(()),
            status => {
                Err(Failure::new(format!("ends with {status}; again with: cargo xtask lab {name}")))
            }
        }
    }

    /// Runs the machine to its end; gives every line it says to `each`; returns the script's status.
    pub(crate) fn run(&self, each: &mut dyn FnMut(&str)) -> Result<i32> {
        packages::require(packages::CORE)?;
        let image = image::prepare()?;
        let initrd =
            workspace::folder("lab/runs")?.join(format!("small-{}.cpio", std::process::id()));
        std::fs::write(&initrd, self.initrd(&image)?)
            .context(|| format!("write {}", initrd.display()))?;
        // As GRUB's menu has it (`packaging/core`).
        let kernel = Module { path: image.kernel(), command_line: COMMAND_LINE.to_owned() };
        let machine = Machine {
            emulator: self.emulator,
            image: bare_metal::images()?.core,
            modules: vec![kernel, Module::plain(initrd.clone())],
            command_line: format!("pool={}", self.pool),
            cpus: self.cpus,
            cpu: None,
            lenient: true,
            memory: self.memory + self.pool + OWN_MEMORY,
            disc: true,
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
        let _ = std::fs::remove_file(&initrd);
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
        image.add_busybox(&mut archive)?;
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
