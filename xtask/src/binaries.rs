//! Builds the product: release, linked statically, so that the same files run on this machine, in
//! the lab machine and anywhere else with a Linux kernel.

use crate::failure::{Context, Failure, Result};
use crate::process::{Output, Step, during};
use crate::{guest_package, packages, workspace};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The one target the product is built for so far.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The product's programs.
pub(crate) const PROGRAMS: &[&str] =
    &["macrohard-hypervisor", "macrohardd", "macrohard-vm", "macrohard-share"];
/// Version of virtiofsd, a separate program that serves virtio-fs shares.
const VIRTIOFSD: &str = "1.14.0";

/// The cargo that runs this task runner.
pub(crate) fn cargo() -> Step {
    Step::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .limit(Duration::from_secs(2400))
}

/// The folder with the built programs of `packages`.
pub(crate) fn build(cargo_packages: &[&str]) -> Result<PathBuf> {
    packages::require(packages::BUILD)?;
    let log = workspace::folder("lab")?.join("build.log");
    let _ = std::fs::remove_file(&log);
    during(&format!("building {} (release, static)", cargo_packages.join(", ")), || {
        cargo()
            .arguments(["build", "--release", "--target", TARGET])
            .arguments(cargo_packages.iter().flat_map(|package| ["--package", package]))
            .variable("RUSTFLAGS", "-C target-feature=+crt-static")
            .run(Output::Logged(log))
    })?;
    Ok(workspace::target().join(TARGET).join("release"))
}

/// The product's folder and nothing else's.
pub(crate) fn product() -> Result<PathBuf> {
    let folder = build(&["host-agent", "guest-agent"])?;
    for program in PROGRAMS {
        if !folder.join(program).exists() {
            return Err(Failure::new(format!(
                "the build made no {}",
                folder.join(program).display()
            )));
        }
    }
    guest_package::pack(&folder)?;
    Ok(folder)
}

/// Name of the package and the program that opens windows; it loads the desktop's own libraries and
/// is linked with the system's C library for that.
const COMPOSITOR: (&str, &str) = ("compositor", "macrohard-compositor");

/// The compositor, for a person.
pub(crate) fn compositor() -> Result<PathBuf> {
    built_compositor(&["--release"], "release")
}

/// The compositor as `cargo test` builds it.
pub(crate) fn compositor_of_tests() -> Result<PathBuf> {
    built_compositor(&[], "debug")
}

fn built_compositor(profile: &[&str], folder: &str) -> Result<PathBuf> {
    packages::require(packages::BUILD)?;
    let log = workspace::folder("lab")?.join("compositor.log");
    let _ = std::fs::remove_file(&log);
    let (package, program) = COMPOSITOR;
    during("building the compositor", || {
        cargo()
            .arguments(["build", "--package", package])
            .arguments(profile)
            .run(Output::Logged(log))
    })?;
    Ok(workspace::target().join(folder).join(program))
}

/// virtiofsd, built from its crate once per version: no Debian 12 package of it is left once QEMU
/// comes from backports.
pub(crate) fn virtiofsd() -> Result<PathBuf> {
    let folder = workspace::folder("tools")?.join(format!("virtiofsd-{VIRTIOFSD}"));
    let program = folder.join("bin/virtiofsd");
    if program.exists() {
        return Ok(program);
    }
    packages::require(packages::BUILD)?;
    packages::require(packages::VIRTIOFSD)?;
    let log = workspace::folder("lab")?.join("virtiofsd.log");
    during(&format!("building virtiofsd {VIRTIOFSD}"), || {
        cargo()
            .arguments(["install", "--locked", "--version", VIRTIOFSD, "virtiofsd", "--root"])
            .argument(&folder)
            .within(workspace::folder("tools")?)
            .run(Output::Logged(log))
    })?;
    Ok(program)
}

/// A copy of a program without what only debuggers read (strip(1), package binutils). It is there at once: another
/// run may be reading the one before.
pub(crate) fn stripped(program: &Path, to: &Path) -> Result {
    let above = to.parent().unwrap_or(to);
    std::fs::create_dir_all(above).context(|| format!("make {}", above.display()))?;
    let new = to.with_extension(format!("{}.new", std::process::id()));
    Step::new("strip").argument("-o").argument(&new).argument(program).run(Output::Shown)?;
    std::fs::rename(&new, to).context(|| format!("make {}", to.display()))
}
