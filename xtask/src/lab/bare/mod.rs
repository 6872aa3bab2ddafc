//! A bare machine: an emulator that boots one image and one module, as the core boots, and tells what
//! comes on its first serial line.
//!
//! QEMU's software CPU is AMD's kind (SVM), Bochs' is Intel's (VMX). Both end when the booted program
//! says so in a line of its own, `machine: exit N` or `monitor: exit N`; QEMU also by port 0xf4.

mod bochs;
mod iso;
pub(crate) mod probe;
mod qemu;
mod serial;

use crate::failure::{Context, Failure, Result};
use crate::process::tail;
use crate::workspace;
pub(crate) use serial::Said;
use serial::Serial;
use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Which emulator.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Emulator {
    /// QEMU's software CPU: AMD SVM with nested paging.
    Qemu,
    /// Bochs: Intel VMX with EPT, VPID and unrestricted guests.
    Bochs,
}

impl fmt::Display for Emulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Qemu => "qemu",
            Self::Bochs => "bochs",
        })
    }
}

/// A file the boot loader loads beside the image.
#[derive(Clone, Debug)]
pub(crate) struct Module {
    /// Which.
    pub(crate) path: PathBuf,
    /// Words for whoever it is.
    pub(crate) command_line: String,
}

impl Module {
    /// One without words.
    pub(crate) const fn plain(path: PathBuf) -> Self {
        Self { path, command_line: String::new() }
    }
}

/// What a bare machine is made of.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// Which emulator runs it.
    pub(crate) emulator: Emulator,
    /// The image to boot: an ELF file with a PVH note and a Multiboot2 header.
    pub(crate) image: PathBuf,
    /// What the boot loader gives it besides: one file, or several where it is GRUB.
    pub(crate) modules: Vec<Module>,
    /// Its command line.
    pub(crate) command_line: String,
    /// Processors.
    pub(crate) cpus: u32,
    /// Their model in the emulator's words; the lab's own when not said.
    pub(crate) cpu: Option<String>,
    /// Bochs: accesses to MSRs it has not do nothing, instead of raising #GP. Linux takes some of them
    /// for granted.
    pub(crate) lenient: bool,
    /// RAM in MiB.
    pub(crate) memory: u64,
    /// QEMU: boot GRUB from a disc as Bochs does, not by `-kernel`.
    pub(crate) disc: bool,
    /// QEMU: count instructions instead of time.
    pub(crate) icount: bool,
    /// QEMU: a raw disk image, as the machine's virtio disk. Changes are not kept.
    pub(crate) disk: Option<PathBuf>,
    /// QEMU: a virtio network card with user-mode networking.
    pub(crate) net: bool,
    /// QEMU: a virtio console, which is listened to in place of the first serial line.
    pub(crate) terminal: bool,
    /// It is killed after this long.
    pub(crate) limit: Duration,
}

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The booted program ended it with this status.
    Exit(u8),
    /// The core stopped it for good, after a readable message.
    Stopped,
    /// Whoever listened had heard enough.
    Enough,
    /// Its time was over.
    Limit,
    /// The emulator ended without a word of the booted program: what it wrote itself.
    Silent(String),
}

impl Machine {
    /// Runs the machine to its end; gives what it says on its first serial line to `each`, which may
    /// end it.
    pub(crate) fn run(&self, each: &mut dyn FnMut(Said<'_>) -> ControlFlow<()>) -> Result<End> {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let number = RUNS.fetch_add(1, Ordering::Relaxed);
        let folder =
            workspace::folder("lab/runs")?.join(format!("bare-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).context(|| format!("make {}", folder.display()))?;
        let end = self.run_in(&folder, each);
        if matches!(end, Ok(End::Exit(_) | End::Enough)) {
            let _ = std::fs::remove_dir_all(&folder);
        }
        end
    }

    fn run_in(
        &self,
        folder: &Path,
        each: &mut dyn FnMut(Said<'_>) -> ControlFlow<()>,
    ) -> Result<End> {
        let log = folder.join("emulator.log");
        let line = folder.join("serial.log");
        let console = if self.terminal { folder.join("terminal.log") } else { line.clone() };
        let step = match self.emulator {
            Emulator::Qemu => qemu::step(self, folder, &line, &console)?,
            Emulator::Bochs => bochs::step(self, folder, &line)?,
        };
        let mut serial = Serial::new(console.clone());
        let mut end = None;
        let status = step.limit(self.limit).watched(&log, &mut |ended| {
            serial.read(ended, &mut |said| {
                if let Some(found) = said.complete.then(|| ending(said.text)).flatten() {
                    let _ = each(said);
                    end = Some(found);
                    return ControlFlow::Break(());
                }
                let flow = each(said);
                if flow.is_break() {
                    end = Some(End::Enough);
                }
                flow
            })
        })?;
        Ok(match (end, status) {
            (Some(end), _) => end,
            (None, None) => End::Limit,
            (None, Some(status)) => End::Silent(self.last_words(folder, &log, status)),
        })
    }

    fn last_words(&self, folder: &Path, log: &Path, status: ExitStatus) -> String {
        let own = match self.emulator {
            Emulator::Qemu => tail(log, 12),
            Emulator::Bochs => bochs::last_words(folder),
        };
        format!(
            "{} ended with {status} before the booted program said its end (all of it: {})\n{own}",
            self.emulator,
            folder.display()
        )
    }
}

/// What the program that booted says when it ends the machine.
fn ending(line: &str) -> Option<End> {
    let line = line.trim();
    let status = ["machine: exit ", "monitor: exit "]
        .iter()
        .find_map(|start| line.strip_prefix(start)?.parse().ok());
    match status {
        Some(status) => Some(End::Exit(status)),
        None if line.ends_with("the machine is stopped") && !line.contains("| ") => {
            Some(End::Stopped)
        }
        None => None,
    }
}

/// A device Bochs does not have.
fn not_in_bochs(machine: &Machine) -> Result {
    let wanted = [
        (machine.icount, "counted instructions"),
        (machine.disk.is_some(), "a virtio disk"),
        (machine.net, "a virtio network card"),
        (machine.terminal, "a virtio console"),
    ];
    match wanted.iter().find(|(wanted, _)| *wanted) {
        Some((_, what)) => Err(Failure::new(format!(
            "Bochs has no {}; use QEMU for that",
            what.trim_start_matches("a ")
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{End, ending};

    #[test]
    fn only_the_monitors_own_line_ends_a_machine() {
        assert_eq!(ending("machine: exit 3"), Some(End::Exit(3)));
        assert_eq!(ending("monitor: exit 0"), Some(End::Exit(0)));
        assert_eq!(ending("core: the machine is stopped"), Some(End::Stopped));
        assert_eq!(ending("guest| monitor: exit 0"), None);
        assert_eq!(ending("guest| the machine is stopped"), None);
        assert_eq!(ending("monitor: exit 256"), None);
        assert_eq!(ending("monitor: exit soon"), None);
    }
}
