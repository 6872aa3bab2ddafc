//! The physical local APIC, as far as the core uses it: its id, INIT, SIPI and NMI to other CPUs
//! (SDM 3A 11.6, 11.12). It belongs to root, which also decides on its mode when it is a kernel; the core
//! writes whole commands only.
#![allow(unsafe_code)]

use super::{control, exceptions, msr};
use core::sync::atomic::{AtomicBool, Ordering};
use units::HostPhysical;

/// IA32_APIC_BASE bit 10: x2APIC mode; bit 11: enabled.
const X2APIC: u64 = 1 << 10;
const ENABLED: u64 = 1 << 11;
/// Offsets of the xAPIC's registers.
const ID: u64 = 0x20;
/// The interrupt command register, whose lower half sends.
pub const ICR_LOW: u64 = 0x300;
/// Its upper half: the destination in bits 24 to 31.
pub const ICR_HIGH: u64 = 0x310;
/// ICR bit 12: the last command is still on its way.
const PENDING: u32 = 1 << 12;
const ASSERT: u32 = 1 << 14;
/// Command: an NMI.
pub const NMI: u32 = 4 << 8 | ASSERT;
/// Command: INIT.
pub const INIT: u32 = 5 << 8 | ASSERT;
/// Command: start in real mode at the page in bits 0 to 7.
pub const STARTUP: u32 = 6 << 8 | ASSERT;

/// The core leaves the mode to root.
static ROOT_DECIDES: AtomicBool = AtomicBool::new(false);

/// On the first CPU, while nothing is in flight. Where root does not decide the mode itself, the core
/// puts the APIC into x2APIC mode if there is one.
pub fn prepare(root_decides: bool) {
    ROOT_DECIDES.store(root_decides, Ordering::Relaxed);
    prepare_other();
}

/// The same on each other CPU: CPUID 1 ECX bit 21 (SDM 3A 11.12.1).
pub fn prepare_other() {
    let base = msr::read(msr::APIC_BASE);
    let x2apic = control::cpuid(1, 0)[2] & 1 << 21 != 0;
    if x2apic && !ROOT_DECIDES.load(Ordering::Relaxed) {
        // SAFETY: from xAPIC to x2APIC mode.
        unsafe { msr::write(msr::APIC_BASE, base | ENABLED | X2APIC) };
    }
}

/// Whether that of this CPU is in x2APIC mode.
pub fn is_x2apic() -> bool {
    msr::read(msr::APIC_BASE) & X2APIC != 0
}

/// Root changes IA32_APIC_BASE of this CPU: the mode, and nothing else. False when the processor or the
/// core refuses.
pub fn set_base(value: u64) -> bool {
    if (value ^ msr::read(msr::APIC_BASE)) & !(ENABLED | X2APIC) != 0 {
        return false;
    }
    // SAFETY: the registers stay where they are; the core asks for the mode whenever it needs it.
    unsafe { exceptions::try_write_msr(msr::APIC_BASE, value) }
}

/// The page of the xAPIC's registers: the same on all CPUs, for `set_base` moves none.
pub fn page() -> HostPhysical {
    HostPhysical(msr::read(msr::APIC_BASE) & 0x000f_ffff_ffff_f000)
}

fn register(page: HostPhysical, offset: u64) -> *mut u32 {
    (page.0 + offset) as *mut u32
}

/// Reads a register of the xAPIC on behalf of root: `offset` is a multiple of 4 below 4096.
pub fn read_register(offset: u64) -> u32 {
    // SAFETY: the core's tables map the page as a device.
    unsafe { register(page(), offset & 0xffc).read_volatile() }
}

/// Writes one, ditto.
pub fn write_register(offset: u64, value: u32) {
    // SAFETY: as above; what the write does is root's own business, which could have made it itself.
    unsafe { register(page(), offset & 0xffc).write_volatile(value) };
}

/// This CPU's APIC id.
pub fn id() -> u32 {
    if is_x2apic() { msr::read(msr::X2APIC_ID) as u32 } else { read_register(ID) >> 24 }
}

/// Sends a command, and in xAPIC mode waits until it is on its way.
pub fn send(destination: u32, command: u32) {
    if is_x2apic() {
        // SAFETY: an interprocessor interrupt to a CPU the core runs; what it carries is the core's or
        // root's own and checked.
        unsafe { msr::write(msr::X2APIC_ICR, u64::from(destination) << 32 | u64::from(command)) };
        return;
    }
    // Root may be between its two writes: it finds the upper half as it left it, and the lower one idle.
    let pending = || read_register(ICR_LOW) & PENDING != 0;
    while pending() {
        core::hint::spin_loop();
    }
    let kept = read_register(ICR_HIGH);
    write_register(ICR_HIGH, destination << 24);
    write_register(ICR_LOW, command);
    while pending() {
        core::hint::spin_loop();
    }
    write_register(ICR_HIGH, kept);
}
