//! Time: the machine's time-stamp counter as nanoseconds. Division-free, because every access to a
//! timer of a guest's asks.

/// Nanoseconds of one second.
const SECOND: u64 = 1_000_000_000;

/// A clock that began at zero.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: u64,
    hertz: u64,
    /// Nanoseconds of one tick, and ticks of one nanosecond, times 2^32.
    nanoseconds: u64,
    ticks: u64,
}

impl Clock {
    /// A clock that began at counter value `start`; the counter has `hertz` ticks a second.
    #[must_use]
    pub fn new(start: u64, hertz: u64) -> Self {
        let hertz = hertz.max(1);
        let scaled = |number: u64, by: u64| {
            let scaled = (u128::from(number) << 32) / u128::from(by);
            u64::try_from(scaled).unwrap_or(u64::MAX)
        };
        Self { start, hertz, nanoseconds: scaled(SECOND, hertz), ticks: scaled(hertz, SECOND) }
    }

    /// Ticks a second.
    #[must_use]
    pub const fn hertz(&self) -> u64 {
        self.hertz
    }

    /// Nanoseconds since it began, at counter value `tsc`.
    #[must_use]
    pub fn nanoseconds(&self, tsc: u64) -> u64 {
        let ticks = tsc.saturating_sub(self.start);
        ((u128::from(ticks) * u128::from(self.nanoseconds)) >> 32) as u64
    }

    /// The counter value at which `nanoseconds` will surely have passed; never, when that is beyond
    /// the counter.
    #[must_use]
    pub fn tsc(&self, nanoseconds: u64) -> u64 {
        let ticks = self.duration(nanoseconds);
        // Rounded down twice: a little more, so that the moment is past and not almost there.
        let slack = 2 + (ticks >> 20);
        self.start.saturating_add(ticks).saturating_add(slack)
    }

    /// Ticks in so many nanoseconds.
    #[must_use]
    pub fn duration(&self, nanoseconds: u64) -> u64 {
        let ticks = (u128::from(nanoseconds) * u128::from(self.ticks)) >> 32;
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }
}

/// Nanoseconds since 1970 of a date and time, UTC; for the machine's clock at start.
#[must_use]
pub fn since_1970(year: u32, month: u32, day: u32, seconds_of_day: u32) -> i128 {
    // Days by the civil calendar, years beginning in March (Hinnant, "chrono-compatible low-level
    // date algorithms").
    let (month, day) = (month.clamp(1, 12), day.clamp(1, 31));
    let year = i64::from(year) - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = i64::from((153 * ((month + 9) % 12) + 2) / 5 + day - 1);
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    (i128::from(days) * 86400 + i128::from(seconds_of_day)) * i128::from(SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_has_passed_when_the_counter_reaches_its_value() {
        for hertz in [1_000_000, 999_999_999, 1_000_000_000, 3_700_000_123] {
            let clock = Clock::new(12345, hertz);
            for moment in [0, 1, 999, 1_000_000, 54_925_493, 86_400_000_000_000] {
                let tsc = clock.tsc(moment);
                assert!(clock.nanoseconds(tsc) >= moment, "{hertz} {moment}");
                let late = clock.nanoseconds(tsc) - moment;
                assert!(late <= 10_000 + moment / 500_000, "{hertz} {moment}: {late}");
            }
        }
        assert_eq!(Clock::new(0, 1_000_000_000).tsc(u64::MAX), u64::MAX);
        assert_eq!(Clock::new(100, 1_000_000_000).nanoseconds(0), 0);
    }

    #[test]
    fn dates_count_from_1970() {
        let second = i128::from(SECOND);
        assert_eq!(since_1970(1970, 1, 1, 0), 0);
        assert_eq!(since_1970(2000, 2, 29, 1), 951_782_401 * second);
        assert_eq!(since_1970(2026, 11, 26, 3600), 1_795_654_800 * second);
    }
}
