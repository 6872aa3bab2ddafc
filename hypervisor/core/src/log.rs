//! The core's log: a ring root can read, and until root runs also the serial line and port 0xe9.
//! The one logger of the core. Never called on a hot path.

use crate::cpu::port;
use crate::sync::Lock;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

const SIZE: usize = 16 << 10;
/// First serial line (16550: data at +0, line status at +5, bit 5 transmitter empty).
const SERIAL: u16 = 0x3f8;
/// Debug console of QEMU and Bochs.
const DEBUG: u16 = 0xe9;

/// The last that has been logged. Where memory survives a reset, so does this: [`keep`].
#[repr(C)]
pub struct Ring {
    /// [`MAGIC`] where the rest is a ring.
    magic: u64,
    start: usize,
    length: usize,
    /// Bytes that were in it and are not any more.
    lost: u64,
    bytes: [u8; SIZE],
}

/// Marks a ring in memory.
const MAGIC: u64 = u64::from_le_bytes(*b"MHVLOG1\0");

/// The log.
struct Log {
    /// The ring before memory is divided.
    early: Ring,
    /// The ring then.
    kept: Option<&'static mut Ring>,
}

static LOG: Lock<Log> = Lock::new(Log { early: Ring::new(), kept: None });
static TO_SERIAL: AtomicBool = AtomicBool::new(true);

impl Log {
    fn ring(&mut self) -> &mut Ring {
        match &mut self.kept {
            Some(ring) => ring,
            None => &mut self.early,
        }
    }
}

impl Ring {
    const fn new() -> Self {
        Self { magic: MAGIC, start: 0, length: 0, lost: 0, bytes: [0; SIZE] }
    }

    /// Whether it is one: the bytes may be whatever lay in memory.
    const fn is_sound(&self) -> bool {
        self.magic == MAGIC && self.start < SIZE && self.length <= SIZE
    }

    fn put(&mut self, byte: u8) {
        self.bytes[(self.start + self.length) % SIZE] = byte;
        if self.length < SIZE {
            self.length += 1;
        } else {
            self.start = (self.start + 1) % SIZE;
            self.lost += 1;
        }
    }

    fn read(&self, position: u64, into: &mut [u8]) -> (u64, usize) {
        let end = self.lost + self.length as u64;
        let position = position.clamp(self.lost, end);
        // Within the ring's length, which fits.
        let count = into.len().min((end - position) as usize);
        let skipped = self.start + (position - self.lost) as usize;
        for (index, place) in into[..count].iter_mut().enumerate() {
            *place = self.bytes[(skipped + index) % SIZE];
        }
        (position, count)
    }

    fn take(&mut self) -> Option<u8> {
        self.length = self.length.checked_sub(1)?;
        let byte = self.bytes[self.start];
        self.start = (self.start + 1) % SIZE;
        Some(byte)
    }

    /// Takes over what `before` has of an earlier boot, each line marked: the last of it, so that this
    /// boot's own words have room.
    fn inherit(&mut self, before: &mut Self) {
        while before.length > SIZE / 2 {
            let _ = before.take();
        }
        let mut starts = true;
        while let Some(byte) = before.take() {
            if starts {
                let _ = self.write_str("boot before| ");
            }
            starts = byte == b'\n';
            self.put(if byte.is_ascii_graphic() || starts { byte } else { b' ' });
        }
        if !starts {
            self.put(b'\n');
        }
    }
}

/// The log goes on in `place`. The last of an earlier boot that is there comes behind what this one has
/// said so far.
pub fn keep(place: &'static mut Ring) {
    let mut log = LOG.lock();
    if place.is_sound() {
        log.early.inherit(place);
    }
    // Field by field: rings are too large for the stack.
    (place.magic, place.start, place.length, place.lost) = (MAGIC, 0, 0, 0);
    while let Some(byte) = log.early.take() {
        place.put(byte);
    }
    log.kept = Some(place);
}

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

/// Text from `position` on, counted from the first byte there ever was: the position of the oldest byte
/// given, and how many are. What is gone from the ring is left out.
pub fn read(position: u64, into: &mut [u8]) -> (u64, usize) {
    LOG.lock().ring().read(position, into)
}

fn serial(byte: u8) {
    // A machine without a serial line answers 0xff, which counts as ready.
    let _ = (0..100_000).any(|_| port::read_u8(SERIAL + 5) & 0x20 != 0);
    port::write_u8(SERIAL, byte);
    port::write_u8(DEBUG, byte);
}

impl Write for Ring {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.put(byte));
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
    let mut log = LOG.lock();
    // Neither the ring nor the line can refuse.
    let _ = writeln!(log.ring(), "core: {text}");
    if TO_SERIAL.load(Ordering::Relaxed) {
        let _ = writeln!(Serial, "core: {text}");
    }
}

/// The core's last words: to the serial line, and to the log for the boot after this one unless somebody
/// was writing to it.
pub fn last_words(text: fmt::Arguments<'_>) {
    if let Some(mut log) = LOG.try_lock() {
        let _ = writeln!(log.ring(), "core: {text}");
    }
    let _ = writeln!(Serial, "\ncore: {text}");
}

/// Writes one line to the core's log.
#[macro_export]
macro_rules! log {
    ($($argument:tt)*) => { $crate::log::line(format_args!($($argument)*)) };
}

#[cfg(test)]
mod tests {
    use super::{Ring, SIZE};
    use std::boxed::Box;
    use std::fmt::Write as _;
    use std::string::String;

    fn text(ring: &mut Ring) -> String {
        std::iter::from_fn(|| ring.take()).map(char::from).collect()
    }

    #[test]
    fn the_last_words_of_a_boot_are_the_next_ones_first() {
        let mut before = Box::new(Ring::new());
        writeln!(before, "core: one\ncore: tw\u{7}o").expect("a ring takes all");
        let mut ring = Box::new(Ring::new());
        ring.inherit(&mut before);
        assert_eq!(text(&mut ring), "boot before| core: one\nboot before| core: tw o\n");
    }

    #[test]
    fn a_full_ring_loses_its_oldest_and_leaves_room() {
        let mut before = Box::new(Ring::new());
        for number in 0..SIZE {
            writeln!(before, "{number}").expect("a ring takes all");
        }
        assert_eq!(before.length, SIZE);
        let mut ring = Box::new(Ring::new());
        ring.inherit(&mut before);
        ring.inherit(&mut Box::new(Ring::new()));
        let text = text(&mut ring);
        assert!(text.ends_with(&std::format!("boot before| {}\n", SIZE - 1)));
    }

    #[test]
    fn a_reader_keeps_its_position_and_learns_what_it_missed() {
        let mut ring = Box::new(Ring::new());
        let mut bytes = [0; 8];
        assert_eq!(ring.read(0, &mut bytes), (0, 0));
        write!(ring, "0123456789").expect("a ring takes all");
        assert_eq!(ring.read(0, &mut bytes), (0, 8));
        assert_eq!(&bytes, b"01234567");
        assert_eq!(ring.read(8, &mut bytes), (8, 2));
        assert_eq!(&bytes[..2], b"89");
        // One who is ahead, from a boot before, waits for what comes.
        assert_eq!(ring.read(1 << 40, &mut bytes), (10, 0));
        (0..SIZE).for_each(|_| ring.put(b'x'));
        ring.put(b'y');
        assert_eq!(ring.read(3, &mut bytes), (11, 8));
        assert_eq!(ring.read(10 + SIZE as u64, &mut bytes), (10 + SIZE as u64, 1));
        assert_eq!(bytes[0], b'y');
    }

    #[test]
    fn what_lay_in_memory_by_chance_is_no_ring() {
        let mut ring = Box::new(Ring::new());
        assert!(ring.is_sound());
        ring.start = SIZE;
        assert!(!ring.is_sound());
        (ring.start, ring.length) = (0, SIZE + 1);
        assert!(!ring.is_sound());
        (ring.length, ring.magic) = (0, 1);
        assert!(!ring.is_sound());
    }
}
