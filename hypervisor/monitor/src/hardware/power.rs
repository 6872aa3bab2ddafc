//! The end of the machine.

use super::{control, port};

/// QEMU's isa-debug-exit: ends QEMU with (value << 1) | 1.
const DEBUG_EXIT: u16 = 0xf4;
/// PM1a control blocks of QEMU's q35, QEMU's pc and Bochs; QEMU's S5 has sleep type 0.
const PM1_CONTROLS: [u16; 2] = [0x604, 0xb004];
/// SLP_EN (ACPI 6.5 4.8.3.2.1).
const SLEEP_ENABLE: u16 = 1 << 13;
/// Bochs ends when this port is told so.
const BOCHS_SHUTDOWN: u16 = 0x8900;

/// Ends the machine with `status`, by whatever this machine has for that.
pub fn off(status: u8) -> ! {
    port::write_u8(DEBUG_EXIT, status);
    for control in PM1_CONTROLS {
        port::write_u16(control, SLEEP_ENABLE);
    }
    for byte in b"Shutdown" {
        port::write_u8(BOCHS_SHUTDOWN, *byte);
    }
    control::stop()
}
