//! What is built for a machine without an operating system: the core, the monitor, and every crate
//! that must stay `no_std`.
//!
//! How images are linked stands beside them (`build.rs`, linker scripts, `.cargo/config.toml`), so that
//! a plain `cargo build` makes the same files.

use crate::failure::{Failure, Result};
use crate::process::{Output, Step, during};
use crate::{binaries, packages, workspace};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

/// The target of the core, the monitor and the tiny guests' kin.
const TARGET: &str = "x86_64-unknown-none";
/// Crates that must build for it.
const CRATES: &[&str] = &["chipset", "hypervisor-abi", "hypervisor-boot", "solo5"];
/// Debian's own toolchain, where rustup can fetch nothing.
const DEBIAN: &[&str] = &["rustc-web", "cargo-web", "rust-web-src", "lld"];
/// The profile of the images (`Cargo.toml`).
const PROFILE: &str = "bare";
/// The images' packages and programs, built with the feature `image`.
const CORE: (&str, &str) = ("hypervisor-core", "core-image");
const MONITOR: (&str, &str) = ("hypervisor-monitor", "monitor-image");
const HOSTILE: (&str, &str) = ("hostile-guest", "hostile-guest");

/// The package of the unikernels, and its programs.
const UNIKERNELS: (&str, &[&str]) = ("unikernels", &["hello", "blockecho"]);

/// The bootable images, without symbols.
#[derive(Clone, Debug)]
pub(crate) struct Images {
    /// What the boot loader starts.
    pub(crate) core: PathBuf,
    /// Root: the first file of the boot archive.
    pub(crate) monitor: PathBuf,
}

/// Builds everything for bare metal with whichever toolchain has the target.
pub(crate) fn check() -> Result {
    let log = workspace::folder("test")?.join("bare-metal.log");
    let _ = std::fs::remove_file(&log);
    let toolchain = Toolchain::find()?;
    during(&format!("building {} for {TARGET}", CRATES.join(", ")), || {
        toolchain
            .build()?
            .arguments(CRATES.iter().flat_map(|name| ["--package", name]))
            .run(Output::Logged(log))
    })?;
    images().map(drop)
}

/// Builds the images.
pub(crate) fn images() -> Result<Images> {
    Ok(Images { core: image(CORE)?, monitor: image(MONITOR)? })
}

/// Builds the guest that attacks the core (`tests/hostile`), once: scenarios have several of it.
pub(crate) fn hostile_guest() -> Result<PathBuf> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    if let Some(path) = BUILT.get() {
        return Ok(path.clone());
    }
    let path = image(HOSTILE)?;
    Ok(BUILT.get_or_init(|| path).clone())
}

/// Builds one image.
fn image((package, program): (&str, &str)) -> Result<PathBuf> {
    let folder = workspace::folder("lab/images")?;
    let log = folder.join(format!("{program}.log"));
    let _ = std::fs::remove_file(&log);
    Toolchain::find()?.program(package, program, &folder.join(program), log)
}

/// Builds the unikernels of `tests/unikernels`; their files by name.
pub(crate) fn unikernels() -> Result<Vec<(&'static str, PathBuf)>> {
    let folder = workspace::folder("lab/unikernels")?;
    let log = folder.join("build.log");
    let _ = std::fs::remove_file(&log);
    let toolchain = Toolchain::find()?;
    let (package, programs) = UNIKERNELS;
    let make = |program: &&'static str| {
        let to = folder.join(format!("{program}.hvt"));
        let made = toolchain.program(package, program, &to, log.clone());
        Ok((*program, made?))
    };
    programs.iter().map(make).collect()
}

/// Who compiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Toolchain {
    /// The one that runs this task runner, with the target from rustup.
    Rustup,
    /// Debian's, which builds the target's libraries from their source.
    Debian,
}

impl Toolchain {
    /// Whichever is there; else what can be fetched.
    fn find() -> Result<Self> {
        if rustup_has_target() {
            return Ok(Self::Rustup);
        }
        if packages::are_installed(DEBIAN) || !fetch_target() {
            packages::require(DEBIAN)?;
            return Ok(Self::Debian);
        }
        Ok(Self::Rustup)
    }

    fn target_folder(self) -> Result<PathBuf> {
        match self {
            Self::Rustup => Ok(workspace::target()),
            // Another compiler's files would make cargo build everything again each time.
            Self::Debian => workspace::folder("bare-metal"),
        }
    }

    /// Builds `program` of `package` and puts it, without symbols, to `small`.
    fn program(self, package: &str, program: &str, small: &Path, log: PathBuf) -> Result<PathBuf> {
        during(&format!("building {program}"), || {
            self.build()?
                .arguments(["--profile", PROFILE, "--features", "image"])
                .arguments(["--package", package, "--bin", program])
                .run(Output::Logged(log))
        })?;
        let folder = self.target_folder()?.join(TARGET).join(PROFILE);
        let built = folder.join(program);
        if !built.exists() {
            return Err(Failure::new(format!("the build made no {}", built.display())));
        }
        binaries::stripped(&built, small)?;
        Ok(small.to_owned())
    }

    /// `cargo build` for the target. No RUSTFLAGS: they would replace those of `.cargo/config.toml`.
    fn build(self) -> Result<Step> {
        let step = match self {
            Self::Rustup => binaries::cargo(),
            Self::Debian => Step::new("/usr/bin/cargo")
                .variable("RUSTC", "/usr/bin/rustc")
                .variable("RUSTC_BOOTSTRAP", "1")
                .variable("CARGO_TARGET_X86_64_UNKNOWN_NONE_LINKER", "ld.lld")
                .limit(Duration::from_secs(900)),
        };
        let step = step.arguments(["build", "--target", TARGET]);
        Ok(match self {
            Self::Rustup => step,
            Self::Debian => step
                .arguments([
                    "-Zbuild-std=core,alloc",
                    // memcpy and its kin, which rustup's libraries for the target have too.
                    "-Zbuild-std-features=compiler-builtins-mem",
                    "--target-dir",
                ])
                .argument(self.target_folder()?),
        })
    }
}

fn rustup_has_target() -> bool {
    crate::test::present("rustup")
        && Step::new("rustup")
            .arguments(["target", "list", "--installed"])
            .text()
            .is_some_and(|text| text.lines().any(|line| line == TARGET))
}

fn fetch_target() -> bool {
    if !crate::test::present("rustup") {
        return false;
    }
    eprintln!("==> rustup target add {TARGET}");
    Step::new("timeout").arguments(["120", "rustup", "target", "add", TARGET]).text().is_some()
        && rustup_has_target()
}
