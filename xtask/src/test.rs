//! `cargo xtask test`: everything that can be checked here, each step with a limit, and a closing
//! line that counts.

use crate::failure::{Context, Failure, Result};
use crate::process::{Output, Step, during};
use crate::{bare_metal, binaries, demo, docs, fuzz, lab, packages, workspace};
use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Count {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// Runs every test; with `all` also those that take long. 0 when none failed.
pub(crate) fn run(all: bool) -> Result<i32> {
    let mut total = Count::default();
    packages::require(packages::BUILD)?;
    packages::require(packages::DEMO)?;
    packages::require(packages::DESKTOP)?;
    check(&mut total, "formatting", || {
        during("checking the formatting", || {
            binaries::cargo().arguments(["fmt", "--all", "--check"]).run(Output::Shown)
        })
    });
    if binaries::cargo().arguments(["clippy", "--version"]).text().is_some() {
        check(&mut total, "clippy", clippy);
    } else {
        skip(&mut total, "clippy", "this toolchain has none (rustup component add clippy)");
    }
    check(&mut total, "documentation", docs::check);
    // Tests run them.
    check(&mut total, "unikernels", || bare_metal::unikernels().map(drop));
    let variables = lab::guest::for_tests().unwrap_or_else(|failure| {
        check(&mut total, "what tests use of the lab", || Err(failure));
        Vec::new()
    });
    match units(&variables) {
        Ok(count) => total.add(count),
        Err(failure) => check(&mut total, "cargo test", || Err(failure)),
    }
    check(&mut total, "no_std crates for bare metal", bare_metal::check);
    core_scenarios(&mut total);
    scenarios(&mut total, all);
    check(&mut total, "demo on tcg", demo::check);
    if all {
        fuzz::smoke(&mut |name, result| check(&mut total, name, || result));
        check(&mut total, "bench", || crate::bench::run(None).map(drop));
    }
    println!("{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
    Ok(i32::from(total.failed > 0))
}

/// One test that is a whole step.
fn check(total: &mut Count, name: &str, work: impl FnOnce() -> Result) {
    let start = Instant::now();
    match work() {
        Ok(()) => {
            total.passed += 1;
            println!("ok      {name} ({} s)", start.elapsed().as_secs());
        }
        Err(failure) => {
            total.failed += 1;
            println!("FAILED  {name}: {failure}");
        }
    }
}

fn skip(total: &mut Count, name: &str, why: &str) {
    total.skipped += 1;
    println!("SKIPPED {name}: {why}");
}

/// The workspace's own lints are errors where it says so; newer toolchains' opinions are not.
fn clippy() -> Result {
    let log = workspace::folder("test")?.join("clippy.log");
    let _ = std::fs::remove_file(&log);
    during("clippy", || {
        binaries::cargo()
            .arguments(["clippy", "--workspace", "--all-targets", "--quiet"])
            .run(Output::Logged(log))
    })
}

/// `cargo test`, with what passed tests wrote kept, because that is where a test says it could not run.
fn units(variables: &[(&str, OsString)]) -> Result<Count> {
    let log = workspace::folder("test")?.join("tests.log");
    let _ = std::fs::remove_file(&log);
    during("building the tests", || {
        binaries::cargo()
            .arguments(["test", "--workspace", "--no-run", "--quiet"])
            .run(Output::Logged(log.clone()))
    })?;
    let _ = std::fs::remove_file(&log);
    let ended = during("cargo test", || {
        let cargo = binaries::cargo().arguments([
            "test",
            "--workspace",
            "--no-fail-fast",
            "--",
            "--show-output",
        ]);
        variables
            .iter()
            .fold(cargo, |cargo, (name, value)| cargo.variable(name, value))
            .limit(Duration::from_secs(1500))
            .run(Output::Logged(log.clone()))
    });
    let text = std::fs::read(&log).context(|| format!("read {}", log.display()))?;
    let text = String::from_utf8_lossy(&text);
    let (mut count, reasons) = tally(&text);
    for reason in reasons {
        println!("{reason}");
    }
    if let Err(failure) = ended {
        println!("{failure}");
        count.failed = count.failed.max(1);
    }
    println!(
        "cargo test: {} passed, {} failed, {} skipped; all of it: {}",
        count.passed,
        count.failed,
        count.skipped,
        log.display()
    );
    Ok(count)
}

/// Sums cargo's closing lines; a test that wrote `SKIPPED: why` did not pass but was skipped. Gives
/// these lines too, and prints none: what its own test printed would be counted.
fn tally(text: &str) -> (Count, Vec<&str>) {
    let mut count = Count::default();
    let mut reasons = Vec::new();
    for line in text.lines() {
        if let Some(result) = line.trim().strip_prefix("test result:") {
            let number = |what: &str| -> u64 {
                let words: Vec<&str> =
                    result.split([' ', ';', '.']).filter(|word| !word.is_empty()).collect();
                words
                    .iter()
                    .position(|word| *word == what)
                    .and_then(|at| words[at.checked_sub(1)?].parse().ok())
                    .unwrap_or(0)
            };
            count.add(Count {
                passed: number("passed"),
                failed: number("failed"),
                skipped: number("ignored"),
            });
        } else if line.starts_with("SKIPPED: ") {
            reasons.push(line);
        }
    }
    let not_run = reasons.len() as u64;
    count.passed = count.passed.saturating_sub(not_run);
    count.skipped += not_run;
    (count, reasons)
}

fn core_scenarios(total: &mut Count) {
    let scenarios = match lab::core::scenario::all() {
        Ok(scenarios) => scenarios,
        Err(failure) => return check(total, "lab core", || Err(failure)),
    };
    for scenario in scenarios {
        for machine in &scenario.machines {
            let name = format!("lab {}@{machine}", scenario.name);
            if let Some(why) = scenario.open.get(machine) {
                skip(total, &name, &format!("known not to hold: {why}"));
                continue;
            }
            println!("--- {name}: {}", scenario.claim);
            check(total, &name, || scenario.run(*machine).map(drop));
        }
    }
}

fn scenarios(total: &mut Count, all: bool) {
    let prepared =
        lab::scenario::prepare().and_then(|machines| Ok((machines, lab::scenario::all()?)));
    let (machines, scenarios) = match prepared {
        Ok(prepared) => prepared,
        Err(failure) => {
            total.failed += 1;
            println!("FAILED  lab: {failure}");
            return;
        }
    };
    for scenario in scenarios {
        if scenario.long && !all {
            continue;
        }
        println!("--- lab {}: {}", scenario.name, scenario.claim);
        check(total, &format!("lab {}", scenario.name), || match scenario.run(&machines)? {
            Some(_) => Ok(()),
            None => Err(Failure::new(format!(
                "does not hold; again with: cargo xtask lab {}",
                scenario.name
            ))),
        });
    }
}

/// A program of the system that a step calls, or the reason it cannot.
pub(crate) fn present(program: &str) -> bool {
    Step::new("sh")
        .arguments(["-c", &format!("command -v {program}")])
        .within(Path::new("/"))
        .text()
        .is_some()
}

#[cfg(test)]
mod tests {
    use super::{Count, tally};

    #[test]
    fn sums_cargos_closing_lines_and_counts_skipped_ones_apart() {
        let text = "running 3 tests\ntest a ... ok\nsuccesses:\n\n---- a stdout ----\nSKIPPED: no /dev/kvm\n\n\
                    test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
                    test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(
            tally(text),
            (Count { passed: 4, failed: 1, skipped: 2 }, vec!["SKIPPED: no /dev/kvm"])
        );
    }
}
