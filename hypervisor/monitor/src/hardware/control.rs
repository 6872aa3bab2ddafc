//! Control registers, MSRs, the time-stamp counter, CPUID, halting.

use core::arch::asm;
use units::Tsc;

/// The time-stamp counter.
#[must_use]
pub fn tsc() -> Tsc {
    let (low, high): (u32, u32);
    // SAFETY: reading the counter has no effect.
    unsafe { asm!("rdtsc", out("eax") low, out("edx") high, options(nomem, nostack)) };
    Tsc(u64::from(high) << 32 | u64::from(low))
}

/// CPUID: EAX, EBX, ECX, EDX.
#[must_use]
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let answer = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    [answer.eax, answer.ebx, answer.ecx, answer.edx]
}

/// CR2: the address of the last page fault.
#[must_use]
pub fn cr2() -> u64 {
    let value;
    // SAFETY: reading a control register has no effect.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack)) };
    value
}

/// Forgets every translation the processor holds.
pub fn flush_translations() {
    // SAFETY: the same tables are loaded again.
    unsafe { asm!("mov {0}, cr3", "mov cr3, {0}", out(reg) _, options(nostack)) };
}

/// Reads an MSR that exists on this processor; one that does not raises #GP and stops the monitor.
#[must_use]
pub(super) fn read_msr(index: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reading has no effect on memory.
    unsafe {
        asm!("rdmsr", in("ecx") index, out("eax") low, out("edx") high, options(nomem, nostack));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes an MSR.
///
/// # Safety
/// The new value keeps the page tables, segments and stacks the code relies on.
pub(super) unsafe fn write_msr(index: u32, value: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("wrmsr", in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack));
    }
}

/// Takes the physical interrupts that wait, and returns with interrupts off.
pub fn take_interrupts() {
    // SAFETY: the handlers only count and end interrupts; STI takes effect after the NOP.
    unsafe { asm!("sti", "nop", "cli", options(nostack)) };
}

/// Halts until the next physical interrupt, takes it, and returns with interrupts off. One that came
/// since interrupts were turned off ends the halt at once (SDM 2B, STI: the shadow of STI).
pub fn halt() {
    // SAFETY: as in `take_interrupts`.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
}

/// Stops this processor for good.
pub fn stop() -> ! {
    loop {
        // SAFETY: with interrupts off this never returns but for an NMI, and then goes round.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}
