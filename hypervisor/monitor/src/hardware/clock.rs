//! The machine's CMOS clock (MC146818 data sheet; ICH9 13.6).

use super::port;
use crate::clock;

const INDEX: u16 = 0x70;
const DATA: u16 = 0x71;
const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
const UPDATING: u8 = 1 << 7;
const BINARY: u8 = 1 << 2;
const HOURS_24: u8 = 1 << 1;
const AFTERNOON: u8 = 1 << 7;
/// Reads before an update is taken to be over.
const PATIENCE: u32 = 100_000;

fn cell(index: u8) -> u8 {
    port::write_u8(INDEX, index);
    port::read_u8(DATA)
}

fn date() -> [u8; 6] {
    for _ in 0..PATIENCE {
        if cell(STATUS_A) & UPDATING == 0 {
            break;
        }
    }
    [0, 2, 4, 7, 8, 9].map(cell)
}

/// Nanoseconds since 1970 by the clock, which is taken to show UTC in this century.
#[must_use]
pub fn since_1970() -> i128 {
    let mut found = date();
    for _ in 0..4 {
        let again = date();
        if again == found {
            break;
        }
        found = again;
    }
    let mode = cell(STATUS_B);
    let value = |byte: u8| {
        if mode & BINARY != 0 {
            u32::from(byte)
        } else {
            u32::from(byte >> 4) * 10 + u32::from(byte & 0xf)
        }
    };
    let [second, minute, hour, day, month, year] = found;
    let hours = if mode & HOURS_24 != 0 {
        value(hour)
    } else {
        let noon = if hour & AFTERNOON != 0 { 12 } else { 0 };
        value(hour & !AFTERNOON) % 12 + noon
    };
    let seconds = hours * 3600 + value(minute) * 60 + value(second);
    clock::since_1970(2000 + value(year), value(month), value(day), seconds)
}
