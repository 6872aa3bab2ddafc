//! The machine's first serial line and its debug console.

use super::port;

/// First serial line (16550: data at +0, interrupts at +1, FIFO at +2, line control at +3, modem
/// control at +4, line status at +5).
const SERIAL: u16 = 0x3f8;
const LINE_STATUS: u16 = SERIAL + 5;
const TRANSMITTER_EMPTY: u8 = 1 << 5;
const DATA_READY: u8 = 1 << 0;
/// Debug console of QEMU and Bochs.
const DEBUG: u16 = 0xe9;
/// Bytes the transmit FIFO takes when it is empty (16550 data sheet).
const FIFO: usize = 16;
/// Line status reads before a line is taken for absent.
const PATIENCE: u32 = 1_000_000;

/// 115200 baud, 8 bits, no parity; FIFOs on; no interrupts.
pub fn prepare() {
    for (offset, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 0x03), (2, 0x07), (4, 0x03)] {
        port::write_u8(SERIAL + offset, value);
    }
}

/// Writes `bytes` to both.
pub fn write(bytes: &[u8]) {
    for piece in bytes.chunks(FIFO) {
        let mut patience = PATIENCE;
        while port::read_u8(LINE_STATUS) & TRANSMITTER_EMPTY == 0 && patience > 0 {
            patience -= 1;
            core::hint::spin_loop();
        }
        for byte in piece {
            port::write_u8(SERIAL, *byte);
            port::write_u8(DEBUG, *byte);
        }
    }
}

/// Waits until everything is on the line (line status bit 6): a machine that goes off sooner cuts it
/// short.
pub fn finish() {
    for _ in 0..PATIENCE {
        if port::read_u8(LINE_STATUS) & (1 << 6) != 0 {
            return;
        }
    }
}

/// A byte somebody typed. A machine without a serial line reads as ones, which is no byte.
#[must_use]
pub fn read() -> Option<u8> {
    let status = port::read_u8(LINE_STATUS);
    (status != 0xff && status & DATA_READY != 0).then(|| port::read_u8(SERIAL))
}
