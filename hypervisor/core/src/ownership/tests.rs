//! Behaviour of page ownership.

use std::collections::BTreeMap;

use hypervisor_abi::Fault;
use hypervisor_boot::memory_map::Span;
use proptest::prelude::*;
use units::{Bytes, HostPhysical, PAGE_SIZE};

use super::{Ownership, Page, Terms};

const START: u64 = 0x4000_0000;

fn run(first: u64, pages: u64) -> Span {
    Span::of(HostPhysical(START + first * PAGE_SIZE), Bytes(pages * PAGE_SIZE))
}

fn table(pages: &mut [Page]) -> Ownership<'_> {
    Ownership::new(HostPhysical(START), pages, 0)
}

/// Whether root and whether partition 1 may access a page.
fn access(pages: &Ownership<'_>, index: usize) -> (bool, bool) {
    let page = pages.pages[index];
    (page.root_may_access(), matches!(page, Page::Guest { partition: 1, .. }))
}

#[test]
fn a_page_goes_to_a_guest_and_comes_back() {
    let mut entries = [Page::Unwiped; 8];
    let mut pages = table(&mut entries);
    assert_eq!(access(&pages, 2), (true, false));
    pages.map(run(2, 3), 1).unwrap();
    assert_eq!(access(&pages, 2), (true, true));
    assert_eq!(pages.protect(run(3, 2), 1), Ok(true));
    assert_eq!(pages.protect(run(3, 2), 1), Ok(false), "both were protected already");
    assert_eq!(pages.protect(run(2, 3), 1), Ok(true));
    assert_eq!(access(&pages, 2), (false, true));
    assert_eq!(pages.share(run(4, 1), 1), Ok(true));
    assert_eq!(pages.share(run(4, 1), 1), Ok(false));
    assert_eq!(access(&pages, 4), (true, true));

    assert_eq!(pages.map(run(1, 3), 2), Err(Fault::NotOwned));
    assert_eq!(pages.map(run(2, 1), 1), Err(Fault::NotOwned), "root cannot map it again either");
    assert_eq!(pages.map(run(4, 1), 2), Err(Fault::NotOwned));

    assert_eq!(pages.unmap(run(2, 3), 1), Ok(true));
    assert_eq!(access(&pages, 2), (false, false));
    assert_eq!(access(&pages, 4), (true, false));
    assert_eq!(pages.map(run(2, 1), 1), Err(Fault::NotOwned), "not before it is wiped");
    assert_eq!(pages.next_to_wipe(run(0, 8)), Ok(Some(run(2, 2))));
    assert_eq!(pages.wiped(run(2, 3)), Err(Fault::NotOwned), "page 4 does not wait");
    assert_eq!(pages.wiped(run(2, 2)), Ok(()));
    assert_eq!(pages.next_to_wipe(run(0, 8)), Ok(None));
    assert_eq!(pages.map(run(0, 8), 2), Ok(()));
}

#[test]
fn a_lent_page_is_busy_for_others() {
    let mut entries = [Page::Root; 4];
    let mut pages = table(&mut entries);
    pages.map(run(1, 1), 1).unwrap();
    assert_eq!(pages.map(run(0, 4), 2), Err(Fault::Busy));
    assert_eq!(pages.pages[0], Page::Root, "nothing has changed");
    assert_eq!(pages.protect(run(1, 1), 2), Err(Fault::NotFound));
    assert_eq!(pages.share(run(1, 1), 2), Err(Fault::NotFound));
    assert_eq!(pages.unmap(run(1, 1), 2), Err(Fault::NotFound));
}

#[test]
fn a_page_mapped_twice_goes_with_its_last_mapping() {
    let mut entries = [Page::Root; 2];
    let mut pages = table(&mut entries);
    pages.map(run(0, 1), 1).unwrap();
    pages.map(run(0, 2), 1).unwrap();
    let _ = pages.protect(run(0, 1), 1).unwrap();
    assert_eq!(pages.unmap(run(0, 1), 1), Ok(false));
    assert_eq!(access(&pages, 0), (false, true));
    assert_eq!(pages.unmap(run(0, 2), 1), Ok(true));
    assert_eq!(*pages.pages, [Page::Unwiped, Page::Root]);
    assert_eq!(pages.unmap(run(0, 1), 1), Err(Fault::NotFound));
}

#[test]
fn mappings_are_counted_no_further_than_an_entry_can() {
    let mut entries = [Page::Root; 2];
    let mut pages = table(&mut entries);
    pages.pages[1] = Page::Guest { partition: 1, terms: Terms::Lent, mappings: u16::MAX };
    assert_eq!(pages.map(run(0, 2), 1), Err(Fault::OutOfMemory));
    assert_eq!(pages.pages[0], Page::Root);
}

#[test]
fn the_cores_pages_are_nobodys() {
    let mut entries = [Page::Root; 4];
    let mut pages = Ownership::new(HostPhysical(START), &mut entries, 1);
    assert_eq!(access(&pages, 0), (true, false));
    assert_eq!(pages.map(run(0, 1), 1), Err(Fault::NotOwned));
    assert_eq!(pages.protect(run(0, 1), 1), Err(Fault::NotFound));
    assert_eq!(pages.wiped(run(0, 1)), Err(Fault::NotOwned));
    assert_eq!(pages.map(run(1, 3), 1), Ok(()));
}

#[test]
fn ranges_outside_the_pool_are_refused() {
    let mut entries = [Page::Root; 4];
    let mut pages = table(&mut entries);
    for bad in [
        run(4, 1),
        run(0, 5),
        run(3, u64::MAX / PAGE_SIZE),
        Span { start: HostPhysical(START - PAGE_SIZE), end: HostPhysical(START) },
        Span { start: HostPhysical(!0xfff), end: HostPhysical(!0xfff) },
        Span { start: HostPhysical(START + 1), end: HostPhysical(START + PAGE_SIZE) },
        Span { start: HostPhysical(START), end: HostPhysical(START + 1) },
    ] {
        assert_eq!(pages.map(bad, 1), Err(Fault::BadValue));
        assert_eq!(pages.next_to_wipe(bad), Err(Fault::BadValue));
    }
    assert_eq!(pages.map(run(4, 0), 1), Ok(()));
}

#[test]
fn a_kept_run_is_mapped_by_its_partition_only_and_only_when_it_is_clear() {
    let mut entries = [Page::Root; 8];
    let mut pages = Ownership::new(HostPhysical(START), &mut entries, 1);
    let bytes = |count: u64| Bytes(count * PAGE_SIZE);
    assert_eq!(pages.reserve(1, bytes(3), PAGE_SIZE), Ok(run(1, 3).start));
    assert_eq!(pages.reserve(2, bytes(2), 2 * PAGE_SIZE), Ok(run(4, 2).start));
    assert_eq!(pages.unreserved(), (bytes(2), bytes(2)));
    assert_eq!(pages.reserve(2, bytes(3), PAGE_SIZE), Err(Fault::OutOfMemory));
    let start = run(1, 3).start;
    assert_eq!(pages.map(run(1, 1), 2), Err(Fault::NotOwned));
    assert_eq!(pages.map(run(1, 1), 1), Err(Fault::Busy));
    assert_eq!(pages.begin_clear(2, start, bytes(2)), Err(Fault::NotFound));
    assert_eq!(pages.begin_clear(1, start, bytes(2)), Ok(Some(run(1, 2))));
    assert_eq!(pages.begin_clear(1, start, bytes(2)), Err(Fault::Busy));
    assert_eq!(pages.release(1, start), Err(Fault::Busy));
    assert_eq!(pages.end_clear(1, start, bytes(2)), Ok(bytes(1)));
    assert_eq!(pages.map(run(1, 2), 1), Ok(()));
    assert_eq!(pages.map(run(3, 1), 1), Err(Fault::Busy));
    assert_eq!(pages.begin_clear(1, start, bytes(2)), Ok(Some(run(3, 1))));
    assert_eq!(pages.end_clear(1, start, bytes(2)), Ok(bytes(0)));
    assert_eq!(pages.begin_clear(1, start, bytes(2)), Ok(None));
    assert_eq!(pages.end_clear(1, start, bytes(2)), Ok(bytes(0)));
    assert_eq!(pages.map(run(1, 4), 1), Err(Fault::NotOwned), "the last is another's");
    assert_eq!(pages.release(1, start), Err(Fault::Busy), "two pages are mapped");
    assert_eq!(pages.unmap(run(1, 2), 1), Ok(false));
    assert_eq!(pages.release(1, start), Ok(()));
    pages.release_all(2);
    assert_eq!(pages.unreserved(), (bytes(7), bytes(7)));
}

#[test]
fn a_run_is_kept_beside_pages_in_use() {
    let mut entries = [Page::Root; 8];
    let mut pages = table(&mut entries);
    pages.map(run(1, 1), 1).unwrap();
    pages.map(run(3, 1), 1).unwrap();
    assert_eq!(pages.reserve(2, Bytes(2 * PAGE_SIZE), PAGE_SIZE), Ok(run(4, 1).start));
    assert_eq!(pages.reserve(2, Bytes(PAGE_SIZE), 2 * PAGE_SIZE), Ok(run(0, 1).start));
    assert_eq!(pages.reserve(2, Bytes(3 * PAGE_SIZE), PAGE_SIZE), Err(Fault::OutOfMemory));
    assert_eq!(pages.reserve(2, Bytes(u64::MAX - 4095), PAGE_SIZE), Err(Fault::OutOfMemory));
    assert_eq!(pages.reserve(2, Bytes(PAGE_SIZE), 1 << 63), Err(Fault::OutOfMemory));
}

proptest! {
    #[test]
    fn kept_runs_never_meet_and_give_back_what_they_took(
        steps in prop::collection::vec((1..4u8, 1..9u64, 0..3u32, any::<bool>()), 1..80),
    ) {
        let mut entries = [Page::Root; 32];
        let mut pages = Ownership::new(HostPhysical(START), &mut entries, 1);
        let mut kept: Vec<(u8, Span)> = Vec::new();
        for (partition, count, alignment, take) in steps {
            let alignment = PAGE_SIZE << alignment;
            if take {
                let size = Bytes(count * PAGE_SIZE);
                if let Ok(start) = pages.reserve(partition, size, alignment) {
                    let span = Span::of(start, size);
                    prop_assert_eq!(start.0 % alignment, 0);
                    prop_assert!(run(1, 31).contains(&span));
                    prop_assert!(kept.iter().all(|(_, other)| !other.overlaps(&span)));
                    kept.push((partition, span));
                } else {
                    prop_assert!(pages.unreserved().1.0 < size.0 + alignment);
                }
            } else if let Some(place) = kept.iter().position(|(owner, _)| *owner == partition) {
                let (_, span) = kept.remove(place);
                prop_assert_eq!(pages.release(partition, span.start), Ok(()));
            }
            let taken: u64 = kept.iter().map(|(_, span)| span.size().0).sum();
            prop_assert_eq!(pages.unreserved().0, Bytes(31 * PAGE_SIZE - taken));
        }
    }
}

/// What is known of a page without its entry: who ever got it and did not give it back.
#[derive(Clone, Debug, Default)]
struct Model {
    /// By guest, how often it maps the page.
    mappings: BTreeMap<u8, u16>,
    /// Root was denied it.
    protected: bool,
    /// Its guest may have left something in it that root must not see.
    secret: bool,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Map,
    Unmap,
    Protect,
    Share,
    Wipe,
}

fn step() -> impl Strategy<Value = (Step, u8, u64, u64)> {
    let kind = prop_oneof![
        4 => Just(Step::Map),
        3 => Just(Step::Unmap),
        3 => Just(Step::Protect),
        2 => Just(Step::Share),
        2 => Just(Step::Wipe),
    ];
    (kind, 1..4u8, 0..12u64, 1..5u64)
}

proptest! {
    #[test]
    fn no_two_guests_hold_a_page_and_root_never_sees_a_secret(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut entries = [Page::Root; 12];
        let mut pages = table(&mut entries);
        let mut model = vec![Model::default(); 12];
        for (kind, number, first, count) in steps {
            let target = run(first, count);
            let before = pages.pages.to_vec();
            let range = first as usize..(first + count) as usize;
            let inside = range.end <= 12;
            let chosen = if inside { &mut model[range.clone()] } else { &mut [] };
            let held = chosen.iter().all(|page| page.mappings.contains_key(&number));
            let ok = match kind {
                Step::Map => {
                    let free = chosen.iter().all(|page| !page.protected && !page.secret
                        && page.mappings.keys().all(|other| *other == number));
                    // A shared page is its guest's: root cannot map it again.
                    let shared = inside && range.clone().any(|index|
                        matches!(pages.pages[index], Page::Guest { terms: Terms::Shared, .. }));
                    let result = pages.map(target, number);
                    prop_assert_eq!(result.is_ok(), inside && free && !shared);
                    if result.is_ok() {
                        chosen.iter_mut().for_each(|page| {
                            *page.mappings.entry(number).or_insert(0) += 1;
                        });
                    }
                    result.is_ok()
                }
                Step::Unmap => {
                    let result = pages.unmap(target, number);
                    prop_assert_eq!(result.is_ok(), inside && held);
                    if result.is_ok() {
                        for page in chosen.iter_mut() {
                            let left = page.mappings[&number] - 1;
                            page.mappings.insert(number, left);
                            if left == 0 {
                                page.mappings.clear();
                                page.secret = page.protected;
                                page.protected = false;
                            }
                        }
                    }
                    result.is_ok()
                }
                Step::Protect | Step::Share => {
                    let protect = matches!(kind, Step::Protect);
                    let changed = chosen.iter().any(|page| page.protected != protect);
                    let result = if protect {
                        pages.protect(target, number)
                    } else {
                        pages.share(target, number)
                    };
                    prop_assert_eq!(result.is_ok(), inside && held);
                    if result.is_ok() {
                        prop_assert_eq!(result, Ok(changed));
                        chosen.iter_mut().for_each(|page| page.protected = protect);
                    }
                    result.is_ok()
                }
                Step::Wipe => {
                    let result = pages.wiped(target);
                    prop_assert_eq!(result.is_ok(), inside && chosen.iter().all(|page| page.secret));
                    if result.is_ok() {
                        chosen.iter_mut().for_each(|page| page.secret = false);
                    }
                    result.is_ok()
                }
            };
            if !ok {
                prop_assert_eq!(&*pages.pages, &before[..], "a refused step changes nothing");
            }
            for (index, known) in model.iter().enumerate() {
                let entry = pages.pages[index];
                prop_assert_eq!(entry.root_may_access(), !known.protected && !known.secret);
                let held = match entry {
                    Page::Guest { partition, mappings, .. } => Some((partition, mappings)),
                    _ => None,
                };
                let mut mapped = known.mappings.iter().map(|(number, count)| (*number, *count));
                prop_assert_eq!(held, mapped.next_back());
            }
        }
    }
}
