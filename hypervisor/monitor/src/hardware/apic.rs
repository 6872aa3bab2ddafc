//! The processor's local APIC (SDM 3A 11): identity, timer, interrupts to other processors. x2APIC
//! registers where firmware or the core turned that on, else the memory-mapped ones.

use super::{control, interrupts, port};
use core::sync::atomic::{AtomicU64, Ordering};

/// IA32_APIC_BASE: bit 10 x2APIC, bit 11 enabled (SDM 3A 11.12.1).
const BASE: u32 = 0x1b;
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ENABLED: u64 = 1 << 11;
const BASE_ADDRESS: u64 = 0xf_ffff_ffff_f000;
/// IA32_TSC_DEADLINE (SDM 3A 11.5.4.1).
const TSC_DEADLINE: u32 = 0x6e0;
/// First x2APIC register; register n of the memory-mapped page is at 16 * n.
const X2APIC: u32 = 0x800;

// Register numbers (SDM 3A table 11-6).
const ID: u32 = 0x02;
const TASK_PRIORITY: u32 = 0x08;
const EOI: u32 = 0x0b;
const SPURIOUS: u32 = 0x0f;
const ICR: u32 = 0x30;
const ICR_HIGH: u32 = 0x31;
const LVT_TIMER: u32 = 0x32;
const LVT_LINT0: u32 = 0x35;
const LVT_LINT1: u32 = 0x36;
const LVT_ERROR: u32 = 0x37;
const TIMER_INITIAL: u32 = 0x38;
const TIMER_CURRENT: u32 = 0x39;
const TIMER_DIVIDE: u32 = 0x3e;

const MASKED: u32 = 1 << 16;
const LVT_NMI: u32 = 4 << 8;
const TIMER_DEADLINE_MODE: u32 = 2 << 17;
/// Divide by 16 (SDM 3A figure 11-10).
const DIVIDE_BY_16: u32 = 0b0011;
const SOFTWARE_ENABLE: u32 = 1 << 8;
// Interrupt command (SDM 3A 11.6.1).
const ICR_INIT: u32 = 5 << 8;
const ICR_STARTUP: u32 = 6 << 8;
const ICR_ASSERT: u32 = 1 << 14;
const ICR_BUSY: u32 = 1 << 12;

/// Timer ticks (after the divider) in 2^32 ticks of the time-stamp counter; 0 where the timer takes
/// a time-stamp counter value itself.
static TIMER_RATE: AtomicU64 = AtomicU64::new(0);
/// Frequency of the time-stamp counter, where [`measure_timer`] measured it; else 0.
static TSC_HERTZ: AtomicU64 = AtomicU64::new(0);

/// Where the registers are: [`MSRS`], or the address of their page. Every processor's are at the same
/// place, and asking IA32_APIC_BASE again costs an exit to the core each time.
static PLACE: AtomicU64 = AtomicU64::new(MSRS);
/// The registers are MSRs.
const MSRS: u64 = 0;

fn x2apic() -> bool {
    PLACE.load(Ordering::Relaxed) == MSRS
}

fn page() -> *mut u32 {
    PLACE.load(Ordering::Relaxed) as *mut u32
}

fn read(register: u32) -> u32 {
    if x2apic() {
        return control::read_msr(X2APIC + register) as u32;
    }
    // SAFETY: the page is the local APIC's, mapped one to one; register numbers are its own.
    unsafe { page().add(register as usize * 4).read_volatile() }
}

fn write(register: u32, value: u32) {
    if x2apic() {
        // SAFETY: registers of the local APIC change no memory; vectors sent are the monitor's own.
        unsafe { control::write_msr(X2APIC + register, value.into()) };
        return;
    }
    // SAFETY: see `read`.
    unsafe { page().add(register as usize * 4).write_volatile(value) };
}

/// This processor's local APIC id.
#[must_use]
pub fn id() -> u32 {
    if x2apic() { read(ID) } else { read(ID) >> 24 }
}

/// Turns this processor's APIC on, with everything but the timer and other processors masked.
///
/// # Panics
/// The processor has no enabled local APIC.
pub fn prepare() {
    let base = control::read_msr(BASE);
    assert!(base & BASE_ENABLED != 0, "the local APIC is off (IA32_APIC_BASE {base:#x})",);
    let place = if base & BASE_X2APIC != 0 { MSRS } else { base & BASE_ADDRESS };
    PLACE.store(place, Ordering::Relaxed);
    write(TASK_PRIORITY, 0);
    write(LVT_LINT0, MASKED);
    write(LVT_LINT1, LVT_NMI);
    write(LVT_ERROR, MASKED);
    write(SPURIOUS, SOFTWARE_ENABLE | u32::from(interrupts::SPURIOUS));
    let vector = u32::from(interrupts::TIMER);
    if deadline_mode() {
        write(LVT_TIMER, TIMER_DEADLINE_MODE | vector);
    } else {
        write(TIMER_DIVIDE, DIVIDE_BY_16);
        write(LVT_TIMER, vector);
    }
}

/// CPUID.1:ECX bit 24 (SDM 2A table 3-10).
fn deadline_mode() -> bool {
    control::cpuid(1, 0)[2] & 1 << 24 != 0
}

/// Measures the timer against the time-stamp counter, where the timer does not take its values.
/// Once, on the first processor.
pub fn measure_timer() {
    if deadline_mode() {
        return;
    }
    write(LVT_TIMER, MASKED);
    let (tsc, ticks) = shortest_window(
        || write(TIMER_INITIAL, u32::MAX),
        || u64::from(u32::MAX - read(TIMER_CURRENT)),
    );
    TSC_HERTZ.store(tsc * WINDOWS_PER_SECOND, Ordering::Relaxed);
    write(TIMER_INITIAL, 0);
    write(LVT_TIMER, u32::from(interrupts::TIMER));
    TIMER_RATE.store(((ticks << 32) / tsc.max(1)).max(1), Ordering::Relaxed);
}

/// Makes the timer interrupt this processor when the time-stamp counter reaches `deadline`, or at
/// once when it has; `u64::MAX` for never.
pub fn arm(deadline: u64) {
    let rate = TIMER_RATE.load(Ordering::Relaxed);
    if rate == 0 {
        let deadline = if deadline == u64::MAX { 0 } else { deadline.max(1) };
        // SAFETY: the register only sets when the timer's interrupt comes.
        unsafe { control::write_msr(TSC_DEADLINE, deadline) };
        return;
    }
    let ticks = if deadline == u64::MAX {
        0
    } else {
        let tsc = deadline.saturating_sub(control::tsc().0);
        let ticks = (u128::from(tsc) * u128::from(rate)) >> 32;
        u32::try_from(ticks).unwrap_or(u32::MAX).max(1)
    };
    write(TIMER_INITIAL, ticks);
}

/// Ends the interrupt in service.
pub(super) fn end_of_interrupt() {
    write(EOI, 0);
}

fn command(target: u32, command: u32) {
    if x2apic() {
        // SAFETY: see `write`.
        unsafe {
            control::write_msr(X2APIC + ICR, u64::from(target) << 32 | u64::from(command));
        }
        return;
    }
    write(ICR_HIGH, target << 24);
    write(ICR, command);
    while read(ICR) & ICR_BUSY != 0 {
        core::hint::spin_loop();
    }
}

/// Interrupts the processor with local APIC id `target`, so that its scheduler looks around.
pub fn wake(target: u32) {
    command(target, ICR_ASSERT | u32::from(interrupts::WAKE));
}

/// INIT, then SIPI twice, to `target`: it starts in real mode at the beginning of `page`
/// (SDM 3A 10.4.4.1).
pub(super) fn start(target: u32, page: u8) {
    command(target, ICR_INIT | ICR_ASSERT);
    wait_10_ms();
    for _ in 0..2 {
        command(target, ICR_STARTUP | ICR_ASSERT | u32::from(page));
        wait(250);
    }
}

/// Oscillator of the 8254 in hertz.
const PIT: u64 = 1_193_182;
const PIT_CHANNEL_2: u16 = 0x42;
const PIT_MODE: u16 = 0x43;
const SPEAKER: u16 = 0x61;

/// Waits with channel 2 of the 8254, which needs no other clock: gate in bit 0 of port 0x61, output in
/// bit 5 (8254 data sheet, mode 0; ICH9 13.7.1).
fn wait(microseconds: u64) {
    let count = (PIT * microseconds / 1_000_000).clamp(1, 0xffff) as u16;
    let speaker = port::read_u8(SPEAKER) & !0b11;
    port::write_u8(SPEAKER, speaker);
    port::write_u8(PIT_MODE, 0b1011_0000);
    let [low, high] = count.to_le_bytes();
    port::write_u8(PIT_CHANNEL_2, low);
    port::write_u8(PIT_CHANNEL_2, high);
    port::write_u8(SPEAKER, speaker | 1);
    while port::read_u8(SPEAKER) & 1 << 5 == 0 {
        core::hint::spin_loop();
    }
    port::write_u8(SPEAKER, speaker);
}

fn wait_10_ms() {
    wait(10_000);
}

/// What is measured takes so many microseconds of the 8254's time, so many times.
const WINDOW: u64 = 5000;
const WINDOWS_PER_SECOND: u64 = 1_000_000 / WINDOW;
const WINDOWS: usize = 3;

/// Ticks of the time-stamp counter in a window, and what `end` said that `begin` started to count. What
/// gets in the way can only make a window too long, so the shortest of several counts.
fn shortest_window(begin: impl Fn(), end: impl Fn() -> u64) -> (u64, u64) {
    let measure = || {
        begin();
        let start = control::tsc().0;
        wait(WINDOW);
        let counted = end();
        (control::tsc().0 - start, counted)
    };
    let windows = core::iter::repeat_with(measure).take(WINDOWS);
    windows.min_by_key(|(tsc, _)| *tsc).unwrap_or((0, 0))
}

/// Frequency of the time-stamp counter in hertz, where the core does not know it.
#[must_use]
pub fn measure_tsc() -> u64 {
    match TSC_HERTZ.load(Ordering::Relaxed) {
        0 => shortest_window(|| {}, || 0).0 * WINDOWS_PER_SECOND,
        known => known,
    }
}

/// Masks the interrupt controllers the monitor does not use: the 8259 pair (82C59A data sheet, OCW1)
/// and, at its usual place, every pin of the I/O APIC (82093AA 3.2.4).
pub fn mask_others() {
    port::write_u8(0x21, 0xff);
    port::write_u8(0xa1, 0xff);
    let ioapic = 0xfec0_0000 as *mut u32;
    // SAFETY: select at 0, window at 0x10; the page is mapped one to one and holds no memory.
    unsafe {
        ioapic.write_volatile(1);
        let version = ioapic.add(4).read_volatile();
        if version == u32::MAX {
            return;
        }
        for pin in 0..=(version >> 16 & 0xff) {
            ioapic.write_volatile(0x10 + 2 * pin);
            ioapic.add(4).write_volatile(MASKED);
        }
    }
}
