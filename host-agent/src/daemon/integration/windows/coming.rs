//! How often a VM's agents may connect to have windows shown: each time costs a compositor its threads, and the
//! desktop its windows.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Connections within [`WINDOW`].
const MOST: u32 = 2;
const WINDOW: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Coming(Mutex<Option<(Instant, u32)>>);

impl Coming {
    /// Whether one more may come now; it counts then.
    pub(super) fn may(&self, now: Instant) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *state {
            Some((since, count)) if now.saturating_duration_since(*since) < WINDOW => {
                *count = count.saturating_add(1);
                *count <= MOST
            }
            state => {
                *state = Some((now, 1));
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn two_come_in_a_second_however_many_try() {
        let (coming, start) = (Coming::default(), Instant::now());
        let came = (0..1000).filter(|_| coming.may(start)).count();
        assert_eq!(came, MOST as usize);
        let last = start + WINDOW - Duration::from_millis(1);
        assert!(!coming.may(last));
        assert!(coming.may(start + WINDOW) && coming.may(start + WINDOW + WINDOW / 2));
        assert!(!coming.may(start + WINDOW + WINDOW / 2));
    }

    #[tokio::test]
    async fn an_agent_that_comes_anew_without_end_is_turned_away() {
        use crate::daemon::integration::{About, Windows};
        let folder = tempfile::tempdir().unwrap();
        let places = definition::Places::below(folder.path());
        let store = definition::Store::new(places.definitions());
        let about = About { vm: "vm".to_owned(), places, store, desktop: Arc::default() };
        let windows = Windows::new(Arc::new(about));
        // As if both came an hour from now: this test may take that long.
        assert!(windows.coming.may(Instant::now() + Duration::from_secs(3600)));
        assert!(windows.coming.may(Instant::now() + Duration::from_secs(3600)));
        let problem = windows.place().await.unwrap_err().to_string();
        assert!(problem.contains("too often"), "{problem}");
    }
}
