//! The lab: whole machines under an emulator that has what this machine may lack.
//!
//! `cargo xtask lab host` gives one to a script; a scenario is such a script with a claim that holds
//! when it ends with status 0. `cargo xtask lab core` boots the core on a bare one (`core`, `bare`).

pub(crate) mod bare;
pub(crate) mod core;
pub(crate) mod guest;
pub(crate) mod machine;
pub(crate) mod scenario;
pub(crate) mod small;
mod watch;

use crate::failure::{Failure, Result};
use crate::{binaries, image};
use machine::{Engine, Machine};
use small::Small;
use std::path::PathBuf;
use std::time::Duration;

/// Arguments of `cargo xtask lab host`.
#[derive(clap::Args, Debug)]
pub(crate) struct HostArguments {
    /// The hypervisor of the lab machine: `kvm` loads the Debian kernel's kvm_amd, `core` boots the core
    /// beneath the Debian kernel.
    #[arg(long, value_enum)]
    engine: Engine,
    /// The emulated machine: qemu is AMD's kind; bochs is Intel's, for engine core, slow, without disks and
    /// with busybox in place of Debian's programs.
    #[arg(long, value_enum, default_value = "qemu")]
    machine: bare::Emulator,
    /// The script to run in the lab machine, as root, with the product's programs in PATH.
    #[arg(long)]
    script: PathBuf,
    /// A file or folder of this machine and where it goes in the lab machine; may be given again.
    #[arg(long = "file", value_name = "HOSTPATH:GUESTPATH", value_parser = file_pair)]
    files: Vec<(PathBuf, String)>,
    /// RAM of the lab machine in MiB; with engine core as much again for its guests.
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u64).range(256..=65536))]
    memory: u64,
    /// CPUs of the lab machine.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,
    /// Count instructions instead of time: the time stamp counter advances by one per nanosecond of
    /// counted instructions, so figures repeat. One CPU.
    #[arg(long)]
    icount: bool,
    /// Give up after this many seconds.
    #[arg(long, default_value_t = 1800)]
    limit: u64,
}

/// `HOSTPATH:GUESTPATH`
fn file_pair(text: &str) -> std::result::Result<(PathBuf, String), String> {
    match text.rsplit_once(':') {
        Some((from, to)) if !from.is_empty() && to.starts_with('/') => {
            Ok((PathBuf::from(from), to.to_owned()))
        }
        _ => Err(format!("`{text}` is not HOSTPATH:GUESTPATH with an absolute GUESTPATH")),
    }
}

/// Boots a lab machine, runs the script in it, prints what it prints; returns its status.
pub(crate) fn host(arguments: &HostArguments) -> Result<i32> {
    if let Some((missing, _)) = arguments.files.iter().find(|(from, _)| !from.exists()) {
        return Err(Failure::new(format!("--file {}: there is no such file", missing.display())));
    }
    if arguments.machine == bare::Emulator::Bochs {
        if arguments.engine != Engine::Core || arguments.icount {
            return Err(Failure::new(
                "--machine bochs is for --engine core, and counts instructions anyhow",
            ));
        }
        return Small {
            emulator: arguments.machine,
            memory: arguments.memory,
            pool: arguments.memory / 2,
            cpus: arguments.cpus,
            script: arguments.script.clone(),
            files: arguments.files.clone(),
            limit: Duration::from_secs(arguments.limit),
        }
        .run(&mut |line| println!("{line}"));
    }
    let image = image::prepare()?;
    let mut files = product_files()?;
    files.extend(arguments.files.iter().cloned());
    Machine {
        memory: arguments.memory,
        cpus: arguments.cpus,
        icount: arguments.icount,
        files,
        script: arguments.script.clone(),
        engine: arguments.engine,
        scratch: 0,
        limit: Duration::from_secs(arguments.limit),
    }
    .run(&image, &mut |line| println!("{line}"))
}

/// The product's programs, where the lab machine's PATH finds them.
fn product_files() -> Result<Vec<(PathBuf, String)>> {
    let folder = binaries::product()?;
    Ok(binaries::PROGRAMS
        .iter()
        .map(|program| (folder.join(program), format!("/opt/macrohard/bin/{program}")))
        .collect())
}
