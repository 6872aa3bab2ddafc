//! Runs every fuzz target for a short while (`cargo xtask test --all`). The targets are ordinary
//! libFuzzer programs in `crates/*/fuzz` and the agents' and the compositor's `fuzz`; they need no nightly toolchain here, only
//! its flags.

use crate::binaries;
use crate::failure::{Context, Failure, Result};
use crate::process::{Output, during};
use crate::{packages, workspace};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Each target's time.
const SECONDS: u64 = 30;
/// Packages outside `crates` that have targets.
const AGENTS: [&str; 3] = ["guest-agent", "host-agent", "compositor"];

/// Gives the result of each target to `each`.
pub(crate) fn smoke(each: &mut dyn FnMut(&str, Result)) {
    // libFuzzer itself is C++.
    match packages::require(&["g++"]).and_then(|()| projects()) {
        Ok(projects) => {
            for project in projects {
                run_project(&project, each);
            }
        }
        Err(failure) => each("fuzz", Err(failure)),
    }
}

fn projects() -> Result<Vec<PathBuf>> {
    let crates = workspace::root().join("crates");
    let mut projects: Vec<PathBuf> = std::fs::read_dir(&crates)
        .context(|| format!("read {}", crates.display()))?
        .flatten()
        .map(|entry| entry.path())
        .chain(AGENTS.map(|agent| workspace::root().join(agent)))
        .map(|path| path.join("fuzz"))
        .filter(|path| path.join("Cargo.toml").exists())
        .collect();
    projects.sort();
    Ok(projects)
}

fn run_project(project: &Path, each: &mut dyn FnMut(&str, Result)) {
    let crate_name = project
        .parent()
        .and_then(Path::file_name)
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let targets = std::fs::read_dir(project.join("fuzz_targets")).map(|entries| {
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".rs").map(str::to_owned))
            .collect();
        names.sort();
        names
    });
    for target in targets.unwrap_or_default() {
        let name = format!("fuzz {crate_name}/{target}");
        each(&name, run_target(project, &crate_name, &target));
    }
}

fn run_target(project: &Path, crate_name: &str, target: &str) -> Result {
    let log = workspace::folder("test")?.join(format!("fuzz-{crate_name}-{target}.log"));
    let _ = std::fs::remove_file(&log);
    let corpus = workspace::folder("test")?.join(format!("corpus-{crate_name}-{target}"));
    std::fs::create_dir_all(&corpus).context(|| format!("make {}", corpus.display()))?;
    during(&format!("fuzzing {crate_name}/{target} for {SECONDS} s"), || {
        binaries::cargo()
            .arguments(["run", "--release", "--target", binaries::TARGET, "--target-dir"])
            .argument(workspace::folder("fuzz")?)
            .arguments(["--bin", target, "--"])
            .argument(&corpus)
            .arguments([format!("-max_total_time={SECONDS}"), "-timeout=20".to_owned(), "-max_len=4096".to_owned()])
            // What cargo-fuzz sets without a sanitizer: edge coverage for libFuzzer to steer by.
            .variable("RUSTFLAGS", "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table --cfg fuzzing -Cdebug-assertions -Ccodegen-units=1")
            .within(project)
            .limit(Duration::from_secs(1200))
            .run(Output::Logged(log))
    })
    .map_err(|failure| Failure::new(failure.to_string()))
}
