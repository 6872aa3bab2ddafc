//! The way of changes out of a backend's thread: the latest state of each selection wins, and the thread
//! never waits for the reader.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};

use crate::{Offered, Selection};

/// The backend's end. Dropped, the reader gets what is left and then the end.
#[derive(Debug)]
pub(crate) struct Changes(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    latest: Mutex<Latest>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Latest {
    clipboard: Option<Offered>,
    primary: Option<Offered>,
    ended: bool,
}

impl Changes {
    /// The two ends, with a task between them.
    pub(crate) fn channel(runtime: &Handle) -> (Self, mpsc::Receiver<Offered>) {
        let shared = Arc::new(Shared::default());
        // One that is being read may be old; whatever else happened since is one more.
        let (sender, receiver) = mpsc::channel(1);
        runtime.spawn(forward(Arc::clone(&shared), sender));
        (Self(shared), receiver)
    }

    /// Replaces what was not read yet of the same selection.
    pub(crate) fn put(&self, offered: Offered) {
        let mut latest = self.0.latest();
        match offered.selection {
            Selection::Clipboard => latest.clipboard = Some(offered),
            Selection::Primary => latest.primary = Some(offered),
        }
        self.0.changed.notify_one();
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.0.latest().ended = true;
        self.0.changed.notify_one();
    }
}

impl Shared {
    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn forward(shared: Arc<Shared>, sender: mpsc::Sender<Offered>) {
    // The place first, then the newest state to put there.
    while let Ok(place) = sender.reserve().await {
        let next = loop {
            {
                let mut latest = shared.latest();
                if let Some(next) = latest.clipboard.take().or_else(|| latest.primary.take()) {
                    break next;
                }
                if latest.ended {
                    return;
                }
            }
            tokio::select! {
                () = shared.changed.notified() => {}
                () = sender.closed() => return,
            }
        };
        place.send(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Format;

    fn of(selection: Selection, formats: &[Format]) -> Offered {
        let formats = formats.iter().copied().collect();
        Offered { selection, number: 0, formats, secret: false }
    }

    #[tokio::test]
    async fn the_latest_state_of_each_selection_wins_and_the_end_comes_last() {
        let (changes, mut receiver) = Changes::channel(&Handle::current());
        let last = of(Selection::Clipboard, &[Format::Png]);
        let primary = of(Selection::Primary, &[Format::Text]);
        for _ in 0..1000 {
            changes.put(of(Selection::Clipboard, &[Format::Text]));
            changes.put(of(Selection::Clipboard, &[Format::Text, Format::Html]));
        }
        changes.put(primary.clone());
        changes.put(last.clone());
        drop(changes);
        let mut seen = Vec::new();
        while let Some(offered) = receiver.recv().await {
            seen.push(offered);
        }
        // Nothing ran between, so that nothing but the last state of each is left.
        assert_eq!(seen, [last, primary]);
    }

    #[tokio::test]
    async fn a_reader_that_does_not_read_holds_nobody_up() {
        let (changes, mut receiver) = Changes::channel(&Handle::current());
        for round in 0..100 {
            let format = if round % 2 == 0 { Format::Text } else { Format::Html };
            changes.put(of(Selection::Clipboard, &[format]));
            tokio::task::yield_now().await;
        }
        drop(changes);
        let mut seen = Vec::new();
        while let Some(offered) = receiver.recv().await {
            seen.push(offered);
        }
        assert!(seen.len() <= 3, "{seen:?}");
        assert_eq!(seen.last(), Some(&of(Selection::Clipboard, &[Format::Html])));
    }
}
