//! Noticing changes in folders, also in those that do not exist yet.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use inotify::{EventMask, EventStream, Inotify, WatchDescriptor, WatchMask, Watches};
use tokio_stream::StreamExt;

/// A burst is over when nothing has changed for this long.
const QUIET: Duration = Duration::from_millis(300);
/// A burst that does not end is looked at all the same.
const LONGEST_BURST: Duration = Duration::from_secs(2);
/// How often to look where not everything could be watched.
const BLIND: Duration = Duration::from_secs(60);
/// Most folders watched; the kernel has a limit for each user, which others need too.
const MOST: usize = 4096;

/// Which changes of a folder count.
#[derive(Debug)]
enum Interest {
    All,
    /// Only of these names: the way to a folder that is to come.
    Names(Vec<OsString>),
}

/// Folders to watch, and then the wait for a change in one. Made anew for every look at them: what is
/// asked for before a folder is read misses no change after that.
#[derive(Debug, Default)]
pub(super) struct Watch {
    inotify: Option<Inotify>,
    interests: HashMap<WatchDescriptor, Interest>,
    /// Not everything is watched.
    blind: bool,
}

/// What starts to happen when the watching is over.
#[derive(Debug)]
pub(super) struct Changes {
    events: Option<EventStream<Vec<u8>>>,
    interests: HashMap<WatchDescriptor, Interest>,
    blind: bool,
}

impl Watch {
    pub(super) fn new() -> Self {
        match Inotify::init() {
            Ok(inotify) => Self { inotify: Some(inotify), ..Self::default() },
            Err(error) => {
                tracing::warn!(%error, "folders cannot be watched: they are looked at now and then");
                Self { blind: true, ..Self::default() }
            }
        }
    }

    /// Watches a folder or, where there is none, for its coming.
    pub(super) fn folder(&mut self, path: &Path) {
        let mut missing: Option<OsString> = None;
        let mut place = Some(path.to_owned());
        while let Some(folder) = place {
            match self.add(&folder, missing.take()) {
                Ok(()) => return,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    missing = folder.file_name().map(OsString::from);
                    place = folder.parent().map(PathBuf::from);
                }
                // A file in its place; a folder of others.
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::NotADirectory | std::io::ErrorKind::PermissionDenied
                    ) =>
                {
                    return;
                }
                Err(error) => {
                    if !self.blind {
                        tracing::warn!(folder = %folder.display(), %error, "not watched");
                    }
                    self.blind = true;
                    return;
                }
            }
        }
    }

    fn add(&mut self, folder: &Path, name: Option<OsString>) -> std::io::Result<()> {
        let full = self.interests.len() >= MOST;
        let Some(mut watches) = self.inotify.as_ref().map(Inotify::watches) else {
            return Ok(());
        };
        if full {
            return Err(std::io::Error::other("too many folders"));
        }
        let descriptor = add(&mut watches, folder)?;
        match (self.interests.get_mut(&descriptor), name) {
            (Some(Interest::Names(names)), Some(name)) => names.push(name),
            (Some(Interest::All), Some(_)) => {}
            (_, None) => {
                self.interests.insert(descriptor, Interest::All);
            }
            (None, Some(name)) => {
                self.interests.insert(descriptor, Interest::Names(vec![name]));
            }
        }
        Ok(())
    }

    /// Everything that is to be watched has been said.
    pub(super) fn changes(self) -> Changes {
        let events = self.inotify.map(|inotify| inotify.into_event_stream(vec![0; 16 << 10]));
        let events = match events.transpose() {
            Ok(events) => events,
            Err(error) => {
                tracing::warn!(%error, "folders cannot be watched");
                None
            }
        };
        Changes { blind: self.blind || events.is_none(), events, interests: self.interests }
    }
}

fn add(watches: &mut Watches, folder: &Path) -> std::io::Result<WatchDescriptor> {
    let mask = WatchMask::CREATE
        | WatchMask::DELETE
        | WatchMask::MOVE
        | WatchMask::CLOSE_WRITE
        | WatchMask::ATTRIB
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF
        | WatchMask::ONLYDIR;
    watches.add(folder, mask)
}

impl Changes {
    /// Returns when something has changed and a burst of changes is over.
    pub(super) async fn next(&mut self) {
        self.one().await;
        let burst = async { while tokio::time::timeout(QUIET, self.one()).await.is_ok() {} };
        let _ = tokio::time::timeout(LONGEST_BURST, burst).await;
    }

    async fn one(&mut self) {
        let blind = self.blind;
        let waiting = async {
            match blind {
                true => tokio::time::sleep(BLIND).await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            () = waiting => {}
            () = self.event() => {}
        }
    }

    async fn event(&mut self) {
        while let Some(events) = &mut self.events {
            let Some(Ok(event)) = events.next().await else {
                self.events = None;
                self.blind = true;
                return;
            };
            // Some were lost: anything may have changed.
            if event.mask.contains(EventMask::Q_OVERFLOW) {
                return;
            }
            match (self.interests.get(&event.wd), &event.name) {
                (Some(Interest::Names(names)), Some(name)) if !names.contains(name) => {}
                (Some(_), _) => return,
                (None, _) => {}
            }
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn changes(changes: &mut Changes) -> bool {
        tokio::time::timeout(Duration::from_secs(1), changes.next()).await.is_ok()
    }

    #[tokio::test]
    async fn a_change_is_noticed_and_other_names_on_the_way_are_not() {
        let home = tempfile::tempdir().unwrap();
        let (here, to_come) = (home.path().join("here"), home.path().join("a/b/to-come"));
        std::fs::create_dir(&here).unwrap();
        let mut watch = Watch::new();
        watch.folder(&here);
        watch.folder(&to_come);
        let mut noticed = watch.changes();
        std::fs::write(home.path().join("other"), "x").unwrap();
        assert!(!changes(&mut noticed).await);
        std::fs::write(here.join("new"), "x").unwrap();
        assert!(changes(&mut noticed).await);
        std::fs::create_dir_all(&to_come).unwrap();
        assert!(changes(&mut noticed).await);
        assert!(!changes(&mut noticed).await);
        // Looked at again, it is there.
        let mut watch = Watch::new();
        watch.folder(&to_come);
        let mut noticed = watch.changes();
        std::fs::remove_dir(&to_come).unwrap();
        assert!(changes(&mut noticed).await);
    }
}
