//! The figures of the core beside KVM's, and what they are held against: the benchmark `exits`.
//!
//! KVM's come from the lab machine (`tests/lab/bench/exits.sh`), the core's from a machine of its own
//! (`tests/lab/core/exits.toml`, `tables.toml`): the same guest program on the same emulated processor.

use super::{Comparison, lines};
use crate::failure::{Context, Failure, Result};
use crate::lab::bare::Emulator;
use crate::lab::core::scenario;
use crate::{bare_metal, workspace};
use serde_json::{Map, Value, json};

/// The scenarios with the core's figures: the guest that measures, and one with much memory.
const SCENARIO: &str = "core-exits";
const LARGE: &str = "core-tables";
/// What the guest measures, in its order, and how many instructions it may take.
const EXITS: &[(&str, Option<f64>)] = &[
    ("cpuid", Some(400.0)),
    ("hypercall", Some(400.0)),
    ("rdtsc", None),
    ("rdmsr", None),
    ("eoi", Some(600.0)),
    ("self_ipi", Some(600.0)),
    ("port_read", Some(1500.0)),
    ("mmio_read", None),
    ("self_ipi_taken", Some(600.0)),
    ("eoi_taken", Some(600.0)),
    ("timer_wake", None),
    ("ipi_round_trip", None),
];
/// The most lines, bytes and ticks of the core.
const LINES: f64 = 12_000.0;
const IMAGE: f64 = 512.0 * 1024.0;
const TABLES: f64 = 64.0 * 1024.0;
const BOOT: f64 = 30e6;

/// One figure and the most it may be.
struct Limit<'a> {
    name: &'a str,
    unit: &'a str,
    found: f64,
    most: f64,
}

/// Measures the core, puts its figures beside those of KVM in `kvm`, and prints what is held against a
/// limit.
pub(super) fn measure(
    kvm: &Map<String, Value>,
    table: &mut Vec<Comparison>,
) -> Result<Map<String, Value>> {
    let figures = run(SCENARIO)?;
    let large = run(LARGE)?;
    let ours = |name: &str| number(&figures, name);
    let mut limits = Vec::new();
    for (name, most) in EXITS {
        let found = ours(name)?;
        let qemu = number(kvm, &format!("qemu_{name}"))?;
        for (who, found) in [("core", found), ("vmm", number(kvm, &format!("vmm_{name}"))?)] {
            table.push(Comparison {
                name: format!("{who}.{name}"),
                unit: "instructions".to_owned(),
                better: "lower".to_owned(),
                ours: found,
                peer: qemu,
            });
        }
        if let Some(most) = *most {
            limits.push(Limit { name, unit: "instructions", found, most });
        }
    }
    let image = bare_metal::images()?.core;
    let bytes = std::fs::metadata(&image).context(|| format!("read {}", image.display()))?.len();
    let code = lines::count(&workspace::root().join("hypervisor/core/src"))?;
    limits.extend([
        limit("lines", "lines", code as f64, LINES),
        limit("image", "bytes", bytes as f64, IMAGE),
        limit("boot", "instructions", ours("boot")?, BOOT),
        limit("tables_4_gib", "bytes", number(&large, "table_bytes")?, TABLES),
    ]);
    print(&limits);
    let held = limits.iter().map(|limit| {
        let value = json!({ "unit": limit.unit, "found": limit.found, "most": limit.most });
        (format!("limit.{}", limit.name), value)
    });
    Ok(held.collect())
}

fn run(scenario: &str) -> Result<Map<String, Value>> {
    scenario::find(scenario)?
        .ok_or_else(|| Failure::new(format!("there is no scenario {scenario}")))?
        .0
        .run(Emulator::Qemu)
}

fn limit(name: &'static str, unit: &'static str, found: f64, most: f64) -> Limit<'static> {
    Limit { name, unit, found, most }
}

fn number(figures: &Map<String, Value>, name: &str) -> Result<f64> {
    figures
        .get(name)
        .and_then(Value::as_f64)
        .ok_or_else(|| Failure::new(format!("the run said nothing of `{name}`")))
}

fn print(limits: &[Limit<'_>]) {
    println!("\n{:<34} {:>14} {:>14} {:>14}  held", "core", "unit", "found", "at most");
    for limit in limits {
        println!(
            "{:<34} {:>14} {:>14.0} {:>14.0}  {}",
            limit.name,
            limit.unit,
            limit.found,
            limit.most,
            if limit.found <= limit.most { "yes" } else { "no" }
        );
    }
}
