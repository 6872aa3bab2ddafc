//! The judgement as a table.

use super::choice::choose;
use super::facts::{Core, Facts};
use super::{Choice, NoEngine, cpu, host};
use serde::Serialize;

/// Whether something can be done without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Requirement {
    /// What the topic is about does not work without it.
    Required,
    /// Faster or safer with it.
    Recommended,
}

/// How a fact was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// There.
    Good,
    /// Recommended and not there.
    Weak,
    /// Required and not there.
    Missing,
    /// It could not be found out.
    Unknown,
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// What it is about: `processor`, `virtualization`, `kvm`, ...
    pub topic: &'static str,
    /// What was looked for.
    pub item: &'static str,
    /// Whether it can be done without.
    pub requirement: Requirement,
    /// What was found.
    pub found: String,
    /// The judgement.
    pub verdict: Verdict,
    /// What the user can do, when there is something to do.
    pub next_step: Option<String>,
}

impl Row {
    /// Present or not. `next_step` is kept only when it is not.
    pub(super) fn presence(
        topic: &'static str,
        item: &'static str,
        requirement: Requirement,
        present: bool,
        next_step: &str,
    ) -> Self {
        let found = if present { "yes" } else { "no" };
        Self::judged(topic, item, requirement, found, present, next_step)
    }

    /// As [`Self::presence`], with words of its own for what was found.
    pub(super) fn judged(
        topic: &'static str,
        item: &'static str,
        requirement: Requirement,
        found: impl Into<String>,
        good: bool,
        next_step: &str,
    ) -> Self {
        let verdict = match (good, requirement) {
            (true, _) => Verdict::Good,
            (false, Requirement::Required) => Verdict::Missing,
            (false, Requirement::Recommended) => Verdict::Weak,
        };
        Self {
            topic,
            item,
            requirement,
            found: found.into(),
            verdict,
            next_step: (!good && !next_step.is_empty()).then(|| next_step.to_owned()),
        }
    }

    /// It could not be found out.
    pub(super) fn unknown(
        topic: &'static str,
        item: &'static str,
        requirement: Requirement,
        next_step: &str,
    ) -> Self {
        Self {
            topic,
            item,
            requirement,
            found: "could not be read".to_owned(),
            verdict: Verdict::Unknown,
            next_step: Some(next_step.to_owned()),
        }
    }
}

/// What it comes down to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Overall {
    /// The engine `auto` takes; `None` when none can run.
    pub engine: Option<super::EngineKind>,
    /// One line for a person.
    pub line: String,
}

/// The whole table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// By topic.
    pub rows: Vec<Row>,
    /// What it comes down to.
    pub overall: Overall,
}

impl Report {
    /// Judges `facts`; looks at nothing else.
    #[must_use]
    pub fn of(facts: &Facts) -> Self {
        let core = facts.core != Core::Absent;
        let mut rows = cpu::rows(&facts.cpu, core);
        rows.extend(host::rows(facts));
        let overall = match choose(facts) {
            Ok(Choice { engine, reason }) => Overall {
                engine: Some(engine),
                line: format!("VMs run on engine {engine}: {reason}"),
            },
            Err(NoEngine { reasons }) => Overall {
                engine: None,
                line: format!("No VM can run here: {}", reasons.join("; ")),
            },
        };
        Self { rows, overall }
    }
}
