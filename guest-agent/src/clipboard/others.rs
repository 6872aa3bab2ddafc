//! Other programs that keep the guest's clipboard in step with a host's. Two of them at once hand the same
//! content to and fro.

use std::fs;

/// Names as /proc shows them.
const OTHERS: [&str; 2] = ["spice-vdagent", "VBoxClient"];

/// Says so when one runs.
pub(super) fn warn() {
    for program in running() {
        tracing::warn!(
            program,
            "another program keeps the clipboard in step with the host; end it, or turn one of both off"
        );
    }
}

fn running() -> Vec<&'static str> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let names: Vec<String> = processes
        .filter_map(|process| fs::read_to_string(process.ok()?.path().join("comm")).ok())
        .collect();
    OTHERS.into_iter().filter(|other| names.iter().any(|name| name.trim() == *other)).collect()
}
