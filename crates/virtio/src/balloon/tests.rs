//! A driver gives pages up and takes them back.

use super::{Balloon, BalloonControl, BalloonError, F_PAGE_POISON, F_STATS_VQ, MemoryReclaim};
use super::{ReclaimError, STATISTICS};
use crate::Device;
use crate::test_support::{BUFFERS, Buffer, END, Random, TestDriver, attack};
use std::sync::{Arc, Mutex};
use units::{Bytes, GuestPhysical};

const INFLATE: u16 = 0;
const DEFLATE: u16 = 1;
const STATS: u16 = 2;
const REPORT: u16 = 3;

/// Remembers what was given back instead of giving it: the test driver's memory is in use.
#[derive(Clone, Default)]
struct Released(Arc<Mutex<Vec<(u64, u64)>>>);

impl Released {
    fn take(&self) -> Vec<(u64, u64)> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl MemoryReclaim for Released {
    fn release(&self, start: GuestPhysical, length: Bytes) -> Result<(), ReclaimError> {
        let end = start.0.checked_add(length.0);
        if end.is_none_or(|end| end > END) {
            return Err(ReclaimError::NotMemory { start, length });
        }
        assert!(start.0.is_multiple_of(4096) && length.0.is_multiple_of(4096) && length.0 > 0);
        self.0.lock().unwrap().push((start.0, length.0));
        Ok(())
    }
}

fn balloon() -> (Box<Balloon>, BalloonControl, Released) {
    let released = Released::default();
    let (balloon, control) =
        Balloon::new("balloon0", Bytes(END), Box::new(released.clone())).unwrap();
    (Box::new(balloon), control, released)
}

fn numbers(pages: &[u32]) -> Vec<u8> {
    pages.iter().flat_map(|page| page.to_le_bytes()).collect()
}

fn counter(driver: &mut TestDriver, name: &str) -> u64 {
    let counters = driver.device().counters();
    counters.iter().find(|(it, _)| *it == name).unwrap().1
}

#[test]
fn neighbouring_pages_go_back_together_and_pages_outside_memory_not_at_all() {
    let (balloon, _, released) = balloon();
    let mut driver = TestDriver::start(balloon);
    let last = (END / 4096) as u32 - 1;
    let pages = [12, 10, 11, 500, 11, last, last + 1, u32::MAX];
    driver.request(INFLATE, &[Buffer::Out(&numbers(&pages))]);
    let expected = [(10 * 4096, 3 * 4096), (500 * 4096, 4096), (u64::from(last) * 4096, 4096)];
    assert_eq!(released.take(), expected);
    assert_eq!(counter(&mut driver, "bytes-inflated"), 5 * 4096);
    assert_eq!(counter(&mut driver, "refused"), 2);
    driver.request(DEFLATE, &[Buffer::Out(&numbers(&[10, 11]))]);
    assert_eq!(counter(&mut driver, "bytes-deflated"), 2 * 4096);
}

#[test]
fn the_host_asks_and_the_guest_answers_through_the_configuration() {
    let (balloon, control, _) = balloon();
    let mut driver = TestDriver::start(balloon);
    control.set_size(Bytes(8 * 4096 + 5)).unwrap();
    driver.interrupts().wait("the request", |seen| seen.config == 1);
    let mut wanted = [0; 4];
    driver.device().read_config(0, &mut wanted);
    assert_eq!(u32::from_le_bytes(wanted), 8);
    driver.device().write_config(4, &6u32.to_le_bytes());
    assert_eq!((control.wanted(), control.given()), (Bytes(8 * 4096), Bytes(6 * 4096)));
    driver.device().write_config(0, &99u32.to_le_bytes());
    assert_eq!(control.wanted(), Bytes(8 * 4096), "the driver cannot set the target");
    assert!(matches!(control.set_size(Bytes(END + 1)), Err(BalloonError::TooLarge { .. })));
    driver.reset();
    assert_eq!((control.wanted(), control.given()), (Bytes(8 * 4096), Bytes(0)));
}

#[test]
fn reported_ranges_go_back_as_whole_pages_before_the_report_is_answered() {
    let (balloon, _, released) = balloon();
    let mut driver = TestDriver::start(balloon);
    let parts = [
        (BUFFERS, 0x20_0000),
        (BUFFERS + 0x40_0800, 0x2000),
        (END - 0x1000, 0x2000),
        (u64::MAX - 0xfff, 0x1000),
        (BUFFERS + 0x800, 0x800),
    ];
    // Flags: next 1, write 2 (virtio 1.2, 2.7.5).
    for (n, (address, length)) in (0..).zip(parts) {
        let flags = if n < 4 { 3 } else { 2 };
        driver.ring(REPORT).write_descriptor(n, address, length, flags, n + 1);
    }
    driver.ring(REPORT).publish(0);
    driver.kick(REPORT);
    driver.interrupts().wait("the answer", |seen| seen.queues.len() > 3);
    let expected = [(BUFFERS, 0x20_0000), (BUFFERS + 0x40_1000, 0x1000), (END - 0x1000, 0x1000)];
    assert_eq!(released.take(), expected);
    assert_eq!(counter(&mut driver, "refused"), 2);
}

#[test]
fn pages_the_guest_fills_with_a_pattern_keep_it() {
    let (balloon, _, released) = balloon();
    let mut driver = TestDriver::start(balloon);
    driver.device().write_config(12, &0xaaaa_aaaau32.to_le_bytes());
    driver.ring(REPORT).add(&[(BUFFERS, 0x1000, true)]);
    driver.kick(REPORT);
    driver.wait_used(REPORT);
    assert_eq!(released.take(), []);
    driver.device().write_config(12, &0u32.to_le_bytes());
    driver.ring(REPORT).add(&[(BUFFERS, 0x1000, true)]);
    driver.kick(REPORT);
    driver.wait_used(REPORT);
    assert_eq!(released.take(), [(BUFFERS, 0x1000)]);
}

#[test]
fn queues_a_driver_does_without_take_no_number() {
    let (balloon, _, released) = balloon();
    let features = balloon.features() & !F_STATS_VQ & !F_PAGE_POISON;
    let mut driver = TestDriver::start_with(balloon, features);
    driver.ring(STATS).add(&[(BUFFERS, 0x1000, true)]);
    driver.kick(STATS);
    driver.wait_used(STATS);
    assert_eq!(released.take(), [(BUFFERS, 0x1000)]);
}

#[test]
fn statistics_come_when_asked_for() {
    let (balloon, control, _) = balloon();
    let mut driver = TestDriver::start(balloon);
    assert_eq!(control.statistics(), Err(BalloonError::NoStatistics));
    let entry = |tag: u16, value: u64| [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat();
    let first = [entry(4, 1000), entry(99, 1), entry(5, 2000), vec![1, 2, 3]].concat();
    driver.add(STATS, &[Buffer::Out(&first)]);
    // A second one shows that the first was looked at, and takes its place.
    driver.request(STATS, &[Buffer::Out(&[])]);
    // The buffer comes back when the host wants to know more, not before.
    assert_eq!(driver.ring(STATS).take_used(), None);
    let statistics = control.statistics().unwrap();
    assert_eq!(statistics[STATISTICS[4]], 1000);
    assert_eq!(statistics["total-bytes"], 2000);
    assert_eq!(statistics.len(), 2);
    control.refresh_statistics();
    driver.wait_used(STATS);
}

#[test]
fn a_pause_gives_the_statistics_buffer_back_and_keeps_the_target() {
    let (balloon, control, _) = balloon();
    let mut driver = TestDriver::start(balloon);
    driver.add(STATS, &[Buffer::Out(&[0; 10])]);
    driver.request(STATS, &[Buffer::Out(&[0; 10])]);
    control.set_size(Bytes(4096)).unwrap();
    driver.stop();
    let saved = driver.device().save();
    assert!(driver.ring(STATS).take_used().is_some());
    driver.device().restore(&saved).unwrap();
    assert!(driver.device().restore(&serde_json::json!({})).is_err());
    driver.resume();
    assert_eq!(control.wanted(), Bytes(4096));
}

#[test]
fn a_malicious_driver_breaks_nothing() {
    for seed in 0..4 {
        let (balloon, _, _) = balloon();
        attack(balloon, seed, |_, random: &mut Random| {
            let pages: Vec<u32> = (0..random.below(300))
                .map(|_| match random.below(3) {
                    0 => random.next() as u32,
                    _ => random.below(5000) as u32,
                })
                .collect();
            numbers(&pages)
        });
    }
}
