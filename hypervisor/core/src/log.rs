//! The core's log: a ring root can drain, and until root runs also the serial line and port 0xe9.
//! The one logger of the core. Never called on a hot path.

use crate::cpu::port;
use crate::sync::Lock;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

const SIZE: usize = 8192;
/// First serial line (16550: data at +0, line status at +5, bit 5 transmitter empty).
const SERIAL: u16 = 0x3f8;
/// Debug console of QEMU and Bochs.
const DEBUG: u16 = 0xe9;

struct Ring {
    bytes: [u8; SIZE],
    start: usize,
    length: usize,
}

static RING: Lock<Ring> = Lock::new(Ring { bytes: [0; SIZE], start: 0, length: 0 });
static TO_SERIAL: AtomicBool = AtomicBool::new(true);

/// Makes the serial line 115200 baud, 8 bits, no parity, without interrupts (16550: divisor behind bit 7
/// of the line control at +3): firmware leaves it as it likes.
pub fn prepare_serial() {
    for (offset, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 3), (2, 7), (4, 3)] {
        port::write_u8(SERIAL + offset, value);
    }
}

/// Root has the serial line now: the core no longer writes to it, except for its last words.
pub fn leave_serial() {
    TO_SERIAL.store(false, Ordering::Relaxed);
}

/// Takes up to `into.len()` bytes, the oldest first.
pub fn drain(into: &mut [u8]) -> usize {
    let mut ring = RING.lock();
    let count = ring.length.min(into.len());
    for byte in &mut into[..count] {
        *byte = ring.bytes[ring.start];
        ring.start = (ring.start + 1) % SIZE;
    }
    ring.length -= count;
    count
}

fn serial(byte: u8) {
    // A machine without a serial line answers 0xff, which counts as ready.
    let _ = (0..100_000).any(|_| port::read_u8(SERIAL + 5) & 0x20 != 0);
    port::write_u8(SERIAL, byte);
    port::write_u8(DEBUG, byte);
}

impl Write for Ring {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            let end = (self.start + self.length) % SIZE;
            self.bytes[end] = byte;
            if self.length < SIZE {
                self.length += 1;
            } else {
                self.start = (self.start + 1) % SIZE;
            }
        }
        Ok(())
    }
}

struct Serial;

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                serial(b'\r');
            }
            serial(byte);
        }
        Ok(())
    }
}

/// Writes one line.
pub fn line(text: fmt::Arguments<'_>) {
    let mut ring = RING.lock();
    // Neither the ring nor the line can refuse.
    let _ = writeln!(ring, "core: {text}");
    if TO_SERIAL.load(Ordering::Relaxed) {
        let _ = writeln!(Serial, "core: {text}");
    }
}

/// The core's last words, to the serial line even when someone else is writing to the log.
pub fn last_words(text: fmt::Arguments<'_>) {
    let _ = writeln!(Serial, "\ncore: {text}");
}

/// Writes one line to the core's log.
#[macro_export]
macro_rules! log {
    ($($argument:tt)*) => { $crate::log::line(format_args!($($argument)*)) };
}
