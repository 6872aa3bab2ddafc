//! `doctor`: what this host offers, judged, with the next step where something is missing.

use super::output;
use crate::problem::{EXIT_FAILURE, Problem};
use engine::discovery::{self, Report, Requirement, Row, Verdict};
use std::process::ExitCode;

/// Fails (exit code 1) when no engine can run.
pub(super) fn doctor(json: bool) -> Result<ExitCode, Problem> {
    let report = discovery::report();
    if json {
        output::print_json(&report)?;
    } else {
        output::print(&text(&report))?;
    }
    Ok(match report.overall.engine {
        Some(_) => ExitCode::SUCCESS,
        None => ExitCode::from(EXIT_FAILURE),
    })
}

fn text(report: &Report) -> String {
    let heads = ["TOPIC", "WHAT", "FOUND", "VERDICT", "NEXT STEP"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    rows.extend(report.rows.iter().map(row));
    format!("{}\n{}\n", output::table(&rows), report.overall.line)
}

fn row(row: &Row) -> Vec<String> {
    let verdict = match (row.verdict, row.requirement) {
        (Verdict::Good, _) => "good",
        (Verdict::Weak, _) => "weak",
        (Verdict::Missing, _) => "MISSING",
        (Verdict::Unknown, Requirement::Required) => "unknown (required)",
        (Verdict::Unknown, Requirement::Recommended) => "unknown",
    };
    vec![
        row.topic.to_owned(),
        row.item.to_owned(),
        row.found.clone(),
        verdict.to_owned(),
        row.next_step.clone().unwrap_or_default(),
    ]
}
