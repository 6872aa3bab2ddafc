//! Windows of a guest's program on the host's desktop, ours beside xpra: the benchmark `seamless`.
//!
//! The crate `tests/seamless` measures; here the programs are built and what it found is held against limits.

use super::{Comparison, comparison};
use crate::binaries::cargo;
use crate::failure::{Context, Failure, Result};
use crate::process::{Output, Step, during};
use crate::{packages, workspace};
use serde_json::{Map, Value, json};
use std::time::Duration;

pub(super) const NAME: &str = "seamless";
pub(super) const CLAIM: &str = "a window of a guest's program on the host's screen, beside xpra";

/// Name of the benchmark through a VM.
pub(super) const NAME_VM: &str = "seamless-vm";
pub(super) const CLAIM_VM: &str = "from a key to its pixels by stage, through a VM on engine tcg";

/// How often less, or more, a figure has to be than xpra's.
const TARGETS: &[(&str, f64)] = &[
    ("key_to_pixel_p50", 0.5),
    ("key_to_pixel_p90", 0.5),
    ("frames", 2.0),
    ("animation_cpu", 1.0),
];

/// Something found, and the most or the least it may be.
struct Held {
    name: String,
    unit: String,
    found: f64,
    limit: f64,
    least: bool,
}

impl Held {
    fn holds(&self) -> bool {
        if self.least { self.found >= self.limit } else { self.found <= self.limit }
    }
}

/// Measures and prints; none when it did not come to its end.
pub(super) fn measure() -> Result<Option<Map<String, Value>>> {
    packages::require(packages::BUILD)?;
    packages::require(packages::SEAMLESS)?;
    let built = workspace::folder("lab")?.join("seamless-build.log");
    let names = ["guest-agent", "compositor", "seamless-bench"];
    during("building the agent and the compositor (release)", || {
        cargo()
            .arguments(["build", "--release"])
            .arguments(names.iter().flat_map(|name| ["--package", name]))
            .run(Output::Logged(built))
    })?;
    let folder = workspace::target().join("release");
    let logs = workspace::folder("lab")?.join(NAME);
    if logs.exists() {
        std::fs::remove_dir_all(&logs).context(|| format!("remove {}", logs.display()))?;
    }
    let mut table: Vec<Comparison> = Vec::new();
    let mut held: Vec<Held> = Vec::new();
    let ended = Step::new(folder.join("seamless-bench"))
        .argument("measure")
        .argument("--agent")
        .argument(folder.join("macrohard-guest-agent"))
        .argument("--compositor")
        .argument(folder.join("macrohard-compositor"))
        .argument("--logs")
        .argument(&logs)
        .limit(Duration::from_secs(1800))
        .lines(&mut |line| match (comparison(line), limit(line)) {
            (Some(row), _) => table.push(row),
            (None, Some(found)) => held.push(found),
            (None, None) => println!("{line}"),
        })?;
    if !ended.is_some_and(|status| status.success()) {
        eprintln!("the benchmark `{NAME}` did not come to its end; logs: {}", logs.display());
        return Ok(None);
    }
    held.extend(targets(&table)?);
    let mut stages = Vec::new();
    let step = Step::new(folder.join("seamless-bench"))
        .argument("stages")
        .argument("--agent")
        .argument(folder.join("macrohard-guest-agent"))
        .argument("--compositor")
        .argument(folder.join("macrohard-compositor"))
        .argument("--logs")
        .argument(logs.join("stages"))
        .variable("MACROHARD_LOG", "info,latency=trace")
        .limit(Duration::from_secs(600));
    let ended = step.lines(&mut |line| told(line, &mut stages))?;
    if !ended.is_some_and(|status| status.success()) {
        eprintln!("the stages of `{NAME}` did not come to their end; logs: {}", logs.display());
        return Ok(None);
    }
    super::print("xpra", &table);
    println!("\n{:<34} {:>8} {:>16} {:>16}  held", "limit", "unit", "found", "limit");
    for row in &held {
        let Held { name, unit, found, limit, least } = row;
        let word = if *least { "at least" } else { "at most" };
        let limit = format!("{word} {limit:.1}");
        let answer = if row.holds() { "yes" } else { "no" };
        println!("{name:<34} {unit:>8} {found:>16.2} {limit:>16}  {answer}");
    }
    let compared = table.iter().map(|row| (row.name.clone(), row.json("xpra")));
    let limits = held.iter().map(|row| {
        let most = if row.least { "least" } else { "most" };
        let mut value = json!({ "unit": row.unit, "found": row.found });
        value[most] = json!(row.limit);
        (format!("limit.{}", row.name), value)
    });
    print_stages(&stages);
    let stages = stages.iter().map(Stage::json);
    Ok(Some(compared.chain(limits).chain(stages).collect()))
}

/// The same way through a VM. Prints.
pub(super) fn measure_vm() -> Result<Map<String, Value>> {
    let mut stages = Vec::new();
    crate::demo::stages::measure(&mut |line| told(line, &mut stages))?;
    print_stages(&stages);
    Ok(stages.iter().map(Stage::json).collect())
}

/// A part of the way from a key to its pixels, in milliseconds.
struct Stage {
    name: String,
    median: f64,
    /// Nine of ten are faster.
    ninetieth: f64,
}

impl Stage {
    fn json(&self) -> (String, Value) {
        let value = json!({ "unit": "ms", "p50": self.median, "p90": self.ninetieth });
        (format!("stage.{}", self.name), value)
    }
}

fn told(line: &str, stages: &mut Vec<Stage>) {
    match stage(line) {
        Some(stage) => stages.push(stage),
        None => println!("{line}"),
    }
}

/// `stage MEDIAN NINETIETH NAME`
fn stage(line: &str) -> Option<Stage> {
    let mut parts = line.strip_prefix("stage ")?.splitn(3, ' ');
    let mut number = || parts.next()?.parse().ok();
    let (median, ninetieth) = (number()?, number()?);
    Some(Stage { name: parts.next()?.to_owned(), median, ninetieth })
}

fn print_stages(stages: &[Stage]) {
    println!("\n{:<44} {:>10} {:>12}", "stage, ms", "median", "9 of 10");
    for Stage { name, median, ninetieth } in stages {
        println!("{name:<44} {median:>10.3} {ninetieth:>12.3}");
    }
}

/// `held NAME UNIT FOUND MOST`
fn limit(line: &str) -> Option<Held> {
    let words: Vec<&str> = line.strip_prefix("held ")?.split_whitespace().collect();
    let [name, unit, found, most] = words[..] else { return None };
    Some(Held {
        name: name.to_owned(),
        unit: unit.to_owned(),
        found: found.parse().ok()?,
        limit: most.parse().ok()?,
        least: false,
    })
}

fn targets(table: &[Comparison]) -> Result<Vec<Held>> {
    let target = |(name, limit): &(&str, f64)| {
        let row = table.iter().find(|row| row.name == *name);
        let row = row.ok_or_else(|| Failure::new(format!("the run said nothing of `{name}`")))?;
        Ok(Held {
            name: format!("{name} beside xpra"),
            unit: "ratio".to_owned(),
            found: row.ours / row.peer,
            limit: *limit,
            least: row.better == "higher",
        })
    };
    TARGETS.iter().map(target).collect()
}

#[cfg(test)]
mod tests {
    use super::{Comparison, TARGETS, limit, stage, targets};

    fn row(name: &str, better: &str, ours: f64, peer: f64) -> Comparison {
        Comparison { name: name.into(), unit: "x".into(), better: better.into(), ours, peer }
    }

    #[test]
    fn what_is_at_a_limit_holds_and_what_is_beyond_does_not() {
        assert!(limit("held idle jiffies 0 0").expect("complete").holds());
        assert!(!limit("held idle jiffies 1 0").expect("complete").holds());
        assert!(limit("held idle jiffies 1").is_none());
        let found = targets(&[
            row("key_to_pixel_p50", "lower", 5.0, 10.0),
            row("key_to_pixel_p90", "lower", 5.1, 10.0),
            row("frames", "higher", 20.0, 10.0),
            row("animation_cpu", "lower", 1.1, 1.0),
        ]);
        let holds: Vec<bool> =
            found.expect("all are there").iter().map(super::Held::holds).collect();
        assert_eq!(holds, [true, false, true, false]);
    }

    #[test]
    fn a_stage_has_two_times_and_a_name_of_many_words() {
        let found = stage("stage 1.500 2.000 host: X server, to the compositor").expect("complete");
        assert_eq!(found.name, "host: X server, to the compositor");
        assert!((found.median - 1.5).abs() < 1e-9 && (found.ninetieth - 2.0).abs() < 1e-9);
        assert!(stage("stage 1.500 many words").is_none());
    }

    #[test]
    fn a_figure_that_is_missing_is_no_success() {
        assert!(targets(&[row(TARGETS[0].0, "lower", 1.0, 10.0)]).is_err());
    }
}
