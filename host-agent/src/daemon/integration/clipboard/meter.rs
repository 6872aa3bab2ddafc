//! How often and how much: what a guest does more than that is refused.

use std::time::{Duration, Instant};

/// Offers of a VM at once, and after which time another may come.
const OFFERS: (u32, Duration) = (20, Duration::from_millis(200));
/// Requests for content of a VM, likewise. A paste asks for several formats.
const FETCHES: (u32, Duration) = (40, Duration::from_millis(100));
/// Bytes of a VM, both ways, in a window.
const BYTES: u64 = 256 << 20;
const WINDOW: Duration = Duration::from_secs(60);

/// Of one VM.
#[derive(Debug)]
pub(super) struct Meter {
    offers: Bucket,
    fetches: Bucket,
    bytes: u64,
    since: Instant,
}

/// Fills with time up to its size.
#[derive(Debug)]
pub(super) struct Bucket {
    /// In which one more comes.
    each: Duration,
    size: Duration,
    /// What is in it, as the time in which it came.
    level: Duration,
    at: Instant,
}

impl Bucket {
    /// A full one.
    pub(super) fn new(size: u32, each: Duration, now: Instant) -> Self {
        Self { each, size: each * size, level: each * size, at: now }
    }

    /// Takes one out, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.at);
        self.level = self.level.saturating_add(gained).min(self.size);
        self.at += gained;
        let taken = self.level.checked_sub(self.each);
        self.level = taken.unwrap_or(self.level);
        taken.is_some()
    }
}

impl Meter {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            offers: Bucket::new(OFFERS.0, OFFERS.1, now),
            fetches: Bucket::new(FETCHES.0, FETCHES.1, now),
            bytes: 0,
            since: now,
        }
    }

    /// Whether another offer may come.
    pub(super) fn offer(&mut self, now: Instant) -> bool {
        self.offers.take(now)
    }

    /// Whether other content may be asked for.
    pub(super) fn fetch(&mut self, now: Instant) -> bool {
        self.fetches.take(now)
    }

    /// Whether more content may come. What is too much is known when it is there.
    pub(super) fn room(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= WINDOW {
            (self.bytes, self.since) = (0, now);
        }
        self.bytes < BYTES
    }

    pub(super) fn add(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_held_back_and_a_pause_makes_it_good() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        let taken = (0..1000).filter(|_| meter.offer(start)).count();
        assert_eq!(taken, 20);
        assert!(!meter.offer(start + Duration::from_millis(199)));
        assert!(meter.offer(start + Duration::from_millis(200)));
        assert!(!meter.offer(start + Duration::from_millis(201)));
        let later = start + Duration::from_secs(3600);
        assert_eq!((0..1000).filter(|_| meter.offer(later)).count(), 20);
        // The other meter is another.
        assert_eq!((0..1000).filter(|_| meter.fetch(later)).count(), 40);
    }

    #[test]
    fn bytes_are_counted_for_a_minute() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        for _ in 0..8 {
            assert!(meter.room(start));
            meter.add(32 << 20);
        }
        assert!(!meter.room(start + Duration::from_secs(59)));
        assert!(meter.room(start + Duration::from_secs(60)));
    }
}
