//! Counting what is refused or cut: each kind is logged at its first time and then ever more rarely, so
//! that a hostile program fills no log.

use std::collections::BTreeMap;

/// How often what was refused.
#[derive(Debug, Default)]
pub struct Refusals {
    counts: BTreeMap<&'static str, u64>,
}

impl Refusals {
    /// Takes note of one.
    pub fn note(&mut self, what: &'static str) {
        let count = self.counts.entry(what).or_default();
        *count += 1;
        if count.is_power_of_two() {
            tracing::warn!(what, count = *count, "refused or cut");
        }
    }

    /// How often that was.
    #[must_use]
    pub fn of(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or_default()
    }
}
