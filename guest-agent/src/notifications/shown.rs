//! The notifications that the host shows for this session, and whose they are.

use std::collections::BTreeMap;

/// Most at once; the oldest gives way.
const MOST: usize = 128;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Shown {
    last: u32,
    /// From the number to the unique bus name of the program that asked for it.
    owners: BTreeMap<u32, String>,
}

impl Shown {
    /// The number for what `owner` shows: the one it replaces where that is its own, else a new one. Also
    /// the number that had to give way.
    pub(super) fn add(&mut self, owner: &str, replaces: u32) -> (u32, Option<u32>) {
        if self.owners.get(&replaces).is_some_and(|held| held == owner) {
            return (replaces, None);
        }
        // Never 0, which means none; one in use is left out after four thousand millions.
        loop {
            self.last = self.last.checked_add(1).unwrap_or(1);
            if !self.owners.contains_key(&self.last) {
                break;
            }
        }
        self.owners.insert(self.last, owner.to_owned());
        let given_way = (self.owners.len() > MOST).then(|| self.oldest()).flatten();
        if let Some(oldest) = given_way {
            self.owners.remove(&oldest);
        }
        (self.last, given_way)
    }

    /// The one that comes first in the order in which numbers are given.
    fn oldest(&self) -> Option<u32> {
        let after = self.owners.range(self.last.saturating_add(1)..).next();
        after.or_else(|| self.owners.iter().next()).map(|(id, _)| *id)
    }

    pub(super) fn owner(&self, id: u32) -> Option<String> {
        self.owners.get(&id).cloned()
    }

    pub(super) fn remove(&mut self, id: u32) -> Option<String> {
        self.owners.remove(&id)
    }

    /// All are gone; numbers go on, so that none means two things.
    pub(super) fn clear(&mut self) {
        self.owners.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_replaces_its_own_and_no_others() {
        let mut shown = Shown::default();
        assert_eq!(shown.add(":1.1", 0), (1, None));
        assert_eq!(shown.add(":1.1", 1), (1, None));
        assert_eq!(shown.add(":1.2", 1), (2, None));
        assert_eq!(shown.add(":1.2", 77), (3, None));
        assert_eq!(shown.remove(1).as_deref(), Some(":1.1"));
        assert_eq!(shown.add(":1.1", 1), (4, None));
    }

    #[test]
    fn the_oldest_gives_way_also_after_the_numbers_begin_again() {
        let mut shown = Shown { last: u32::MAX - 2, ..Shown::default() };
        for _ in 0..MOST {
            assert_eq!(shown.add(":1.1", 0).1, None);
        }
        assert_eq!(shown.add(":1.1", 0), (u32::try_from(MOST).unwrap() - 1, Some(u32::MAX - 1)));
        assert_eq!(shown.add(":1.1", 0).1, Some(u32::MAX));
        assert_eq!(shown.add(":1.1", 0).1, Some(1));
        assert_eq!(shown.owners.len(), MOST);
    }
}
