//! The keyboard controller of a PC with its keyboard and mouse (IBM PS/2 technical reference,
//! keyboard and auxiliary device controller), and the chipset's port 0x92 (ICH9 13.7.2), which shares
//! the A20 gate with it.
//!
//! Answers come at once. Deviations: scan code set 3 is refused; the A20 gate is kept and read back,
//! and address line 20 is never really masked.

mod keyboard;
mod mouse;
mod scancode;

use crate::device::{Device, Line, PortDevice, PortRange, Timed, read_bytes, write_bytes};
use crate::event::{MachineEvent, MachineEvents};
use crate::state::{SaveRestore, Saved, StateError, check_field, check_version};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use keyboard::Keyboard;
use mouse::Mouse;
use serde::{Deserialize, Serialize};

const DATA: u16 = 0x60;
const COMMAND: u16 = 0x64;
const PORT_92: u16 = 0x92;

// Status register.
const STATUS_OUTPUT: u8 = 0x01;
const STATUS_SYSTEM: u8 = 0x04;
const STATUS_COMMAND: u8 = 0x08;
const STATUS_UNLOCKED: u8 = 0x10;
const STATUS_MOUSE: u8 = 0x20;
// Command byte, the first cell of the controller's memory.
const CONFIG_KEYBOARD_INTERRUPT: u8 = 0x01;
const CONFIG_MOUSE_INTERRUPT: u8 = 0x02;
const CONFIG_SYSTEM: u8 = 0x04;
const CONFIG_KEYBOARD_OFF: u8 = 0x10;
const CONFIG_MOUSE_OFF: u8 = 0x20;
const CONFIG_TRANSLATE: u8 = 0x40;
/// As firmware leaves it: both interrupts, self test passed, translation to set 1.
const CONFIG_DEFAULT: u8 =
    CONFIG_KEYBOARD_INTERRUPT | CONFIG_MOUSE_INTERRUPT | CONFIG_SYSTEM | CONFIG_TRANSLATE;
/// Cells of the controller's memory.
const CELLS: usize = 32;
// Output port.
const OUTPUT_RUN: u8 = 0x01;
const OUTPUT_A20: u8 = 0x02;
const OUTPUT_KEYBOARD: u8 = 0x10;
const OUTPUT_MOUSE: u8 = 0x20;
const OUTPUT_FIXED: u8 = 0xc0;
// Port 0x92.
const PORT_92_RESET: u8 = 0x01;
const PORT_92_A20: u8 = 0x02;

/// A byte in the output buffer and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Output {
    byte: u8,
    from_mouse: bool,
}

/// Saved registers of an [`I8042`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct I8042Registers {
    cells: Vec<u8>,
    /// The last byte written was a command.
    after_command: bool,
    /// A command that waits for its parameter.
    awaited: Option<u8>,
    output: Option<Output>,
    /// What a read with nothing waiting gives: the last byte.
    last: u8,
    /// The controller's own answer; a newer one replaces it.
    answer: Option<Output>,
    /// Translation saw a release prefix.
    released: bool,
    a20: bool,
    keyboard: Keyboard,
    mouse: Mouse,
    now: u64,
}

impl I8042Registers {
    fn new(now: u64) -> Self {
        let mut cells = vec![0; CELLS];
        cells[0] = CONFIG_DEFAULT;
        Self {
            cells,
            after_command: false,
            awaited: None,
            output: None,
            last: 0,
            answer: None,
            released: false,
            a20: true,
            keyboard: Keyboard::new(),
            mouse: Mouse::new(),
            now,
        }
    }

    fn config(&self) -> u8 {
        self.cells.first().copied().unwrap_or(CONFIG_DEFAULT)
    }

    fn has(&self, bit: u8) -> bool {
        self.config() & bit != 0
    }

    fn set_config(&mut self, bit: u8, on: bool) {
        if let Some(config) = self.cells.first_mut() {
            *config = if on { *config | bit } else { *config & !bit };
        }
    }

    /// Fills the output buffer if it is empty: the controller first, then keyboard, then mouse.
    fn fill(&mut self) {
        if self.output.is_none() {
            self.output = self.answer.take();
        }
        while self.output.is_none() && !self.has(CONFIG_KEYBOARD_OFF) && self.keyboard.has_output()
        {
            let Some(byte) = self.keyboard.take() else {
                break;
            };
            let byte = if self.has(CONFIG_TRANSLATE) {
                scancode::translate(byte, &mut self.released)
            } else {
                Some(byte)
            };
            self.output = byte.map(|byte| Output { byte, from_mouse: false });
        }
        if self.output.is_none() && !self.has(CONFIG_MOUSE_OFF) && self.mouse.has_output() {
            self.output = self.mouse.take().map(|byte| Output { byte, from_mouse: true });
        }
    }

    fn status(&self) -> u8 {
        let mut status = STATUS_UNLOCKED;
        if let Some(output) = self.output {
            status |= STATUS_OUTPUT;
            if output.from_mouse {
                status |= STATUS_MOUSE;
            }
        }
        if self.has(CONFIG_SYSTEM) {
            status |= STATUS_SYSTEM;
        }
        if self.after_command {
            status |= STATUS_COMMAND;
        }
        status
    }

    fn output_port(&self) -> u8 {
        let mut value = OUTPUT_FIXED | OUTPUT_RUN;
        if self.a20 {
            value |= OUTPUT_A20;
        }
        match self.output {
            Some(Output { from_mouse: true, .. }) => value | OUTPUT_MOUSE,
            Some(_) => value | OUTPUT_KEYBOARD,
            None => value,
        }
    }

    fn reply(&mut self, byte: u8) {
        self.answer = Some(Output { byte, from_mouse: false });
    }
}

/// The controller with both its devices plugged in.
pub struct I8042 {
    registers: I8042Registers,
    keyboard_line: Arc<dyn Line>,
    mouse_line: Arc<dyn Line>,
    events: Arc<dyn MachineEvents>,
}

impl I8042 {
    const RANGES: [PortRange; 3] =
        [PortRange::new(DATA, 1), PortRange::new(COMMAND, 1), PortRange::new(PORT_92, 1)];

    /// A controller whose keyboard interrupts through `keyboard_line` (ISA IRQ 1) and whose mouse
    /// through `mouse_line` (ISA IRQ 12).
    #[must_use]
    pub fn new(
        keyboard_line: Arc<dyn Line>,
        mouse_line: Arc<dyn Line>,
        events: Arc<dyn MachineEvents>,
    ) -> Self {
        Self { registers: I8042Registers::new(0), keyboard_line, mouse_line, events }
    }

    /// A key goes down or up. `key` is a Linux input event code (`KEY_A` is 30); codes no PC
    /// keyboard has are dropped. False when the guest has too many unread: offer it again later.
    pub fn push_key(&mut self, key: u16, pressed: bool) -> bool {
        let taken = self.registers.keyboard.push_key(key, pressed, self.registers.now);
        self.settle();
        taken
    }

    /// The mouse moved by these counts (right, down, wheel away from the user) and has these
    /// buttons down: bit 0 left, 1 right, 2 middle, 3 and 4 at the side. Motion a slow guest has
    /// not read is summed up.
    pub fn push_mouse(&mut self, right: i32, down: i32, wheel: i32, buttons: u8) {
        self.registers.mouse.push(right, down, wheel, buttons);
        self.settle();
    }

    /// The keyboard's lights: bit 0 scroll lock, 1 num lock, 2 caps lock.
    #[must_use]
    pub const fn leds(&self) -> u8 {
        self.registers.keyboard.leds()
    }

    /// Whether the guest has address line 20 enabled.
    #[must_use]
    pub const fn a20(&self) -> bool {
        self.registers.a20
    }

    fn settle(&mut self) {
        self.registers.fill();
        self.drive();
    }

    fn drive(&self) {
        let waits = |from_mouse| {
            self.registers.output.is_some_and(|output| output.from_mouse == from_mouse)
        };
        let keyboard = waits(false) && self.registers.has(CONFIG_KEYBOARD_INTERRUPT);
        let mouse = waits(true) && self.registers.has(CONFIG_MOUSE_INTERRUPT);
        self.keyboard_line.set(keyboard);
        self.mouse_line.set(mouse);
    }

    fn read_port(&mut self, port: u16) -> u8 {
        match port {
            DATA => {
                if let Some(output) = self.registers.output.take() {
                    self.registers.last = output.byte;
                }
                // The line falls before the next byte raises it: one edge per byte.
                self.drive();
                self.settle();
                self.registers.last
            }
            COMMAND => self.registers.status(),
            PORT_92 if self.registers.a20 => PORT_92_A20,
            PORT_92 => 0,
            _ => 0xff,
        }
    }

    fn write_port(&mut self, port: u16, value: u8) {
        match port {
            DATA => {
                self.registers.after_command = false;
                self.write_data(value);
            }
            COMMAND => {
                self.registers.after_command = true;
                self.write_command(value);
            }
            PORT_92 => {
                self.registers.a20 = value & PORT_92_A20 != 0;
                if value & PORT_92_RESET != 0 {
                    self.events.raise(MachineEvent::Reset);
                }
            }
            _ => {}
        }
        self.settle();
    }

    fn write_data(&mut self, value: u8) {
        let registers = &mut self.registers;
        match registers.awaited.take() {
            Some(command @ 0x60..=0x7f) => {
                if let Some(cell) = registers.cells.get_mut(usize::from(command & 0x1f)) {
                    *cell = value;
                }
            }
            Some(0xd1) => {
                registers.a20 = value & OUTPUT_A20 != 0;
                if value & OUTPUT_RUN == 0 {
                    self.events.raise(MachineEvent::Reset);
                }
            }
            Some(0xd2) => registers.answer = Some(Output { byte: value, from_mouse: false }),
            Some(0xd3) => registers.answer = Some(Output { byte: value, from_mouse: true }),
            Some(0xd4) => {
                registers.set_config(CONFIG_MOUSE_OFF, false);
                registers.mouse.command(value);
            }
            _ => {
                // Talking to the keyboard turns its interface on.
                registers.set_config(CONFIG_KEYBOARD_OFF, false);
                registers.keyboard.command(value);
            }
        }
    }

    fn write_command(&mut self, command: u8) {
        let registers = &mut self.registers;
        registers.awaited = None;
        match command {
            0x20..=0x3f => {
                let cell = registers.cells.get(usize::from(command & 0x1f)).copied();
                registers.reply(cell.unwrap_or(0));
            }
            0x60..=0x7f | 0xd1..=0xd4 => registers.awaited = Some(command),
            0xa7 => registers.set_config(CONFIG_MOUSE_OFF, true),
            0xa8 => registers.set_config(CONFIG_MOUSE_OFF, false),
            // Both interface tests pass.
            0xa9 | 0xab => registers.reply(0x00),
            0xaa => {
                registers.set_config(CONFIG_SYSTEM, true);
                registers.reply(0x55);
            }
            0xad => registers.set_config(CONFIG_KEYBOARD_OFF, true),
            0xae => registers.set_config(CONFIG_KEYBOARD_OFF, false),
            // Input port: keyboard not locked, colour display, manufacturing jumper open.
            0xc0 => registers.reply(0x80),
            0xd0 => registers.reply(registers.output_port()),
            0xdd => registers.a20 = false,
            0xdf => registers.a20 = true,
            0xe0 => registers.reply(0x00),
            // Pulses the output port bits that are zero; bit 0 resets the processor.
            0xf0..=0xff if command & OUTPUT_RUN == 0 => self.events.raise(MachineEvent::Reset),
            _ => {}
        }
    }
}

impl Device for I8042 {
    fn name(&self) -> &'static str {
        "i8042"
    }

    fn reset(&mut self) {
        self.registers = I8042Registers::new(self.registers.now);
        self.drive();
    }

    fn ports(&mut self) -> Option<&mut dyn PortDevice> {
        Some(self)
    }

    fn timed(&mut self) -> Option<&mut dyn Timed> {
        Some(self)
    }
}

impl PortDevice for I8042 {
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

impl Timed for I8042 {
    fn advance(&mut self, now: u64) {
        self.registers.now = now.max(self.registers.now);
        self.registers.keyboard.advance(self.registers.now);
        self.settle();
    }

    fn deadline(&self) -> Option<u64> {
        self.registers.keyboard.deadline()
    }
}

impl SaveRestore for I8042 {
    type Registers = I8042Registers;
    const VERSION: u16 = 1;

    fn save(&self) -> Saved<I8042Registers> {
        Saved { version: Self::VERSION, registers: self.registers.clone() }
    }

    fn restore(&mut self, saved: Saved<I8042Registers>) -> Result<(), StateError> {
        check_version("i8042", &saved, Self::VERSION)?;
        check_field(
            saved.registers.cells.len() == CELLS,
            "i8042",
            "cells",
            saved.registers.cells.len(),
            "32 bytes",
        )?;
        saved.registers.keyboard.check()?;
        saved.registers.mouse.check()?;
        self.registers = saved.registers;
        self.drive();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
