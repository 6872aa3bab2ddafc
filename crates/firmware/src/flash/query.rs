//! What the chip says about itself (JESD68.01 CFI; Intel 28F640J3 datasheet, appendix C).

use super::{BLOCK, BUFFER_POWER};

/// Manufacturer Intel, device code of none of Intel's: nobody may assume a size by it.
const MANUFACTURER: u8 = 0x89;
const DEVICE: u8 = 0x00;

/// Identifier codes: manufacturer, device, block not locked.
pub(super) fn identity(at: u64) -> u8 {
    match at {
        0 => MANUFACTURER,
        1 => DEVICE,
        _ => 0,
    }
}

/// The CFI query structure of a chip of `size` bytes.
pub(super) fn query(at: u64, size: u64) -> u8 {
    let blocks = (size / BLOCK).saturating_sub(1).to_le_bytes();
    // Block size in units of 256 bytes.
    let block = (BLOCK / 256).to_le_bytes();
    match at {
        0x10 => b'Q',
        0x11 => b'R',
        0x12 => b'Y',
        // Primary command set: Intel/Sharp extended; its table is at 0x31.
        0x13 => 0x01,
        0x15 => 0x31,
        // Supply 4.5 V to 5.5 V.
        0x1b => 0x45,
        0x1c => 0x55,
        // Typical times: write and buffer write 2^7 us, erase 2^10 ms; at most 2^4 times as long.
        0x1f | 0x20 => 0x07,
        0x21 => 0x0a,
        0x23..=0x25 => 0x04,
        0x27 => u8::try_from(size.next_power_of_two().trailing_zeros()).unwrap_or(0),
        // Interface: 8 bits only (0 at 0x28). Buffer size as a power of two.
        0x2a => BUFFER_POWER,
        // One region of equal blocks.
        0x2c => 1,
        0x2d => blocks[0],
        0x2e => blocks[1],
        0x2f => block[0],
        0x30 => block[1],
        // Extended table: "PRI", version 1.0, no optional feature.
        0x31 => b'P',
        0x32 => b'R',
        0x33 => b'I',
        0x34 => b'1',
        0x35 => b'0',
        _ => 0,
    }
}
