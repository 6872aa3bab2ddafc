//! I/O ports.
#![allow(unsafe_code)]

/// Reads a byte.
pub fn read_u8(port: u16) -> u8 {
    // SAFETY: an IN changes no memory; what the device does is the device's.
    unsafe { x86::io::inb(port) }
}

/// Writes a byte. The core writes to its serial line, its debug port, the POST port and the reset port only, none of
/// which touches memory.
pub fn write_u8(port: u16, value: u8) {
    // SAFETY: an OUT changes no memory of ours: see above.
    unsafe { x86::io::outb(port, value) };
}

/// Reads 1, 2 or 4 bytes on behalf of root, whose port it is.
pub fn read(port: u16, width: u8) -> u32 {
    // SAFETY: as `read_u8`.
    unsafe {
        match width {
            1 => x86::io::inb(port).into(),
            2 => x86::io::inw(port).into(),
            _ => x86::io::inl(port),
        }
    }
}

/// Writes 1, 2 or 4 bytes on behalf of root, whose port it is: root could do so itself but for the core's watch.
pub fn write(port: u16, width: u8, value: u32) {
    // SAFETY: what the device does is root's own business.
    unsafe {
        match width {
            1 => x86::io::outb(port, value as u8),
            2 => x86::io::outw(port, value as u16),
            _ => x86::io::outl(port, value),
        }
    }
}

/// Resets the machine: by the chipset's reset control register (ICH9 13.7.5: system reset, then all of
/// the processor), else by the keyboard controller's.
pub fn reset_machine() -> ! {
    const RESET_CONTROL: u16 = 0xcf9;
    const KEYBOARD: u16 = 0x64;
    for (port, value) in [(RESET_CONTROL, 2), (RESET_CONTROL, 6), (KEYBOARD, 0xfe)] {
        write_u8(port, value);
        // Given time: a write to port 0x80 takes about a microsecond.
        (0..1000).for_each(|_| write_u8(0x80, 0));
    }
    super::control::stop()
}
