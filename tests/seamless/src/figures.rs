//! Figures of several turns, and how they are printed.

use std::time::Duration;

/// Durations of one thing on one side.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// In milliseconds: that which `percent` of them do not exceed; 0 where there are none.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        sorted.get(rank).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
    }
}

/// Numbers of which the middle counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turns(Vec<f64>);

impl Turns {
    pub(crate) fn add(&mut self, number: f64) {
        self.0.push(number);
    }

    /// The middle one, of an even count the lower of the two; 0 where there are none.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
    }

    pub(crate) fn largest(&self) -> f64 {
        self.0.iter().copied().fold(0.0, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::{Times, Turns};
    use std::time::Duration;

    #[test]
    fn a_percentile_is_one_of_the_times() {
        let mut times = Times::default();
        assert!(times.percentile(50).abs() < f64::EPSILON);
        for milliseconds in [5, 1, 4, 2, 3, 10, 9, 8, 7, 6] {
            times.add(Duration::from_millis(milliseconds));
        }
        assert!((times.percentile(50) - 5.0).abs() < 1e-9);
        assert!((times.percentile(90) - 9.0).abs() < 1e-9);
        assert!((times.percentile(100) - 10.0).abs() < 1e-9);
        assert_eq!(times.count(), 10);
    }

    #[test]
    fn the_middle_turn_counts() {
        let mut turns = Turns::default();
        for number in [30.0, 10.0, 20.0, 40.0] {
            turns.add(number);
        }
        assert!((turns.median() - 20.0).abs() < 1e-9);
        assert!((turns.largest() - 40.0).abs() < 1e-9);
    }
}
