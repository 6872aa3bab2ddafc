//! Entries of second-level tables in both formats: what a leaf means, and its bits.

use units::HostPhysical;

use super::PageSize;
use crate::memory_type::MemoryType;

/// Which tables the processor walks, and what of them it offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Intel's extended page tables (SDM 3C 29.3).
    Ept {
        /// The largest page to use: IA32_VMX_EPT_VPID_CAP bit 16 offers 2 MiB, bit 17 1 GiB
        /// (SDM 3D A.10).
        largest: PageSize,
        /// Accessed and dirty flags: IA32_VMX_EPT_VPID_CAP bit 21.
        accessed_dirty: bool,
        /// The leaf's memory type alone decides, not the guest's PAT. For guests without devices of
        /// their own.
        ignore_pat: bool,
    },
    /// AMD's nested page tables: ordinary long-mode tables (APM 2 15.25).
    /// EFER.NXE is set while they are in use.
    Npt {
        /// The largest page to use: 1 GiB with CPUID 8000_0001 EDX bit 26.
        largest: PageSize,
    },
    /// The core's own tables: the same, in pages of 4 KiB and 2 MiB that are not for users.
    Host,
}

/// What a guest may do with a page. Reading is always allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// Write to it.
    pub write: bool,
    /// Execute from it.
    pub execute: bool,
}

impl Access {
    /// Everything.
    pub const ALL: Self = Self { write: true, execute: true };
    /// Reading and writing.
    pub const WRITE: Self = Self { write: true, execute: false };
}

/// What the dirty log knows of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Log {
    /// The log is off.
    Off,
    /// Not written since the last collection.
    Clean,
    /// Written since.
    Written,
}

/// What a leaf entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    pub(super) host: HostPhysical,
    /// What the mapping grants; the entry itself withholds writing while a logged page is clean.
    pub(super) access: Access,
    pub(super) memory_type: MemoryType,
    pub(super) log: Log,
}

impl Leaf {
    /// The same for the page `bytes` further on.
    pub(super) const fn moved(self, bytes: u64) -> Self {
        Self { host: HostPhysical(self.host.0 + bytes), ..self }
    }
}

/// Bits of entries of both formats (SDM 3C tables 29-1 to 29-6, APM 2 5.3). Every page is readable,
/// which in EPT entries is the bit that says present elsewhere.
const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
/// EPT: the page is executable.
const EXECUTE: u64 = 1 << 2;
/// NPT: every guest access counts as a user access (APM 2 15.25.5).
const USER: u64 = 1 << 2;
/// EPT: three bits of memory type. NPT: PWT and PCD, which choose one of the first four types of the
/// host's PAT (APM 2 7.8.2).
const MEMORY_TYPE_SHIFT: u32 = 3;
/// EPT: the leaf's memory type alone decides.
const IGNORE_PAT: u64 = 1 << 6;
/// The entry of a level above the last maps a page (PS).
const LARGE: u64 = 1 << 7;
/// Physical address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bits 52 and 53 are free for software in both formats. The dirty log is on.
const LOGGED: u64 = 1 << 52;
/// The mapping grants writing, whatever the entry's own write bit says.
const WRITABLE: u64 = 1 << 53;
/// NPT: the page is not executable.
const NO_EXECUTE: u64 = 1 << 63;

/// NPT leaves name a type by the host's PAT, which the core keeps at its value after reset: WB, WT,
/// UC-, UC (APM 2 7.8.2, table 7-9). The processor combines it with the MTRRs itself, so WB is right
/// for all memory of the machine; WC and WP have no entry and get the nearest that lets the MTRR win.
const HOST_PAT: [MemoryType; 4] = [
    MemoryType::WriteBack,
    MemoryType::WriteThrough,
    MemoryType::WriteCombining,
    MemoryType::Uncacheable,
];

const fn host_pat_index(memory_type: MemoryType) -> u64 {
    match memory_type {
        MemoryType::WriteBack => 0,
        MemoryType::WriteThrough | MemoryType::WriteProtected => 1,
        MemoryType::WriteCombining => 2,
        MemoryType::Uncacheable => 3,
    }
}

const fn bit(set: bool, bit: u64) -> u64 {
    if set { bit } else { 0 }
}

impl Format {
    pub(super) const fn largest(self) -> PageSize {
        match self {
            Self::Ept { largest, .. } | Self::Npt { largest } => largest,
            Self::Host => PageSize::Size2M,
        }
    }

    /// What the processor is told of tables that start at `root`: the EPT pointer with write-back walks
    /// of four levels (SDM 3C 25.6.11, table 25-9), or the nested CR3, write-back too (APM 2 15.25.3).
    pub(super) const fn root_pointer(self, root: HostPhysical) -> u64 {
        const WALK_OF_FOUR: u64 = 3 << 3;
        const ACCESSED_DIRTY: u64 = 1 << 6;
        match self {
            Self::Ept { accessed_dirty, .. } => {
                let flags = bit(accessed_dirty, ACCESSED_DIRTY) | WALK_OF_FOUR;
                root.0 | flags | MemoryType::WriteBack as u64
            }
            Self::Npt { .. } | Self::Host => root.0,
        }
    }

    /// A logged page of this size is watched by its dirty flag, where the processor keeps one; others
    /// are write-protected. Large pages always are, so that the first write can split them.
    const fn watches_by_flag(self, size: PageSize) -> bool {
        matches!(size, PageSize::Size4K) && self.dirty_flag() != 0
    }

    pub(super) const fn is_present(entry: u64) -> bool {
        entry & PRESENT != 0
    }

    /// True for an entry that maps a page. The entry is present.
    pub(super) const fn is_leaf(entry: u64, size: PageSize) -> bool {
        matches!(size, PageSize::Size4K) || entry & LARGE != 0
    }

    /// The table an entry leads to. The entry is present and no leaf.
    pub(super) const fn table(entry: u64) -> HostPhysical {
        HostPhysical(entry & ADDRESS)
    }

    /// The entry that leads to `table`. It grants everything: the leaves decide.
    pub(super) const fn table_entry(self, table: HostPhysical) -> u64 {
        const { assert!(EXECUTE == USER) };
        table.0 | PRESENT | WRITE | EXECUTE | self.accessed_flag()
    }

    /// The entry for `leaf`. Accessed is set from the start, and dirty where nobody asks for it: that
    /// saves the processor the update.
    pub(super) fn leaf_entry(self, leaf: Leaf, size: PageSize) -> u64 {
        let Leaf { host, access, memory_type, log } = leaf;
        let by_flag = self.watches_by_flag(size);
        let clean = log == Log::Clean;
        let of_format = match self {
            Self::Ept { ignore_pat, .. } => {
                (memory_type as u64) << MEMORY_TYPE_SHIFT
                    | bit(access.execute, EXECUTE)
                    | bit(ignore_pat, IGNORE_PAT)
            }
            Self::Npt { .. } | Self::Host => {
                host_pat_index(memory_type) << MEMORY_TYPE_SHIFT
                    | bit(self != Self::Host, USER)
                    | bit(!access.execute, NO_EXECUTE)
            }
        };
        host.0 & ADDRESS
            | of_format
            | PRESENT
            | self.accessed_flag()
            | bit(access.write && (by_flag || !clean), WRITE)
            | bit(!(by_flag && clean), self.dirty_flag())
            | bit(size != PageSize::Size4K, LARGE)
            | bit(log != Log::Off, LOGGED)
            | bit(access.write, WRITABLE)
    }

    /// What a leaf entry says. The entry is present and a leaf.
    pub(super) fn leaf(self, entry: u64, size: PageSize) -> Leaf {
        let type_bits = entry >> MEMORY_TYPE_SHIFT;
        let (execute, memory_type) = match self {
            // Only types of the enumeration are ever written; were one not, uncacheable is safe.
            Self::Ept { .. } => (
                entry & EXECUTE != 0,
                MemoryType::from_bits(type_bits as u8 & 7).unwrap_or(MemoryType::Uncacheable),
            ),
            _ => (entry & NO_EXECUTE == 0, HOST_PAT[type_bits as usize & 3]),
        };
        let written = if self.watches_by_flag(size) { self.dirty_flag() } else { WRITE };
        Leaf {
            host: HostPhysical(entry & ADDRESS & !(size.bytes() - 1)),
            access: Access { write: entry & WRITABLE != 0, execute },
            memory_type,
            log: match (entry & LOGGED != 0, entry & written != 0) {
                (false, _) => Log::Off,
                (true, false) => Log::Clean,
                (true, true) => Log::Written,
            },
        }
    }

    const fn accessed_flag(self) -> u64 {
        match self {
            Self::Ept { accessed_dirty, .. } => bit(accessed_dirty, 1 << 8),
            Self::Npt { .. } | Self::Host => 1 << 5,
        }
    }

    /// The flag by which the processor records writes, or 0 where it keeps none.
    pub(super) const fn dirty_flag(self) -> u64 {
        match self {
            Self::Ept { accessed_dirty, .. } => bit(accessed_dirty, 1 << 9),
            Self::Npt { .. } | Self::Host => 1 << 6,
        }
    }
}
