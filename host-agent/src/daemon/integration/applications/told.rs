//! What agents have told, how often they may, and what is kept of it on disk.

use super::{Held, Shared};
use crate::launchers::list::{check, digest};
use crate::problem::Problem;
use crate::untrusted::Untrusted;
use definition::{Existing, write_atomically};
use prost::Message;
use proto::v1::{Application, ApplicationList};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Applications of all sessions together.
const MOST_APPLICATIONS: usize = 2048;
/// How long what is rare is counted.
const WINDOW: Duration = Duration::from_secs(60);

/// The list of one agent, checked.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) digest: [u8; 32],
    /// Sorted by id.
    pub(super) applications: Vec<Application>,
}

impl Told {
    pub(super) fn new(applications: Vec<Application>) -> Self {
        Self { digest: digest(&applications), applications }
    }

    pub(super) fn has(&self, id: &str) -> bool {
        self.applications.binary_search_by(|application| application.id.as_str().cmp(id)).is_ok()
    }
}

/// All sessions' applications, each once, sorted by id: where two have one, it is the first one's.
pub(super) fn merge<'a>(lists: impl Iterator<Item = &'a Told>) -> Vec<Application> {
    let mut merged = BTreeMap::new();
    for application in lists.flat_map(|told| &told.applications) {
        if merged.len() < MOST_APPLICATIONS || merged.contains_key(application.id.as_str()) {
            merged.entry(application.id.as_str()).or_insert(application);
        }
    }
    merged.into_values().cloned().collect()
}

/// How often something has come in the present window, where `MOST` may.
#[derive(Debug, Default)]
pub(super) struct Pace<const MOST: u32> {
    window: Option<Instant>,
    count: u32,
    refused: u32,
}

/// Whether one may come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Paced {
    /// It may; so many were refused in the window before.
    Go { refused: u32 },
    /// It is the first that is refused, until then.
    First { until: Instant },
    /// It is refused as well.
    Stop,
}

impl<const MOST: u32> Pace<MOST> {
    pub(super) fn take(&mut self, now: Instant) -> Paced {
        let mut refused = 0;
        let window = match self.window {
            Some(window) if now.duration_since(window) < WINDOW => window,
            _ => {
                refused = std::mem::take(&mut self.refused);
                self.count = 0;
                *self.window.insert(now)
            }
        };
        if self.count < MOST {
            self.count += 1;
            return Paced::Go { refused };
        }
        self.refused += 1;
        if self.refused == 1 { Paced::First { until: window + WINDOW } } else { Paced::Stop }
    }
}

impl Shared {
    fn memory(&self) -> PathBuf {
        self.about.places.state_of(&self.about.vm).join("applications.pb")
    }

    /// Has what was kept on disk be known. It was a guest's and is checked as if it came from there.
    pub(super) fn recall(&self, held: &mut Held) {
        if std::mem::replace(&mut held.recalled, true) {
            return;
        }
        // Of a VM that never told there is none.
        let Ok(bytes) = std::fs::read(self.memory()) else {
            return;
        };
        let list = ApplicationList::decode(&bytes[..]).map_err(Problem::failed);
        match list.and_then(|list| check(Untrusted::new(list)).map_err(Problem::failed)) {
            Ok(checked) => held.merged = checked.applications,
            Err(problem) => {
                tracing::warn!(vm = self.about.vm, %problem, "remembered applications are lost");
            }
        }
    }

    /// Keeps the list on disk.
    pub(super) fn remember(&self, applications: Vec<Application>) {
        let digest = digest(&applications).to_vec();
        let bytes = ApplicationList { generation: 0, digest, applications }.encode_to_vec();
        if let Err(problem) = write_atomically(&self.memory(), &bytes, Existing::Replace) {
            tracing::warn!(vm = self.about.vm, %problem, "applications are not remembered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(ids: &[&str], class: &str) -> Told {
        let one = |id: &&str| Application {
            id: (*id).to_owned(),
            startup_class: class.to_owned(),
            ..Application::default()
        };
        Told::new(ids.iter().map(one).collect())
    }

    #[test]
    fn the_first_session_that_has_an_application_tells_what_it_is() {
        let lists = [told(&["a", "c"], "1"), told(&["a", "b"], "2")];
        let merged = merge(lists.iter());
        let merged: Vec<_> =
            merged.iter().map(|a| (a.id.as_str(), a.startup_class.as_str())).collect();
        assert_eq!(merged, [("a", "1"), ("b", "2"), ("c", "1")]);
        assert!(lists[0].has("c") && !lists[0].has("b"));
    }

    #[test]
    fn many_sessions_have_no_more_applications_than_one() {
        let ids =
            |first: usize| (first..first + 2048).map(|n| format!("{n:08}")).collect::<Vec<_>>();
        let lists = [0, 1000].map(|first| {
            let ids = ids(first);
            told(&ids.iter().map(String::as_str).collect::<Vec<_>>(), "")
        });
        assert_eq!(merge(lists.iter()).len(), MOST_APPLICATIONS);
    }

    #[test]
    fn what_comes_too_fast_is_refused_until_the_window_is_over() {
        let mut pace = Pace::<3>::default();
        let start = Instant::now();
        for _ in 0..3 {
            assert_eq!(pace.take(start), Paced::Go { refused: 0 });
        }
        assert_eq!(pace.take(start), Paced::First { until: start + WINDOW });
        assert_eq!(pace.take(start + WINDOW / 2), Paced::Stop);
        assert_eq!(pace.take(start + WINDOW), Paced::Go { refused: 2 });
        assert_eq!(pace.take(start + WINDOW), Paced::Go { refused: 0 });
    }
}
