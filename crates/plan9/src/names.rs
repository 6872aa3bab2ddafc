//! The names at the root of a folder that a guest may see and change: those it was given, and those it
//! made itself, so that a program can save a file by writing a new one and renaming it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Names at once: more than any program makes beside a file, and few enough to list in one answer's time.
pub const MOST_NAMES: usize = 4096;

/// How a name came to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The host gave it.
    Given,
    /// The guest made it.
    Made,
}

/// See the module. Copies share one list: each connection of a folder has one.
#[derive(Clone, Debug, Default)]
pub struct Names(Arc<Mutex<BTreeMap<Vec<u8>, Source>>>);

impl Names {
    /// With these given.
    pub fn new(given: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let names = given.into_iter().map(|name| (name, Source::Given));
        Self(Arc::new(Mutex::new(names.collect())))
    }

    fn list(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, Source>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives one more. False when there are [`MOST_NAMES`].
    #[must_use]
    pub fn give(&self, name: &[u8]) -> bool {
        let mut list = self.list();
        let room = list.len() < MOST_NAMES || list.contains_key(name);
        if room {
            list.insert(name.to_vec(), Source::Given);
        }
        room
    }

    /// Whether the guest may use this name.
    #[must_use]
    pub fn has(&self, name: &[u8]) -> bool {
        self.list().contains_key(name)
    }

    /// Whether the guest may make one more.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.list().len() < MOST_NAMES
    }

    /// The guest has made a file of this name where there was none.
    pub(crate) fn made(&self, name: &[u8]) {
        self.list().entry(name.to_vec()).or_insert(Source::Made);
    }

    /// The guest has removed the file of this name. What it made itself it loses: a file that the host puts
    /// there later is the host's. A given name stays, for its next file.
    pub(crate) fn removed(&self, name: &[u8]) {
        let mut list = self.list();
        if list.get(name) == Some(&Source::Made) {
            list.remove(name);
        }
    }

    /// All, in order.
    pub(crate) fn all(&self) -> Vec<Vec<u8>> {
        self.list().keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_name_goes_with_its_file_and_a_given_one_stays() {
        let names = Names::new([b"given".to_vec()]);
        names.made(b"made");
        names.made(b"given");
        assert!(names.has(b"made") && names.has(b"given") && !names.has(b"other"));
        names.removed(b"made");
        names.removed(b"given");
        assert_eq!(names.all(), [b"given".to_vec()]);
    }

    #[test]
    fn there_is_an_end_to_names() {
        let names = Names::default();
        for number in 0..MOST_NAMES {
            assert!(names.give(number.to_string().as_bytes()));
        }
        assert!(!names.has_room() && !names.give(b"one more") && names.give(b"7"));
    }
}
