//! Registers that neither vendor's structure holds: floating point and vectors, XCR0, the debug
//! addresses, a few MSRs. They change hands when a processor changes between root and a guest, not at
//! exits the core answers itself: the core uses none of them.
//!
//! `unsafe` here: XSAVE, XRSTOR, debug registers.
#![allow(unsafe_code)]

use crate::cpu::{control, msr};
use crate::cpuid::xcr0;
use crate::machine::machine;
use crate::memory::Frames;
use crate::registers::{CR4_OSFXSR, CR4_OSXMMEXCPT, CR4_OSXSAVE};
use core::arch::asm;
use units::PAGE_SIZE;
use x86::debugregs::{dr0, dr0_write, dr1, dr1_write, dr2, dr2_write, dr3, dr3_write};

/// What the processors of this machine can save, found once.
#[derive(Clone, Copy, Debug)]
pub struct ExtendedFeatures {
    /// XSAVE and XCR0 are there and CR4.OSXSAVE is set in the core.
    pub xsave: bool,
    /// All bits XCR0 may have.
    pub supported: u64,
    /// Bytes all of them take.
    pub size: u32,
    /// IA32_TSC_AUX exists (RDTSCP or RDPID).
    pub tsc_aux: bool,
    /// IA32_PRED_CMD exists and knows the indirect branch prediction barrier.
    pub barrier: bool,
    /// x87 registers that are the same are not loaded again. Where QEMU emulates several processors, one that
    /// loads them may undo what the first has just done to its own flags in a world switch (docs/src/lab.md).
    pub spares_x87: bool,
}

impl ExtendedFeatures {
    /// Looks, and turns CR4.OSXSAVE on for the core on this processor, one of so many.
    pub fn detect(processors: usize) -> Self {
        /// What QEMU's software processor says in EBX of leaf 0x4000_0000.
        const QEMU: u32 = u32::from_le_bytes(*b"TCGT");
        // CPUID 1 ECX bit 26: XSAVE.
        let xsave = control::cpuid(1, 0)[2] & 1 << 26 != 0;
        // What every processor with long mode has: FXSAVE and SSE.
        let cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT | if xsave { CR4_OSXSAVE } else { 0 };
        // SAFETY: adds the use of instructions, takes nothing away.
        unsafe { control::set_cr4(control::cr4() | cr4) };
        let extended = control::cpuid(0x8000_0001, 0)[3];
        let structured = control::cpuid(7, 0);
        let amd = control::cpuid(0x8000_0000, 0)[0] >= 0x8000_0008
            && control::cpuid(0x8000_0008, 0)[1] & 1 << 12 != 0;
        // Without XSAVE what FXSAVE saves.
        let [low, _, size, high] = if xsave { control::cpuid(0xd, 0) } else { [3, 0, 512, 0] };
        Self {
            xsave,
            supported: u64::from(high) << 32 | u64::from(low),
            size,
            tsc_aux: extended & 1 << 27 != 0 || structured[2] & 1 << 22 != 0,
            // CPUID 7 EDX bit 26, or 0x8000_0008 EBX bit 12.
            barrier: structured[3] & 1 << 26 != 0 || amd,
            // CPUID 1 ECX bit 31: there is a hypervisor.
            spares_x87: processors > 1
                && control::cpuid(1, 0)[2] & 1 << 31 != 0
                && control::cpuid(0x4000_0000, 0)[1] == QEMU,
        }
    }
}

/// The legacy area and XSTATE_BV of an XSAVE area (SDM 1 13.4), in words.
type Head = [u64; 65];

/// Whether the x87 registers in two XSAVE areas are the same, which they nearly always are.
fn same_x87(one: &Head, other: &Head) -> bool {
    const IN_USE: usize = 64;
    let differ = |word: usize| one[word] ^ other[word];
    // All of the legacy area (SDM 1 table 10-2) but MXCSR and the XMM registers.
    let control = differ(0) | differ(1) | differ(2);
    let registers = (4..20).fold(control, |bits, word| bits | differ(word));
    registers == 0 && one[IN_USE] & other[IN_USE] & xcr0::X87 != 0
}

/// Such registers of root or of one virtual CPU while another has the processor.
pub struct Extended {
    area: Frames,
    /// XCR0. All writes to it exit.
    xcr0: u64,
    /// All bits XCR0 has had, and what needs none: no other component of the area was ever in use.
    components: u64,
    /// DR0 to DR3.
    pub debug: [u64; 4],
    /// IA32_TSC_AUX.
    pub tsc_aux: u64,
}

impl Extended {
    /// The state after power-on. `None` when the core is out of memory.
    pub fn new(features: &ExtendedFeatures) -> Option<Self> {
        let pages = u64::from(features.size).div_ceil(PAGE_SIZE).max(1);
        let mut extended = Self {
            area: Frames::allocate(pages)?,
            xcr0: xcr0::X87,
            // What programs use whatever XCR0 says (SDM 1 13.5.2, SDM 3A 4.6.2).
            components: xcr0::X87 | xcr0::SSE | xcr0::PKRU & features.supported,
            debug: [0; 4],
            tsc_aux: 0,
        };
        extended.reset();
        Some(extended)
    }

    /// The state after power-on (SDM 3A table 10-1). An XSAVE area whose header says that no component
    /// is in use puts all into their initial state (SDM 1 13.6).
    pub fn reset(&mut self) {
        let area = self.area.bytes_mut();
        area.fill(0);
        // FCW, MXCSR (SDM 1 10.5.1.1): for FXRSTOR, and XRSTOR takes MXCSR from there too.
        area[0..2].copy_from_slice(&0x37f_u16.to_le_bytes());
        area[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
        (self.debug, self.tsc_aux) = ([0; 4], 0);
        self.note_xcr0(xcr0::X87);
    }

    /// XCR0.
    pub const fn xcr0(&self) -> u64 {
        self.xcr0
    }

    /// Its owner has this in XCR0 from its next entry on, a legal value.
    pub const fn note_xcr0(&mut self, value: u64) {
        self.xcr0 = value;
        self.components |= value;
    }

    /// The owner, which has the processor, writes XCR0, a legal value.
    pub fn set_xcr0(&mut self, value: u64) {
        control::set_xcr0(value);
        self.note_xcr0(value);
    }

    /// Takes the processor's registers and gives it those of `next`; what is the same is not written again.
    pub fn hand_over(&mut self, next: &Self) {
        let features = &machine().extended;
        let (own, other) = (self.area.physical().0, next.area.physical().0);
        // SAFETY: each area is as large as all components together, 64-byte aligned, and was written here or
        // by `reset`; its header names only its own components. XCR0, a union of legal values, has those of both
        // between them, so that nothing of one's stays behind for the other. Breakpoints are off in the core: the
        // processor clears DR7 at exits (SDM 3C 28.5.1, APM 2 15.6).
        unsafe {
            if features.xsave {
                let own_components = self.components;
                let both = own_components | next.components;
                if self.xcr0 != both {
                    control::set_xcr0(both);
                }
                asm!("xsave64 [{}]", in(reg) own,
                    in("eax") own_components as u32, in("edx") (own_components >> 32) as u32, options(nostack));
                let spare = features.spares_x87
                    && same_x87(&*(own as *const Head), &*(other as *const Head));
                let components = if spare { !xcr0::X87 } else { u64::MAX };
                asm!("xrstor64 [{}]", in(reg) other, in("eax") components as u32, in("edx") u32::MAX, options(nostack));
                if next.xcr0 != both {
                    control::set_xcr0(next.xcr0);
                }
            } else {
                asm!("fxsave64 [{}]", "fxrstor64 [{}]", in(reg) own, in(reg) other, options(nostack));
            }
            self.debug = [dr0(), dr1(), dr2(), dr3()].map(|address| address as u64);
            let writers = [dr0_write, dr1_write, dr2_write, dr3_write];
            for (register, write) in writers.into_iter().enumerate() {
                if next.debug[register] != self.debug[register] {
                    write(next.debug[register] as usize);
                }
            }
            if features.tsc_aux {
                self.tsc_aux = msr::read(msr::TSC_AUX);
                if next.tsc_aux != self.tsc_aux {
                    msr::write(msr::TSC_AUX, next.tsc_aux);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::same_x87;

    #[test]
    fn x87_registers_stay_only_where_they_are_the_same() {
        let mut area = [0; 65];
        assert!(!same_x87(&area, &area), "not in use: the words say nothing");
        area[64] = 0b111;
        assert!(same_x87(&area, &area));
        // Control and status, last pointer, first and last register.
        for word in [0, 2, 4, 19] {
            let mut other = area;
            other[word] ^= 1 << 63;
            assert!(!same_x87(&area, &other) && !same_x87(&other, &area), "word {word}");
        }
        // MXCSR and an XMM register are others'.
        for word in [3, 20] {
            let mut other = area;
            other[word] ^= 1;
            assert!(same_x87(&area, &other), "word {word}");
        }
    }
}
