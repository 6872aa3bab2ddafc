//! One counter of the 8254. Nothing ticks: the counting element is worked out from the time its
//! count was loaded, so a channel costs nothing between accesses.

use crate::state::{StateError, check_field};
use serde::{Deserialize, Serialize};

/// How the counter counts (82C54 data sheet, "mode definitions").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Mode {
    /// Mode 0: output rises when the count ends.
    TerminalCount,
    /// Mode 1: a gate edge starts a low pulse of the count's length.
    OneShot,
    /// Mode 2: low for the last tick of each period.
    Rate,
    /// Mode 3: high for the first half of each period.
    Square,
    /// Mode 4: low for the one tick at which the count ends.
    SoftwareStrobe,
    /// Mode 5: as mode 4, started by a gate edge.
    HardwareStrobe,
}

impl Mode {
    const fn from_bits(bits: u8) -> Self {
        match bits & 7 {
            0 => Self::TerminalCount,
            1 => Self::OneShot,
            2 | 6 => Self::Rate,
            3 | 7 => Self::Square,
            4 => Self::SoftwareStrobe,
            _ => Self::HardwareStrobe,
        }
    }

    const fn bits(self) -> u8 {
        self as u8
    }

    const fn is_periodic(self) -> bool {
        matches!(self, Self::Rate | Self::Square)
    }

    /// Started by a gate edge rather than by writing the count.
    const fn is_triggered(self) -> bool {
        matches!(self, Self::OneShot | Self::HardwareStrobe)
    }
}

/// Which bytes of the count an access moves (control word bits 5 and 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Bytes {
    Low,
    High,
    Both,
}

/// One channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Channel {
    mode: Mode,
    bytes: Bytes,
    bcd: bool,
    gate: bool,
    /// The count as last written in full.
    count: u16,
    /// Low byte of a count half written.
    half_written: Option<u8>,
    /// High byte of a count half read.
    half_read: Option<u8>,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
    /// Length of the period or pulse being counted, in ticks; `None` until a count is loaded.
    loaded: Option<u32>,
    /// A count written in the middle of a period, to be loaded when it ends.
    next: Option<u32>,
    /// Ticks counted before `since`.
    counted: u64,
    /// Tick from which the counter counts; `None` while it stands still.
    since: Option<u64>,
    /// The one rising edge of a mode that does not repeat has happened.
    finished: bool,
    /// Time, in ticks.
    now: u64,
}

impl Channel {
    pub(super) const fn new(gate: bool) -> Self {
        Self {
            mode: Mode::TerminalCount,
            bytes: Bytes::Both,
            bcd: false,
            gate,
            count: 0,
            half_written: None,
            half_read: None,
            latched_count: None,
            latched_status: None,
            loaded: None,
            next: None,
            counted: 0,
            since: None,
            finished: false,
            now: 0,
        }
    }

    /// Counts per wrap of the counting element.
    const fn modulus(&self) -> u64 {
        if self.bcd { 10_000 } else { 0x1_0000 }
    }

    /// What the written count stands for: 0 is the largest.
    fn ticks_of(&self, count: u16) -> u32 {
        let value = if self.bcd {
            [1000u32, 100, 10, 1]
                .into_iter()
                .zip([12, 8, 4, 0])
                .map(|(weight, shift)| weight * u32::from(count >> shift & 0xf))
                .sum()
        } else {
            u32::from(count)
        };
        match value {
            0 => self.modulus() as u32,
            // A period of one is not allowed in modes 2 and 3 (82C54, mode 2 note).
            1 if self.mode.is_periodic() => 2,
            value => value,
        }
    }

    fn encode(&self, value: u64) -> u16 {
        if !self.bcd {
            return value as u16;
        }
        let value = value % 10_000;
        let digit = |weight: u64, shift: u32| ((value / weight % 10) << shift) as u16;
        digit(1000, 12) | digit(100, 8) | digit(10, 4) | digit(1, 0)
    }

    fn elapsed(&self) -> u64 {
        let running = self.since.map_or(0, |since| self.now.saturating_sub(since));
        self.counted.saturating_add(running)
    }

    /// Starts counting `ticks` from the next clock on.
    fn load(&mut self, ticks: u32) {
        self.loaded = Some(ticks);
        self.next = None;
        self.counted = 0;
        self.since = Some(self.now.saturating_add(1));
        self.finished = false;
    }

    /// Time comes to tick `now`; true when the output rose since the last call.
    pub(super) fn advance(&mut self, now: u64) -> bool {
        self.now = now.max(self.now);
        let Some(ticks) = self.loaded else {
            return false;
        };
        let elapsed = self.elapsed();
        match self.mode {
            Mode::Rate | Mode::Square => self.end_periods(u64::from(ticks)),
            Mode::TerminalCount | Mode::OneShot => {
                self.finish_if(self.since.is_some() && elapsed >= u64::from(ticks))
            }
            Mode::SoftwareStrobe | Mode::HardwareStrobe => {
                self.finish_if(self.since.is_some() && elapsed > u64::from(ticks))
            }
        }
    }

    fn finish_if(&mut self, over: bool) -> bool {
        let rises = over && !self.finished;
        self.finished |= over;
        rises
    }

    /// Moves the start to the current period; true when at least one ended.
    fn end_periods(&mut self, ticks: u64) -> bool {
        let Some(since) = self.since else {
            return false;
        };
        let elapsed = self.now.saturating_sub(since);
        if elapsed < ticks {
            return false;
        }
        let (start, period) = match self.next.take() {
            Some(next) => (since.saturating_add(ticks), next),
            None => (since, ticks as u32),
        };
        self.loaded = Some(period);
        let beyond = self.now.saturating_sub(start);
        self.since = Some(start.saturating_add(beyond - beyond % u64::from(period)));
        true
    }

    pub(super) fn output(&self) -> bool {
        let (elapsed, loaded) = (self.elapsed(), self.loaded.map(u64::from));
        match (self.mode, loaded) {
            (Mode::TerminalCount, None) => false,
            (Mode::TerminalCount, Some(_)) => self.finished,
            (_, None) => true,
            (Mode::OneShot, Some(_)) => self.since.is_none() || self.finished,
            (Mode::Rate, Some(ticks)) => self.since.is_none() || elapsed != ticks - 1,
            (Mode::Square, Some(ticks)) => self.since.is_none() || elapsed < ticks.div_ceil(2),
            (Mode::SoftwareStrobe | Mode::HardwareStrobe, Some(ticks)) => {
                self.since.is_none() || elapsed != ticks
            }
        }
    }

    /// The tick of the next rising edge, if one will come by itself.
    pub(super) fn next_rise(&self) -> Option<u64> {
        let (ticks, since) = (u64::from(self.loaded?), self.since?);
        let after = match self.mode {
            Mode::Rate | Mode::Square => ticks,
            _ if self.finished => return None,
            Mode::TerminalCount | Mode::OneShot => ticks.saturating_sub(self.counted),
            Mode::SoftwareStrobe | Mode::HardwareStrobe => (ticks + 1).saturating_sub(self.counted),
        };
        Some(since.saturating_add(after))
    }

    /// The period of a repeating mode that is running.
    pub(super) fn period(&self) -> Option<u64> {
        (self.mode.is_periodic() && self.since.is_some()).then_some(u64::from(self.loaded?))
    }

    pub(super) fn set_gate(&mut self, high: bool) {
        let (rises, falls) = (high && !self.gate, !high && self.gate);
        self.gate = high;
        match self.mode {
            Mode::TerminalCount | Mode::SoftwareStrobe => {
                if falls {
                    self.counted = self.elapsed();
                    self.since = None;
                } else if rises && self.loaded.is_some() && self.half_written.is_none() {
                    self.since = Some(self.now);
                }
            }
            Mode::Rate | Mode::Square => {
                if falls {
                    self.since = None;
                } else if let (true, Some(ticks)) = (rises, self.next.or(self.loaded)) {
                    self.load(ticks);
                }
            }
            Mode::OneShot | Mode::HardwareStrobe => {
                if let (true, Some(ticks)) = (rises, self.next.or(self.loaded)) {
                    self.load(ticks);
                }
            }
        }
    }

    /// Value of the counting element.
    fn current(&self) -> u16 {
        let Some(ticks) = self.loaded.map(u64::from) else {
            return self.count;
        };
        let elapsed = self.elapsed();
        let value = match self.mode {
            Mode::Rate => ticks - elapsed % ticks,
            Mode::Square => {
                // Counts down by two in each half; an odd count loses one first (82C54, mode 3).
                let (phase, first_half) = (elapsed % ticks, ticks.div_ceil(2));
                let even = ticks & !1;
                if phase < first_half {
                    even.saturating_sub(2 * phase)
                } else {
                    even.saturating_sub(2 * (phase - first_half))
                }
            }
            _ => {
                let modulus = self.modulus();
                (ticks % modulus + modulus - elapsed % modulus) % modulus
            }
        };
        self.encode(value)
    }

    fn status(&self) -> u8 {
        let waiting = self.loaded.is_none()
            || self.next.is_some()
            || self.half_written.is_some()
            || self.since.is_some_and(|since| self.now < since);
        let bytes = match self.bytes {
            Bytes::Low => 0x10,
            Bytes::High => 0x20,
            Bytes::Both => 0x30,
        };
        u8::from(self.output()) << 7
            | u8::from(waiting) << 6
            | bytes
            | self.mode.bits() << 1
            | u8::from(self.bcd)
    }

    pub(super) fn latch_count(&mut self) {
        // A second latch before the first was read is ignored.
        if self.latched_count.is_none() {
            self.latched_count = Some(self.current());
        }
    }

    pub(super) fn latch_status(&mut self) {
        if self.latched_status.is_none() {
            self.latched_status = Some(self.status());
        }
    }

    pub(super) fn write_control(&mut self, value: u8) {
        self.bytes = match value >> 4 & 3 {
            0 => return self.latch_count(),
            1 => Bytes::Low,
            2 => Bytes::High,
            _ => Bytes::Both,
        };
        self.mode = Mode::from_bits(value >> 1);
        self.bcd = value & 1 != 0;
        self.half_written = None;
        self.half_read = None;
        self.latched_count = None;
        self.latched_status = None;
        self.loaded = None;
        self.next = None;
        self.counted = 0;
        self.since = None;
        self.finished = false;
    }

    pub(super) fn read(&mut self) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        if let Some(high) = self.half_read.take() {
            return high;
        }
        let [low, high] = match self.latched_count.take() {
            Some(latched) => latched,
            None => self.current(),
        }
        .to_le_bytes();
        match self.bytes {
            Bytes::Low => low,
            Bytes::High => high,
            Bytes::Both => {
                // The high byte belongs to the same moment as the low one only after a latch;
                // holding it in both cases spares the guest torn reads.
                self.half_read = Some(high);
                low
            }
        }
    }

    pub(super) fn write(&mut self, value: u8) {
        let count = match (self.bytes, self.half_written.take()) {
            (Bytes::Low, _) => u16::from(value),
            (Bytes::High, _) => u16::from(value) << 8,
            (Bytes::Both, Some(low)) => u16::from_le_bytes([low, value]),
            (Bytes::Both, None) => {
                self.half_written = Some(value);
                if self.mode == Mode::TerminalCount {
                    // The first byte stops the count and lowers the output (82C54, mode 0).
                    self.counted = self.elapsed();
                    self.since = None;
                    self.finished = false;
                }
                return;
            }
        };
        self.count = count;
        let ticks = self.ticks_of(count);
        if self.mode.is_triggered() {
            if self.loaded.is_some() && self.since.is_some() {
                self.next = Some(ticks);
            } else {
                self.loaded = Some(ticks);
            }
        } else if self.mode.is_periodic() && self.since.is_some() {
            self.next = Some(ticks);
        } else {
            self.load(ticks);
            if !self.gate {
                self.since = None;
            }
        }
    }

    pub(super) fn check(&self) -> Result<(), StateError> {
        for ticks in [self.loaded, self.next].into_iter().flatten() {
            let least = if self.mode.is_periodic() { 2 } else { 1 };
            check_field(
                (least..=0x1_0000).contains(&ticks),
                "pit",
                "count",
                ticks,
                "1 to 65536, at least 2 in modes 2 and 3",
            )?;
        }
        Ok(())
    }
}
