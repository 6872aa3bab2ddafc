//! The physical local APIC, as far as the core uses it: its id, INIT, SIPI and NMI to other CPUs
//! (SDM 3A 11.6, 11.12). It belongs to root; the core writes whole commands only.
#![allow(unsafe_code)]

use super::{control, msr};
use core::sync::atomic::{AtomicU64, Ordering};
use units::HostPhysical;

/// IA32_APIC_BASE bit 10: x2APIC mode; bit 11: enabled.
const X2APIC: u64 = 1 << 10;
const ENABLED: u64 = 1 << 11;
/// Offsets of the xAPIC's registers.
const ID: u64 = 0x20;
const ICR_LOW: u64 = 0x300;
const ICR_HIGH: u64 = 0x310;
/// ICR bit 12: the last command is still on its way.
const PENDING: u32 = 1 << 12;
const ASSERT: u32 = 1 << 14;
/// Command: an NMI.
pub const NMI: u32 = 4 << 8 | ASSERT;
/// Command: INIT.
pub const INIT: u32 = 5 << 8 | ASSERT;
/// Command: start in real mode at the page in bits 0 to 7.
pub const STARTUP: u32 = 6 << 8 | ASSERT;

/// IA32_APIC_BASE as last seen; CPUs share one mode.
static BASE: AtomicU64 = AtomicU64::new(0);

/// Puts the APIC of this CPU into x2APIC mode where it has one: CPUID 1 ECX bit 21 (SDM 3A 11.12.1).
/// Once, while nothing is in flight.
pub fn prepare() {
    let mut base = msr::read(msr::APIC_BASE);
    if control::cpuid(1, 0)[2] & 1 << 21 != 0 {
        base |= ENABLED | X2APIC;
        // SAFETY: from xAPIC to x2APIC mode.
        unsafe { msr::write(msr::APIC_BASE, base) };
    }
    BASE.store(base, Ordering::Relaxed);
}

/// Whether it is in x2APIC mode.
pub fn is_x2apic() -> bool {
    BASE.load(Ordering::Relaxed) & X2APIC != 0
}

/// The page of the xAPIC's registers.
pub fn page() -> HostPhysical {
    HostPhysical(BASE.load(Ordering::Relaxed) & 0x000f_ffff_ffff_f000)
}

fn register(offset: u64) -> *mut u32 {
    (page().0 + offset) as *mut u32
}

/// This CPU's APIC id.
pub fn id() -> u32 {
    if is_x2apic() {
        msr::read(msr::X2APIC_ID) as u32
    } else {
        // SAFETY: the core's tables map the page as a device; reading the id has no effect.
        unsafe { register(ID).read_volatile() >> 24 }
    }
}

/// Sends a command, and in xAPIC mode waits until it is on its way.
pub fn send(destination: u32, command: u32) {
    if is_x2apic() {
        // SAFETY: an interprocessor interrupt to a CPU the core runs; what it carries is the core's or
        // root's own and checked.
        unsafe { msr::write(msr::X2APIC_ICR, u64::from(destination) << 32 | u64::from(command)) };
        return;
    }
    // SAFETY: as above; the page is mapped as a device. Root's own two writes are taken by the core
    // one at a time, so that none of them is between these.
    unsafe {
        let kept = register(ICR_HIGH).read_volatile();
        register(ICR_HIGH).write_volatile(destination << 24);
        register(ICR_LOW).write_volatile(command);
        while register(ICR_LOW).read_volatile() & PENDING != 0 {
            core::hint::spin_loop();
        }
        register(ICR_HIGH).write_volatile(kept);
    }
}
