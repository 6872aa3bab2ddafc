//! Bounds on what a guest may do with a disk per second.

use std::time::{Duration, Instant};

/// Bounds per second; 0 means none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimit {
    /// Bytes read and written.
    pub bytes_per_second: u64,
    /// Requests.
    pub operations_per_second: u64,
}

/// Both bounds of one disk, shared by its queues.
#[derive(Debug)]
pub(super) struct Limiter {
    bytes: Bucket,
    operations: Bucket,
}

impl Limiter {
    pub(super) fn new(limit: RateLimit, now: Instant) -> Self {
        Self {
            bytes: Bucket::new(limit.bytes_per_second, now),
            operations: Bucket::new(limit.operations_per_second, now),
        }
    }

    /// When the next request may begin; `None` for now.
    pub(super) fn earliest(&mut self, now: Instant) -> Option<Instant> {
        let waits = [self.bytes.wait(now), self.operations.wait(now)];
        waits.into_iter().flatten().max().map(|wait| now + wait)
    }

    /// One request of so many bytes begins.
    pub(super) fn charge(&mut self, bytes: u64) {
        self.bytes.charge(bytes);
        self.operations.charge(1);
    }
}

/// A token bucket that may go into debt: a request begins while the bucket is not in debt and is
/// charged in full, and the next one waits exactly until the debt is paid. So requests larger than
/// the bucket work, and the long-run rate is the bound.
#[derive(Debug)]
struct Bucket {
    rate: u64,
    /// Billionths of a unit, so that refilling by nanoseconds loses nothing.
    level: i128,
    at: Instant,
}

const NANOS: i128 = 1_000_000_000;
/// What may be saved up for a burst: this part of a second.
const BURST: i128 = 10;

impl Bucket {
    fn new(rate: u64, now: Instant) -> Self {
        Self { rate, level: i128::from(rate) * NANOS / BURST, at: now }
    }

    fn wait(&mut self, now: Instant) -> Option<Duration> {
        if self.rate == 0 {
            return None;
        }
        let rate = i128::from(self.rate);
        let elapsed = now.saturating_duration_since(self.at).as_nanos();
        // A level far in debt plus centuries of refill still fit 127 bits.
        let refill = rate.saturating_mul(i128::try_from(elapsed).unwrap_or(i128::MAX));
        self.level = self.level.saturating_add(refill).min(rate * NANOS / BURST);
        self.at = self.at.max(now);
        if self.level >= 0 {
            return None;
        }
        let nanos = (-self.level + rate - 1) / rate;
        Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    fn charge(&mut self, units: u64) {
        if self.rate != 0 {
            self.level -= i128::from(units) * NANOS;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn the_long_run_rate_is_the_bound() {
        let start = Instant::now();
        let limit = RateLimit { bytes_per_second: 1_000_000, operations_per_second: 0 };
        let (mut limiter, mut now) = (Limiter::new(limit, start), start);
        // A burst of a tenth of a second is free; then 300 requests of 4000 bytes.
        for _ in 0..325 {
            while let Some(earliest) = limiter.earliest(now) {
                now = earliest;
            }
            limiter.charge(4000);
        }
        assert_eq!(now - start, ms(1200) - Duration::from_millis(4));
    }

    #[test]
    fn a_request_larger_than_the_burst_is_paid_for_afterwards() {
        let start = Instant::now();
        let limit = RateLimit { bytes_per_second: 1000, operations_per_second: 0 };
        let mut limiter = Limiter::new(limit, start);
        assert_eq!(limiter.earliest(start), None);
        limiter.charge(5000);
        assert_eq!(limiter.earliest(start), Some(start + ms(4900)));
        assert_eq!(limiter.earliest(start + ms(4899)), Some(start + ms(4900)));
        assert_eq!(limiter.earliest(start + ms(4900)), None);
    }

    #[test]
    fn the_stricter_bound_counts_and_idle_time_saves_up_no_more_than_a_burst() {
        let start = Instant::now();
        let limit = RateLimit { bytes_per_second: 1 << 40, operations_per_second: 10 };
        let mut limiter = Limiter::new(limit, start);
        let later = start + Duration::from_secs(3600);
        assert_eq!(limiter.earliest(later), None);
        limiter.charge(1);
        assert_eq!(limiter.earliest(later), None, "the burst of one operation");
        limiter.charge(1);
        assert_eq!(limiter.earliest(later), Some(later + ms(100)));
        let mut none = Limiter::new(RateLimit::default(), start);
        none.charge(u64::MAX);
        assert_eq!(none.earliest(start), None);
    }
}
