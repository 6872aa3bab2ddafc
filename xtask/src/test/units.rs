//! `cargo test` over the workspace, its log read: who passed, who failed, who could not run.

use super::report::{Count, Report};
use crate::failure::{Context, Result};
use crate::process::{Output, during};
use crate::{binaries, workspace};
use std::ffi::OsString;
use std::time::Duration;

/// Runs all of them, with what passed tests wrote kept, because that is where a test says it could not run.
pub(super) fn run(report: &mut Report, variables: &[(&str, OsString)]) -> Result {
    let log = workspace::folder("test")?.join("tests.log");
    let _ = std::fs::remove_file(&log);
    during("building the tests", || {
        binaries::cargo()
            .arguments(["test", "--workspace", "--no-run", "--quiet"])
            .run(Output::Logged(log.clone()))
    })?;
    let _ = std::fs::remove_file(&log);
    let cargo = |arguments: &[&str], limit, log: &std::path::Path| {
        variables
            .iter()
            .fold(binaries::cargo().arguments(arguments), |cargo, (name, value)| {
                cargo.variable(name, value)
            })
            .limit(Duration::from_secs(limit))
            .run(Output::Logged(log.to_path_buf()))
    };
    let ended = during("cargo test", || {
        cargo(&["test", "--workspace", "--no-fail-fast", "--", "--show-output"], 1500, &log)
    });
    let text = std::fs::read(&log).context(|| format!("read {}", log.display()))?;
    let text = String::from_utf8_lossy(&text);
    let Outcome { mut count, reasons, failed, targets } = read(&text);
    for reason in reasons {
        println!("{reason}");
    }
    if let Err(failure) = &ended {
        println!("{failure}");
        if failed.is_empty() {
            // No test says that it failed: one was killed, or did not end.
            count.failed = count.failed.max(1);
            report.failed("cargo test", failure.to_string());
        }
    }
    for Failed { name, said } in &failed {
        println!("AGAIN   {name}: {said}");
    }
    let mut settled = Vec::new();
    if failed.len() as u64 == count.failed && report.may_repeat() && !failed.is_empty() {
        let log = workspace::folder("test")?.join("again.log");
        let _ = std::fs::remove_file(&log);
        for target in targets {
            // One after another: what had company may have failed for it.
            let mut arguments = vec!["test"];
            arguments.extend(target.split_whitespace());
            arguments.extend(["--", "--exact", "--test-threads=1", "--show-output"]);
            arguments.extend(failed.iter().map(|failed| failed.name));
            let _ = during(&format!("cargo test {target}, what failed once more"), || {
                cargo(&arguments, 600, &log)
            });
        }
        let text = std::fs::read(&log).context(|| format!("read {}", log.display()))?;
        let text = String::from_utf8_lossy(&text);
        let second = read(&text);
        for Failed { name, said } in &second.failed {
            println!("FAILED  {name}: {said}");
        }
        settled = passed_again(&failed, &second);
        count.passed += settled.len() as u64;
        count.failed -= settled.len() as u64;
    }
    for Failed { name, said } in &failed {
        if settled.contains(name) {
            report.unstable(name, said.clone());
        } else {
            report.failed(name, said.clone());
        }
    }
    println!(
        "cargo test: {} passed, {} failed, {} skipped; all of it: {}",
        count.passed,
        count.failed,
        count.skipped,
        log.display()
    );
    report.add(count);
    Ok(())
}

/// What a log says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome<'a> {
    count: Count,
    /// Lines of tests that could not run.
    reasons: Vec<&'a str>,
    failed: Vec<Failed<'a>>,
    /// Arguments by which cargo runs each target that failed, such as `-p vmm --lib`.
    targets: Vec<&'a str>,
}

/// A test that failed.
#[derive(Debug, PartialEq, Eq)]
struct Failed<'a> {
    name: &'a str,
    /// The end of what it wrote, on one line.
    said: String,
}

/// Names of those that failed and then passed: all that did not fail again, if all were run.
fn passed_again<'a>(failed: &[Failed<'a>], second: &Outcome<'_>) -> Vec<&'a str> {
    if second.count.passed + second.count.failed < failed.len() as u64 {
        return Vec::new();
    }
    let names = failed.iter().map(|failed| failed.name);
    names.filter(|name| second.failed.iter().all(|again| again.name != *name)).collect()
}

/// Lines of a failed test that are kept.
const SAID: usize = 12;

/// Sums cargo's closing lines; a test that wrote `SKIPPED: why` did not pass but was skipped. Gives
/// these lines too, and prints none: what its own test printed would be counted.
fn read(text: &str) -> Outcome<'_> {
    let mut outcome = Outcome::default();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(result) = line.trim().strip_prefix("test result:") {
            let words: Vec<&str> =
                result.split([' ', ';', '.']).filter(|word| !word.is_empty()).collect();
            let number = |what: &str| -> u64 {
                words
                    .iter()
                    .position(|word| *word == what)
                    .and_then(|at| words[at.checked_sub(1)?].parse().ok())
                    .unwrap_or(0)
            };
            outcome.count.add(Count {
                passed: number("passed"),
                failed: number("failed"),
                skipped: number("ignored"),
            });
        } else if line.starts_with("SKIPPED: ") {
            outcome.reasons.push(line);
        } else if line == "failures:" {
            // Twice in a log: with what each wrote, then names alone. The names come in the same order.
            while let Some(name) = lines.next_if(|line| line.starts_with("    ")) {
                let name = name.trim();
                outcome.failed.push(Failed { name, said: said(text, name) });
            }
        } else if let Some(target) =
            line.strip_prefix("    `").and_then(|rest| rest.strip_suffix('`'))
        {
            outcome.targets.push(target);
        }
    }
    let not_run = outcome.reasons.len() as u64;
    outcome.count.passed = outcome.count.passed.saturating_sub(not_run);
    outcome.count.skipped += not_run;
    outcome
}

/// The last lines that a failed test wrote.
fn said(text: &str, name: &str) -> String {
    let head = format!("---- {name} stdout ----");
    let lines: Vec<&str> = text
        .lines()
        .skip_while(|line| *line != head)
        .skip(1)
        .take_while(|line| !line.starts_with("---- ") && *line != "failures:")
        .filter(|line| !line.trim().is_empty() && !line.starts_with("note: run with"))
        .collect();
    lines[lines.len().saturating_sub(SAID)..].join(" | ")
}

#[cfg(test)]
mod tests {
    use super::{Count, Failed, Outcome, passed_again, read};

    #[test]
    fn sums_cargos_closing_lines_and_counts_skipped_ones_apart() {
        let text = "running 3 tests\ntest a ... ok\nsuccesses:\n\n---- a stdout ----\nSKIPPED: no /dev/kvm\n\n\
                    test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
                    test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n";
        let outcome = read(text);
        assert_eq!(outcome.count, Count { passed: 4, failed: 1, skipped: 2 });
        assert_eq!(outcome.reasons, ["SKIPPED: no /dev/kvm"]);
    }

    #[test]
    fn names_what_failed_its_last_words_and_how_it_is_run_again() {
        let text = "running 2 tests\ntest a::b ... FAILED\ntest c ... ok\n\nsuccesses:\n\n---- c stdout ----\nhello\n\n\
                    successes:\n    c\n\nfailures:\n\n---- a::b stdout ----\n\nthread 'a::b' panicked at x.rs:1:2:\nno answer\n\
                    note: run with `RUST_BACKTRACE=1` environment variable\n\n\nfailures:\n    a::b\n\n\
                    test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\n\
                    error: test failed, to rerun pass `-p vmm --lib`\nerror: 1 target failed:\n    `-p vmm --lib`\n";
        assert_eq!(
            read(text),
            Outcome {
                count: Count { passed: 1, failed: 1, skipped: 0 },
                reasons: Vec::new(),
                failed: vec![Failed {
                    name: "a::b",
                    said: "thread 'a::b' panicked at x.rs:1:2: | no answer".to_owned()
                }],
                targets: vec!["-p vmm --lib"],
            }
        );
    }

    #[test]
    fn what_passes_at_the_second_try_is_told_from_what_fails_again() {
        let failed = ["a", "b"].map(|name| Failed { name, said: String::new() });
        let second = |passed, names: &[&'static str]| Outcome {
            count: Count { passed, failed: names.len() as u64, skipped: 0 },
            failed: names.iter().map(|name| Failed { name, said: String::new() }).collect(),
            ..Outcome::default()
        };
        assert_eq!(passed_again(&failed, &second(2, &[])), ["a", "b"]);
        assert_eq!(passed_again(&failed, &second(1, &["b"])), ["a"]);
        // The second run did not come to its end.
        assert!(passed_again(&failed, &second(1, &[])).is_empty());
    }
}
