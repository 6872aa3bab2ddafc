//! What this side offers, made when somebody pastes. Pastes at the same time share one making; nothing is
//! kept once all of them have it, because it may be a secret.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::timeout;

use crate::{Content, FetchError, Format, Offer, limits};

type Made = Option<Result<Arc<Content>, FetchError>>;

/// An offer and what is being made of it.
pub(crate) struct Making {
    pub(crate) offer: Offer,
    under_way: Mutex<HashMap<Format, watch::Receiver<Made>>>,
}

impl Making {
    pub(crate) fn new(offer: Offer) -> Arc<Self> {
        Arc::new(Self { offer, under_way: Mutex::default() })
    }

    /// The content, from the source or from the making that is under way. Runs within tokio.
    pub(crate) async fn content(
        self: &Arc<Self>,
        format: Format,
    ) -> Result<Arc<Content>, FetchError> {
        if !self.offer.formats.contains(&format) {
            return Err(FetchError::Gone);
        }
        let mut made = self.join(format);
        let failed = || FetchError::Failed("making it ended early".to_owned());
        let made = made.wait_for(Option::is_some).await.map_err(|_| failed())?;
        made.clone().unwrap_or_else(|| Err(failed()))
    }

    fn join(self: &Arc<Self>, format: Format) -> watch::Receiver<Made> {
        let mut under_way = self.under_way();
        if let Some(made) = under_way.get(&format) {
            return made.clone();
        }
        let (sender, receiver) = watch::channel(None);
        under_way.insert(format, receiver.clone());
        let entry = Entry { making: Arc::clone(self), format };
        tokio::spawn(async move {
            let made = timeout(limits::MAKE, entry.making.offer.source.fetch(format)).await;
            let made = made.unwrap_or(Err(FetchError::Late)).and_then(|content| {
                let files = matches!(content, Content::Files { .. });
                if files == (format == Format::Files) {
                    Ok(Arc::new(content))
                } else {
                    Err(FetchError::Failed("the source gave another format".to_owned()))
                }
            });
            drop(entry);
            sender.send_replace(Some(made));
        });
        receiver
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<Format, watch::Receiver<Made>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends with the task, also one that panics.
struct Entry {
    making: Arc<Making>,
    format: Format,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.making.under_way().remove(&self.format);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Boxed, Source};
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tokio::sync::Semaphore;

    /// Gives text when it is let.
    struct Gate {
        asked: Arc<AtomicU32>,
        open: Arc<Semaphore>,
    }

    impl Source for Gate {
        fn fetch(&self, format: Format) -> Boxed<Result<Content, FetchError>> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let open = Arc::clone(&self.open);
            Box::pin(async move {
                let _ = open.acquire().await;
                assert_ne!(format, Format::Html, "the source breaks");
                Ok(Content::Bytes(b"once".to_vec()))
            })
        }
    }

    fn gate() -> (Arc<AtomicU32>, Arc<Semaphore>, Arc<Making>) {
        let asked = Arc::new(AtomicU32::new(0));
        let open = Arc::new(Semaphore::new(0));
        let formats = BTreeSet::from([Format::Text, Format::Html, Format::Files]);
        let source = Arc::new(Gate { asked: Arc::clone(&asked), open: Arc::clone(&open) });
        (asked, open, Making::new(Offer { formats, secret: false, source }))
    }

    #[tokio::test]
    async fn pastes_at_the_same_time_share_one_making_and_later_ones_do_not() {
        let (asked, open, making) = gate();
        let pastes: Vec<_> = (0..50)
            .map(|_| {
                let making = Arc::clone(&making);
                tokio::spawn(async move { making.content(Format::Text).await })
            })
            .collect();
        tokio::task::yield_now().await;
        open.add_permits(1);
        for paste in pastes {
            let content = paste.await.unwrap().unwrap();
            assert!(*content == Content::Bytes(b"once".to_vec()));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        making.content(Format::Text).await.unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_source_that_breaks_or_gives_another_format_fails_its_paste_only() {
        let (asked, open, making) = gate();
        open.add_permits(1);
        assert_eq!(making.content(Format::Png).await.unwrap_err(), FetchError::Gone);
        for _ in 0..2 {
            let error = making.content(Format::Html).await.unwrap_err();
            assert!(matches!(error, FetchError::Failed(_)), "{error:?}");
            let error = making.content(Format::Files).await.unwrap_err();
            assert!(matches!(error, FetchError::Failed(_)), "{error:?}");
        }
        making.content(Format::Text).await.unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), 5);
    }
}
