//! The memory map: a sorted list of ranges without overlaps, of fixed capacity because it exists
//! before there is any memory to allocate.
//!
//! Firmware's maps overlap and come in any order; [`MemoryMap::insert`] settles overlaps for the more
//! restrictive kind, and [`MemoryMap::carve`] takes pieces out for one's own purposes.

use core::cmp::{max, min};
use core::fmt;
use units::{Bytes, HostPhysical};

/// What memory is, by its number in an e820 map (ACPI 6.5 table 15.3); later ones win where two
/// entries overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// RAM for whoever boots.
    Usable,
    /// RAM for one purpose: the core's pool. Linux offers it as `/dev/dax`.
    SoftReserved,
    /// Memory that keeps its contents without power.
    Persistent,
    /// ACPI tables; usable once they are read.
    AcpiReclaim,
    /// Firmware's, kept over sleep.
    AcpiNvs,
    /// Not for use: firmware, devices, and every number this list does not know.
    Reserved,
    /// RAM with errors.
    Unusable,
}

impl Kind {
    /// The kind with this number of an e820 map.
    #[must_use]
    pub const fn from_e820(number: u32) -> Self {
        match number {
            1 => Self::Usable,
            3 => Self::AcpiReclaim,
            4 => Self::AcpiNvs,
            5 => Self::Unusable,
            7 => Self::Persistent,
            0xefff_ffff => Self::SoftReserved,
            _ => Self::Reserved,
        }
    }

    /// Its number in an e820 map; that of soft-reserved memory is Linux' own (E820_TYPE_SOFT_RESERVED
    /// in arch/x86/include/asm/e820/types.h).
    #[must_use]
    pub const fn to_e820(self) -> u32 {
        match self {
            Self::Usable => 1,
            Self::Reserved => 2,
            Self::AcpiReclaim => 3,
            Self::AcpiNvs => 4,
            Self::Unusable => 5,
            Self::Persistent => 7,
            Self::SoftReserved => 0xefff_ffff,
        }
    }
}

/// The addresses from `start` up to, without, `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first address.
    pub start: HostPhysical,
    /// The address after the last.
    pub end: HostPhysical,
}

impl Span {
    /// Everything an address can name.
    pub const ALL: Self = Self { start: HostPhysical(0), end: HostPhysical(u64::MAX) };

    /// `size` bytes from `start` on; what lies past the address space is cut off.
    #[must_use]
    pub const fn of(start: HostPhysical, size: Bytes) -> Self {
        Self { start, end: HostPhysical(start.0.saturating_add(size.0)) }
    }

    /// How long it is.
    #[must_use]
    pub const fn size(&self) -> Bytes {
        Bytes(self.end.0.saturating_sub(self.start.0))
    }

    /// True without an address in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.start.0 >= self.end.0
    }

    /// True when every address of `other` lies in it.
    #[must_use]
    pub const fn contains(&self, other: &Self) -> bool {
        other.is_empty() || (self.start.0 <= other.start.0 && other.end.0 <= self.end.0)
    }

    /// True when some address lies in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        !self.intersection(other).is_empty()
    }

    /// The addresses in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let start = max(self.start, other.start);
        Self { start, end: max(start, min(self.end, other.end)) }
    }

    /// The largest part that begins and ends at multiples of `alignment`, a power of two.
    #[must_use]
    pub const fn aligned(&self, alignment: u64) -> Self {
        let mask = alignment.wrapping_sub(1);
        let end = HostPhysical(self.end.0 & !mask);
        let start = match self.start.0.checked_add(mask) {
            Some(sum) => HostPhysical(sum & !mask),
            None => end,
        };
        if start.0 > end.0 { Self { start: end, end } } else { Self { start, end } }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}-{:#x}", self.start.0, self.end.0)
    }
}

/// One range of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// Where.
    pub span: Span,
    /// What.
    pub kind: Kind,
}

impl MemoryRange {
    /// Bytes of an entry of an e820 map.
    pub const E820_SIZE: usize = 20;

    /// As an entry of an e820 map: address, size, type (Linux Documentation/arch/x86/zero-page.rst).
    #[must_use]
    pub fn to_e820(&self) -> [u8; Self::E820_SIZE] {
        let mut bytes = [0; Self::E820_SIZE];
        bytes[..8].copy_from_slice(&self.span.start.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.span.size().0.to_le_bytes());
        bytes[16..].copy_from_slice(&self.kind.to_e820().to_le_bytes());
        bytes
    }
}

/// The map has more ranges than it can hold; it is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// How many it can hold.
    pub capacity: usize,
}

/// Up to `N` ranges, sorted, none empty, none overlapping, neighbours of one kind joined.
#[derive(Clone, Copy, Debug)]
pub struct MemoryMap<const N: usize> {
    ranges: [MemoryRange; N],
    count: usize,
}

impl<const N: usize> Default for MemoryMap<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> MemoryMap<N> {
    /// A map without ranges.
    #[must_use]
    pub const fn new() -> Self {
        let nothing = MemoryRange {
            span: Span { start: HostPhysical(0), end: HostPhysical(0) },
            kind: Kind::Reserved,
        };
        Self { ranges: [nothing; N], count: 0 }
    }

    /// The ranges, in order of address.
    #[must_use]
    pub fn ranges(&self) -> &[MemoryRange] {
        self.ranges.get(..self.count).unwrap_or_default()
    }

    /// The ranges of one kind, in order of address.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = Span> + Clone + '_ {
        self.ranges().iter().filter_map(move |range| (range.kind == kind).then_some(range.span))
    }

    /// Bytes of one kind.
    #[must_use]
    pub fn total(&self, kind: Kind) -> Bytes {
        Bytes(self.of_kind(kind).map(|span| span.size().0).sum())
    }

    /// Adds a range; where it meets another, the more restrictive kind holds.
    ///
    /// # Errors
    /// The map is full.
    pub fn insert(&mut self, span: Span, kind: Kind) -> Result<(), Full> {
        self.rebuild(span, |old| Some(old.map_or(kind, |old| max(old, kind))))
    }

    /// Makes every address of `span` that kind, whatever it was.
    ///
    /// # Errors
    /// The map is full.
    pub fn carve(&mut self, span: Span, kind: Kind) -> Result<(), Full> {
        self.rebuild(span, |_| Some(kind))
    }

    /// Takes every address of `span` out of the map.
    ///
    /// # Errors
    /// The map is full: taking out a middle makes two ranges of one.
    pub fn subtract(&mut self, span: Span) -> Result<(), Full> {
        self.rebuild(span, |_| None)
    }

    /// What the byte at `address` is; `None` where the map says nothing.
    #[must_use]
    pub fn kind_of(&self, address: HostPhysical) -> Option<Kind> {
        let byte = Span::of(address, Bytes(1));
        self.ranges().iter().find(|range| range.span.overlaps(&byte)).map(|range| range.kind)
    }

    /// True when every address of `span` is of that kind.
    #[must_use]
    pub fn is_all(&self, span: Span, kind: Kind) -> bool {
        // Neighbours of one kind are joined, so one range must hold it.
        self.of_kind(kind).any(|range| range.contains(&span))
    }

    /// The largest usable range within `within`, cut to multiples of `alignment` (a power of two).
    #[must_use]
    pub fn largest_usable(&self, within: Span, alignment: u64) -> Option<Span> {
        self.candidates(within, alignment).max_by_key(|span| span.size().0)
    }

    /// The lowest place within `within` for `size` usable bytes, at a multiple of `alignment`.
    #[must_use]
    pub fn lowest_usable(&self, size: Bytes, alignment: u64, within: Span) -> Option<Span> {
        self.unaligned(within).find_map(|span| {
            let start =
                span.start.0.checked_add(alignment.wrapping_sub(1))? & !alignment.wrapping_sub(1);
            let place =
                Span { start: HostPhysical(start), end: HostPhysical(start.checked_add(size.0)?) };
            span.contains(&place).then_some(place)
        })
    }

    /// The highest place within `within` for `size` usable bytes, at a multiple of `alignment`.
    #[must_use]
    pub fn highest_usable(&self, size: Bytes, alignment: u64, within: Span) -> Option<Span> {
        self.unaligned(within)
            .filter_map(|span| {
                let start = span.end.0.checked_sub(size.0)? & !alignment.wrapping_sub(1);
                let place = Span::of(HostPhysical(start), size);
                span.contains(&place).then_some(place)
            })
            .last()
    }

    /// The map as entries of an e820 map, in order.
    pub fn e820(&self) -> impl Iterator<Item = [u8; MemoryRange::E820_SIZE]> + '_ {
        self.ranges().iter().map(MemoryRange::to_e820)
    }

    fn unaligned(&self, within: Span) -> impl Iterator<Item = Span> + '_ {
        self.of_kind(Kind::Usable)
            .map(move |span| span.intersection(&within))
            .filter(|span| !span.is_empty())
    }

    fn candidates(&self, within: Span, alignment: u64) -> impl Iterator<Item = Span> + '_ {
        self.unaligned(within)
            .map(move |span| span.aligned(alignment))
            .filter(|span| !span.is_empty())
    }

    /// Every address of `span` becomes what `decide` makes of what it was; the rest stays.
    fn rebuild(
        &mut self,
        span: Span,
        decide: impl Fn(Option<Kind>) -> Option<Kind>,
    ) -> Result<(), Full> {
        if span.is_empty() {
            return Ok(());
        }
        let mut built = Self::new();
        // Up to here, `span` is settled.
        let mut settled = span.start;
        for range in self.ranges() {
            let old = range.span;
            let gap = Span { start: settled, end: min(span.end, old.start) };
            built.push(gap, decide(None))?;
            settled = max(settled, gap.end);
            let before = Span { start: old.start, end: min(old.end, span.start) };
            let both = old.intersection(&span);
            let after = Span { start: max(old.start, span.end), end: old.end };
            built.push(before, Some(range.kind))?;
            if !both.is_empty() {
                built.push(both, decide(Some(range.kind)))?;
                settled = max(settled, both.end);
            }
            built.push(after, Some(range.kind))?;
        }
        let rest = Span { start: settled, end: span.end };
        built.push(rest, decide(None))?;
        *self = built;
        Ok(())
    }

    fn push(&mut self, span: Span, kind: Option<Kind>) -> Result<(), Full> {
        let Some(kind) = kind.filter(|_| !span.is_empty()) else {
            return Ok(());
        };
        if let Some(last) = self.count.checked_sub(1).and_then(|index| self.ranges.get_mut(index))
            && last.kind == kind
            && last.span.end == span.start
        {
            last.span.end = span.end;
            return Ok(());
        }
        *self.ranges.get_mut(self.count).ok_or(Full { capacity: N })? = MemoryRange { span, kind };
        self.count += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn span(start: u64, end: u64) -> Span {
        Span { start: HostPhysical(start), end: HostPhysical(end) }
    }

    fn list<const N: usize>(map: &MemoryMap<N>) -> Vec<(u64, u64, Kind)> {
        map.ranges()
            .iter()
            .map(|range| (range.span.start.0, range.span.end.0, range.kind))
            .collect()
    }

    #[test]
    fn the_more_restrictive_kind_holds_where_two_overlap() {
        let mut map = MemoryMap::<8>::new();
        map.insert(span(0x1000, 0x9000), Kind::Usable).expect("room");
        map.insert(span(0x3000, 0x4000), Kind::Reserved).expect("room");
        map.insert(span(0x0, 0x5000), Kind::Usable).expect("room");
        map.insert(span(0x8000, 0xa000), Kind::AcpiNvs).expect("room");
        assert_eq!(
            list(&map),
            [
                (0, 0x3000, Kind::Usable),
                (0x3000, 0x4000, Kind::Reserved),
                (0x4000, 0x8000, Kind::Usable),
                (0x8000, 0xa000, Kind::AcpiNvs)
            ]
        );
        assert_eq!(map.total(Kind::Usable), Bytes(0x7000));
        assert_eq!(map.kind_of(HostPhysical(0x3fff)), Some(Kind::Reserved));
        assert_eq!(map.kind_of(HostPhysical(0xa000)), None);
    }

    #[test]
    fn carving_splits_and_a_full_map_stays_as_it_was() {
        let mut map = MemoryMap::<3>::new();
        map.insert(span(0, 0x10000), Kind::Usable).expect("room");
        map.carve(span(0x4000, 0x8000), Kind::SoftReserved).expect("room");
        let before = list(&map);
        assert_eq!(before.len(), 3);
        assert_eq!(map.carve(span(0x1000, 0x2000), Kind::Reserved), Err(Full { capacity: 3 }));
        assert_eq!(list(&map), before);
        map.carve(span(0x4000, 0x8000), Kind::Usable).expect("room");
        assert_eq!(list(&map), [(0, 0x10000, Kind::Usable)]);
        assert!(map.is_all(span(0x100, 0x10000), Kind::Usable));
        assert!(!map.is_all(span(0x100, 0x10001), Kind::Usable));
    }

    #[test]
    fn places_are_found_from_below_and_above_at_multiples() {
        let mut map = MemoryMap::<8>::new();
        map.insert(span(0x500, 0x9_fc00), Kind::Usable).expect("room");
        map.insert(span(0x10_0000, 0x800_0000), Kind::Usable).expect("room");
        map.insert(span(0x1_0000_0000, 0x1_0060_0000), Kind::Usable).expect("room");
        let page = 4096;
        let found = map.lowest_usable(Bytes(page), page, Span::ALL);
        assert_eq!(found, Some(span(0x1000, 0x2000)));
        let below_4g = span(0, 0x1_0000_0000);
        assert_eq!(
            map.highest_usable(Bytes(0x1000), 0x20_0000, below_4g),
            Some(span(0x7e0_0000, 0x7e0_1000))
        );
        assert_eq!(map.largest_usable(Span::ALL, 0x20_0000), Some(span(0x20_0000, 0x800_0000)));
        let above_4g = span(0x1_0000_0000, u64::MAX);
        assert_eq!(
            map.largest_usable(above_4g, 0x40_0000),
            Some(span(0x1_0000_0000, 0x1_0040_0000))
        );
        assert_eq!(map.largest_usable(span(0, 0x500), page), None);
    }

    #[test]
    fn soft_reserved_memory_has_linux_number() {
        let range = MemoryRange { span: span(0x1000, 0x3000), kind: Kind::SoftReserved };
        let entry = range.to_e820();
        assert_eq!(entry[8..16], 0x2000u64.to_le_bytes());
        assert_eq!(entry[16..], 0xefff_ffffu32.to_le_bytes());
    }

    fn kinds() -> impl Strategy<Value = Kind> {
        prop::sample::select(&[
            Kind::Usable,
            Kind::SoftReserved,
            Kind::Persistent,
            Kind::AcpiReclaim,
            Kind::AcpiNvs,
            Kind::Reserved,
            Kind::Unusable,
        ])
    }

    #[derive(Clone, Copy, Debug)]
    enum Change {
        Insert,
        Carve,
        Subtract,
    }

    proptest! {
        /// Against a plain array of the first 64 addresses.
        #[test]
        fn agrees_with_a_table_of_bytes(
            changes in prop::collection::vec(
                (0u64..64, 0u64..64, kinds(), prop::sample::select(&[Change::Insert, Change::Carve, Change::Subtract])),
                0..20,
            )
        ) {
            let mut map = MemoryMap::<64>::new();
            let mut table = [None; 64];
            for (start, end, kind, change) in changes {
                let span = span(start, end);
                match change {
                    Change::Insert => map.insert(span, kind),
                    Change::Carve => map.carve(span, kind),
                    Change::Subtract => map.subtract(span),
                }.expect("64 ranges are enough for 64 addresses");
                for address in start..end.max(start) {
                    let cell = &mut table[usize::try_from(address).expect("small")];
                    *cell = match change {
                        Change::Insert => Some(cell.map_or(kind, |old: Kind| old.max(kind))),
                        Change::Carve => Some(kind),
                        Change::Subtract => None,
                    };
                }
            }
            for (address, kind) in table.iter().enumerate() {
                prop_assert_eq!(map.kind_of(HostPhysical(address as u64)), *kind);
            }
            for pair in map.ranges().windows(2) {
                prop_assert!(pair[0].span.end <= pair[1].span.start);
                prop_assert!(pair[0].span.end < pair[1].span.start || pair[0].kind != pair[1].kind);
            }
            prop_assert!(map.ranges().iter().all(|range| !range.span.is_empty()));
        }

        #[test]
        fn extreme_addresses_never_panic(start: u64, size: u64, alignment in 0u32..63, want: u64) {
            let mut map = MemoryMap::<4>::new();
            map.insert(Span::of(HostPhysical(start), Bytes(size)), Kind::Usable).expect("room");
            let alignment = 1 << alignment;
            for found in [
                map.largest_usable(Span::ALL, alignment),
                map.lowest_usable(Bytes(want), alignment, Span::ALL),
                map.highest_usable(Bytes(want), alignment, Span::ALL),
            ].into_iter().flatten() {
                prop_assert!(map.is_all(found, Kind::Usable));
                prop_assert_eq!(found.start.0 % alignment, 0);
            }
        }
    }
}
