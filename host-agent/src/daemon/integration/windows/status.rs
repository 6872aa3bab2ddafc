//! What a compositor last said of how it fares. One that is busy costs those who ask for many VMs, again and again,
//! the wait for it once: until it has answered what it owes, they get what it said before.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What is shown of a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    /// An agent tells of windows.
    pub(super) guest: bool,
    /// Windows that are open.
    pub(super) windows: u32,
    /// What draws them.
    pub(super) renderer: String,
    /// What was refused of the guest, by reason.
    pub(super) refused: BTreeMap<String, u64>,
}

/// See the module. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Last(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    shown: Shown,
    /// Questions whose askers no longer wait.
    owed: u32,
}

impl Last {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to `question`, which ends by itself and gives none where the compositor has gone; the last one if
    /// this takes longer than `patience`, or an earlier question still goes on.
    pub(super) async fn ask(
        &self,
        question: impl Future<Output = Option<Shown>> + Send + 'static,
        patience: Duration,
    ) -> Shown {
        let before = {
            let state = self.lock();
            if state.owed > 0 {
                return state.shown.clone();
            }
            state.shown.clone()
        };
        let own = self.clone();
        let mut asking = tokio::spawn(async move {
            let shown = question.await.unwrap_or_default();
            own.lock().shown.clone_from(&shown);
            shown
        });
        match tokio::time::timeout(patience, &mut asking).await {
            Ok(answered) => answered.unwrap_or_default(),
            Err(_) => {
                self.lock().owed += 1;
                let own = self.clone();
                tokio::spawn(async move {
                    // However it ends: nothing is owed any more.
                    let _ = asking.await;
                    own.lock().owed -= 1;
                });
                before
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn a_busy_compositor_is_waited_for_once_and_the_last_answer_stands_until_the_next() {
        let last = Last::default();
        let first = Shown { guest: true, windows: 3, ..Shown::default() };
        let answered = Some(first.clone());
        assert_eq!(last.ask(async move { answered }, LONG).await, first);
        let (answer, answered) = oneshot::channel();
        let slow = async move { answered.await.ok() };
        assert_eq!(last.ask(slow, SHORT).await, first);
        // Nobody asks, and so nobody waits.
        for _ in 0..100 {
            let asked = std::future::pending();
            assert_eq!(last.ask(asked, LONG).await, first);
        }
        let second = Shown { windows: 4, ..first.clone() };
        answer.send(second.clone()).unwrap();
        while last.lock().owed > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(last.lock().shown, second);
        // One that has gone shows nothing.
        assert_eq!(last.ask(async { None }, LONG).await, Shown::default());
    }
}
