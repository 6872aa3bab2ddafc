//! What the host is told of windows and pixels, whatever happens to them and whatever it answers.
#![allow(unreachable_pub, reason = "shared with a fuzz target")]

use proptest::prelude::*;

#[path = "../fuzz/telling_steps.rs"]
mod telling_steps;

proptest! {
    #[test]
    fn buffers_are_never_used_twice_and_presents_wait_for_their_answers(
        steps in proptest::collection::vec((any::<u8>(), any::<u8>(), 0_u16..900, any::<u16>()), 1..300),
    ) {
        telling_steps::take(&steps);
    }
}

#[test]
fn a_window_with_new_pixels_is_presented_once_until_the_host_answers() {
    let window = (0, 1, 200, 100);
    let resized = (2, 1, 200, 100);
    let damaged = (3, 1, 350, 350);
    let answered = (5, 1, 0, 0);
    assert_eq!(telling_steps::take(&[window]), 0);
    assert_eq!(telling_steps::take(&[window, resized]), 1);
    assert_eq!(telling_steps::take(&[window, resized, damaged, damaged]), 1);
    assert_eq!(telling_steps::take(&[window, resized, damaged, damaged, answered]), 2);
    assert_eq!(telling_steps::take(&[window, resized, answered, answered]), 1);
}
