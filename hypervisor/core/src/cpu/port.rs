//! I/O ports.
#![allow(unsafe_code)]

/// Reads a byte.
pub fn read_u8(port: u16) -> u8 {
    // SAFETY: an IN changes no memory; what the device does is the device's.
    unsafe { x86::io::inb(port) }
}

/// Writes a byte. The core writes to its serial line, its debug port and the reset port only, none of
/// which touches memory.
pub fn write_u8(port: u16, value: u8) {
    // SAFETY: an OUT changes no memory of ours: see above.
    unsafe { x86::io::outb(port, value) };
}
