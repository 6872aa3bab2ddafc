//! Behaviour of the frame pool.

use std::collections::BTreeSet;

use proptest::prelude::*;
use units::{HostPhysical, PAGE_SIZE};

use super::FramePool;

const START: u64 = 0x123_4000;

fn frame(index: u64) -> HostPhysical {
    HostPhysical(START + index * PAGE_SIZE)
}

#[test]
fn frames_come_from_the_lowest_on_and_come_back() {
    let mut bitmap = [0xdead; 3];
    let mut pool = FramePool::new(HostPhysical(START), 130, &mut bitmap);
    for index in 0..130 {
        assert_eq!(pool.allocate(1), Some(frame(index)));
    }
    assert_eq!(pool.allocate(1), None);
    assert!(pool.free(frame(129), 1));
    assert!(pool.free(frame(64), 1));
    assert_eq!(pool.allocate(1), Some(frame(64)));
    assert_eq!(pool.allocate(1), Some(frame(129)));
    assert_eq!(pool.allocate(1), None);
}

#[test]
fn what_is_not_given_out_cannot_be_freed() {
    let mut bitmap = [0; 1];
    let mut pool = FramePool::new(HostPhysical(START), 10, &mut bitmap);
    assert_eq!(pool.allocate(4), Some(frame(0)));
    assert!(pool.free(frame(1), 1));
    assert!(!pool.free(frame(1), 1));
    // All or none: frame 0 stays given out.
    assert!(!pool.free(frame(0), 4));
    assert_eq!(pool.allocate(1), Some(frame(1)));
    for (start, count) in [
        (HostPhysical(START + 8), 1),
        (frame(10), 1),
        (HostPhysical(START - PAGE_SIZE), 1),
        (frame(9), 2),
        (frame(0), usize::MAX),
        (HostPhysical(!0xfff), 1),
    ] {
        assert!(!pool.free(start, count), "{start} {count}");
    }
    assert!(pool.free(frame(9), 0));
}

#[test]
fn strange_requests_get_nothing() {
    let mut bitmap = [0; 2];
    let mut pool = FramePool::new(HostPhysical(START), 100, &mut bitmap);
    for count in [0, 101, usize::MAX] {
        assert_eq!(pool.allocate(count), None, "{count}");
    }
    assert_eq!(pool.allocate(100), Some(frame(0)));
    let mut empty = FramePool::new(HostPhysical(START), 0, &mut []);
    assert_eq!(empty.allocate(1), None);
}

proptest! {
    #[test]
    fn a_pool_agrees_with_a_set(
        frames in 1..200u64,
        // The first number is where frames are freed; without it they are allocated.
        steps in prop::collection::vec((prop::option::of(0..210u64), 1..80usize), 1..80),
    ) {
        let mut bitmap = [0; 4];
        let mut pool = FramePool::new(HostPhysical(START), frames as usize, &mut bitmap);
        let mut used: BTreeSet<u64> = BTreeSet::new();
        for (start, count) in steps {
            match start {
                None => {
                    // One at a time is the most frequent request.
                    let count = if count % 2 == 0 { 1 } else { count as u64 };
                    let free = (0..frames).find(|index| {
                        index + count <= frames && used.range(*index..index + count).next().is_none()
                    });
                    prop_assert_eq!(pool.allocate(count as usize), free.map(frame));
                    used.extend(free.into_iter().flat_map(|index| index..index + count));
                }
                Some(start) => {
                    let range = start..start + count as u64;
                    let given_out = range.clone().all(|index| used.contains(&index));
                    prop_assert_eq!(pool.free(frame(start), count), given_out);
                    if given_out {
                        used.retain(|index| !range.contains(index));
                    }
                }
            }
        }
    }
}
