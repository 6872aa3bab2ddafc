//! What is kept of the clock while the machine is saved.

use super::{CELLS, NANOSECONDS, Rtc, RtcRegisters};
use crate::state::{SaveRestore, Saved, StateError, check_field, check_version};

impl SaveRestore for Rtc {
    type Registers = RtcRegisters;
    const VERSION: u16 = 1;

    fn save(&self) -> Saved<RtcRegisters> {
        Saved { version: Self::VERSION, registers: self.registers.clone() }
    }

    /// The clock goes on from the wall clock: time the machine spent saved has passed.
    fn restore(&mut self, saved: Saved<RtcRegisters>) -> Result<(), StateError> {
        check_version("rtc", &saved, Self::VERSION)?;
        let registers = &saved.registers;
        check_field(
            registers.cells.len() == CELLS,
            "rtc",
            "cells",
            registers.cells.len(),
            "128 bytes",
        )?;
        check_field(registers.selected < 0x80, "rtc", "selected", registers.selected, "0 to 127")?;
        check_field(
            i128::from(registers.ahead_nanoseconds) < NANOSECONDS,
            "rtc",
            "ahead_nanoseconds",
            registers.ahead_nanoseconds,
            "below 1000000000",
        )?;
        self.registers = saved.registers;
        self.wall = self.clock.now();
        self.drive();
        Ok(())
    }
}
