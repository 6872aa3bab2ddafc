//! The 8254 interval timer (Intel 82C54 data sheet, order 231244): channel 0 is ISA IRQ 0, channel 2
//! is the speaker, gated and read back through port 0x61 (ICH9 13.7.1).
//!
//! Deviations: channel 0 ticks that the VMM was too late for are merged into one interrupt, and in
//! modes 2 and 3 with a period below 100 microseconds likewise, so that no guest can keep a host
//! CPU busy with its timer.

mod channel;

use crate::device::{Device, Line, PortDevice, PortRange, Timed, read_bytes, write_bytes};
use crate::state::{SaveRestore, Saved, StateError, check_version};
use alloc::sync::Arc;
use channel::Channel;
use serde::{Deserialize, Serialize};

/// The PC's timer clock in hertz: the 14.31818 MHz crystal divided by 12.
const FREQUENCY: u64 = 1_193_182;
const NANOSECONDS: u64 = 1_000_000_000;
/// The closest together two interrupts of channel 0 are delivered, in nanoseconds.
const SHORTEST_PERIOD: u64 = 100_000;
/// Timer ticks of one DRAM refresh, which toggles bit 4 of port 0x61 (about 15 microseconds).
const REFRESH_TICKS: u64 = 18;

// Port 0x61 (ICH9 13.7.1).
const SPEAKER_GATE: u8 = 0x01;
const SPEAKER_WRITABLE: u8 = 0x0f;
const REFRESH_TOGGLE: u8 = 0x10;
const SPEAKER_OUTPUT: u8 = 0x20;

fn to_ticks(nanoseconds: u64) -> u64 {
    (u128::from(nanoseconds) * u128::from(FREQUENCY) / u128::from(NANOSECONDS)) as u64
}

/// The first nanosecond at which [`to_ticks`] has reached `ticks`.
fn to_nanoseconds(ticks: u64) -> u64 {
    let exact = (u128::from(ticks) * u128::from(NANOSECONDS)).div_ceil(u128::from(FREQUENCY));
    u64::try_from(exact).unwrap_or(u64::MAX)
}

/// Saved registers of a [`Pit`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PitRegisters {
    channels: [Channel; 3],
    /// The writable bits of port 0x61.
    speaker: u8,
    /// Machine time of the last interrupt, to keep the shortest period.
    last_interrupt: Option<u64>,
    now: u64,
}

impl PitRegisters {
    fn new(now: u64) -> Self {
        let mut channels = [Channel::new(true), Channel::new(true), Channel::new(false)];
        for channel in &mut channels {
            channel.advance(to_ticks(now));
        }
        Self { channels, speaker: 0, last_interrupt: None, now }
    }
}

/// The three channels and the speaker port.
pub struct Pit {
    registers: PitRegisters,
    line: Arc<dyn Line>,
}

impl Pit {
    const RANGES: [PortRange; 2] = [PortRange::new(0x40, 4), PortRange::new(0x61, 1)];

    /// A timer whose channel 0 drives `line`.
    #[must_use]
    pub fn new(line: Arc<dyn Line>) -> Self {
        Self { registers: PitRegisters::new(0), line }
    }

    /// Whether channel 2 drives the speaker, and with which period in nanoseconds.
    #[must_use]
    pub fn tone(&self) -> Option<u64> {
        let on = self.registers.speaker & 0x03 == 0x03;
        on.then(|| self.registers.channels[2].period().map(to_nanoseconds)).flatten()
    }

    /// Brings all channels to `registers.now` and the line up to date.
    fn settle(&mut self) {
        let ticks = to_ticks(self.registers.now);
        let rose = self.registers.channels[0].advance(ticks);
        for channel in &mut self.registers.channels[1..] {
            channel.advance(ticks);
        }
        if rose {
            self.registers.last_interrupt = Some(self.registers.now);
            // The low half may have passed unseen.
            self.line.set(false);
            self.line.set(true);
        }
        self.line.set(self.registers.channels[0].output());
    }

    fn read_port(&mut self, port: u16) -> u8 {
        match port {
            0x40..=0x42 => self.registers.channels[usize::from(port & 3)].read(),
            0x61 => {
                let ticks = to_ticks(self.registers.now);
                let mut value = self.registers.speaker;
                if (ticks / REFRESH_TICKS) & 1 != 0 {
                    value |= REFRESH_TOGGLE;
                }
                if self.registers.channels[2].output() {
                    value |= SPEAKER_OUTPUT;
                }
                value
            }
            // The control word register cannot be read.
            _ => 0xff,
        }
    }

    fn write_port(&mut self, port: u16, value: u8) {
        match port {
            0x40..=0x42 => self.registers.channels[usize::from(port & 3)].write(value),
            0x43 => self.write_control(value),
            0x61 => {
                self.registers.speaker = value & SPEAKER_WRITABLE;
                self.registers.channels[2].set_gate(value & SPEAKER_GATE != 0);
            }
            _ => {}
        }
        self.settle();
    }

    fn write_control(&mut self, value: u8) {
        if let Some(channel) = self.registers.channels.get_mut(usize::from(value >> 6)) {
            channel.write_control(value);
            return;
        }
        // Read-back command: low bits mean "do latch" (data sheet, figure 10).
        for (index, channel) in self.registers.channels.iter_mut().enumerate() {
            if value & (2 << index) != 0 {
                if value & 0x20 == 0 {
                    channel.latch_count();
                }
                if value & 0x10 == 0 {
                    channel.latch_status();
                }
            }
        }
    }
}

impl Device for Pit {
    fn name(&self) -> &'static str {
        "pit"
    }

    fn reset(&mut self) {
        self.registers = PitRegisters::new(self.registers.now);
        self.settle();
    }

    fn ports(&mut self) -> Option<&mut dyn PortDevice> {
        Some(self)
    }

    fn timed(&mut self) -> Option<&mut dyn Timed> {
        Some(self)
    }
}

impl PortDevice for Pit {
    fn ranges(&self) -> &[PortRange] {
        &Self::RANGES
    }

    fn read(&mut self, port: u16, data: &mut [u8]) {
        read_bytes(port, data, |port| self.read_port(port));
    }

    fn write(&mut self, port: u16, data: &[u8]) {
        write_bytes(port, data, |port, value| self.write_port(port, value));
    }
}

impl Timed for Pit {
    fn advance(&mut self, now: u64) {
        self.registers.now = now.max(self.registers.now);
        self.settle();
    }

    fn deadline(&self) -> Option<u64> {
        let channel = &self.registers.channels[0];
        let due = to_nanoseconds(channel.next_rise()?);
        let too_fast =
            channel.period().is_some_and(|period| to_nanoseconds(period) < SHORTEST_PERIOD);
        match self.registers.last_interrupt {
            Some(last) if too_fast => Some(due.max(last.saturating_add(SHORTEST_PERIOD))),
            _ => Some(due),
        }
    }
}

impl SaveRestore for Pit {
    type Registers = PitRegisters;
    const VERSION: u16 = 1;

    fn save(&self) -> Saved<PitRegisters> {
        Saved { version: Self::VERSION, registers: self.registers.clone() }
    }

    fn restore(&mut self, saved: Saved<PitRegisters>) -> Result<(), StateError> {
        check_version("pit", &saved, Self::VERSION)?;
        for channel in &saved.registers.channels {
            channel.check()?;
        }
        self.registers = saved.registers;
        self.line.set(self.registers.channels[0].output());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
