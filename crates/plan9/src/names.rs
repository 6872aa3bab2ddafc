//! The names at the root of a folder that a guest may see and change: those it was given, and those it
//! made itself, so that a program can save a file by writing a new one and renaming it.

use crate::identity::{Identity, facts};
use rustix::fs::Statx;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Names at once: more than any program makes beside a file, and few enough to list in one answer's time.
pub const MOST_NAMES: usize = 4096;

/// How a name came to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The host gave it.
    Given,
    /// The guest made this file.
    Made(Identity),
}

/// See the module. Copies share one list: each connection of a folder has one.
#[derive(Clone, Debug, Default)]
pub struct Names(Arc<Mutex<List>>);

/// The names, held while something is done with them: no other connection comes in between.
#[derive(Debug, Default)]
pub(crate) struct List(BTreeMap<Vec<u8>, Source>);

impl Names {
    /// With these given.
    pub fn new(given: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let names = given.into_iter().map(|name| (name, Source::Given));
        Self(Arc::new(Mutex::new(List(names.collect()))))
    }

    pub(crate) fn hold(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives one more. False when there are [`MOST_NAMES`].
    #[must_use]
    pub fn give(&self, name: &[u8]) -> bool {
        let mut list = self.hold();
        let room = list.0.len() < MOST_NAMES || list.0.contains_key(name);
        if room {
            list.0.insert(name.to_vec(), Source::Given);
        }
        room
    }
}

impl List {
    /// What stands at a name that the guest has, in the folder `root`: what it made itself must still be that.
    /// A file that the host put in its place is the host's.
    ///
    /// # Errors
    /// The guest does not have it, or nothing is there.
    pub(crate) fn find(&mut self, root: BorrowedFd<'_>, name: &[u8]) -> Result<Statx, Errno> {
        let source = *self.0.get(name).ok_or(Errno::NOENT)?;
        let found = facts(root, name);
        match (source, found) {
            (Source::Given, found) => found,
            (Source::Made(made), Ok(found)) if made == Identity::from(&found) => Ok(found),
            (Source::Made(_), Ok(_) | Err(Errno::NOENT)) => {
                self.0.remove(name);
                Err(Errno::NOENT)
            }
            (Source::Made(_), Err(errno)) => Err(errno),
        }
    }

    /// Whether the guest may use this name, and what must stand there if it is one that it made.
    pub(crate) fn known(
        &mut self,
        root: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<Option<Identity>, Errno> {
        match self.find(root, name) {
            // The server says what is wrong with what is given.
            _ if self.0.get(name) == Some(&Source::Given) => Ok(None),
            found => Ok(Some(Identity::from(&found?))),
        }
    }

    /// Whether there is room for one more name, after all that are no more are forgotten.
    pub(crate) fn has_room(&mut self, root: BorrowedFd<'_>) -> bool {
        if self.0.len() >= MOST_NAMES {
            for name in self.all() {
                // Those that are not there any more go.
                let _ = self.find(root, &name);
            }
        }
        self.0.len() < MOST_NAMES
    }

    /// The guest has made this file, where there was none.
    pub(crate) fn made(&mut self, name: &[u8], file: Identity) {
        let source = self.0.entry(name.to_vec()).or_insert(Source::Made(file));
        if *source != Source::Given {
            *source = Source::Made(file);
        }
    }

    /// The guest has removed the file of this name. What it made itself it loses: a file that the host puts
    /// there later is the host's. A given name stays, for its next file.
    pub(crate) fn removed(&mut self, name: &[u8]) {
        if self.0.get(name).is_some_and(|source| *source != Source::Given) {
            self.0.remove(name);
        }
    }

    /// All, in order.
    pub(crate) fn all(&self) -> Vec<Vec<u8>> {
        self.0.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::fd::AsFd;

    fn identity(root: &File, name: &[u8]) -> Identity {
        (&facts(root, name).unwrap()).into()
    }

    #[test]
    fn a_made_name_goes_with_its_file_and_a_given_one_stays() {
        let folder = tempfile::tempdir().unwrap();
        let root = File::open(folder.path()).unwrap();
        for name in ["given", "made"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let names = Names::new([b"given".to_vec()]);
        let mut list = names.hold();
        for name in [&b"made"[..], b"given"] {
            list.made(name, identity(&root, name));
        }
        assert_eq!(list.known(root.as_fd(), b"given"), Ok(None));
        assert_eq!(list.known(root.as_fd(), b"made"), Ok(Some(identity(&root, b"made"))));
        assert_eq!(list.known(root.as_fd(), b"other"), Err(Errno::NOENT));
        list.removed(b"made");
        list.removed(b"given");
        assert_eq!(list.all(), [b"given".to_vec()]);
    }

    #[test]
    fn what_the_host_puts_in_the_place_of_a_made_file_is_the_hosts() {
        let folder = tempfile::tempdir().unwrap();
        let root = File::open(folder.path()).unwrap();
        let path = folder.path().join("made");
        fs::write(&path, "the guest's").unwrap();
        let names = Names::default();
        let mut list = names.hold();
        list.made(b"made", identity(&root, b"made"));
        // Both are there at once, so that they differ in number.
        fs::write(folder.path().join("other"), "the host's").unwrap();
        fs::rename(folder.path().join("other"), &path).unwrap();
        assert_eq!(list.known(root.as_fd(), b"made"), Err(Errno::NOENT));
        assert!(list.all().is_empty());
    }

    #[test]
    fn there_is_an_end_to_names_and_those_without_a_file_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let root = File::open(folder.path()).unwrap();
        fs::write(folder.path().join("gone"), "").unwrap();
        let names = Names::default();
        for number in 1..MOST_NAMES {
            assert!(names.give(number.to_string().as_bytes()));
        }
        names.hold().made(b"gone", identity(&root, b"gone"));
        assert!(
            !names.hold().has_room(root.as_fd()) && !names.give(b"one more") && names.give(b"7")
        );
        fs::remove_file(folder.path().join("gone")).unwrap();
        assert!(names.hold().has_room(root.as_fd()) && names.give(b"one more"));
    }
}
