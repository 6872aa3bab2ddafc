//! `cargo xtask bench`: the product beside QEMU in the same lab machine. Figures only: nothing here
//! fails because something is slow.
//!
//! A benchmark is a script in `tests/lab/bench`, written like a scenario. A line
//! `compare NAME UNIT lower|higher OURS QEMU` is one comparison; which of the two is better is said
//! by the third word. `exits` has more: `core` measures the core itself, on a machine of its own. `type15`
//! runs on two machines, with KVM and with the core beneath Linux. `seamless` needs no lab machine: its peer is xpra.
//! `seamless-vm` has no peer: it is the same through a VM.

mod core;
mod lines;
mod seamless;
mod type15;

use crate::failure::{Failure, Result};
use crate::lab::machine::Engine;
use crate::lab::scenario::{self, Scenario};
use serde_json::{Map, Value, json};

/// Runs all benchmarks, or one; 0 when each ran to its end.
pub(crate) fn run(name: Option<&str>) -> Result<i32> {
    let mut benches = scenario::within("bench")?;
    let windows = name.is_none_or(|name| name == seamless::NAME);
    let through_vm = name.is_none_or(|name| name == seamless::NAME_VM);
    if let Some(name) = name {
        let mut names: Vec<String> = benches.iter().map(|bench| bench.name.clone()).collect();
        benches.retain(|bench| bench.name == name);
        if benches.is_empty() && !windows && !through_vm {
            names.extend([seamless::NAME, seamless::NAME_VM].map(str::to_owned));
            return Err(Failure::new(format!(
                "there is no benchmark `{name}`; there are: {}",
                names.join(", ")
            )));
        }
    }
    let mut results = Map::new();
    let mut table = Vec::new();
    let mut broken = 0;
    let machines = if benches.is_empty() { None } else { Some(scenario::prepare()?) };
    for (bench, machines) in benches.iter().zip(machines.iter().cycle()) {
        println!("--- bench {}: {}", bench.name, bench.claim);
        if bench.name == type15::NAME {
            match type15::measure(bench, machines)? {
                Some(figures) => {
                    results.insert(bench.name.clone(), Value::Object(figures));
                }
                None => broken += 1,
            }
            continue;
        }
        match one(bench, machines, &mut table)? {
            Some(mut figures) => {
                if bench.name == "exits" {
                    figures.extend(core::measure(&figures, &mut table)?);
                }
                results.insert(bench.name.clone(), Value::Object(figures));
            }
            None => broken += 1,
        }
    }
    if windows {
        println!("--- bench {}: {}", seamless::NAME, seamless::CLAIM);
        match seamless::measure()? {
            Some(figures) => {
                results.insert(seamless::NAME.to_owned(), Value::Object(figures));
            }
            None => broken += 1,
        }
    }
    if through_vm {
        println!("--- bench {}: {}", seamless::NAME_VM, seamless::CLAIM_VM);
        match seamless::measure_vm() {
            Ok(figures) => {
                results.insert(seamless::NAME_VM.to_owned(), Value::Object(figures));
            }
            Err(failure) => {
                eprintln!(
                    "the benchmark `{}` did not come to its end: {failure}",
                    seamless::NAME_VM
                );
                broken += 1;
            }
        }
    }
    print("QEMU", &table);
    println!("{}", Value::Object(results));
    Ok(i32::from(broken > 0))
}

/// Prints what was compared with a peer of this name.
fn print(peer: &str, table: &[Comparison]) {
    if table.is_empty() {
        return;
    }
    println!("\n{:<34} {:>8} {:>16} {:>16} {:>8}  better", "figure", "unit", "ours", peer, "ratio");
    for row in table {
        let Comparison { name, unit, better, ours, peer } = row;
        println!("{name:<34} {unit:>8} {ours:>16.1} {peer:>16.1} {:>8.2}  {better}", ours / peer);
    }
}

struct Comparison {
    name: String,
    unit: String,
    better: String,
    ours: f64,
    /// Of what it is compared with.
    peer: f64,
}

fn one(
    bench: &Scenario,
    machines: &scenario::Machines,
    table: &mut Vec<Comparison>,
) -> Result<Option<Map<String, Value>>> {
    let mut compared = Map::new();
    let figures = bench.run_with(machines, Engine::Kvm, &mut |line| match comparison(line) {
        Some(row) => {
            compared.insert(row.name.clone(), row.json("qemu"));
            table.push(row);
        }
        None => println!("{line}"),
    })?;
    Ok(figures.map(|mut figures| {
        figures.extend(compared);
        figures
    }))
}

impl Comparison {
    fn json(&self, peer: &str) -> Value {
        let mut value = json!({ "unit": self.unit, "better": self.better, "ours": self.ours, "ratio": self.ours / self.peer });
        value[peer] = json!(self.peer);
        value
    }
}

/// `compare NAME UNIT lower|higher OURS PEER`
fn comparison(line: &str) -> Option<Comparison> {
    let words: Vec<&str> = line.strip_prefix("compare ")?.split_whitespace().collect();
    let [name, unit, better @ ("lower" | "higher"), ours, peer] = words[..] else {
        return None;
    };
    Some(Comparison {
        name: name.to_owned(),
        unit: unit.to_owned(),
        better: better.to_owned(),
        ours: ours.parse().ok()?,
        peer: peer.parse().ok().filter(|value: &f64| *value > 0.0)?,
    })
}

#[cfg(test)]
mod tests {
    use super::comparison;

    #[test]
    fn a_comparison_needs_all_its_words() {
        let row = comparison("compare start instructions lower 10 100").expect("complete");
        assert!((row.ours / row.peer - 0.1).abs() < 1e-9);
        assert!(comparison("compare start instructions lower 10").is_none());
        assert!(comparison("compare start instructions lower 10 0").is_none());
        assert!(comparison("compare start instructions better 10 1").is_none());
    }

    #[test]
    fn every_benchmark_is_well_formed() {
        let benches = crate::lab::scenario::within("bench").expect("readable");
        assert!(benches.iter().all(|bench| bench.claim.len() > 40));
        assert_eq!(benches.len(), 9);
    }
}
