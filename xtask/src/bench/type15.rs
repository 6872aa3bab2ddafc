//! The core beneath Linux beside KVM in it: the benchmark `type15`. One script (`tests/lab/bench/type15.sh`) on two
//! machines; with KVM QEMU takes its turn as well.

use crate::failure::Result;
use crate::lab::machine::Engine;
use crate::lab::scenario::{Machines, Scenario};
use serde_json::{Map, Value, json};

/// Its name.
pub(super) const NAME: &str = "type15";

/// A figure, what it is called on the machines, and how much of KVM's (our VM process') it may be.
struct Row {
    name: &'static str,
    /// Of the script's figures; those of the guest `exits` have a prefix.
    of_guest: bool,
    most: f64,
}

const fn row(name: &'static str, of_guest: bool, most: f64) -> Row {
    Row { name, of_guest, most }
}

/// In the order of the table.
const ROWS: &[Row] = &[
    row("port_read", true, 1.0 / 3.0),
    row("cpuid", true, 0.2),
    row("hypercall", true, f64::INFINITY),
    row("rdmsr", true, f64::INFINITY),
    row("mmio_read", true, f64::INFINITY),
    row("self_ipi", true, 1.0),
    row("ipi_round_trip", true, 1.0),
    row("timer_wake", true, 1.0),
    row("root_syscalls", false, 1.02),
    row("root_forks", false, 1.02),
    row("root_programs", false, f64::INFINITY),
    row("boot", false, 1.0),
    row("disk_random", false, 1.0),
    row("disk_sequential", false, 1.0),
    row("vsock", false, 1.0),
];
/// Exits of an idle root in a second.
const IDLE: f64 = 20.0;

/// Runs the script on both machines, prints the table and gives the figures; `None` when one run broke.
pub(super) fn measure(bench: &Scenario, machines: &Machines) -> Result<Option<Map<String, Value>>> {
    let mut found = Vec::new();
    for engine in [Engine::Core, Engine::Kvm] {
        println!("--- on engine {}", engine.name());
        match bench.run(machines, engine)? {
            Some(figures) => found.push(figures),
            None => return Ok(None),
        }
    }
    let [core, kvm] = &found[..] else { return Ok(None) };
    println!(
        "\n{:<20} {:>14} {:>14} {:>14} {:>7} {:>7}  held",
        "instructions", "core", "KVM, ours", "KVM, QEMU", "ratio", "most"
    );
    let mut results = Map::new();
    for Row { name, of_guest, most } in ROWS {
        let own = if *of_guest { format!("ours_{name}") } else { (*name).to_owned() };
        let number = |figures: &Map<String, Value>, name: &str| figures.get(name)?.as_f64();
        let (Some(ours), Some(theirs)) = (number(core, &own), number(kvm, &own)) else {
            println!("{name:<20} not measured");
            continue;
        };
        let qemu = number(kvm, &format!("qemu_{name}"));
        let ratio = ours / theirs;
        let limit = most.is_finite();
        println!(
            "{name:<20} {ours:>14.0} {theirs:>14.0} {:>14} {ratio:>7.3} {:>7}  {}",
            qemu.map_or_else(String::new, |qemu| format!("{qemu:.0}")),
            if limit { format!("{most:.2}") } else { String::new() },
            match limit {
                true if ratio <= *most => "yes",
                true => "no",
                false => "",
            }
        );
        let most = limit.then_some(*most);
        let row =
            json!({ "core": ours, "kvm": theirs, "qemu": qemu, "ratio": ratio, "most": most });
        results.insert((*name).to_owned(), row);
    }
    if let Some(idle) = core.get("root_idle_exits").and_then(Value::as_f64) {
        let held = if idle <= IDLE { "yes" } else { "no" };
        println!("exits of an idle root in a second: {idle:.1}, at most {IDLE:.0}: {held}");
        results.insert("root_idle_exits".to_owned(), json!({ "core": idle, "most": IDLE }));
    }
    Ok(Some(results))
}
