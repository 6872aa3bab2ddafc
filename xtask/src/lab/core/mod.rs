//! The core and the monitor on a bare machine (`lab::bare`), with guests.
//!
//! `cargo xtask lab core` runs one guest; scenarios (`tests/lab/core`) run several and say what holds.

mod archive;
pub(crate) mod scenario;
mod source;

use super::bare::{Emulator, End, Machine, Module, Said};
use crate::failure::{Context, Failure, Result};
use crate::{bare_metal, packages, workspace};
use archive::{Disk, Files, Guest};
use regex::Regex;
use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

/// The one guest of `cargo xtask lab core`.
const NAME: &str = "guest";

/// Arguments of `cargo xtask lab core`.
#[derive(clap::Args, Debug)]
pub(crate) struct CoreArguments {
    /// The emulated machine: qemu is AMD's kind, bochs is Intel's.
    #[arg(long, value_enum, default_value = "qemu")]
    machine: Emulator,
    /// The guest's kernel: a bzImage, a Multiboot kernel, a tiny guest's image, a Solo5 unikernel;
    /// `tiny:NAME` for one of tests/guests, `hvt:NAME` for one of tests/unikernels, `debian` for Debian's
    /// kernel.
    #[arg(long)]
    kernel: String,
    /// Its initial RAM disk, or a Multiboot kernel's first module; `guest` for the lab's guest.
    #[arg(long)]
    initrd: Option<String>,
    /// Its command line.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    append: String,
    /// Its virtual CPUs; the machine has as many processors.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,
    /// Its RAM in MiB.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u64).range(2..=16384))]
    memory: u64,
    /// A raw disk image: the machine's virtio disk on QEMU, in memory on Bochs. Changes are not kept.
    #[arg(long)]
    disk: Option<PathBuf>,
    /// A network card, with QEMU's user-mode network behind it.
    #[arg(long)]
    net: bool,
    /// End with status 0 when a line of the guest's console matches.
    #[arg(long, value_name = "REGEX")]
    expect: Option<Regex>,
    /// Give up after this many seconds.
    #[arg(long, default_value_t = 300)]
    timeout: u64,
    /// QEMU: count instructions instead of time: the machine's TSC counts them.
    #[arg(long)]
    icount: bool,
    /// QEMU: boot GRUB from a disc, as Bochs does.
    #[arg(long)]
    disc: bool,
    /// The core's own command line.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    core_append: String,
}

/// Boots the guest, prints its console to standard output and everything else to standard error;
/// returns its status.
pub(crate) fn run(arguments: &CoreArguments) -> Result<i32> {
    packages::require(packages::CORE)?;
    let disk = match (&arguments.disk, arguments.machine) {
        (None, _) => None,
        (Some(_), Emulator::Qemu) => Some(Disk::Machine),
        (Some(path), Emulator::Bochs) => {
            Some(Disk::Image(std::fs::read(path).context(|| format!("read {}", path.display()))?))
        }
    };
    let guest = Guest {
        name: NAME.to_owned(),
        memory: arguments.memory,
        vcpus: arguments.cpus,
        kernel: source::kernel(&arguments.kernel)?,
        initrd: arguments.initrd.as_deref().map(source::initrd).transpose()?,
        append: arguments.append.clone(),
        disk,
        net: arguments.net,
    };
    let machine_disk = matches!(guest.disk, Some(Disk::Machine)).then_some(&arguments.disk);
    let images = bare_metal::images()?;
    let files = Files::new(&images.monitor, std::slice::from_ref(&guest))?;
    let packed = Packed::new(images.core, &files.pack(), guest.memory)?;
    let machine = Machine {
        emulator: arguments.machine,
        image: packed.core.clone(),
        modules: vec![Module::plain(packed.archive.clone())],
        command_line: arguments.core_append.clone(),
        cpus: arguments.cpus,
        cpu: None,
        lenient: false,
        memory: packed.memory,
        disc: arguments.disc,
        icount: arguments.icount,
        disk: machine_disk.cloned().flatten(),
        terminal: false,
        net: arguments.net,
        limit: Duration::from_secs(arguments.timeout),
    };
    let mut matched = false;
    let mut printer = Printer::new(false);
    let end = machine.run(&mut |said| {
        let whose = Whose::of(said.text, &[NAME]);
        printer.hear(whose, said);
        if let (Whose::Guest(_, line), Some(expect)) = (whose, &arguments.expect) {
            matched |= expect.is_match(line);
        }
        if matched { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    drop(printer);
    match end {
        End::Enough => Ok(0),
        End::Exit(status) => match &arguments.expect {
            Some(expect) if status == 0 && !matched => Err(Failure::new(format!(
                "the guest ended with status 0, but no line of its console matches `{expect}`"
            ))),
            _ => Ok(i32::from(status)),
        },
        other => Err(Failure::new(describe(&other, &machine))),
    }
}

/// What is booted, packed into files, and how much memory the machine needs for it.
#[derive(Clone, Debug)]
struct Packed {
    core: PathBuf,
    archive: PathBuf,
    memory: u64,
}

/// What core, monitor and boot loader take, in MiB.
const OWN_MEMORY: u64 = 192;

impl Packed {
    /// `guests` is the memory of all guests in MiB.
    fn new(core: PathBuf, archive: &[u8], guests: u64) -> Result<Self> {
        let path = workspace::folder("lab/runs")?.join(format!("boot-{}.cpio", std::process::id()));
        std::fs::write(&path, archive).context(|| format!("write {}", path.display()))?;
        // The archive and root's copies of what guests get from it.
        let files = 2 * (archive.len() as u64).div_ceil(1 << 20);
        Ok(Self { core, archive: path, memory: (OWN_MEMORY + guests + files).next_multiple_of(32) })
    }
}

impl Drop for Packed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.archive);
    }
}

/// Whose line it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose<'a> {
    /// A guest's, without its prefix: its number among those asked for.
    Guest(usize, &'a str),
    /// The boot loader's, the core's or the monitor's.
    Machine(&'a str),
}

impl<'a> Whose<'a> {
    /// A guest's line begins `NAME| `.
    fn of(line: &'a str, names: &[&str]) -> Self {
        names
            .iter()
            .enumerate()
            .find_map(|(index, name)| {
                let rest = line.strip_prefix(name)?.strip_prefix('|')?;
                Some(Self::Guest(index, rest.strip_prefix(' ').unwrap_or(rest)))
            })
            .unwrap_or(Self::Machine(line))
    }
}

/// Prints lines: guests' to standard output, the machine's to standard error, dimmed on a terminal.
struct Printer {
    /// Whether guests' lines keep their prefix.
    prefixes: bool,
    /// A line without its end, printed when none comes any more.
    open: Option<String>,
}

impl Printer {
    fn new(prefixes: bool) -> Self {
        Self { prefixes, open: None }
    }

    fn hear(&mut self, whose: Whose<'_>, said: Said<'_>) {
        self.open = None;
        match whose {
            Whose::Guest(_, line) => {
                let line = if self.prefixes { said.text } else { line };
                if said.complete {
                    println!("{line}");
                } else {
                    self.open = Some(line.to_owned());
                }
            }
            Whose::Machine(_) if !said.complete => {}
            Whose::Machine(line) if std::io::stderr().is_terminal() => {
                eprintln!("\x1b[2m{line}\x1b[0m");
            }
            Whose::Machine(line) => eprintln!("{line}"),
        }
    }
}

impl Drop for Printer {
    fn drop(&mut self) {
        if let Some(line) = self.open.take() {
            println!("{line}");
        }
    }
}

/// Why a machine's end is none to be content with.
pub(super) fn describe(end: &End, machine: &Machine) -> String {
    match end {
        End::Exit(status) => format!("the machine ended with status {status}"),
        End::Stopped => "the core stopped the machine; its last lines say why".to_owned(),
        End::Enough => "the machine was ended in between".to_owned(),
        End::Limit => format!(
            "the {} machine was killed after its limit of {} s",
            machine.emulator,
            machine.limit.as_secs()
        ),
        End::Silent(words) => words.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::Whose;

    #[test]
    fn a_line_belongs_to_the_guest_whose_prefix_it_has() {
        let names = ["a", "b"];
        assert_eq!(Whose::of("b| hello", &names), Whose::Guest(1, "hello"));
        assert_eq!(Whose::of("a|", &names), Whose::Guest(0, ""));
        assert_eq!(Whose::of("a|  two", &names), Whose::Guest(0, " two"));
        assert_eq!(Whose::of("monitor: a| x", &names), Whose::Machine("monitor: a| x"));
        assert_eq!(Whose::of("c| x", &names), Whose::Machine("c| x"));
    }
}
