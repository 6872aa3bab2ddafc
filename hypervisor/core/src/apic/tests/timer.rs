//! The timer against a clock that ticks one by one.

use proptest::prelude::*;
use units::Tsc;

use super::{config, x2apic};
use crate::apic::{Config, LocalApic};

const VECTOR: u64 = 0x40;
const PERIODIC: u64 = 1 << 17;
const DEADLINE: u64 = 2 << 17;
const MASKED: u64 = 1 << 16;

fn write(apic: &mut LocalApic, msr: u32, value: u64, now: u64) {
    let _ = apic.write_msr(msr, value, Tsc(now)).expect("legal");
}

fn count(apic: &LocalApic, now: u64) -> u64 {
    apic.read_msr(0x839, Tsc(now)).expect("readable")
}

/// Divided by one, with this entry.
fn timer(entry: u64) -> LocalApic {
    let mut apic = x2apic(1);
    write(&mut apic, 0x83e, 0b1011, 0);
    write(&mut apic, 0x832, entry, 0);
    apic
}

fn fires(apic: &mut LocalApic, now: u64) -> bool {
    apic.advance(Tsc(now));
    let taken = apic.acknowledge();
    if taken.is_some() {
        assert_eq!(taken, Some(VECTOR as u8));
        let _ = apic.end_of_interrupt();
    }
    taken.is_some()
}

#[test]
fn one_shot_fires_once() {
    let mut apic = timer(VECTOR);
    assert_eq!(apic.next_deadline(), None);
    write(&mut apic, 0x838, 100, 1000);
    assert_eq!(apic.next_deadline(), Some(Tsc(1100)));
    assert_eq!((count(&apic, 1000), count(&apic, 1099)), (100, 1));
    assert!(!fires(&mut apic, 1099));
    assert!(fires(&mut apic, 1100));
    assert_eq!((count(&apic, 1100), apic.next_deadline()), (0, None));
    assert!(!fires(&mut apic, 1_000_000));
    write(&mut apic, 0x838, 100, 2000);
    write(&mut apic, 0x838, 0, 2050);
    assert_eq!((count(&apic, 2050), apic.next_deadline()), (0, None));
    assert!(!fires(&mut apic, 3000));
}

#[test]
fn periodic_goes_on_and_makes_up_for_nothing() {
    let mut apic = timer(VECTOR | PERIODIC);
    write(&mut apic, 0x838, 100, 1000);
    assert!(fires(&mut apic, 1100));
    assert_eq!(apic.next_deadline(), Some(Tsc(1200)));
    assert!(fires(&mut apic, 1570));
    assert!(!fires(&mut apic, 1599));
    assert_eq!(count(&apic, 1599), 1);
    assert!(fires(&mut apic, 1600));
    assert_eq!(count(&apic, 1750), 50, "even before it is advanced");
}

#[test]
fn a_waiting_vector_needs_no_further_deadline() {
    let mut apic = timer(VECTOR | PERIODIC);
    write(&mut apic, 0x838, 1, 1000);
    apic.set_cr8(15);
    apic.advance(Tsc(2000));
    assert_eq!((apic.highest_pending(), apic.next_deadline()), (None, None));
    apic.set_cr8(0);
    assert!(fires(&mut apic, 2000));
    assert_eq!(apic.next_deadline(), Some(Tsc(2001)));
}

#[test]
fn a_period_is_never_shorter_than_the_clock_allows() {
    let mut apic = LocalApic::new(Config { shortest_period: 500, ..config(1) });
    apic.set_apic_base(apic.apic_base() | 0x400).unwrap();
    write(&mut apic, 0x80f, 0x1ff, 0);
    write(&mut apic, 0x83e, 0b1011, 0);
    write(&mut apic, 0x832, VECTOR | PERIODIC, 0);
    write(&mut apic, 0x838, 1, 1000);
    assert!(fires(&mut apic, 1002));
    assert_eq!(apic.next_deadline(), Some(Tsc(1501)));
    assert!(count(&apic, 1003) <= 1);
}

#[test]
fn what_expires_masked_is_lost() {
    let mut apic = timer(VECTOR | MASKED);
    write(&mut apic, 0x838, 100, 1000);
    assert_eq!(apic.next_deadline(), None, "nobody needs to wake for it");
    assert_eq!(count(&apic, 1050), 50, "it counts all the same");
    write(&mut apic, 0x832, VECTOR, 1200);
    assert!(!fires(&mut apic, 1300));
    write(&mut apic, 0x838, 100, 2000);
    write(&mut apic, 0x832, VECTOR | MASKED, 2100);
    assert_eq!(apic.highest_pending(), Some(VECTOR as u8), "due before it was masked");
}

#[test]
fn deadline_mode() {
    let mut apic = timer(VECTOR);
    apic.set_tsc_deadline(2000, Tsc(1000));
    assert_eq!(apic.next_deadline(), None, "without effect in another mode");
    write(&mut apic, 0x832, VECTOR | DEADLINE, 1000);
    apic.set_tsc_deadline(2000, Tsc(1000));
    assert_eq!(apic.next_deadline(), Some(Tsc(2000)));
    assert_eq!(apic.tsc_deadline(Tsc(1999)), 2000);
    write(&mut apic, 0x838, 5, 1000);
    assert_eq!(count(&apic, 1000), 0, "the count is not used");
    assert!(!fires(&mut apic, 1999));
    assert!(fires(&mut apic, 2000));
    assert_eq!((apic.tsc_deadline(Tsc(2000)), apic.next_deadline()), (0, None));
    apic.set_tsc_deadline(1500, Tsc(2000));
    assert_eq!(apic.highest_pending(), Some(VECTOR as u8), "already past: at once");
    assert!(fires(&mut apic, 2000));
    apic.set_tsc_deadline(5000, Tsc(2000));
    apic.set_tsc_deadline(0, Tsc(2000));
    assert_eq!(apic.next_deadline(), None);
    apic.set_tsc_deadline(u64::MAX, Tsc(2000));
    assert_eq!(apic.next_deadline(), Some(Tsc(u64::MAX)));
    write(&mut apic, 0x832, VECTOR, 3000);
    assert_eq!(apic.next_deadline(), None, "leaving the mode disarms");
}

#[test]
fn a_moved_counter_moves_a_count_and_not_a_deadline() {
    let mut apic = timer(VECTOR);
    write(&mut apic, 0x838, 100, 1000);
    apic.tsc_moved(0_u64.wrapping_sub(900));
    assert_eq!((apic.next_deadline(), count(&apic, 150)), (Some(Tsc(200)), 50));
    let mut apic = timer(VECTOR | DEADLINE);
    apic.set_tsc_deadline(2000, Tsc(1000));
    apic.tsc_moved(500);
    assert_eq!(apic.next_deadline(), Some(Tsc(2000)));
}

#[test]
fn dividers() {
    let codes = [
        (0b0000, 2),
        (0b0001, 4),
        (0b0010, 8),
        (0b0011, 16),
        (0b1000, 32),
        (0b1001, 64),
        (0b1010, 128),
        (0b1011, 1),
    ];
    for (code, divider) in codes {
        let mut apic = timer(VECTOR);
        write(&mut apic, 0x83e, code, 0);
        write(&mut apic, 0x838, 10, 1000);
        assert_eq!(apic.next_deadline(), Some(Tsc(1000 + 10 * divider)));
        assert_eq!(count(&apic, 1000 + 3 * divider), 7);
        // Half-way the divider changes: what is left counts at the new pace.
        write(&mut apic, 0x83e, 0b0001, 1000 + 6 * divider);
        assert_eq!(apic.next_deadline(), Some(Tsc(1000 + 6 * divider + 16)));
    }
}

#[test]
fn the_longest_count_at_the_slowest_pace_does_not_overflow() {
    let mut apic = LocalApic::new(Config { shortest_period: u64::MAX, ..config(1) });
    apic.set_apic_base(apic.apic_base() | 0x400).unwrap();
    write(&mut apic, 0x80f, 0x1ff, 0);
    write(&mut apic, 0x83e, 0b1010, 0);
    for entry in [VECTOR, VECTOR | PERIODIC] {
        write(&mut apic, 0x832, entry, 0);
        write(&mut apic, 0x838, u32::MAX.into(), u64::MAX - 1);
        assert_eq!(apic.next_deadline(), Some(Tsc(u64::MAX)));
        assert!(fires(&mut apic, u64::MAX));
        let _ = count(&apic, 0);
    }
}

proptest! {
    #[test]
    fn a_timer_agrees_with_one_that_ticks(
        initial in 1..50u32,
        periodic in any::<bool>(),
        (code, divider) in prop::sample::select(&[(0b1011, 1), (0, 2), (1, 4), (2, 8)][..]),
        looks in prop::collection::vec(1..120u64, 1..20),
    ) {
        let mut apic = x2apic(1);
        write(&mut apic, 0x83e, code, 0);
        write(&mut apic, 0x832, VECTOR | if periodic { PERIODIC } else { 0 }, 0);
        write(&mut apic, 0x838, initial.into(), 7);
        let (mut now, mut left, mut due) = (7, initial, false);
        for look in looks {
            for _ in 0..look {
                now += 1;
                if (now - 7) % divider == 0 && left > 0 {
                    left -= 1;
                    if left == 0 {
                        due = true;
                        left = if periodic { initial } else { 0 };
                    }
                }
            }
            prop_assert_eq!(count(&apic, now), u64::from(left));
            prop_assert_eq!(fires(&mut apic, now), due);
            due = false;
            prop_assert_eq!(count(&apic, now), u64::from(left));
        }
    }
}
