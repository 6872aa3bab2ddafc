//! `cargo xtask bench`: the product beside QEMU in the same lab machine. Figures only: nothing here
//! fails because something is slow.
//!
//! A benchmark is a script in `tests/lab/bench`, written like a scenario. A line
//! `compare NAME UNIT lower|higher OURS QEMU` is one comparison; which of the two is better is said
//! by the third word. `exits` has more: `core` measures the core itself, on a machine of its own.

mod core;
mod lines;

use crate::failure::{Failure, Result};
use crate::lab::scenario::{self, Scenario};
use serde_json::{Map, Value, json};

/// Runs all benchmarks, or one; 0 when each ran to its end.
pub(crate) fn run(name: Option<&str>) -> Result<i32> {
    let mut benches = scenario::within("bench")?;
    if let Some(name) = name {
        let names: Vec<String> = benches.iter().map(|bench| bench.name.clone()).collect();
        benches.retain(|bench| bench.name == name);
        if benches.is_empty() {
            return Err(Failure::new(format!(
                "there is no benchmark `{name}`; there are: {}",
                names.join(", ")
            )));
        }
    }
    let machines = scenario::prepare()?;
    let mut results = Map::new();
    let mut table = Vec::new();
    let mut broken = 0;
    for bench in &benches {
        println!("--- bench {}: {}", bench.name, bench.claim);
        match one(bench, &machines, &mut table)? {
            Some(mut figures) => {
                if bench.name == "exits" {
                    figures.extend(core::measure(&figures, &mut table)?);
                }
                results.insert(bench.name.clone(), Value::Object(figures));
            }
            None => broken += 1,
        }
    }
    println!(
        "\n{:<34} {:>8} {:>16} {:>16} {:>8}  better",
        "figure", "unit", "ours", "QEMU", "ratio"
    );
    for row in &table {
        let Comparison { name, unit, better, ours, qemu } = row;
        println!("{name:<34} {unit:>8} {ours:>16.1} {qemu:>16.1} {:>8.2}  {better}", ours / qemu);
    }
    println!("{}", Value::Object(results));
    Ok(i32::from(broken > 0))
}

struct Comparison {
    name: String,
    unit: String,
    better: String,
    ours: f64,
    qemu: f64,
}

fn one(
    bench: &Scenario,
    machines: &scenario::Machines,
    table: &mut Vec<Comparison>,
) -> Result<Option<Map<String, Value>>> {
    let mut compared = Map::new();
    let figures = bench.run_with(machines, &mut |line| match comparison(line) {
        Some(row) => {
            let value = json!({ "unit": row.unit, "better": row.better, "ours": row.ours, "qemu": row.qemu, "ratio": row.ours / row.qemu });
            compared.insert(row.name.clone(), value);
            table.push(row);
        }
        None => println!("{line}"),
    })?;
    Ok(figures.map(|mut figures| {
        figures.extend(compared);
        figures
    }))
}

/// `compare NAME UNIT lower|higher OURS QEMU`
fn comparison(line: &str) -> Option<Comparison> {
    let words: Vec<&str> = line.strip_prefix("compare ")?.split_whitespace().collect();
    let [name, unit, better @ ("lower" | "higher"), ours, qemu] = words[..] else {
        return None;
    };
    Some(Comparison {
        name: name.to_owned(),
        unit: unit.to_owned(),
        better: better.to_owned(),
        ours: ours.parse().ok()?,
        qemu: qemu.parse().ok().filter(|value: &f64| *value > 0.0)?,
    })
}

#[cfg(test)]
mod tests {
    use super::comparison;

    #[test]
    fn a_comparison_needs_all_its_words() {
        let row = comparison("compare start instructions lower 10 100").expect("complete");
        assert!((row.ours / row.qemu - 0.1).abs() < 1e-9);
        assert!(comparison("compare start instructions lower 10").is_none());
        assert!(comparison("compare start instructions lower 10 0").is_none());
        assert!(comparison("compare start instructions better 10 1").is_none());
    }

    #[test]
    fn every_benchmark_is_well_formed() {
        let benches = crate::lab::scenario::within("bench").expect("readable");
        assert!(benches.iter().all(|bench| bench.claim.len() > 40));
        assert_eq!(benches.len(), 8);
    }
}
