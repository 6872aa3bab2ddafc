//! A place for one connection that waits for the loop. The loop's own queue has no bound: there, one connection for
//! each time a guest comes anew would wait while the loop is busy.

use std::sync::{Arc, Mutex, PoisonError};

/// See the module. Clones are the same place.
#[derive(Debug)]
pub struct Newest<T>(Arc<Mutex<Option<T>>>);

impl<T> Default for Newest<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Clone for Newest<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Newest<T> {
    /// Puts one in the place of the one that waits, which is dropped at once. True when none did: the loop is to
    /// be told.
    pub(super) fn put(&self, new: T) -> bool {
        let before = self.0.lock().unwrap_or_else(PoisonError::into_inner).replace(new);
        before.is_none()
    }

    /// The one that waits.
    pub(super) fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[cfg(test)]
mod tests {
    use super::Newest;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn of_a_flood_of_connections_one_waits_and_one_wake_is_sent() {
        let place = Newest::default();
        let mut theirs = Vec::new();
        let mut wakes = 0;
        for _ in 0..200 {
            let (ours, other) = UnixStream::pair().unwrap();
            wakes += u32::from(place.clone().put(ours));
            theirs.push(other);
        }
        assert_eq!(wakes, 1);
        let mut last = theirs.pop().unwrap();
        for mut other in theirs {
            assert_eq!(other.read(&mut [0]).unwrap(), 0, "it is held open");
        }
        last.set_nonblocking(true).unwrap();
        let open = last.read(&mut [0]).unwrap_err();
        assert_eq!(open.kind(), std::io::ErrorKind::WouldBlock);
        assert!(place.take().is_some() && place.take().is_none());
        assert!(place.put(UnixStream::pair().unwrap().0), "the next one is told of");
    }
}
