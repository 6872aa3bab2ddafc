//! Control registers, the time-stamp counter, extended state, CPUID.
#![allow(unsafe_code)]

use core::arch::asm;
use units::{HostPhysical, Tsc};

macro_rules! control_registers {
    ($($(#[$meta:meta])* $name:ident = $register:literal;)*) => {$(
        $(#[$meta])*
        pub fn $name() -> u64 {
            let value;
            // SAFETY: reading a control register has no effect.
            unsafe { asm!(concat!("mov {}, ", $register), out(reg) value, options(nomem, nostack)) };
            value
        }
    )*};
}
control_registers! {
    /// CR0.
    cr0 = "cr0";
    /// CR2.
    cr2 = "cr2";
    /// CR3.
    cr3 = "cr3";
    /// CR4.
    cr4 = "cr4";
}

/// Writes CR0.
///
/// # Safety
/// Paging, protection and write protection stay on.
pub unsafe fn set_cr0(value: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("mov cr0, {}", in(reg) value, options(nostack)) };
}

/// Writes CR2, which nothing of the core's own depends on.
pub fn set_cr2(value: u64) {
    // SAFETY: CR2 is only read after a page fault, which the core reports and stops at.
    unsafe { asm!("mov cr2, {}", in(reg) value, options(nomem, nostack)) };
}

/// Writes CR4.
///
/// # Safety
/// PAE stays on.
pub unsafe fn set_cr4(value: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("mov cr4, {}", in(reg) value, options(nostack)) };
}

/// Switches to other page tables.
///
/// # Safety
/// They map the code that runs, its stack and all it refers to, at the same addresses.
pub unsafe fn set_cr3(tables: HostPhysical) {
    // SAFETY: the caller's promise.
    unsafe { asm!("mov cr3, {}", in(reg) tables.0, options(nostack)) };
}

/// Forgets what the processor knows of the page with this virtual address.
pub fn invalidate_page(address: u64) {
    // SAFETY: forgetting a translation has no effect on memory.
    unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack)) };
}

/// The time-stamp counter.
#[inline(always)]
pub fn tsc() -> Tsc {
    // SAFETY: reading the counter has no effect.
    Tsc(unsafe { core::arch::x86_64::_rdtsc() })
}

/// CPUID.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let answer = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    [answer.eax, answer.ebx, answer.ecx, answer.edx]
}

/// Ticks of the time-stamp counter in a second, where the processor tells (CPUID leaf 0x15: ratio and
/// crystal; leaf 0x16: base frequency in MHz, SDM 3B 18.7.3); else 0.
pub fn tsc_frequency() -> u64 {
    let last = cpuid(0, 0)[0];
    let [denominator, numerator, crystal, _] = if last >= 0x15 { cpuid(0x15, 0) } else { [0; 4] };
    match (u64::from(crystal) * u64::from(numerator)).checked_div(u64::from(denominator)) {
        Some(frequency) if frequency != 0 => frequency,
        _ if last >= 0x16 => u64::from(cpuid(0x16, 0)[0] & 0xffff) * 1_000_000,
        _ => 0,
    }
}

/// 64 bits nobody can guess, as far as the machine has such: RDRAND (SDM 2B; CPUID 1 ECX bit 30) mixed
/// with the time.
pub fn random() -> u64 {
    let time = tsc().0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    if cpuid(1, 0)[2] & 1 << 30 == 0 {
        return time;
    }
    for _ in 0..10 {
        let (value, ok): (u64, u8);
        // SAFETY: RDRAND touches a register and the flags.
        unsafe {
            asm!("rdrand {}", "setc {}", out(reg) value, out(reg_byte) ok, options(nomem, nostack));
        }
        if ok != 0 {
            return value ^ time.rotate_left(32);
        }
    }
    time
}

/// XCR0. Only where CR4.OSXSAVE is set.
pub fn xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reading XCR0 has no effect.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes XCR0. Only where CR4.OSXSAVE is set, and a value `validate` has found legal: another raises
/// #GP and stops the core.
pub fn set_xcr0(value: u64) {
    // SAFETY: the core uses no extended state of its own.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nomem, nostack));
    }
}

/// Writes all caches back and empties them (SDM 2D WBINVD).
pub fn flush_caches() {
    // SAFETY: memory stays as it is.
    unsafe { asm!("wbinvd", options(nostack)) };
}

/// Stops this processor for good.
pub fn stop() -> ! {
    loop {
        // SAFETY: with interrupts off this never returns but for an NMI, and then goes round.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}
