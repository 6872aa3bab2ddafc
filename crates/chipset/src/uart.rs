//! The 16550A UART (National Semiconductor PC16550D data sheet): serial ports of a PC. Output goes
//! to a [`ByteSink`] at once; input waits in a queue of this device until the guest's FIFO has
//! room, so that pasted text is never lost.
//!
//! Kept simple: the transmitter is always empty, and parity and framing never fail.

use crate::device::{
    ByteSink, Device, Line, PortDevice, PortRange, Timed, read_bytes, write_bytes,
};
use crate::state::{SaveRestore, Saved, StateError, check_field, check_version};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use serde::{Deserialize, Serialize};

/// Depth of the receiver FIFO (PC16550D, section 1).
const FIFO_DEPTH: usize = 16;
/// Input bytes kept for the guest beyond its FIFO.
const QUEUE_DEPTH: usize = 4096;
/// Input clock of the baud generator on a PC: 1.8432 MHz, divided by 16 and by the divisor latch.
const BAUD_BASE: u64 = 115_200;

// Interrupt enable register (PC16550D 8.5).
const IER_RECEIVED: u8 = 0x01;
const IER_TRANSMIT: u8 = 0x02;
const IER_LINE: u8 = 0x04;
const IER_MODEM: u8 = 0x08;
// Interrupt identification register (8.6), highest priority first.
const IIR_LINE: u8 = 0x06;
const IIR_RECEIVED: u8 = 0x04;
const IIR_TIMEOUT: u8 = 0x0c;
const IIR_TRANSMIT: u8 = 0x02;
const IIR_MODEM: u8 = 0x00;
const IIR_NONE: u8 = 0x01;
const IIR_FIFOS: u8 = 0xc0;
// FIFO control register (8.4).
const FCR_ENABLE: u8 = 0x01;
const FCR_CLEAR_RECEIVER: u8 = 0x02;
const FCR_TRIGGER: u8 = 0xc0;
// Line control register (8.1).
const LCR_DIVISOR: u8 = 0x80;
// Modem control register (8.7).
const MCR_DTR: u8 = 0x01;
const MCR_RTS: u8 = 0x02;
const MCR_OUT1: u8 = 0x04;
const MCR_OUT2: u8 = 0x08;
const MCR_LOOP: u8 = 0x10;
const MCR_WRITABLE: u8 = 0x1f;
// Line status register (8.3).
const LSR_DATA: u8 = 0x01;
const LSR_OVERRUN: u8 = 0x02;
const LSR_BREAK: u8 = 0x10;
const LSR_TRANSMITTER_EMPTY: u8 = 0x60;
const LSR_FIFO_ERROR: u8 = 0x80;
// Modem status register (8.8).
const MSR_CTS: u8 = 0x10;
const MSR_DSR: u8 = 0x20;
const MSR_RI: u8 = 0x40;
const MSR_DCD: u8 = 0x80;
const MSR_DELTA_RI: u8 = 0x04;

/// What a PC with something plugged in sees outside loop-back.
const MSR_CONNECTED: u8 = MSR_CTS | MSR_DSR | MSR_DCD;

/// A received character and whether it was a break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Received {
    byte: u8,
    is_break: bool,
}

/// Saved registers of a [`Uart`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UartRegisters {
    interrupt_enable: u8,
    fifo_control: u8,
    line_control: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    divisor: u16,
    overrun: bool,
    transmit_pending: bool,
    timeout_pending: bool,
    /// When the oldest unread data becomes a timeout, nanoseconds of machine time.
    timeout_at: Option<u64>,
    fifo: VecDeque<Received>,
    queue: VecDeque<Received>,
    /// Input was refused since the queue last had room.
    refused: bool,
    now: u64,
}

impl UartRegisters {
    const fn new() -> Self {
        Self {
            interrupt_enable: 0,
            fifo_control: 0,
            line_control: 0,
            modem_control: 0,
            modem_status: MSR_CONNECTED,
            scratch: 0,
            // The data sheet leaves it undefined; firmware of a PC leaves 115200 baud behind.
            divisor: 1,
            overrun: false,
            transmit_pending: false,
            timeout_pending: false,
            timeout_at: None,
            fifo: VecDeque::new(),
            queue: VecDeque::new(),
            refused: false,
            now: 0,
        }
    }

    const fn fifos_enabled(&self) -> bool {
        self.fifo_control & FCR_ENABLE != 0
    }

    const fn capacity(&self) -> usize {
        if self.fifos_enabled() { FIFO_DEPTH } else { 1 }
    }

    /// Characters that raise the received-data interrupt (PC16550D 8.4, bits 6 and 7).
    const fn trigger(&self) -> usize {
        if !self.fifos_enabled() {
            return 1;
        }
        match self.fifo_control >> 6 {
            0 => 1,
            1 => 4,
            2 => 8,
            _ => 14,
        }
    }

    /// Four character times at the programmed speed (PC16550D 8.11), in nanoseconds.
    fn timeout(&self) -> u64 {
        let stop_bits = if self.line_control & 0x04 != 0 { 2 } else { 1 };
        let parity_bits = u64::from(self.line_control >> 3 & 1);
        let bits = 1 + 5 + u64::from(self.line_control & 3) + parity_bits + stop_bits;
        4 * bits * u64::from(self.divisor.max(1)) * 1_000_000_000 / BAUD_BASE
    }

    /// The pending interrupt of the highest priority (PC16550D table III).
    fn interrupt(&self) -> u8 {
        let enabled = |bit| self.interrupt_enable & bit != 0;
        if enabled(IER_LINE) && self.line_status() & (LSR_OVERRUN | LSR_BREAK) != 0 {
            IIR_LINE
        } else if enabled(IER_RECEIVED) && self.fifo.len() >= self.trigger() {
            IIR_RECEIVED
        } else if enabled(IER_RECEIVED) && self.timeout_pending {
            IIR_TIMEOUT
        } else if enabled(IER_TRANSMIT) && self.transmit_pending {
            IIR_TRANSMIT
        } else if enabled(IER_MODEM) && self.modem_status & 0x0f != 0 {
            IIR_MODEM
        } else {
            IIR_NONE
        }
    }

    fn line_status(&self) -> u8 {
        let mut status = LSR_TRANSMITTER_EMPTY;
        if let Some(first) = self.fifo.front() {
            status |= LSR_DATA;
            if first.is_break {
                status |= LSR_BREAK;
            }
        }
        if self.overrun {
            status |= LSR_OVERRUN;
        }
        if self.fifos_enabled() && self.fifo.iter().any(|received| received.is_break) {
            status |= LSR_FIFO_ERROR;
        }
        status
    }

    /// Whether the guest lets the other side send: it does unless it took the line (DTR) and then
    /// dropped RTS, which is how drivers throttle. A guest that never touches the modem lines gets
    /// its input all the same.
    const fn accepts_input(&self) -> bool {
        self.modem_control & MCR_LOOP == 0 && self.modem_control & (MCR_DTR | MCR_RTS) != MCR_DTR
    }

    fn restart_timeout(&mut self) {
        self.timeout_pending = false;
        self.timeout_at = (self.fifos_enabled() && !self.fifo.is_empty())
            .then(|| self.now.saturating_add(self.timeout()));
    }

    fn check_timeout(&mut self) {
        if self.timeout_at.is_some_and(|at| at <= self.now) {
            self.timeout_at = None;
            self.timeout_pending = true;
        }
    }

    fn clear_receiver(&mut self) {
        self.fifo.clear();
        self.restart_timeout();
    }

    /// A character arrives at the receiver.
    fn receive(&mut self, received: Received) {
        if self.fifo.len() < self.capacity() {
            self.fifo.push_back(received);
        } else {
            self.overrun = true;
            if !self.fifos_enabled() {
                // Without FIFOs the newcomer overwrites the unread one (PC16550D 8.3, bit 1).
                self.fifo.clear();
                self.fifo.push_back(received);
            }
        }
        self.restart_timeout();
    }

    fn set_modem_status(&mut self) {
        let outputs = self.modem_control;
        let levels = if outputs & MCR_LOOP != 0 {
            let wire = |output, input| if outputs & output != 0 { input } else { 0 };
            wire(MCR_RTS, MSR_CTS)
                | wire(MCR_DTR, MSR_DSR)
                | wire(MCR_OUT1, MSR_RI)
                | wire(MCR_OUT2, MSR_DCD)
        } else {
            MSR_CONNECTED
        };
        let changed = (levels ^ self.modem_status) & 0xf0;
        let mut deltas = changed >> 4 & !MSR_DELTA_RI;
        if changed & MSR_RI != 0 && levels & MSR_RI == 0 {
            // Only the trailing edge of RI counts (PC16550D 8.8, bit 2).
            deltas |= MSR_DELTA_RI;
        }
        self.modem_status = levels | self.modem_status & 0x0f | deltas;
    }
}

/// One serial port of eight I/O ports.
pub struct Uart {
    name: &'static str,
    range: [PortRange; 1],
    registers: UartRegisters,
    line: Arc<dyn Line>,
    sink: Box<dyn ByteSink>,
}

impl Uart {
    /// COM1, whose interrupt is ISA IRQ 4.
    pub const COM1: u16 = 0x3f8;
    /// COM2, whose interrupt is ISA IRQ 3.
    pub const COM2: u16 = 0x2f8;

    /// A serial port at I/O ports `base` to `base + 7`.
    #[must_use]
    pub fn new(
        name: &'static str,
        base: u16,
        line: Arc<dyn Line>,
        sink: Box<dyn ByteSink>,
    ) -> Self {
        Self { name, range: [PortRange::new(base, 8)], registers: UartRegisters::new(), line, sink }
    }

    /// Gives the guest input and says how many of `bytes` were taken. When that is not all of
    /// them, [`ByteSink::input_wanted`] tells when to offer the rest.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let room = QUEUE_DEPTH.saturating_sub(self.registers.queue.len());
        let taken = room.min(bytes.len());
        self.registers.refused |= taken < bytes.len();
        let received = bytes.iter().take(taken).map(|&byte| Received { byte, is_break: false });
        self.registers.queue.extend(received);
        self.refill();
        self.drive();
        taken
    }

    /// Gives the guest a break condition (Linux: the system-request key). False when the input
    /// queue is full.
    pub fn push_break(&mut self) -> bool {
        if self.registers.queue.len() >= QUEUE_DEPTH {
            return false;
        }
        self.registers.queue.push_back(Received { byte: 0, is_break: true });
        self.refill();
        self.drive();
        true
    }

    /// Moves input from the queue to the receiver while it has room.
    fn refill(&mut self) {
        let registers = &mut self.registers;
        while registers.accepts_input() && registers.fifo.len() < registers.capacity() {
            let Some(received) = registers.queue.pop_front() else {
                break;
            };
            registers.receive(received);
        }
        if registers.refused && registers.queue.len() <= QUEUE_DEPTH / 2 {
            registers.refused = false;
            self.sink.input_wanted();
        }
    }

    /// Drives the interrupt line. On a PC, OUT2 gates it; loop-back disconnects OUT2 (8.7).
    fn drive(&self) {
        let gate = self.registers.modem_control & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2;
        self.line.set(gate && self.registers.interrupt() != IIR_NONE);
    }

    fn transmit(&mut self, byte: u8) {
        // The register is full for no time at all, yet an edge-triggered controller must see the
        // old interrupt go before the new one comes.
        self.registers.transmit_pending = false;
        self.drive();
        if self.registers.modem_control & MCR_LOOP != 0 {
            let mask = 0xff >> (3 - (self.registers.line_control & 3));
            self.registers.receive(Received { byte: byte & mask, is_break: false });
        } else {
            self.sink.write(&[byte]);
        }
        self.registers.transmit_pending = true;
    }

    fn read_register(&mut self, offset: u16) -> u8 {
        let registers = &mut self.registers;
        let divisor_access = registers.line_control & LCR_DIVISOR != 0;
        let value = match offset {
            0 if divisor_access => registers.divisor.to_le_bytes()[0],
            1 if divisor_access => registers.divisor.to_le_bytes()[1],
            0 => {
                let byte = registers.fifo.pop_front().map_or(0, |received| received.byte);
                registers.restart_timeout();
                // Let the level fall before more input raises it again.
                self.drive();
                self.refill();
                byte
            }
            1 => registers.interrupt_enable,
            2 => {
                let interrupt = registers.interrupt();
                if interrupt == IIR_TRANSMIT {
                    registers.transmit_pending = false;
                }
                interrupt | if registers.fifos_enabled() { IIR_FIFOS } else { 0 }
            }
            3 => registers.line_control,
            4 => registers.modem_control,
            5 => {
                let status = registers.line_status();
                registers.overrun = false;
                if let Some(first) = registers.fifo.front_mut() {
                    first.is_break = false;
                }
                status
            }
            6 => {
                let status = registers.modem_status;
                registers.modem_status &= 0xf0;
                status
            }
            7 => registers.scratch,
            _ => 0xff,
        };
        self.drive();
        value
    }

    fn write_register(&mut self, offset: u16, value: u8) {
        let registers = &mut self.registers;
        let divisor_access = registers.line_control & LCR_DIVISOR != 0;
        match offset {
            0 if divisor_access => {
                registers.divisor = registers.divisor & 0xff00 | u16::from(value);
            }
            1 if divisor_access => {
                registers.divisor = registers.divisor & 0x00ff | u16::from(value) << 8;
            }
            0 => self.transmit(value),
            1 => {
                let newly = value & !registers.interrupt_enable;
                registers.interrupt_enable = value & 0x0f;
                // Enabling this interrupt while the transmitter is empty raises it (8.5); drivers
                // start sending that way.
                registers.transmit_pending |= newly & IER_TRANSMIT != 0;
            }
            2 => {
                let enable_changes = (value ^ registers.fifo_control) & FCR_ENABLE != 0;
                if enable_changes || value & FCR_CLEAR_RECEIVER != 0 {
                    registers.clear_receiver();
                }
                // Bits other than the enable stick only while it is set (8.4, bit 0).
                registers.fifo_control =
                    if value & FCR_ENABLE != 0 { value & (FCR_ENABLE | FCR_TRIGGER) } else { 0 };
                self.refill();
            }
            3 => registers.line_control = value,
            4 => {
                registers.modem_control = value & MCR_WRITABLE;
                registers.set_modem_status();
                self.refill();
            }
            7 => registers.scratch = value,
            // The status registers are read-only.
            _ => {}
        }
        self.drive();
    }
}

impl Device for Uart {
    fn name(&self) -> &'static str {
        self.name
    }

    fn reset(&mut self) {
        // Input typed ahead survives: it is on the wire, not in the device.
        let before = core::mem::replace(&mut self.registers, UartRegisters::new());
        self.registers.queue = before.queue;
        self.registers.refused = before.refused;
        self.registers.now = before.now;
        self.refill();
        self.drive();
    }

    fn ports(&mut self) -> Option<&mut dyn PortDevice> {
        Some(self)
    }

    fn timed(&mut self) -> Option<&mut dyn Timed> {
        Some(self)
    }
}

impl PortDevice for Uart {
    fn ranges(&self) -> &[PortRange] {
        &self.range
    }

    fn read(&mut self, port: u16, data: &mut [u8]) {
        let base = self.range[0].first;
        read_bytes(port, data, |port| self.read_register(port.wrapping_sub(base)));
    }

    fn write(&mut self, port: u16, data: &[u8]) {
        let base = self.range[0].first;
        write_bytes(port, data, |port, value| self.write_register(port.wrapping_sub(base), value));
    }
}

impl Timed for Uart {
    fn advance(&mut self, now: u64) {
        self.registers.now = now.max(self.registers.now);
        self.registers.check_timeout();
        self.drive();
    }

    fn deadline(&self) -> Option<u64> {
        self.registers.timeout_at
    }
}

impl SaveRestore for Uart {
    type Registers = UartRegisters;
    const VERSION: u16 = 1;

    fn save(&self) -> Saved<UartRegisters> {
        Saved { version: Self::VERSION, registers: self.registers.clone() }
    }

    fn restore(&mut self, saved: Saved<UartRegisters>) -> Result<(), StateError> {
        check_version(self.name, &saved, Self::VERSION)?;
        let registers = saved.registers;
        check_field(
            registers.fifo.len() <= registers.capacity(),
            self.name,
            "fifo length",
            registers.fifo.len(),
            "at most 16, or 1 with FIFOs off",
        )?;
        check_field(
            registers.queue.len() <= QUEUE_DEPTH,
            self.name,
            "queue length",
            registers.queue.len(),
            "at most 4096",
        )?;
        self.registers = registers;
        self.drive();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
