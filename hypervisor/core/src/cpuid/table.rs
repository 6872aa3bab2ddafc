//! A guest's CPUID as the exit path looks it up.

use hypervisor_abi::{CpuidRow, MAX_CPUID_ROWS};

use super::bits::{bit, xcr0};
use super::{EAX, EBX, ECX, EDX, leaf};
use crate::registers::{CR4_OSXSAVE, CR4_PKE};

/// [`Row::subleaf`] of a leaf that ignores ECX.
const ANY: u32 = u32::MAX;
/// [`CpuidTable::first`] of a leaf without rows.
const ABSENT: u8 = u8::MAX;
/// Leaves of the basic and the extended range that can be in a table.
const RANGE: u32 = 0x28;
const EXTENDED_END: u32 = leaf::EXTENDED + RANGE;
/// Places for leaves: both ranges, two of the first hypervisor block, and our own.
const PLACES: usize = 2 * RANGE as usize + 3;

#[derive(Clone, Copy, Debug)]
struct Row {
    leaf: u32,
    subleaf: u32,
    answer: [u32; 4],
}

/// What in an answer depends on the moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dynamic {
    /// CR4 as the guest sees it.
    pub cr4: u64,
    /// Bit 11 of IA32_APIC_BASE.
    pub apic_enabled: bool,
    /// XCR0.
    pub xcr0: u64,
}

/// Why a table cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuidError {
    /// More than [`MAX_CPUID_ROWS`] rows.
    TooManyRows,
    /// A row's `indexed` is neither 0 nor 1, or its reserved word is not zero.
    BadRow(u32),
    /// The same leaf and subleaf again, or a leaf both with and without subleaves.
    Duplicate(u32),
}

/// What one vCPU sees in CPUID. Leaves that are not in it answer zero.
#[derive(Clone, Debug)]
pub struct CpuidTable {
    /// Ordered by leaf and subleaf; `count` of them count.
    rows: [Row; MAX_CPUID_ROWS],
    count: u8,
    /// By [`place`]: the first row of the leaf.
    first: [u8; PLACES],
    apic_id: u32,
}

const _: () = assert!(size_of::<CpuidTable>() <= 4096);
const _: () = assert!(MAX_CPUID_ROWS < ABSENT as usize);

/// Where a leaf's first row is noted, or `None` for leaves that no table holds.
const fn place(leaf: u32) -> Option<usize> {
    match leaf {
        0..RANGE => Some(leaf as usize),
        leaf::EXTENDED..EXTENDED_END => Some((leaf - leaf::EXTENDED + RANGE) as usize),
        leaf::HYPERVISOR => Some(PLACES - 3),
        leaf::HYPERVISOR_FEATURES => Some(PLACES - 2),
        hypervisor_abi::CPUID_LEAF => Some(PLACES - 1),
        _ => None,
    }
}

impl CpuidTable {
    /// A table that answers zero to everything.
    pub const fn new(apic_id: u32) -> Self {
        Self {
            rows: [Row { leaf: 0, subleaf: 0, answer: [0; 4] }; MAX_CPUID_ROWS],
            count: 0,
            first: [ABSENT; PLACES],
            apic_id,
        }
    }

    /// Answers a question of the guest. `dynamic` is called only for the few leaves that need it.
    pub fn answer(&self, leaf: u32, subleaf: u32, dynamic: impl FnOnce() -> Dynamic) -> [u32; 4] {
        let mut answer = self.lookup(leaf, subleaf);
        let now = match leaf {
            leaf::VERSION | leaf::FEATURES | leaf::XSAVE => dynamic(),
            _ => return answer,
        };
        match (leaf, subleaf) {
            (leaf::VERSION, _) => {
                if now.cr4 & CR4_OSXSAVE != 0 {
                    answer[ECX] |= bit::OSXSAVE;
                }
                if !now.apic_enabled {
                    answer[EDX] &= !bit::APIC;
                }
            }
            (leaf::FEATURES, 0) if now.cr4 & CR4_PKE != 0 => answer[ECX] |= bit::OSPKE,
            (leaf::XSAVE, 0 | 1) if answer != [0; 4] => {
                answer[EBX] = self.xsave_size(now.xcr0, subleaf == 1);
            }
            _ => {}
        }
        answer
    }

    /// The row for a question, as stored.
    pub fn lookup(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        match self.find(leaf, subleaf) {
            Some(row) => row.answer,
            // Past the last level of a topology: level type 0, the number asked for, our own id
            // (SDM 2A CPUID, leaf 0BH).
            None if matches!(leaf, leaf::TOPOLOGY | leaf::TOPOLOGY_V2) && self.contains(leaf) => {
                [0, 0, subleaf & 0xff, self.apic_id]
            }
            None => [0; 4],
        }
    }

    fn find(&self, leaf: u32, subleaf: u32) -> Option<&Row> {
        let first = usize::from(*self.first.get(place(leaf)?)?);
        // ABSENT is past the end.
        let row = self.rows.get(first)?;
        if row.subleaf == ANY || row.subleaf == subleaf {
            return Some(row);
        }
        // Subleaves mostly follow each other without a gap.
        let matches = |row: &&Row| row.leaf == leaf && row.subleaf == subleaf;
        let rows = self.rows.get(first..usize::from(self.count))?;
        rows.get(subleaf as usize).filter(matches).or_else(|| {
            rows.iter().take_while(|row| row.leaf == leaf).find(|row| row.subleaf == subleaf)
        })
    }

    /// True when the leaf has a row.
    pub fn contains(&self, leaf: u32) -> bool {
        place(leaf).is_some_and(|place| self.first[place] != ABSENT)
    }

    /// Size of an XSAVE area with `components` (SDM 1 13.4.2, 13.4.3).
    pub fn xsave_size(&self, components: u64, compacted: bool) -> u32 {
        /// Legacy region and header (SDM 1 13.4.1, 13.4.2).
        const HEAD: u32 = 576;
        /// D.n.ECX: in the compacted form the component starts at a multiple of 64.
        const ALIGNED: u32 = 1 << 1;
        let mut size = HEAD;
        // x87 and SSE lie in the legacy region; bit 63 is no component.
        let mut left = components & !(1 << 63) & !(xcr0::X87 | xcr0::SSE);
        while left != 0 {
            let component = left.trailing_zeros();
            left &= left - 1;
            let [bytes, offset, properties, _] = self.lookup(leaf::XSAVE, component);
            if !compacted {
                size = size.max(offset.saturating_add(bytes));
            } else if properties & ALIGNED != 0 {
                size = size.checked_next_multiple_of(64).unwrap_or(u32::MAX).saturating_add(bytes);
            } else {
                size = size.saturating_add(bytes);
            }
        }
        size
    }

    /// XCR0 bits of leaf D.
    pub(super) fn xcr0(&self) -> u64 {
        let [low, _, _, high] = self.lookup(leaf::XSAVE, 0);
        (u64::from(high) << 32 | u64::from(low)) & xcr0::KNOWN
    }

    /// All rows, as root reads them.
    pub fn rows(&self) -> impl Iterator<Item = CpuidRow> + '_ {
        self.rows[..usize::from(self.count)].iter().map(|row| CpuidRow {
            leaf: row.leaf,
            subleaf: if row.subleaf == ANY { 0 } else { row.subleaf },
            indexed: u32::from(row.subleaf != ANY),
            reserved: 0,
            answer: row.answer,
        })
    }

    /// Adds a row; `subleaf` is `None` for a leaf that ignores ECX. Leaves outside the ranges a table
    /// can hold are left out.
    pub(super) fn insert(
        &mut self,
        leaf: u32,
        subleaf: Option<u32>,
        answer: [u32; 4],
    ) -> Result<(), CpuidError> {
        if subleaf == Some(ANY) {
            return Err(CpuidError::BadRow(leaf));
        }
        if place(leaf).is_none() {
            return Ok(());
        }
        let subleaf = subleaf.unwrap_or(ANY);
        let count = usize::from(self.count);
        if count == MAX_CPUID_ROWS {
            return Err(CpuidError::TooManyRows);
        }
        let known = &self.rows[..count];
        let clashes = |row: &Row| row.subleaf == subleaf || row.subleaf == ANY || subleaf == ANY;
        if known.iter().any(|row| row.leaf == leaf && clashes(row)) {
            return Err(CpuidError::Duplicate(leaf));
        }
        let at = known.partition_point(|row| (row.leaf, row.subleaf) < (leaf, subleaf));
        self.rows.copy_within(at..count, at + 1);
        self.rows[at] = Row { leaf, subleaf, answer };
        self.count += 1;
        for (index, row) in self.rows[..=count].iter().enumerate().rev() {
            if let Some(place) = place(row.leaf) {
                self.first[place] = index as u8;
            }
        }
        Ok(())
    }

    /// Changes the rows in place; leaf and subleaf (0 where ECX is ignored) tell them apart.
    pub(super) fn edit(&mut self, mut change: impl FnMut(u32, u32, &mut [u32; 4])) {
        for row in &mut self.rows[..usize::from(self.count)] {
            let subleaf = if row.subleaf == ANY { 0 } else { row.subleaf };
            change(row.leaf, subleaf, &mut row.answer);
        }
    }

    /// Clears a feature.
    pub(super) fn clear(&mut self, leaf: u32, subleaf: u32, register: usize, mask: u32) {
        self.edit(|row, index, answer| {
            if (row, index) == (leaf, subleaf) {
                answer[register] &= !mask;
            }
        });
    }

    /// True when all bits of `mask` are there.
    pub(super) fn has(&self, leaf: u32, subleaf: u32, register: usize, mask: u32) -> bool {
        self.lookup(leaf, subleaf)[register] & mask == mask
    }

    pub(super) fn set_apic_id(&mut self, apic_id: u32) {
        self.apic_id = apic_id;
        self.edit(|leaf, _, answer| match leaf {
            // Initial APIC id: its low 8 bits.
            leaf::VERSION => answer[EBX] = answer[EBX] & 0x00ff_ffff | apic_id << 24,
            leaf::TOPOLOGY | leaf::TOPOLOGY_V2 => answer[EDX] = apic_id,
            leaf::TOPOLOGY_AMD => answer[EAX] = apic_id,
            _ => {}
        });
    }
}
