//! Random changes of eight mebibytes around a gibibyte boundary, against a map of pages.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use units::{Bytes, GuestPhysical, HostPhysical, PAGE_SIZE};

use super::{Frames, GIB, MIB, formats, guest_write, processor};
use crate::memory_type::MemoryType;
use crate::second_level::{Access, Flush, Format, PageSize, SecondLevel};
use hypervisor_abi::Fault;

const SPACE_START: u64 = GIB - 4 * MIB;
const SPACE_PAGES: u64 = 8 * MIB / PAGE_SIZE;

#[derive(Clone, Copy, Debug)]
enum Operation {
    Map { host: u64, access: Access },
    Unmap,
    Retype(MemoryType),
    Collect,
    Write,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Page {
    host: u64,
    access: Access,
    memory_type: MemoryType,
    /// `None` while the log is off, else whether it was written.
    written: Option<bool>,
}

fn access() -> impl Strategy<Value = Access> {
    (any::<bool>(), any::<bool>()).prop_map(|(write, execute)| Access { write, execute })
}

fn operation() -> impl Strategy<Value = (Operation, u64, u64)> {
    let kind = prop_oneof![
        4 => (0..4u64, access()).prop_map(|(skew, access)| Operation::Map {
            host: 16 * GIB + [0, 0, 2 * MIB, 4096][skew as usize],
            access,
        }),
        2 => Just(Operation::Unmap),
        2 => prop_oneof![Just(MemoryType::WriteBack), Just(MemoryType::Uncacheable)]
            .prop_map(Operation::Retype),
        2 => Just(Operation::Collect),
        4 => Just(Operation::Write),
    ];
    // Edges on large pages, and anywhere.
    let edge = || prop_oneof![(0..5u64).prop_map(|n| n * 512), 0..SPACE_PAGES];
    (kind, edge(), edge()).prop_map(|(kind, a, b)| (kind, a.min(b), a.max(b)))
}

fn any_format() -> impl Strategy<Value = Format> {
    (0..3usize, any::<bool>()).prop_map(|(format, large)| {
        let largest = if large { PageSize::Size2M } else { PageSize::Size4K };
        formats(largest)[format]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn tables_agree_with_a_map_of_pages(
        format in any_format(),
        limit in 4..24usize,
        operations in prop::collection::vec(operation(), 1..24),
    ) {
        let mut frames = Frames::new(limit);
        let mut tables = SecondLevel::new(format, &mut frames).unwrap();
        let mut model: BTreeMap<u64, Page> = BTreeMap::new();
        for (kind, from, to) in operations {
            let start = SPACE_START + from * PAGE_SIZE;
            let guest = GuestPhysical(start);
            let bytes = Bytes((to - from) * PAGE_SIZE);
            let result = match kind {
                Operation::Map { host, access } => {
                    let host = host + from * PAGE_SIZE;
                    let result = tables.map(guest, HostPhysical(host), bytes, access,
                        MemoryType::WriteBack);
                    if model.range(from..to).next().is_some() {
                        prop_assert_eq!(result, Err(Fault::Exists));
                    } else if result.is_ok() {
                        model.extend((from..to).map(|page| {
                            let host = host + (page - from) * PAGE_SIZE;
                            let memory_type = MemoryType::WriteBack;
                            (page, Page { host, access, memory_type, written: None })
                        }));
                    }
                    result.map(|()| Flush::NotNeeded)
                }
                Operation::Unmap => {
                    let result = tables.unmap(guest, bytes);
                    if result.is_ok() {
                        model.retain(|page, _| !(from..to).contains(page));
                    }
                    result
                }
                Operation::Retype(memory_type) => {
                    let result = tables.set_memory_type(guest, bytes, memory_type);
                    if result.is_ok() {
                        (model.range_mut(from..to))
                            .for_each(|(_, page)| page.memory_type = memory_type);
                    }
                    result
                }
                Operation::Collect => {
                    let mut seen = BTreeSet::new();
                    let result = tables.collect_dirty(guest, bytes, |page| {
                        seen.insert((page.get() - SPACE_START) / PAGE_SIZE);
                    });
                    for (page, state) in model.range_mut(from..to) {
                        if state.written != Some(false) {
                            prop_assert!(seen.contains(page), "page {} was written", page);
                        }
                        // Whether a page cut by the edge goes on to count is the tables' choice;
                        // where it does not, the model must not ask for it.
                        state.written = Some(false);
                    }
                    prop_assert!(seen.iter().all(|page| (from..to).contains(page)
                        && model.contains_key(page)));
                    result
                }
                Operation::Write => {
                    let done = guest_write(&mut tables, start + 123);
                    let page = model.get_mut(&from);
                    prop_assert_eq!(done, page.as_ref().is_some_and(|page| page.access.write));
                    if let (true, Some(page)) = (done, page) {
                        page.written = page.written.map(|_| true);
                    }
                    Ok(Flush::NotNeeded)
                }
            };
            if result != Ok(Flush::NotNeeded) || matches!(kind, Operation::Write) {
                tables.release_retired();
            }
            prop_assert_eq!(tables.table_frames(), tables.memory.tables.len() as u64);
            let pointer = tables.root_pointer();
            for page in 0..SPACE_PAGES {
                let address = SPACE_START + page * PAGE_SIZE;
                let seen = processor(tables.memory, format, pointer, address, false);
                let expected = model.get(&page);
                prop_assert_eq!(
                    seen.map(|seen| (seen.host, seen.execute)),
                    expected.map(|page| (page.host, page.access.execute))
                );
                let found = tables.translate(GuestPhysical(address));
                prop_assert_eq!(
                    found.map(|found| (found.host.get(), found.memory_type)),
                    expected.map(|page| (page.host, page.memory_type))
                );
                if let (Some(seen), Some(page)) = (seen, expected) {
                    prop_assert!(page.access.write || !seen.write, "never more than granted");
                    if page.written.is_none() {
                        prop_assert_eq!(page.access.write, seen.write);
                    }
                }
            }
        }
        drop(tables);
        prop_assert!(frames.tables.is_empty(), "all frames came back");
    }
}
