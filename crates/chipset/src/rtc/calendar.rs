//! Dates of the proleptic Gregorian calendar, counted from 1970.

/// Seconds in a day; the RTC knows no leap seconds.
pub(super) const SECONDS_PER_DAY: i64 = 86_400;

/// Years are counted from March, so that the leap day is the last of its year, in eras of 400
/// years, after which the calendar repeats.
const DAYS_PER_ERA: i64 = 146_097;
/// Days from 0000-03-01 to 1970-01-01.
const EPOCH: i64 = 719_468;

/// A date and time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DateTime {
    pub(super) year: i64,
    /// 1 to 12.
    pub(super) month: u8,
    /// 1 to 31.
    pub(super) day: u8,
    /// 0 (Sunday) to 6.
    pub(super) weekday: u8,
    pub(super) hour: u8,
    pub(super) minute: u8,
    pub(super) second: u8,
}

/// Day number of a date; days beyond the month's end run into the next month.
fn day_number(year: i64, month: u8, day: u8) -> i64 {
    let month = i64::from(month);
    let (year, from_march) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * from_march + 2) / 5 + i64::from(day) - 1;
    era * DAYS_PER_ERA + of_era * 365 + of_era / 4 - of_era / 100 + of_year - EPOCH
}

impl DateTime {
    /// Seconds since 1970-01-01 00:00.
    pub(super) fn to_seconds(self) -> i64 {
        let of_day =
            i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second);
        day_number(self.year, self.month, self.day) * SECONDS_PER_DAY + of_day
    }

    /// The date and time `seconds` after 1970-01-01 00:00.
    pub(super) fn from_seconds(seconds: i64) -> Self {
        let (number, of_day) =
            (seconds.div_euclid(SECONDS_PER_DAY), seconds.rem_euclid(SECONDS_PER_DAY));
        let shifted = number.saturating_add(EPOCH);
        let (era, day_of_era) =
            (shifted.div_euclid(DAYS_PER_ERA), shifted.rem_euclid(DAYS_PER_ERA));
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        Self {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month: month as u8,
            day: (day_of_year - (153 * from_march + 2) / 5 + 1) as u8,
            weekday: number.saturating_add(4).rem_euclid(7) as u8,
            hour: (of_day / 3600) as u8,
            minute: (of_day / 60 % 60) as u8,
            second: (of_day % 60) as u8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates_come_out_right() {
        for (seconds, date) in [
            (0, (1970, 1, 1, 4)),
            (951_782_400, (2000, 2, 29, 2)),
            (1_795_219_200, (2026, 11, 21, 6)),
            (4_107_542_400, (2100, 3, 1, 1)),
            (-86_400, (1969, 12, 31, 3)),
        ] {
            let got = DateTime::from_seconds(seconds);
            assert_eq!((got.year, got.month, got.day, got.weekday), date);
            assert_eq!(got.to_seconds(), seconds);
        }
    }

    #[test]
    fn every_day_of_four_centuries_converts_back() {
        for day in -20_000..150_000 {
            let seconds = day * SECONDS_PER_DAY + 12_345;
            assert_eq!(DateTime::from_seconds(seconds).to_seconds(), seconds);
        }
    }
}
