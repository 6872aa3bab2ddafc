//! What came for a channel and is not read yet. Kept as bytes, whatever frames they came in: a window bounds
//! bytes, and a frame of one byte must not take more room than its byte.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::frame::MOST_DATA;

/// See the module. One task puts, one takes.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    waiting: Mutex<Waiting>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: VecDeque<u8>,
    ended: bool,
}

impl Inbox {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// More; how much there may be is for the caller to see to.
    pub(super) fn put(&self, data: &[u8]) {
        self.waiting().bytes.extend(data);
        self.more.notify_one();
    }

    /// No more will come.
    pub(super) fn end(&self) {
        self.waiting().ended = true;
        self.more.notify_one();
    }

    /// Waits for bytes and moves up to [`MOST_DATA`] of them to the empty `into`, which stays empty at the end.
    pub(super) async fn take(&self, into: &mut Vec<u8>) {
        loop {
            {
                let mut waiting = self.waiting();
                let count = waiting.bytes.len().min(MOST_DATA);
                into.extend(waiting.bytes.drain(..count));
                if count > 0 || waiting.ended {
                    return;
                }
            }
            self.more.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_put_is_taken_in_order_and_then_the_end() {
        let inbox = Inbox::default();
        let sent: Vec<u8> = (0..3 * MOST_DATA).map(|number| (number % 251) as u8).collect();
        sent.chunks(1).for_each(|byte| inbox.put(byte));
        inbox.end();
        let (mut got, mut piece) = (Vec::new(), Vec::new());
        loop {
            inbox.take(&mut piece).await;
            if piece.is_empty() {
                break;
            }
            assert!(piece.len() <= MOST_DATA);
            got.append(&mut piece);
        }
        assert!(got == sent);
    }

    #[tokio::test]
    async fn one_who_waits_is_woken() {
        let inbox = Inbox::default();
        let mut taken = Vec::new();
        tokio::join!(inbox.take(&mut taken), async { inbox.put(b"x") });
        assert_eq!(taken, b"x");
        taken.clear();
        tokio::join!(inbox.take(&mut taken), async { inbox.end() });
        assert!(taken.is_empty());
    }
}
