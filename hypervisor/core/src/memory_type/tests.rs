//! Behaviour of memory types.

use std::collections::BTreeMap;

use proptest::prelude::*;
use units::{Bytes, GuestPhysical, HostPhysical, PAGE_SIZE};

use super::MemoryType::{
    self, Uncacheable, WriteBack, WriteCombining, WriteProtected, WriteThrough,
};
use super::{Mtrrs, TypedRange};
use crate::second_level::{Access, Format, PageSize, SecondLevel, TABLE_ENTRIES, TableMemory};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const ENABLE: u64 = 1 << 11;
const FIXED: u64 = 1 << 10;
const BITS: u8 = 36;

/// Registers by number; those not named are zero, and must not be read when they do not exist.
fn registers(default: u64, variable: &[(u64, u64)], fixed: Option<[u64; 11]>) -> Mtrrs {
    let numbers = [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];
    let mut msrs = BTreeMap::from([(0x2ff, default)]);
    msrs.insert(0xfe, variable.len() as u64 | if fixed.is_some() { 1 << 8 } else { 0 });
    for (index, (base, mask)) in variable.iter().enumerate() {
        msrs.insert(0x200 + 2 * index as u32, *base);
        msrs.insert(0x201 + 2 * index as u32, *mask);
    }
    if let Some(fixed) = fixed {
        msrs.extend(numbers.into_iter().zip(fixed));
    }
    Mtrrs::read(BITS, |msr| *msrs.get(&msr).expect("only MSRs that exist are read"))
}

fn variable(start: u64, bytes: u64, memory_type: MemoryType) -> (u64, u64) {
    let mask = !(bytes - 1) & ((1 << BITS) - 1);
    (start | u64::from(memory_type.bits()), mask | ENABLE)
}

fn all(mtrrs: &Mtrrs) -> Vec<(u64, u64, MemoryType)> {
    ranges(mtrrs, 0, u64::MAX)
}

fn ranges(mtrrs: &Mtrrs, start: u64, bytes: u64) -> Vec<(u64, u64, MemoryType)> {
    mtrrs
        .ranges(HostPhysical(start), Bytes(bytes))
        .map(|range| (range.start.get(), range.start.get() + range.bytes.get(), range.memory_type))
        .collect()
}

const TOP: u64 = 1 << BITS;

#[test]
fn encodings_are_the_manuals() {
    for (bits, expected) in [
        (0, Some(Uncacheable)),
        (1, Some(WriteCombining)),
        (2, None),
        (3, None),
        (4, Some(WriteThrough)),
        (5, Some(WriteProtected)),
        (6, Some(WriteBack)),
        (7, None),
    ] {
        assert_eq!(MemoryType::from_bits(bits), expected);
        assert_eq!(expected.map_or(bits, MemoryType::bits), bits);
    }
}

#[test]
fn disabled_registers_make_everything_uncacheable() {
    let mtrrs = registers(6 | FIXED, &[variable(0, GIB, WriteBack)], Some([!0; 11]));
    assert_eq!(all(&mtrrs), [(0, TOP, Uncacheable)]);
}

#[test]
fn a_usual_machine() {
    // Write-back by default, the hole below 4 GiB uncacheable, a frame buffer write-combining.
    let hole = variable(3 * GIB, GIB, Uncacheable);
    let buffer = variable(0x10_0000_0000 - 4 * GIB, 16 * MIB, WriteCombining);
    let mtrrs = registers(6 | ENABLE, &[hole, (0, 0), buffer], None);
    let frame = 0xf_0000_0000;
    assert_eq!(
        all(&mtrrs),
        [
            (0, 3 * GIB, WriteBack),
            (3 * GIB, 4 * GIB, Uncacheable),
            (4 * GIB, frame, WriteBack),
            (frame, frame + 16 * MIB, WriteCombining),
            (frame + 16 * MIB, TOP, WriteBack),
        ]
    );
    assert_eq!(ranges(&mtrrs, GIB, GIB), [(GIB, 2 * GIB, WriteBack)]);
    assert_eq!(
        ranges(&mtrrs, 3 * GIB - PAGE_SIZE, 2 * PAGE_SIZE),
        [(3 * GIB - PAGE_SIZE, 3 * GIB, WriteBack), (3 * GIB, 3 * GIB + PAGE_SIZE, Uncacheable)]
    );
    assert_eq!(ranges(&mtrrs, TOP, GIB), []);
    assert_eq!(ranges(&mtrrs, 0, 0), []);
}

#[test]
fn fixed_ranges_rule_below_one_mebibyte() {
    let write_back = 0x0606_0606_0606_0606;
    let mut fixed = [write_back; 11];
    // 0xA0000 to 0xBFFFF uncacheable, 0xC0000 to 0xC0FFF write-protected, 0x70000 to 0x7FFFF reserved.
    fixed[2] = 0;
    fixed[3] = 0x0606_0606_0606_0605;
    fixed[0] = 0x0706_0606_0606_0606;
    let covering = [variable(0, GIB, WriteThrough)];
    let mtrrs = registers(ENABLE | FIXED, &covering, Some(fixed));
    assert_eq!(
        all(&mtrrs),
        [
            (0, 0x7_0000, WriteBack),
            (0x7_0000, 0x8_0000, Uncacheable),
            (0x8_0000, 0xa_0000, WriteBack),
            (0xa_0000, 0xc_0000, Uncacheable),
            (0xc_0000, 0xc_1000, WriteProtected),
            (0xc_1000, MIB, WriteBack),
            (MIB, GIB, WriteThrough),
            (GIB, TOP, Uncacheable),
        ]
    );
    let off = registers(ENABLE, &covering, Some(fixed));
    assert_eq!(off.type_of(HostPhysical(0xa_0000)), WriteThrough);
    let none = registers(ENABLE | FIXED, &covering, None);
    assert_eq!(none.type_of(HostPhysical(0xa_0000)), WriteThrough);
}

#[test]
fn overlaps_follow_the_manual() {
    let types = [Uncacheable, WriteCombining, WriteThrough, WriteProtected, WriteBack];
    for one in types {
        for other in types {
            let both = [variable(0, 2 * GIB, one), variable(GIB, GIB, other)];
            let mtrrs = registers(6 | ENABLE, &both, None);
            let expected = if one == other {
                one
            } else if [one, other].contains(&WriteThrough) && [one, other].contains(&WriteBack) {
                WriteThrough
            } else {
                Uncacheable
            };
            assert_eq!(mtrrs.type_of(HostPhysical(GIB)), expected, "{one:?} {other:?}");
            assert_eq!(mtrrs.type_of(HostPhysical(0)), one);
            assert_eq!(mtrrs.type_of(HostPhysical(2 * GIB)), WriteBack);
        }
    }
    let three =
        [variable(0, GIB, WriteBack), variable(0, GIB, WriteThrough), variable(0, GIB, WriteBack)];
    let mtrrs = registers(ENABLE, &three, None);
    assert_eq!(mtrrs.type_of(HostPhysical(0)), WriteThrough);
}

#[test]
fn more_registers_than_fit_are_left_out() {
    let mtrrs = Mtrrs::read(BITS, |msr| match msr {
        0xfe => 0xff,
        0x2ff => 6 | ENABLE,
        _ => 0,
    });
    assert_eq!(all(&mtrrs), [(0, TOP, WriteBack)]);
}

struct Tables(BTreeMap<u64, [u64; TABLE_ENTRIES]>);

impl TableMemory for Tables {
    fn allocate(&mut self) -> Option<HostPhysical> {
        let address = (self.0.len() as u64 + 1) * PAGE_SIZE;
        self.0.insert(address, [0; TABLE_ENTRIES]);
        Some(HostPhysical(address))
    }
    fn free(&mut self, _: HostPhysical) {}
    fn read(&self, table: HostPhysical, index: usize) -> u64 {
        self.0[&table.get()][index]
    }
    fn write(&mut self, table: HostPhysical, index: usize, entry: u64) {
        self.0.get_mut(&table.get()).unwrap()[index] = entry;
    }
    fn swap(&mut self, table: HostPhysical, index: usize, entry: u64) -> u64 {
        let old = self.read(table, index);
        self.write(table, index, entry);
        old
    }
}

#[test]
fn a_large_page_that_spans_two_types_is_split() {
    let odd = variable(4 * MIB + 0x8000, 0x8000, Uncacheable);
    let mtrrs = registers(6 | ENABLE, &[odd], None);
    let format =
        Format::Ept { largest: PageSize::Size2M, accessed_dirty: false, ignore_pat: false };
    let mut tables = SecondLevel::new(format, Tables(BTreeMap::new())).unwrap();
    for TypedRange { start, bytes, memory_type } in mtrrs.ranges(HostPhysical(0), Bytes(8 * MIB)) {
        let guest = GuestPhysical(start.get());
        tables.map(guest, start, bytes, Access::ALL, memory_type).unwrap();
    }
    for address in (0..8 * MIB).step_by(4096) {
        let found = tables.translate(GuestPhysical(address)).unwrap();
        assert_eq!(found.memory_type, mtrrs.type_of(HostPhysical(address)));
        let whole = address / (2 * MIB) != 2;
        assert_eq!(found.size == PageSize::Size2M, whole, "{address:#x}");
    }
}

proptest! {
    #[test]
    fn ranges_agree_with_single_addresses(
        default in prop_oneof![Just(0u64), Just(6), Just(5)],
        // Sixteen pages are all there is; masks need not be contiguous.
        variable in prop::collection::vec((0..16u64, 0..16u64, 0..8u64, any::<bool>()), 0..5),
        from in 0..16u64,
        count in 0..20u64,
    ) {
        let values: Vec<_> = variable
            .iter()
            .map(|(base, mask, kind, valid)| (base << 12 | kind, mask << 12 | u64::from(*valid) << 11))
            .collect();
        let mtrrs = Mtrrs::read(16, |msr| match msr {
            0xfe => values.len() as u64,
            0x2ff => default | ENABLE,
            msr if msr % 2 == 0 => values[(msr as usize - 0x200) / 2].0,
            msr => values[(msr as usize - 0x200) / 2].1,
        });
        let mut next = from * PAGE_SIZE;
        let mut last = None;
        for range in mtrrs.ranges(HostPhysical(next), Bytes(count * PAGE_SIZE)) {
            prop_assert_eq!(range.start.get(), next);
            prop_assert!(range.bytes.get() > 0);
            prop_assert_ne!(Some(range.memory_type), last, "as long as they get");
            last = Some(range.memory_type);
            for page in (0..range.bytes.get()).step_by(4096) {
                let address = HostPhysical(range.start.get() + page);
                prop_assert_eq!(mtrrs.type_of(address), range.memory_type);
            }
            next += range.bytes.get();
        }
        prop_assert_eq!(next, ((from + count).min(16) * PAGE_SIZE).max(from * PAGE_SIZE));
    }
}
