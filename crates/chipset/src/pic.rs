//! The pair of 8259A interrupt controllers (Intel 8259A data sheet, order 231468) with the
//! edge/level registers of a PCI chipset (ICH9 13.4).
//!
//! Deviations: an edge, once seen, stays requested until it is acknowledged even if the line
//! falls, so a pulsed line is never lost. A level that falls too early, or a request masked away,
//! gives the spurious interrupt 7 of the master; the slave's own (15) cannot happen, because
//! request and acknowledge of both controllers are one step here.

use crate::device::{Device, Line, PortDevice, PortRange, read_bytes, write_bytes};
use crate::state::{SaveRestore, Saved, StateError, check_field, check_version};
use alloc::sync::Arc;
use serde::{Deserialize, Serialize};

/// The master's input the slave is wired to on a PC.
const CASCADE: u8 = 2;
/// Inputs a chipset keeps edge-triggered: timer, keyboard, cascade; RTC and coprocessor error
/// (ICH9 13.4.10, 13.4.11).
const LEVEL_CAPABLE: [u8; 2] = [0xf8, 0xde];

// Initialization and operation command words (data sheet, figures 7 and 8).
const ICW1: u8 = 0x10;
const ICW1_NEEDS_ICW4: u8 = 0x01;
const ICW1_SINGLE: u8 = 0x02;
const ICW1_LEVEL: u8 = 0x08;
const ICW4_AUTO_EOI: u8 = 0x02;
const ICW4_FULLY_NESTED: u8 = 0x10;
const OCW3: u8 = 0x08;
const OCW3_SELECT: u8 = 0x18;

/// Which command word a controller expects next at its data port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Expects {
    /// The interrupt mask: the controller is in operation.
    Mask,
    Icw2,
    Icw3,
    Icw4,
}

/// Registers of one 8259A.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Controller {
    /// Levels of the eight inputs.
    lines: u8,
    /// Interrupt request register.
    requests: u8,
    /// Interrupt mask register.
    mask: u8,
    /// In-service register.
    in_service: u8,
    /// Inputs that are level-triggered by the chipset's ELCR.
    level: u8,
    /// Vector of input 0.
    base: u8,
    /// The input that has the highest priority now, 0 to 7.
    highest: u8,
    expects: Expects,
    icw1: u8,
    icw4: u8,
    rotate_on_auto_eoi: bool,
    special_mask: bool,
    read_in_service: bool,
    poll: bool,
}

impl Controller {
    const fn new() -> Self {
        Self {
            lines: 0,
            requests: 0,
            // The data sheet leaves it undefined before ICW1; masked keeps a guest that never
            // uses the controller free of interrupts it does not expect.
            mask: 0xff,
            in_service: 0,
            level: 0,
            base: 0,
            highest: 0,
            expects: Expects::Mask,
            icw1: 0,
            icw4: 0,
            rotate_on_auto_eoi: false,
            special_mask: false,
            read_in_service: false,
            poll: false,
        }
    }

    const fn level_inputs(&self) -> u8 {
        if self.icw1 & ICW1_LEVEL != 0 { 0xff } else { self.level }
    }

    /// Rank of the most important input in `inputs`: 0 is the highest, `None` when there is none.
    const fn best_rank(&self, inputs: u8) -> Option<u8> {
        if inputs == 0 {
            return None;
        }
        Some(inputs.rotate_right(self.highest as u32).trailing_zeros() as u8)
    }

    const fn input_of_rank(&self, rank: u8) -> u8 {
        rank.wrapping_add(self.highest) & 7
    }

    /// The input to be served next, if it outranks all in service.
    fn pending(&self, is_master: bool) -> Option<u8> {
        if self.expects != Expects::Mask {
            return None;
        }
        let rank = self.best_rank(self.requests & !self.mask)?;
        let mut blocking = self.in_service;
        if self.special_mask {
            blocking &= !self.mask;
        }
        if is_master && self.icw4 & ICW4_FULLY_NESTED != 0 {
            // A slave in service may interrupt again (special fully nested mode).
            blocking &= !(1 << CASCADE);
        }
        match self.best_rank(blocking) {
            Some(blocker) if blocker <= rank => None,
            _ => Some(self.input_of_rank(rank)),
        }
    }

    fn set_input(&mut self, input: u8, high: bool) {
        let bit = 1 << (input & 7);
        let rises = high && self.lines & bit == 0;
        self.lines = if high { self.lines | bit } else { self.lines & !bit };
        if self.level_inputs() & bit != 0 {
            self.requests = self.requests & !bit | self.lines & bit;
        } else if rises {
            self.requests |= bit;
        }
    }

    /// The request of a level-triggered input follows its line.
    fn follow_levels(&mut self) {
        let level = self.level_inputs();
        self.requests = self.requests & !level | self.lines & level;
    }

    /// The processor took `input`.
    fn take(&mut self, input: u8) {
        let bit = 1 << input;
        if self.icw4 & ICW4_AUTO_EOI == 0 {
            self.in_service |= bit;
        } else if self.rotate_on_auto_eoi {
            self.highest = (input + 1) & 7;
        }
        if self.level_inputs() & bit == 0 {
            self.requests &= !bit;
        }
    }

    fn end_highest(&mut self) -> Option<u8> {
        let mut candidates = self.in_service;
        if self.special_mask {
            // A masked input is not ended by a non-specific EOI in special mask mode.
            candidates &= !self.mask;
        }
        let input = self.input_of_rank(self.best_rank(candidates)?);
        self.in_service &= !(1 << input);
        Some(input)
    }

    fn write_command(&mut self, value: u8) {
        if value & ICW1 != 0 {
            self.icw1 = value;
            self.icw4 = 0;
            self.mask = 0;
            self.in_service = 0;
            // Edges must come anew; lines that are high do not count.
            self.requests = 0;
            self.follow_levels();
            self.highest = 0;
            self.special_mask = false;
            self.rotate_on_auto_eoi = false;
            self.read_in_service = false;
            self.poll = false;
            self.expects = Expects::Icw2;
        } else if value & OCW3_SELECT == OCW3 {
            self.poll = value & 0x04 != 0;
            if value & 0x02 != 0 {
                self.read_in_service = value & 0x01 != 0;
            }
            if value & 0x40 != 0 {
                self.special_mask = value & 0x20 != 0;
            }
        } else {
            self.write_end_of_interrupt(value);
        }
    }

    /// OCW2: rotation, specific and end-of-interrupt bits at the top, an input at the bottom.
    fn write_end_of_interrupt(&mut self, value: u8) {
        let input = value & 7;
        match value >> 5 {
            0b000 => self.rotate_on_auto_eoi = false,
            0b100 => self.rotate_on_auto_eoi = true,
            0b001 => {
                self.end_highest();
            }
            0b101 => {
                if let Some(ended) = self.end_highest() {
                    self.highest = (ended + 1) & 7;
                }
            }
            0b011 => self.in_service &= !(1 << input),
            0b111 => {
                self.in_service &= !(1 << input);
                self.highest = (input + 1) & 7;
            }
            0b110 => self.highest = (input + 1) & 7,
            // 0b010 does nothing.
            _ => {}
        }
    }

    fn write_data(&mut self, value: u8) {
        let needs_icw4 = self.icw1 & ICW1_NEEDS_ICW4 != 0;
        let after_icw3 = if needs_icw4 { Expects::Icw4 } else { Expects::Mask };
        match self.expects {
            Expects::Mask => self.mask = value,
            Expects::Icw2 => {
                self.base = value & 0xf8;
                self.expects =
                    if self.icw1 & ICW1_SINGLE != 0 { after_icw3 } else { Expects::Icw3 };
            }
            // The wiring of the cascade is fixed on a PC.
            Expects::Icw3 => self.expects = after_icw3,
            Expects::Icw4 => {
                self.icw4 = value;
                self.expects = Expects::Mask;
            }
        }
    }
}

/// Saved registers of a [`Pic`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PicRegisters {
    master: Controller,
    slave: Controller,
}

impl PicRegisters {
    /// The slave's output is the master's input 2, always as a level.
    fn cascade(&mut self) {
        let bit = 1 << CASCADE;
        if self.slave.pending(false).is_some() {
            self.master.requests |= bit;
        } else {
            self.master.requests &= !bit;
        }
    }
}

/// Master and slave 8259A as wired in a PC: 15 inputs, one output to the bootstrap processor.
pub struct Pic {
    registers: PicRegisters,
    output: Arc<dyn Line>,
}

impl Pic {
    /// Command and data ports of both, and the edge/level registers.
    const RANGES: [PortRange; 3] =
        [PortRange::new(0x20, 2), PortRange::new(0xa0, 2), PortRange::new(0x4d0, 2)];

    /// A pair whose INTR output drives `output`.
    #[must_use]
    pub fn new(output: Arc<dyn Line>) -> Self {
        let registers = PicRegisters { master: Controller::new(), slave: Controller::new() };
        Self { registers, output }
    }

    /// Drives input `irq`, 0 to 15. Input 2 is the cascade and cannot be driven.
    pub fn set_input(&mut self, irq: u8, high: bool) {
        match irq {
            CASCADE => return,
            0..=7 => self.registers.master.set_input(irq, high),
            8..=15 => self.registers.slave.set_input(irq - 8, high),
            _ => return,
        }
        self.drive();
    }

    /// Whether the INTR output is asserted.
    #[must_use]
    pub fn pending(&self) -> bool {
        self.registers.master.pending(true).is_some()
    }

    /// The processor acknowledges: the vector it must take. With no request left this is the
    /// spurious interrupt: input 7, nothing in service.
    pub fn acknowledge(&mut self) -> u8 {
        let PicRegisters { master, slave } = &mut self.registers;
        let vector = match master.pending(true) {
            Some(CASCADE) => {
                master.take(CASCADE);
                let input = slave.pending(false).unwrap_or(7);
                slave.take(input);
                slave.base | input
            }
            Some(input) => {
                master.take(input);
                master.base | input
            }
            None => master.base | 7,
        };
        self.drive();
        vector
    }

    fn drive(&mut self) {
        self.registers.cascade();
        self.output.set(self.pending());
    }

    fn controller(&mut self, port: u16) -> &mut Controller {
        if port & 0x80 == 0 { &mut self.registers.master } else { &mut self.registers.slave }
    }

    fn read_port(&mut self, port: u16) -> u8 {
        let value = match port {
            0x20 | 0x21 | 0xa0 | 0xa1 => {
                let is_master = port & 0x80 == 0;
                let controller = self.controller(port);
                if controller.poll {
                    controller.poll = false;
                    controller.pending(is_master).map_or(0, |input| {
                        controller.take(input);
                        0x80 | input
                    })
                } else if port & 1 != 0 {
                    controller.mask
                } else if controller.read_in_service {
                    controller.in_service
                } else {
                    controller.requests
                }
            }
            0x4d0 => self.registers.master.level,
            0x4d1 => self.registers.slave.level,
            _ => 0xff,
        };
        self.drive();
        value
    }

    fn write_port(&mut self, port: u16, value: u8) {
        match port {
            0x20 | 0xa0 => self.controller(port).write_command(value),
            0x21 | 0xa1 => self.controller(port).write_data(value),
            0x4d0 => {
                self.registers.master.level = value & LEVEL_CAPABLE[0];
                self.registers.master.follow_levels();
            }
            0x4d1 => {
                self.registers.slave.level = value & LEVEL_CAPABLE[1];
                self.registers.slave.follow_levels();
            }
            _ => {}
        }
        self.drive();
    }
}

impl Device for Pic {
    fn name(&self) -> &'static str {
        "pic"
    }

    fn reset(&mut self) {
        let lines = [self.registers.master.lines, self.registers.slave.lines];
        self.registers = PicRegisters { master: Controller::new(), slave: Controller::new() };
        // The inputs belong to the devices that drive them.
        self.registers.master.lines = lines[0];
        self.registers.slave.lines = lines[1];
        self.drive();
    }

    fn ports(&mut self) -> Option<&mut dyn PortDevice> {
        Some(self)
    }
}

impl PortDevice for Pic {
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

impl SaveRestore for Pic {
    type Registers = PicRegisters;
    const VERSION: u16 = 1;

    fn save(&self) -> Saved<PicRegisters> {
        Saved { version: Self::VERSION, registers: self.registers.clone() }
    }

    fn restore(&mut self, saved: Saved<PicRegisters>) -> Result<(), StateError> {
        check_version("pic", &saved, Self::VERSION)?;
        let PicRegisters { master, slave } = &saved.registers;
        for (controller, capable) in [master, slave].into_iter().zip(LEVEL_CAPABLE) {
            check_field(controller.highest < 8, "pic", "highest", controller.highest, "0 to 7")?;
            check_field(
                controller.base & 7 == 0,
                "pic",
                "base",
                controller.base,
                "multiples of 8",
            )?;
            check_field(
                controller.level & !capable == 0,
                "pic",
                "level",
                controller.level,
                "bits of inputs that can be level-triggered",
            )?;
        }
        self.registers = saved.registers;
        self.drive();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
