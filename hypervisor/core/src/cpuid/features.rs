//! What follows from a guest's CPUID for its control registers and MSRs.

use super::bits::{bit, xcr0};
use super::table::CpuidTable;
use super::{EAX, EBX, ECX, EDX, leaf};

/// Whose processor a guest sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// "GenuineIntel", and anyone not named below.
    Intel,
    /// "AuthenticAMD", "HygonGenuine".
    Amd,
}

impl Vendor {
    /// The vendor that `table` names.
    pub fn of(table: &CpuidTable) -> Self {
        match &table.lookup(leaf::VENDOR, 0)[EBX].to_le_bytes() {
            b"Auth" | b"Hygo" => Self::Amd,
            _ => Self::Intel,
        }
    }
}

/// Which registers and bits exist for a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Whose processor it sees.
    pub vendor: Vendor,
    /// Physical address bits, 32 to 52.
    pub physical_bits: u8,
    /// 57-bit linear addresses can be turned on.
    pub five_levels: bool,
    /// 1 GiB pages exist.
    pub gigabyte_pages: bool,
    /// CR4 bits that may be set.
    pub cr4: u64,
    /// EFER bits that may be set.
    pub efer: u64,
    /// XCR0 bits that may be set; 0 without XSAVE.
    pub xcr0: u64,
    /// IA32_TSC_AUX exists.
    pub tsc_aux: bool,
    /// IA32_ARCH_CAPABILITIES exists.
    pub arch_capabilities: bool,
}

/// Bits of a register and the CPUID bit each comes with: (bit, leaf, register, mask).
type Bits = [(u32, u32, usize, u32)];

/// CR4 (SDM 3A 2.5, APM 2 3.1.3).
const CR4: &Bits = &[
    (0, leaf::VERSION, EDX, 1 << 1),   // VME
    (1, leaf::VERSION, EDX, 1 << 1),   // PVI
    (2, leaf::VERSION, EDX, 1 << 4),   // TSD
    (3, leaf::VERSION, EDX, 1 << 2),   // DE
    (4, leaf::VERSION, EDX, 1 << 3),   // PSE
    (5, leaf::VERSION, EDX, 1 << 6),   // PAE
    (6, leaf::VERSION, EDX, 1 << 7),   // MCE
    (7, leaf::VERSION, EDX, 1 << 13),  // PGE
    (8, leaf::VERSION, EDX, 0),        // PCE needs no feature: RDPMC is intercepted
    (9, leaf::VERSION, EDX, 1 << 24),  // OSFXSR
    (10, leaf::VERSION, EDX, 1 << 25), // OSXMMEXCPT
    (11, leaf::FEATURES, ECX, 1 << 2), // UMIP
    (12, leaf::FEATURES, ECX, bit::LA57),
    (16, leaf::FEATURES, EBX, 1 << 0), // FSGSBASE
    (17, leaf::VERSION, ECX, 1 << 17), // PCIDE
    (18, leaf::VERSION, ECX, bit::XSAVE),
    (20, leaf::FEATURES, EBX, 1 << 7),  // SMEP
    (21, leaf::FEATURES, EBX, 1 << 20), // SMAP
    (22, leaf::FEATURES, ECX, 1 << 3),  // PKE
];

/// EFER (SDM 3A 2.2.1, APM 2 3.1.7).
const EFER: &Bits = &[
    (0, leaf::EXTENDED_FEATURES, EDX, 1 << 11),  // SCE
    (8, leaf::EXTENDED_FEATURES, EDX, 1 << 29),  // LME
    (10, leaf::EXTENDED_FEATURES, EDX, 1 << 29), // LMA
    (11, leaf::EXTENDED_FEATURES, EDX, 1 << 20), // NXE
    (14, leaf::EXTENDED_FEATURES, EDX, 1 << 25), // FFXSR
];

impl Features {
    /// What `table` promises.
    pub fn of(table: &CpuidTable) -> Self {
        let has = |leaf, register, mask| table.has(leaf, 0, register, mask);
        let bits = |list: &Bits| {
            let known =
                list.iter().filter(|(_, leaf, register, mask)| has(*leaf, *register, *mask));
            known.fold(0, |word, (number, ..)| word | 1 << number)
        };
        // Without the leaf: 36 bits with PAE (SDM 3A 4.1.4).
        let physical_bits = match table.lookup(leaf::SIZES, 0)[EAX] as u8 {
            0 => 36,
            bits => bits.clamp(32, 52),
        };
        let xsave = has(leaf::VERSION, ECX, bit::XSAVE);
        Self {
            vendor: Vendor::of(table),
            physical_bits,
            five_levels: has(leaf::FEATURES, ECX, bit::LA57),
            gigabyte_pages: has(leaf::EXTENDED_FEATURES, EDX, 1 << 26),
            cr4: bits(CR4),
            efer: bits(EFER),
            xcr0: if xsave { table.xcr0() | xcr0::X87 | xcr0::SSE } else { 0 },
            tsc_aux: has(leaf::EXTENDED_FEATURES, EDX, bit::RDTSCP)
                || has(leaf::FEATURES, ECX, bit::RDPID),
            arch_capabilities: has(leaf::FEATURES, EDX, 1 << 29),
        }
    }
}
