//! The real-time clock and CMOS memory of a PC (Motorola MC146818A data sheet; ports and use of the
//! memory as in ICH9 13.6 and the PC BIOS convention).
//!
//! Time of day comes from the caller's [`WallClock`] plus what the guest set; the periodic interrupt
//! runs on machine time. Deviations: the update itself takes no time, only its announcement (UIP)
//! does; the day of the week follows the date; no square-wave output, no daylight saving switch.

mod calendar;
mod saved;

use crate::device::{Device, Line, PortDevice, PortRange, Timed, read_bytes, write_bytes};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use calendar::{DateTime, SECONDS_PER_DAY};
use serde::{Deserialize, Serialize};

/// Bytes of CMOS memory, clock registers included.
const CELLS: usize = 128;
const NANOSECONDS: i128 = 1_000_000_000;
/// UIP announces an update this long before it (MC146818A, "update cycle": 244 microseconds).
const UPDATE_NOTICE: i128 = 244_000;
/// The oscillator's frequency, from which the periodic rates are divided.
const OSCILLATOR: u128 = 32_768;

// Clock registers (MC146818A, figure 14). The century cell is the one ACPI tables name.
const SECOND: u8 = 0x00;
const SECOND_ALARM: u8 = 0x01;
const MINUTE: u8 = 0x02;
const MINUTE_ALARM: u8 = 0x03;
const HOUR: u8 = 0x04;
const HOUR_ALARM: u8 = 0x05;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const REGISTER_A: u8 = 0x0a;
const REGISTER_B: u8 = 0x0b;
const REGISTER_C: u8 = 0x0c;
const REGISTER_D: u8 = 0x0d;
/// Cell of the century, for the FADT's CENTURY field (ACPI 6.5 table 5.9).
pub const RTC_CENTURY_CELL: u8 = 0x32;
/// Cells of the clock, in the order [`Rtc::encoded`] gives them.
const TIME_CELLS: [u8; 8] = [SECOND, MINUTE, HOUR, WEEKDAY, DAY, MONTH, YEAR, RTC_CENTURY_CELL];

const A_UPDATE_IN_PROGRESS: u8 = 0x80;
const A_DIVIDER: u8 = 0x70;
const A_DIVIDER_RESET: u8 = 0x60;
const A_RATE: u8 = 0x0f;
/// 32.768 kHz time base and 1024 Hz, as firmware leaves it.
const A_DEFAULT: u8 = 0x26;
const B_SET: u8 = 0x80;
const B_INTERRUPTS: u8 = 0x70;
const B_PERIODIC: u8 = 0x40;
const B_ALARM: u8 = 0x20;
const B_UPDATE: u8 = 0x10;
const B_SQUARE_WAVE: u8 = 0x08;
const B_BINARY: u8 = 0x04;
const B_24_HOURS: u8 = 0x02;
const C_REQUEST: u8 = 0x80;
const D_VALID: u8 = 0x80;
const HOUR_PM: u8 = 0x80;
/// Alarm cells from here on match anything (MC146818A, "don't care").
const ALARM_ANY: u8 = 0xc0;

// Cells by PC convention.
const CELL_EQUIPMENT: u8 = 0x14;
const CELL_BASE_MEMORY: u8 = 0x15;
const CELL_EXTENDED_MEMORY: u8 = 0x17;
const CELL_CHECKSUM: u8 = 0x2e;
const CELL_EXTENDED_MEMORY_FOUND: u8 = 0x30;
const CELL_MEMORY_ABOVE_16M: u8 = 0x34;
const CELL_MEMORY_ABOVE_4G: u8 = 0x5b;
/// Processors beyond the first, as firmware for virtual machines expects it.
const CELL_OTHER_PROCESSORS: u8 = 0x5f;
const CHECKSUMMED: core::ops::RangeInclusive<usize> = 0x10..=0x2d;

/// The time of day outside the machine.
pub trait WallClock: Send {
    /// Nanoseconds since 1970-01-01 00:00 on the clock the guest is to see: UTC, or the host's
    /// local time (what Windows expects) when the caller adds the zone's offset.
    fn now(&self) -> i128;
}

/// A wall clock made of a closure.
pub struct ClockFn<F>(pub F);

impl<F: Fn() -> i128 + Send> WallClock for ClockFn<F> {
    fn now(&self) -> i128 {
        (self.0)()
    }
}

/// Saved registers of an [`Rtc`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RtcRegisters {
    /// The memory; the clock's own cells count only while the clock stands still.
    cells: Vec<u8>,
    selected: u8,
    nmi_masked: bool,
    /// What the guest's time is ahead of the wall clock.
    ahead_seconds: i64,
    ahead_nanoseconds: u32,
    /// The second last reported by the update-ended flag.
    seen_second: i64,
    /// Periods of the periodic interrupt seen so far at the current rate.
    seen_periods: u64,
    now: u64,
}

/// The clock and its memory.
pub struct Rtc {
    registers: RtcRegisters,
    clock: Box<dyn WallClock>,
    /// The wall clock as read by the last `advance`.
    wall: i128,
    line: Arc<dyn Line>,
}

impl Rtc {
    const RANGES: [PortRange; 1] = [PortRange::new(0x70, 2)];

    /// A clock that interrupts through `line` (ISA IRQ 8).
    #[must_use]
    pub fn new(clock: Box<dyn WallClock>, line: Arc<dyn Line>) -> Self {
        let wall = clock.now();
        let registers = RtcRegisters {
            cells: vec![0; CELLS],
            selected: 0,
            nmi_masked: false,
            ahead_seconds: 0,
            ahead_nanoseconds: 0,
            seen_second: 0,
            seen_periods: 0,
            now: 0,
        };
        let mut rtc = Self { registers, clock, wall, line };
        rtc.store(REGISTER_A, A_DEFAULT);
        rtc.store(REGISTER_B, B_24_HOURS);
        rtc.store(REGISTER_D, D_VALID);
        // Coprocessor and PS/2 mouse present.
        rtc.set_cell(CELL_EQUIPMENT, 0x06);
        rtc.registers.seen_second = rtc.second();
        rtc
    }

    /// Fills the cells that tell firmware how much RAM there is: `below_4g` and `above_4g` bytes
    /// on either side of the 4 GiB boundary. Sizes beyond a cell's range are cut to it.
    pub fn set_memory(&mut self, below_4g: u64, above_4g: u64) {
        let kib = |bytes: u64, most: u64| (bytes >> 10).min(most).to_le_bytes();
        let blocks = |bytes: u64, most: u64| (bytes >> 16).min(most).to_le_bytes();
        let extended = kib(below_4g.saturating_sub(1 << 20), 0xffff);
        let above_16m = blocks(below_4g.saturating_sub(16 << 20), 0xffff);
        let above = blocks(above_4g, 0xff_ffff);
        self.set_cells(CELL_BASE_MEMORY, &kib(below_4g, 640)[..2]);
        self.set_cells(CELL_EXTENDED_MEMORY, &extended[..2]);
        self.set_cells(CELL_EXTENDED_MEMORY_FOUND, &extended[..2]);
        self.set_cells(CELL_MEMORY_ABOVE_16M, &above_16m[..2]);
        self.set_cells(CELL_MEMORY_ABOVE_4G, &above[..3]);
    }

    /// Fills the cell that tells firmware and the tiny guests how many processors there are, 1 or
    /// more.
    pub fn set_processors(&mut self, processors: u32) {
        let others = processors.saturating_sub(1).min(0xff);
        self.set_cell(CELL_OTHER_PROCESSORS, others as u8);
    }

    /// Sets the memory cell `index` (0x0e to 0x7f; others are the clock's and are left alone) and
    /// keeps the checksum of the standard cells right.
    pub fn set_cell(&mut self, index: u8, value: u8) {
        if index <= REGISTER_D || TIME_CELLS.contains(&index) {
            return;
        }
        self.store(index, value);
        let sum: u16 = self.registers.cells[CHECKSUMMED].iter().map(|&cell| u16::from(cell)).sum();
        let [low, high] = sum.to_le_bytes();
        self.store(CELL_CHECKSUM, high);
        self.store(CELL_CHECKSUM + 1, low);
    }

    /// The memory cell `index` as the guest would read it, without side effects.
    #[must_use]
    pub fn cell(&self, index: u8) -> u8 {
        let index = index & 0x7f;
        if let Some(at) = TIME_CELLS.iter().position(|&cell| cell == index) {
            if self.runs() { self.encoded()[at] } else { self.load(index) }
        } else if index == REGISTER_A {
            let left = NANOSECONDS - self.fraction();
            let updating = self.runs() && left <= UPDATE_NOTICE;
            self.load(index) | if updating { A_UPDATE_IN_PROGRESS } else { 0 }
        } else {
            self.load(index)
        }
    }

    /// Whether the guest masks non-maskable interrupts (port 0x70 bit 7).
    #[must_use]
    pub const fn nmi_masked(&self) -> bool {
        self.registers.nmi_masked
    }

    fn set_cells(&mut self, first: u8, values: &[u8]) {
        for (index, &value) in (first..).zip(values) {
            self.set_cell(index, value);
        }
    }

    fn load(&self, index: u8) -> u8 {
        self.registers.cells.get(usize::from(index)).copied().unwrap_or(0xff)
    }

    fn store(&mut self, index: u8, value: u8) {
        if let Some(cell) = self.registers.cells.get_mut(usize::from(index)) {
            *cell = value;
        }
    }

    /// The clock runs unless it is being set or its divider is held in reset.
    fn runs(&self) -> bool {
        self.load(REGISTER_B) & B_SET == 0
            && self.load(REGISTER_A) & A_DIVIDER_RESET != A_DIVIDER_RESET
    }

    /// The guest's time in nanoseconds since 1970.
    fn time(&self) -> i128 {
        self.wall
            .saturating_add(i128::from(self.registers.ahead_seconds) * NANOSECONDS)
            .saturating_add(i128::from(self.registers.ahead_nanoseconds))
    }

    fn second(&self) -> i64 {
        i64::try_from(self.time().div_euclid(NANOSECONDS)).unwrap_or(0)
    }

    /// Nanoseconds since the second began.
    fn fraction(&self) -> i128 {
        self.time().rem_euclid(NANOSECONDS)
    }

    /// Makes `time` the guest's time.
    fn set_time(&mut self, time: i128) {
        let ahead = time.saturating_sub(self.wall);
        self.registers.ahead_seconds = i64::try_from(ahead.div_euclid(NANOSECONDS)).unwrap_or(0);
        self.registers.ahead_nanoseconds = ahead.rem_euclid(NANOSECONDS) as u32;
        self.registers.seen_second = self.second();
    }

    fn encode(&self, value: u8) -> u8 {
        if self.load(REGISTER_B) & B_BINARY != 0 {
            value
        } else {
            ((value / 10) << 4) | (value % 10)
        }
    }

    fn decode(&self, cell: u8) -> u8 {
        if self.load(REGISTER_B) & B_BINARY != 0 {
            cell
        } else {
            (cell >> 4).saturating_mul(10).saturating_add(cell & 0x0f)
        }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.load(REGISTER_B) & B_24_HOURS != 0 {
            return self.encode(hour);
        }
        let pm = if hour >= 12 { HOUR_PM } else { 0 };
        self.encode((hour + 11) % 12 + 1) | pm
    }

    fn decode_hour(&self, cell: u8) -> u8 {
        if self.load(REGISTER_B) & B_24_HOURS != 0 {
            return self.decode(cell);
        }
        let pm = if cell & HOUR_PM != 0 { 12 } else { 0 };
        self.decode(cell & !HOUR_PM) % 12 + pm
    }

    /// The cells of the running clock, in the order of [`TIME_CELLS`].
    fn encoded(&self) -> [u8; 8] {
        let time = DateTime::from_seconds(self.second());
        let century = time.year.div_euclid(100).rem_euclid(100) as u8;
        [
            self.encode(time.second),
            self.encode(time.minute),
            self.encode_hour(time.hour),
            self.encode(time.weekday + 1),
            self.encode(time.day),
            self.encode(time.month),
            self.encode(time.year.rem_euclid(100) as u8),
            // Always BCD, by the PC's convention.
            ((century / 10) << 4) | (century % 10),
        ]
    }

    /// The running clock's time goes into its cells.
    fn freeze(&mut self) {
        for (index, value) in TIME_CELLS.into_iter().zip(self.encoded()) {
            self.store(index, value);
        }
    }

    /// The time in the cells becomes the running clock's; nonsense is cut to what can be.
    fn thaw(&mut self) {
        let field = |index, least: u8, most: u8| self.decode(self.load(index)).clamp(least, most);
        let century = self.load(RTC_CENTURY_CELL);
        let century = (century >> 4).min(9) * 10 + (century & 0x0f).min(9);
        let seconds = DateTime {
            year: i64::from(century) * 100 + i64::from(field(YEAR, 0, 99)),
            month: field(MONTH, 1, 12),
            day: field(DAY, 1, 31),
            weekday: 0,
            hour: self.decode_hour(self.load(HOUR)).min(23),
            minute: field(MINUTE, 0, 59),
            second: field(SECOND, 0, 59),
        }
        .to_seconds();
        // The divider went on while the cells were set: keep its phase.
        let time = i128::from(seconds) * NANOSECONDS + self.fraction();
        self.set_time(time);
    }

    fn alarm_matches(&self, second: i64) -> bool {
        let time = DateTime::from_seconds(second);
        let matches = |index, value| {
            let cell = self.load(index);
            cell >= ALARM_ANY || cell == value
        };
        matches(SECOND_ALARM, self.encode(time.second))
            && matches(MINUTE_ALARM, self.encode(time.minute))
            && matches(HOUR_ALARM, self.encode_hour(time.hour))
    }

    /// The selected period in ticks of the oscillator, `None` when the periodic flag is off.
    fn period_ticks(&self) -> Option<u128> {
        match self.load(REGISTER_A) & A_RATE {
            0 => None,
            // The two fastest selections repeat 256 and 128 Hz (MC146818A, table 5).
            rate @ 1..=2 => Some(1 << (rate + 6)),
            rate => Some(1 << (rate - 1)),
        }
    }

    /// Periods at the selected rate since the machine started.
    fn periods(&self) -> u64 {
        let ticks = u128::from(self.registers.now) * OSCILLATOR / NANOSECONDS as u128;
        self.period_ticks().map_or(0, |period| (ticks / period) as u64)
    }

    fn raise(&mut self, flag: u8) {
        self.store(REGISTER_C, self.load(REGISTER_C) | flag);
    }

    fn drive(&mut self) {
        let flags = self.load(REGISTER_C) & !C_REQUEST;
        let request = flags & self.load(REGISTER_B) & B_INTERRUPTS != 0;
        self.store(REGISTER_C, flags | if request { C_REQUEST } else { 0 });
        self.line.set(request);
    }

    fn read_data(&mut self) -> u8 {
        let index = self.registers.selected;
        let value = self.cell(index);
        if index == REGISTER_C {
            self.store(REGISTER_C, 0);
            self.drive();
        }
        value
    }

    fn write_data(&mut self, value: u8) {
        let index = self.registers.selected;
        match index {
            REGISTER_A => self.write_a(value),
            REGISTER_B => self.write_b(value),
            // Read-only.
            REGISTER_C | REGISTER_D => {}
            _ if TIME_CELLS.contains(&index) => {
                let runs = self.runs();
                if runs {
                    self.freeze();
                }
                self.store(index, value);
                if runs {
                    self.thaw();
                }
            }
            _ => self.store(index, value),
        }
        self.drive();
    }

    fn write_a(&mut self, value: u8) {
        let before = self.load(REGISTER_A);
        let (ran, was_reset) = (self.runs(), before & A_DIVIDER_RESET == A_DIVIDER_RESET);
        let value = value & (A_DIVIDER | A_RATE);
        let resets = value & A_DIVIDER_RESET == A_DIVIDER_RESET;
        if ran && resets {
            self.freeze();
        }
        self.store(REGISTER_A, value);
        if was_reset && !resets {
            // The first update comes half a second after the divider is released.
            let half = NANOSECONDS / 2;
            self.set_time(i128::from(self.second()) * NANOSECONDS + half);
            if self.runs() {
                self.thaw();
            }
        }
        if (value ^ before) & A_RATE != 0 {
            self.registers.seen_periods = self.periods();
        }
    }

    fn write_b(&mut self, value: u8) {
        let ran = self.runs();
        if ran && value & B_SET != 0 {
            self.freeze();
        }
        // Setting the clock disables the update-ended interrupt (MC146818A, register B).
        let value = if value & B_SET != 0 { value & !B_UPDATE } else { value };
        self.store(REGISTER_B, value);
        if !ran && self.runs() {
            self.thaw();
        }
    }

    /// Reports seconds and periods that passed.
    fn settle(&mut self) {
        let periods = self.periods();
        if periods != self.registers.seen_periods {
            self.registers.seen_periods = periods;
            self.raise(B_PERIODIC);
        }
        let second = self.second();
        if self.runs() && second != self.registers.seen_second {
            self.raise(B_UPDATE);
            // The same times of day come again after a day; a wall clock set back counts once.
            let passed = second.saturating_sub(self.registers.seen_second);
            let passed = if passed < 0 { 1 } else { passed.min(SECONDS_PER_DAY) };
            if (0..passed).any(|ago| self.alarm_matches(second.saturating_sub(ago))) {
                self.raise(B_ALARM);
            }
            self.registers.seen_second = second;
        }
        self.drive();
    }
}

impl Device for Rtc {
    fn name(&self) -> &'static str {
        "rtc"
    }

    /// Time and memory are kept by the battery; interrupts are turned off (MC146818A, RESET).
    fn reset(&mut self) {
        let b = self.load(REGISTER_B) & !(B_INTERRUPTS | B_SQUARE_WAVE);
        self.store(REGISTER_B, b);
        self.store(REGISTER_C, 0);
        self.registers.selected = 0;
        self.registers.nmi_masked = false;
        self.drive();
    }

    fn ports(&mut self) -> Option<&mut dyn PortDevice> {
        Some(self)
    }

    fn timed(&mut self) -> Option<&mut dyn Timed> {
        Some(self)
    }
}

impl PortDevice for Rtc {
    fn ranges(&self) -> &[PortRange] {
        &Self::RANGES
    }

    fn read(&mut self, port: u16, data: &mut [u8]) {
        // The index register is write-only (ICH9 13.6.1).
        read_bytes(port, data, |port| if port == 0x71 { self.read_data() } else { 0xff });
    }

    fn write(&mut self, port: u16, data: &[u8]) {
        write_bytes(port, data, |port, value| match port {
            0x70 => {
                self.registers.selected = value & 0x7f;
                self.registers.nmi_masked = value & 0x80 != 0;
            }
            0x71 => self.write_data(value),
            _ => {}
        });
    }
}

impl Timed for Rtc {
    fn advance(&mut self, now: u64) {
        self.registers.now = now.max(self.registers.now);
        self.wall = self.clock.now();
        self.settle();
    }

    fn deadline(&self) -> Option<u64> {
        // A flag already up raises nothing new.
        let awaited = self.load(REGISTER_B) & !self.load(REGISTER_C);
        let periodic = (awaited & B_PERIODIC != 0)
            .then(|| {
                let ticks = (u128::from(self.registers.seen_periods) + 1) * self.period_ticks()?;
                u64::try_from((ticks * NANOSECONDS as u128).div_ceil(OSCILLATOR)).ok()
            })
            .flatten();
        let second = (awaited & (B_ALARM | B_UPDATE) != 0 && self.runs())
            .then(|| self.registers.now.saturating_add((NANOSECONDS - self.fraction()) as u64));
        [periodic, second].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests;
