//! Says what is to be said, in order and without a queue: of each clipboard only the latest counts.

use std::collections::BTreeMap;
use std::time::Duration;

use clipboard::Selection;
use tokio::sync::watch;

use crate::announcement::Announcement;

/// Pause before something that was refused for now is said again.
const PAUSE: Duration = Duration::from_secs(1);

/// The latest of each clipboard, and the how manieth it is.
pub type Wanted = BTreeMap<Selection, (u64, Announcement)>;

/// Where what is to be said is put.
#[derive(Debug, Default)]
pub struct Outbox(watch::Sender<Wanted>);

impl Outbox {
    /// Has it said, even if it was said before.
    pub fn put(&self, announcement: Announcement) {
        self.0.send_modify(|wanted| {
            let number = wanted.get(&announcement.selection).map_or(0, |(number, _)| number + 1);
            wanted.insert(announcement.selection, (number, announcement));
        });
    }

    /// For [`deliver`].
    #[must_use]
    pub fn wanted(&self) -> watch::Receiver<Wanted> {
        self.0.subscribe()
    }
}

/// How saying it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is said, or not worth saying again.
    Done,
    /// Another try is worth it.
    Again,
}

/// Has `send` say each change of what is wanted, until nobody wants anything any more.
pub async fn deliver<F>(
    mut wanted: watch::Receiver<Wanted>,
    mut send: impl FnMut(Announcement) -> F,
) where
    F: Future<Output = Sent>,
{
    let mut said = BTreeMap::new();
    loop {
        let now = wanted.borrow_and_update().clone();
        let mut again = false;
        for (selection, (number, announcement)) in now {
            if said.get(&selection) == Some(&number) {
                continue;
            }
            match send(announcement).await {
                Sent::Done => drop(said.insert(selection, number)),
                Sent::Again => again = true,
            }
        }
        let changed = if again {
            tokio::time::timeout(PAUSE, wanted.changed()).await.unwrap_or(Ok(()))
        } else {
            wanted.changed().await
        };
        if changed.is_err() {
            return;
        }
    }
}
