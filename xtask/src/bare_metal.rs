//! The `no_std` crates build for a machine without an operating system.

use crate::binaries;
use crate::failure::Result;
use crate::process::{Output, Step, during};
use crate::{packages, workspace};
use std::time::Duration;

/// The target of the core, the monitor and the tiny guests' kin.
const TARGET: &str = "x86_64-unknown-none";
/// Crates that must build for it.
const CRATES: &[&str] = &["chipset"];
/// Debian's own toolchain, where rustup can fetch nothing.
const DEBIAN: &[&str] = &["rustc-web", "cargo-web", "rust-web-src", "lld"];

/// Builds them with whichever toolchain has the target, installing what is missing.
pub(crate) fn check() -> Result {
    let log = workspace::folder("test")?.join("bare-metal.log");
    let _ = std::fs::remove_file(&log);
    let crates = CRATES.iter().flat_map(|name| ["--package", name]);
    if with_rustup() {
        return during(
            &format!("building {} for {TARGET}", CRATES.join(", ")),
            || {
                binaries::cargo()
                    .arguments(["build", "--target", TARGET])
                    .arguments(crates)
                    .run(Output::Logged(log))
            },
        );
    }
    packages::require(DEBIAN)?;
    during(
        &format!(
            "building {} for {TARGET} with Debian's toolchain",
            CRATES.join(", ")
        ),
        || {
            Step::new("/usr/bin/cargo")
                .arguments([
                    "build",
                    "-Zbuild-std=core,alloc",
                    "--target",
                    TARGET,
                    "--target-dir",
                ])
                .argument(workspace::folder("bare-metal")?)
                .arguments(crates)
                .variable("RUSTC", "/usr/bin/rustc")
                .variable("RUSTC_BOOTSTRAP", "1")
                .variable("CARGO_TARGET_X86_64_UNKNOWN_NONE_LINKER", "ld.lld")
                .limit(Duration::from_secs(900))
                .run(Output::Logged(log))
        },
    )
}

fn with_rustup() -> bool {
    let installed = || {
        Step::new("rustup")
            .arguments(["target", "list", "--installed"])
            .text()
            .is_some_and(|text| text.lines().any(|line| line == TARGET))
    };
    if !crate::test::present("rustup") {
        return false;
    }
    if installed() {
        return true;
    }
    eprintln!("==> rustup target add {TARGET}");
    Step::new("timeout")
        .arguments(["120", "rustup", "target", "add", TARGET])
        .text()
        .is_some()
        && installed()
}
