//! Rectangles of damage that overlap are worked for more than once: copied, handed to the X server or the GPU,
//! each time whole. What is done for a list of them is bounded by the picture here.

use window_memory::Area;

/// The same pixels as `areas`, or more: without rectangles that lie in others, and `whole` alone where together
/// they would be more work than that. All lie in `whole`.
#[must_use]
pub fn bounded(mut areas: Vec<Area>, whole: Area) -> Vec<Area> {
    let mut kept: Vec<Area> = Vec::with_capacity(areas.len());
    // The largest first: none lies in one after it, but for the same once more.
    areas.sort_by_key(|area| std::cmp::Reverse(pixels(area)));
    for area in areas {
        if !kept.iter().any(|other| lies_in(&area, other)) {
            kept.push(area);
        }
    }
    if kept.iter().map(pixels).sum::<u64>() > pixels(&whole) { vec![whole] } else { kept }
}

fn pixels(area: &Area) -> u64 {
    u64::from(area.width) * u64::from(area.height)
}

fn lies_in(area: &Area, other: &Area) -> bool {
    let within = |start: u32, length: u32, of: u32, most: u32| {
        start >= of && u64::from(start) + u64::from(length) <= u64::from(of) + u64::from(most)
    };
    within(area.x, area.width, other.x, other.width)
        && within(area.y, area.height, other.y, other.height)
}

#[cfg(test)]
mod tests {
    use super::{bounded, pixels};
    use proptest::prelude::*;
    use window_memory::Area;

    const WHOLE: Area = Area { x: 0, y: 0, width: 40, height: 30 };

    #[test]
    fn what_is_told_many_times_is_worked_for_once() {
        assert_eq!(bounded(vec![WHOLE; 64], WHOLE), [WHOLE]);
        let part = Area { x: 3, y: 4, width: 10, height: 10 };
        let inner = Area { x: 4, y: 4, width: 9, height: 2 };
        let beside = Area { x: 30, y: 4, width: 5, height: 5 };
        assert_eq!(bounded(vec![inner, part, beside, part], WHOLE), [part, beside]);
        // None lies in another, and each has nearly all.
        let shifted = (0..10).map(|x| Area { x, y: 10 - x, width: 30, height: 20 }).collect();
        assert_eq!(bounded(shifted, WHOLE), [WHOLE]);
    }

    fn area() -> impl Strategy<Value = Area> {
        (0..40_u32, 0..30_u32, 1..=40_u32, 1..=30_u32).prop_map(|(x, y, width, height)| Area {
            x,
            y,
            width: width.min(40 - x),
            height: height.min(30 - y),
        })
    }

    proptest! {
        #[test]
        fn no_pixel_is_lost_and_the_work_is_at_most_the_picture(
            areas in proptest::collection::vec(area(), 0..64),
        ) {
            let has = |areas: &[Area], x: u32, y: u32| {
                areas.iter().any(|area| {
                    (area.x..area.x + area.width).contains(&x)
                        && (area.y..area.y + area.height).contains(&y)
                })
            };
            let kept = bounded(areas.clone(), WHOLE);
            prop_assert!(kept.iter().map(pixels).sum::<u64>() <= pixels(&WHOLE));
            for (x, y) in (0..40).flat_map(|x| (0..30).map(move |y| (x, y))) {
                prop_assert!(!has(&areas, x, y) || has(&kept, x, y));
            }
        }
    }
}
