//! The processor and the machine as the attacks use them: registers, ports, text, chance, a window onto
//! any physical address.

use core::arch::asm;
use core::fmt::{self, Write};

/// Where user programs may be: one 2 MiB page.
pub(crate) const USER: u64 = 2 << 20;
/// Memory nobody uses: for page tables, buffers and targets.
pub(crate) const SCRATCH: u64 = 4 << 20;
/// Where the guest's memory ends: scenarios give it 16 MiB.
pub(crate) const MEMORY_END: u64 = 16 << 20;
/// The virtual address whose page-table entry is [`page_window`].
const WINDOW: u64 = 512 << 30;

/// Ports of the machine for tiny programs (docs/src/tiny-guests.md).
const PUTS: u16 = 0xea;
const EXIT: u16 = 0xec;

unsafe extern "C" {
    pub(crate) static mut page_window: [u64; 512];
    pub(crate) static mut page_directories: [[u64; 512]; 4];
}

pub(crate) fn out8(port: u16, value: u8) {
    // SAFETY: devices cannot harm more than this guest, which is a test.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack)) };
}

pub(crate) fn out32(port: u16, value: u32) {
    // SAFETY: as above.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack)) };
}

/// Leaves the guest for root, which does nothing: a port that holds a byte.
pub(crate) fn exit_to_root() {
    out8(0x80, 0);
}

/// Ends the machine.
pub(crate) fn exit(status: u8) -> ! {
    out8(EXIT, status);
    loop {
        // SAFETY: the machine ends.
        unsafe { asm!("cli", "hlt") };
    }
}

struct Line {
    bytes: [u8; 240],
    length: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // The last byte stays 0.
            if self.length + 1 < self.bytes.len() {
                self.bytes[self.length] = byte;
                self.length += 1;
            }
        }
        Ok(())
    }
}

/// Prints a line in one go.
pub(crate) fn line(text: fmt::Arguments<'_>) {
    let mut line = Line { bytes: [0; 240], length: 0 };
    let _ = writeln!(line, "{text}");
    // The stack lies below 4 GiB, mapped one to one.
    out32(PUTS, line.bytes.as_ptr() as u32);
}

macro_rules! say {
    ($($text:tt)*) => { $crate::machine::line(format_args!($($text)*)) };
}
pub(crate) use say;

/// Something is not as it must be: the test has failed.
macro_rules! fail {
    ($($text:tt)*) => {{
        $crate::machine::line(format_args!("FAILED: {}", format_args!($($text)*)));
        $crate::machine::exit(99)
    }};
}
pub(crate) use fail;

pub(crate) fn read_msr(index: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: callers name registers that exist.
    unsafe { asm!("rdmsr", in("ecx") index, out("eax") low, out("edx") high, options(nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

pub(crate) fn write_msr(index: u32, value: u64) {
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: callers name registers that exist.
    unsafe { asm!("wrmsr", in("ecx") index, in("eax") low, in("edx") high, options(nostack)) };
}

pub(crate) fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let answer = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    [answer.eax, answer.ebx, answer.ecx, answer.edx]
}

/// VMMCALL is the processor's own, else VMCALL.
pub(crate) fn is_amd() -> bool {
    cpuid(0, 0)[1] == u32::from_le_bytes(*b"Auth")
}

/// Bits of a physical address.
pub(crate) fn physical_bits() -> u32 {
    cpuid(0x8000_0008, 0)[0] & 0xff
}

pub(crate) fn tsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter.
    unsafe { asm!("rdtsc", out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

pub(crate) fn interrupts(on: bool) {
    // SAFETY: every vector has a handler.
    unsafe {
        if on {
            asm!("sti");
        } else {
            asm!("cli");
        }
    }
}

pub(crate) fn pause() {
    core::hint::spin_loop();
}

/// Numbers that look random and are the same each time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn word(&mut self) -> u64 {
        // xorshift64*.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        (self.word() >> 16) % end
    }

    /// One of the numbers that programs trip over.
    pub(crate) fn nasty(&mut self) -> u64 {
        match self.below(12) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << self.below(64),
            3 => (1_u64 << self.below(64)).wrapping_sub(1),
            4 => 0x7fff_ffff_ffff_f000 + self.below(0x2000),
            5 => 0x0000_7fff_ffff_f000 + self.below(0x2000),
            6 => 0xffff_8000_0000_0000 + self.below(1 << 21),
            7 => MEMORY_END - 16 + self.below(32),
            8 => 0x100_0000 + self.below(1 << 20),
            9 => 0xffff_f000 + self.below(0x2000),
            10 => self.below(1 << 32),
            _ => self.word(),
        }
    }
}

/// Shows the page at a physical address. Bits of `flags` go into the entry besides "present".
pub(crate) fn window(physical: u64, flags: u64) -> u64 {
    // SAFETY: the entry is this function's; only the first processor uses the window.
    unsafe {
        (&raw mut page_window[0]).write_volatile(physical & !0xfff | flags | 1);
        asm!("invlpg [{}]", in(reg) WINDOW, options(nostack));
    }
    WINDOW + (physical & 0xfff)
}

/// Writes all of memory's caches of translations off.
pub(crate) fn flush() {
    // SAFETY: CR3 stays what it is.
    unsafe {
        asm!("mov {0}, cr3", "mov cr3, {0}", out(reg) _, options(nostack));
    }
}
