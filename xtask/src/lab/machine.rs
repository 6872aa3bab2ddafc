//! One lab machine: QEMU's software CPU with AMD's virtualization extensions, the Debian kernel with
//! the real `kvm_amd`, a read-only root image, and a script that is its whole life.

use crate::cpio::Archive;
use crate::failure::{Context, Failure, Result};
use crate::image::Image;
use crate::lab::watch::{self, Found, Watch};
use crate::process::{Output, Step, tail};
use crate::{bare_metal, workspace};
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The script, and what init reads to know what to bring up.
const INIT: &str = include_str!("../../../tests/lab/machine/init.sh");
/// The kernel's command line. The serial console carries kernel messages only.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable no_timer_check random.trust_cpu=on \
                            kvm_amd.npt=1 loglevel=4 net.ifnames=0";

/// The hypervisor that a lab machine has for the engine under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Engine {
    /// The Debian kernel's own: `kvm_amd`.
    Kvm,
    /// Ours, beneath the Debian kernel.
    Core,
}

impl Engine {
    /// As in `--engine` of the product.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Core => "core",
        }
    }
}

/// MiB that the core takes for itself of a lab machine, its frames for a pool of some GiB included.
const CORE_MEMORY: u64 = 64;

/// What a lab machine is made of.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// RAM in MiB.
    pub(crate) memory: u64,
    /// CPUs the script has.
    pub(crate) cpus: u32,
    /// Count instructions instead of time: one host thread, repeatable figures.
    pub(crate) icount: bool,
    /// Files of this machine and where they lie in the lab machine.
    pub(crate) files: Vec<(PathBuf, String)>,
    /// What it runs.
    pub(crate) script: PathBuf,
    /// The hypervisor of the engine under test.
    pub(crate) engine: Engine,
    /// Size of an empty disk `/dev/vdc`, in MiB; 0 for none.
    pub(crate) scratch: u64,
    /// It is killed after this long.
    pub(crate) limit: Duration,
}

/// How a run of the machine went.
enum Run {
    /// The script's status.
    Status(i32),
    /// The machine is lost before its script or without a word of its kernel, with the story. Mostly that is the
    /// emulator's doing.
    Lost(String),
}

/// Runs of one machine, the first included.
const MOST_RUNS: u32 = 3;

impl Machine {
    /// Runs the machine to its end; gives every line the script prints to `each`; returns the
    /// script's status.
    ///
    /// A machine whose own kernel met a triple fault runs again: QEMU may lose a change of the first
    /// processor's mode when another one loads its x87 registers (docs/src/lab.md), and no program on
    /// this machine, ours included, can do that to a kernel in order. So does one whose kernel does not come
    /// to the script: what its processors did is printed.
    pub(crate) fn run(&self, image: &Image, each: &mut dyn FnMut(&str)) -> Result<i32> {
        let folder = workspace::folder("lab/runs")?.join(std::process::id().to_string());
        for run in 1..=MOST_RUNS {
            let _ = std::fs::remove_dir_all(&folder);
            std::fs::create_dir_all(&folder).context(|| format!("make {}", folder.display()))?;
            match self.run_in(&folder, image, each)? {
                Run::Status(status) => {
                    let _ = std::fs::remove_dir_all(&folder);
                    return Ok(status);
                }
                Run::Lost(story) if run == MOST_RUNS => return Err(Failure::new(story)),
                Run::Lost(story) => {
                    println!("AGAIN: the lab machine was lost (run {run}): {story}");
                }
            }
        }
        Err(Failure::new("the lab machine was not run"))
    }

    fn run_in(&self, folder: &Path, image: &Image, each: &mut dyn FnMut(&str)) -> Result<Run> {
        let files = self.pack(folder)?;
        let console = folder.join(watch::CONSOLE);
        let status = folder.join(watch::STATUS);
        let start = Instant::now();
        let mut watch = Watch::new(folder, self.icount);
        let ended = self
            .qemu(folder, image, &files)?
            .lines_watched(each, &mut |limit| watch.look(limit))?;
        let seconds = start.elapsed().as_secs();
        let said = std::fs::read_to_string(&status).unwrap_or_default();
        let status = said.lines().find_map(|line| line.strip_prefix("status "));
        if let Some(status) = status.and_then(|text| text.trim().parse().ok()) {
            return Ok(Run::Status(status));
        }
        let how = match (ended, watch.found) {
            (Some(status), _) => {
                format!("the lab machine ended after {seconds} s without a result (QEMU: {status})")
            }
            (None, Some(found)) => format!("{found}, and the lab machine was killed"),
            (None, None) => {
                format!("the lab machine was killed after its limit of {} s", self.limit.as_secs())
            }
        };
        let story = format!(
            "{how}; the last it wrote ({}):\n{}\n{}",
            console.display(),
            tail(&console, 40),
            watch.state
        );
        let emulator = std::fs::read_to_string(folder.join("qemu.log")).unwrap_or_default();
        // QEMU's words where a processor without a handler resets the machine (check_exception in
        // target/i386/tcg/excp_helper.c).
        let triple_fault = ended.is_some() && emulator.contains("Triple fault");
        if triple_fault || watch.found == Some(Found::NoScript) {
            return Ok(Run::Lost(story));
        }
        Err(Failure::new(story))
    }

    /// The disk with this run's files, laid over the root image.
    fn pack(&self, folder: &Path) -> Result<PathBuf> {
        let stage = folder.join("stage");
        place(&stage, "/lab/init", |to| std::fs::write(to, INIT), 0o755)?;
        place(
            &stage,
            "/lab/engine",
            |to| std::fs::write(to, format!("{}\n", self.engine.name())),
            0o644,
        )?;
        let script = read_script(&self.script)?;
        place(&stage, "/lab/script", |to| std::fs::write(to, &script), 0o755)?;
        for (from, to) in &self.files {
            let from =
                from.canonicalize().context(|| format!("find the file {}", from.display()))?;
            if from.is_dir() {
                let to = stage.join(to.trim_start_matches('/'));
                std::fs::create_dir_all(&to).context(|| format!("make {}", to.display()))?;
                Step::new("cp").argument("-aT").argument(&from).argument(&to).run(Output::Shown)?;
            } else {
                let mode = std::fs::metadata(&from)
                    .context(|| format!("read {}", from.display()))?
                    .permissions()
                    .mode();
                let to = stage.join(to.trim_start_matches('/'));
                make_above(&to)?;
                let _ = std::fs::remove_file(&to);
                if std::fs::hard_link(&from, &to).is_err() {
                    std::fs::copy(&from, &to).context(|| format!("copy {}", from.display()))?;
                    std::fs::set_permissions(&to, std::fs::Permissions::from_mode(mode & 0o7777))
                        .context(|| format!("set the mode of {}", to.display()))?;
                }
            }
        }
        let squash = folder.join("files.squashfs");
        Step::new("mksquashfs")
            .argument(&stage)
            .argument(&squash)
            .arguments([
                "-noI",
                "-noD",
                "-noF",
                "-noX",
                "-all-root",
                "-no-progress",
                "-quiet",
                "-no-xattrs",
            ])
            .run(Output::Logged(folder.join("pack.log")))?;
        std::fs::remove_dir_all(&stage).context(|| format!("remove {}", stage.display()))?;
        Ok(squash)
    }

    /// Memory for the core's guests, in MiB: with KVM guests share the kernel's.
    const fn pool(&self) -> u64 {
        match self.engine {
            Engine::Kvm => 0,
            Engine::Core => self.memory,
        }
    }

    /// CPUs of the machine. Several of them need one more that programs do not use: the first, whose world
    /// switches QEMU spoils when others load x87 registers (docs/src/lab.md).
    const fn all_cpus(&self) -> u32 {
        match self.cpus {
            _ if self.icount => 1,
            1 => 1,
            cpus => cpus + 1,
        }
    }

    /// RAM of the machine in MiB.
    const fn whole_memory(&self) -> u64 {
        match self.engine {
            Engine::Kvm => self.memory,
            Engine::Core => self.memory + self.pool() + CORE_MEMORY,
        }
    }

    /// What QEMU boots: the kernel, or the core with the kernel in its boot archive.
    fn boot(&self, folder: &Path, image: &Image) -> Result<Vec<OsString>> {
        let (kernel, initrd, append) = match self.engine {
            Engine::Kvm => (image.kernel(), image.initrd(), COMMAND_LINE.to_owned()),
            Engine::Core => {
                let read = |path: &Path| {
                    std::fs::read(path).context(|| format!("read {}", path.display()))
                };
                let mut archive = Archive::new();
                archive.file("root", 0o644, &read(&image.kernel())?);
                archive.file("initrd", 0o644, &read(&image.initrd())?);
                archive.file("command-line", 0o644, COMMAND_LINE.as_bytes());
                let path = folder.join("boot.cpio");
                std::fs::write(&path, archive.finish())
                    .context(|| format!("write {}", path.display()))?;
                (bare_metal::images()?.core, path, format!("pool={}", self.pool()))
            }
        };
        Ok([
            "-kernel".into(),
            kernel.into(),
            "-initrd".into(),
            initrd.into(),
            "-append".into(),
            append.into(),
        ]
        .into())
    }

    fn qemu(&self, folder: &Path, image: &Image, files: &Path) -> Result<Step> {
        let drive = |id: &str, path: &Path, rest: &str| {
            format!("if=none,id={id},format=raw,file={}{rest}", path.display())
        };
        let mut step = Step::new("qemu-system-x86_64")
            .arguments([
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-no-reboot",
                "-machine",
                "q35",
                "-cpu",
                "max",
            ])
            .arguments([
                "-smp",
                &self.all_cpus().to_string(),
                "-m",
                &self.whole_memory().to_string(),
            ])
            .arguments(self.boot(folder, image)?)
            .argument("-serial")
            .argument(format!("file:{}", folder.join(watch::CONSOLE).display()))
            .argument("-monitor")
            .argument(watch::monitor(folder))
            // Resets, with the processor's state.
            .arguments(["-d", "cpu_reset", "-D"])
            .argument(folder.join("qemu.log"))
            .arguments(["-device", "virtio-serial-pci"])
            // A file, not QEMU's stdio: that one closes the port once standard input ends.
            .arguments([
                "-chardev",
                "file,id=output,path=/proc/self/fd/1",
                "-device",
                "virtserialport,chardev=output,name=lab.output",
            ])
            .argument("-chardev")
            .argument(format!("file,id=status,path={}", folder.join(watch::STATUS).display()))
            .arguments(["-device", "virtserialport,chardev=status,name=lab.status"])
            .argument("-drive")
            .argument(drive("root", &image.root(), ",readonly=on"))
            .arguments(["-device", "virtio-blk-pci,drive=root"])
            .argument("-drive")
            .argument(drive("files", files, ",readonly=on"))
            .arguments(["-device", "virtio-blk-pci,drive=files"])
            .limit(self.limit);
        if self.scratch > 0 {
            let path = folder.join("scratch.img");
            let file =
                std::fs::File::create(&path).context(|| format!("make {}", path.display()))?;
            file.set_len(self.scratch << 20).context(|| format!("size {}", path.display()))?;
            step = step
                .argument("-drive")
                .argument(drive("scratch", &path, ",cache=unsafe,discard=unmap"))
                .arguments(["-device", "virtio-blk-pci,drive=scratch"]);
        }
        Ok(if self.icount {
            step.arguments([
                "-accel",
                "tcg,thread=single,tb-size=512",
                "-icount",
                "shift=0,sleep=off",
            ])
        } else {
            step.arguments(["-accel", "tcg,thread=multi,tb-size=512"])
        })
    }
}

/// The script, with an interpreter line when it brings none.
fn read_script(path: &Path) -> Result<Vec<u8>> {
    let mut script =
        std::fs::read(path).context(|| format!("read the script {}", path.display()))?;
    if !script.starts_with(b"#!") && !script.starts_with(b"\x7fELF") {
        script.splice(0..0, b"#!/bin/bash\n".iter().copied());
    }
    Ok(script)
}

fn make_above(path: &Path) -> Result {
    let above = path.parent().unwrap_or(path);
    std::fs::create_dir_all(above).context(|| format!("make {}", above.display()))
}

fn place(
    stage: &Path,
    path: &str,
    write: impl FnOnce(&Path) -> std::io::Result<()>,
    mode: u32,
) -> Result {
    let to = stage.join(path.trim_start_matches('/'));
    make_above(&to)?;
    write(&to).context(|| format!("write {}", to.display()))?;
    std::fs::set_permissions(&to, std::fs::Permissions::from_mode(mode))
        .context(|| format!("set the mode of {}", to.display()))
}
