//! I/O ports of the machine.

use core::arch::asm;

/// Reads a byte.
#[must_use]
pub fn read_u8(port: u16) -> u8 {
    let value;
    // SAFETY: an IN changes no memory; what the device does is the device's.
    unsafe { asm!("in al, dx", out("al") value, in("dx") port, options(nomem, nostack)) };
    value
}

/// Writes a byte. The monitor writes to devices that touch no memory only: serial line, interrupt
/// controllers, timers, clock, and the ports that end the machine.
pub fn write_u8(port: u16, value: u8) {
    // SAFETY: an OUT changes no memory of ours: see above.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) };
}

/// Writes 16 bits, to the power management block only.
pub fn write_u16(port: u16, value: u16) {
    // SAFETY: see `write_u8`.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack)) };
}

/// Reads 32 bits (PCI configuration).
#[must_use]
pub fn read_u32(port: u16) -> u32 {
    let value;
    // SAFETY: see `read_u8`.
    unsafe { asm!("in eax, dx", out("eax") value, in("dx") port, options(nomem, nostack)) };
    value
}

/// Writes 32 bits to the PCI configuration ports. A device made a bus master there reads and writes
/// only memory its driver gave it.
pub fn write_u32(port: u16, value: u32) {
    // SAFETY: see above and `write_u8`.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack)) };
}
