//! `cargo xtask test`: everything that can be checked here, each step with a limit, and closing
//! lines that say what failed and count.

mod pair;
mod report;
mod units;

use crate::failure::{Failure, Result};
use crate::lab::bare::Emulator;
use crate::lab::machine::Engine;
use crate::lab::small::Small;
use crate::process::{Output, Step, during};
use crate::{bare_metal, binaries, demo, docs, fuzz, lab, packages, workspace};
use pair::Job;
use report::Report;
use std::path::Path;

/// Runs every test; with `all` also those that take long. 0 when none failed.
pub(crate) fn run(all: bool) -> Result<i32> {
    let mut report = Report::new();
    packages::require(packages::BUILD)?;
    packages::require(packages::DEMO)?;
    packages::require(packages::DESKTOP)?;
    report.check("formatting", || {
        during("checking the formatting", || {
            binaries::cargo().arguments(["fmt", "--all", "--check"]).run(Output::Shown)
        })
    });
    if binaries::cargo().arguments(["clippy", "--version"]).text().is_some() {
        report.check("clippy", clippy);
    } else {
        report.skip("clippy", "this toolchain has none (rustup component add clippy)");
    }
    report.check("documentation", docs::check);
    // Tests run them.
    report.check("unikernels", || bare_metal::unikernels().map(drop));
    let variables = lab::guest::for_tests().unwrap_or_else(|failure| {
        report.check("what tests use of the lab", || Err(failure));
        Vec::new()
    });
    if let Err(failure) = units::run(&mut report, &variables) {
        report.check("cargo test", || Err(failure));
    }
    report.check("no_std crates for bare metal", bare_metal::check);
    bare_scenarios(&mut report);
    scenarios(&mut report, all);
    report.check_machine("demo on tcg", demo::check);
    if all {
        fuzz::smoke(&mut |name, result| report.check(name, || result));
        report.check("bench", || crate::bench::run(None).map(drop));
    }
    Ok(i32::from(!report.close()))
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

/// Scenarios of machines without disks: those of QEMU one after another, those of Bochs two at a time.
fn bare_scenarios(report: &mut Report) {
    let (scenarios, small) =
        match lab::core::scenario::all().and_then(|all| Ok((all, Small::scenarios()?))) {
            Ok(all) => all,
            Err(failure) => return report.check("lab core", || Err(failure)),
        };
    let mut jobs = Vec::new();
    for (name, claim, machine) in small {
        if machine.emulator == Emulator::Bochs {
            // They take longest, so they come first.
            jobs.push(Job { name, claim });
        } else {
            println!("--- lab {name}: {claim}");
            report.check_machine(&format!("lab {name}"), || machine.check(&name));
        }
    }
    for scenario in scenarios {
        for machine in &scenario.machines {
            let name = format!("{}@{machine}", scenario.name);
            if let Some(why) = scenario.open.get(machine) {
                report.skip(&format!("lab {name}"), &format!("known not to hold: {why}"));
            } else if *machine == Emulator::Bochs {
                jobs.push(Job { name, claim: scenario.claim.clone() });
            } else {
                println!("--- lab {name}: {}", scenario.claim);
                report.check_machine(&format!("lab {name}"), || scenario.run(*machine).map(drop));
            }
        }
    }
    let mut failed = Vec::new();
    pair::run(&jobs, &mut |ended| {
        if ended.result.is_ok() {
            report.ended(&format!("lab {}", ended.job.name), ended.result, ended.took, || Ok(()));
        } else {
            failed.push(ended);
        }
    });
    for ended in failed {
        let job = ended.job;
        report.ended(&format!("lab {}", job.name), ended.result, ended.took, || pair::again(job));
    }
}

fn scenarios(report: &mut Report, all: bool) {
    let prepared = lab::scenario::prepare().and_then(|mut machines| {
        if !all {
            machines.shorten()?;
        }
        Ok((machines, lab::scenario::all()?))
    });
    let (machines, scenarios) = match prepared {
        Ok(prepared) => prepared,
        Err(failure) => return report.check("lab", || Err(failure)),
    };
    for scenario in scenarios {
        for engine in scenario.engines() {
            if !scenario.tested(*engine, all) {
                continue;
            }
            let name = match engine {
                Engine::Kvm => scenario.name.clone(),
                Engine::Core => format!("{}@{}", scenario.name, engine.name()),
            };
            if scenario.open {
                report.skip(&format!("lab {name}"), "known not to hold: its comment says why");
                continue;
            }
            println!("--- lab {name}: {}", scenario.claim);
            report.check_machine(&format!("lab {name}"), || {
                match scenario.run(&machines, *engine)? {
                    Some(_) => Ok(()),
                    None => Err(Failure::new(format!(
                        "does not hold; again with: cargo xtask lab {name}"
                    ))),
                }
            });
        }
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
