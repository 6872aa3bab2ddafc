use super::*;
use crate::test_wires::TestLine;
use std::sync::Mutex;

/// 2026-11-21 13:59:58 UTC, a Saturday.
const START: i128 = 1_795_269_598 * NANOSECONDS;

struct Bench {
    rtc: Rtc,
    line: Arc<TestLine>,
    wall: Arc<Mutex<i128>>,
    now: u64,
}

impl Bench {
    fn new() -> Self {
        let (line, wall) = (TestLine::new(), Arc::new(Mutex::new(START)));
        let source = wall.clone();
        let clock = ClockFn(move || *source.lock().unwrap());
        let rtc = Rtc::new(Box::new(clock), line.clone());
        Self { rtc, line, wall, now: 0 }
    }

    fn pass(&mut self, nanoseconds: u64) {
        self.now += nanoseconds;
        *self.wall.lock().unwrap() += i128::from(nanoseconds);
        self.rtc.advance(self.now);
    }

    fn read(&mut self, index: u8) -> u8 {
        self.rtc.write(0x70, &[index]);
        let mut byte = [0];
        self.rtc.read(0x71, &mut byte);
        byte[0]
    }

    fn write(&mut self, index: u8, value: u8) {
        self.rtc.write(0x70, &[index]);
        self.rtc.write(0x71, &[value]);
    }

    fn time(&mut self) -> [u8; 8] {
        TIME_CELLS.map(|index| self.read(index))
    }
}

#[test]
fn it_shows_the_wall_clock_in_every_notation() {
    let mut bench = Bench::new();
    assert_eq!(bench.time(), [0x58, 0x59, 0x13, 7, 0x21, 0x11, 0x26, 0x20]);
    bench.write(REGISTER_B, B_24_HOURS | B_BINARY);
    assert_eq!(bench.time(), [58, 59, 13, 7, 21, 11, 26, 0x20]);
    bench.write(REGISTER_B, 0);
    assert_eq!(bench.read(HOUR), 0x81, "1 PM");
    bench.pass(11 * 3600 * 1_000_000_000);
    assert_eq!(bench.read(HOUR), 0x12, "12 AM");
}

#[test]
fn seconds_carry_into_hours() {
    let mut bench = Bench::new();
    bench.pass(2_000_000_000);
    assert_eq!(bench.time()[..3], [0x00, 0x00, 0x14]);
}

#[test]
fn a_time_set_by_the_guest_stands_until_released_and_then_runs() {
    let mut bench = Bench::new();
    bench.write(REGISTER_B, B_SET | B_24_HOURS);
    // First the day, then the month that has it: each alone would be no date.
    for (index, value) in TIME_CELLS.into_iter().zip([0x01, 0x02, 0x03, 1, 0x29, 0x02, 0x28, 0x20])
    {
        bench.write(index, value);
    }
    bench.pass(5_000_000_000);
    assert_eq!(bench.time()[..3], [0x01, 0x02, 0x03]);
    bench.write(REGISTER_B, B_24_HOURS);
    bench.pass(1_000_000_000);
    assert_eq!(
        bench.time(),
        [0x02, 0x02, 0x03, 3, 0x29, 0x02, 0x28, 0x20],
        "a leap day, a Tuesday"
    );
}

#[test]
fn nonsense_written_as_time_is_cut_to_a_time() {
    let mut bench = Bench::new();
    bench.write(REGISTER_B, B_SET | B_24_HOURS);
    for index in TIME_CELLS {
        bench.write(index, 0xff);
    }
    assert_eq!(bench.time(), [0xff; 8], "while it is set the cells are memory");
    bench.write(REGISTER_B, B_24_HOURS);
    assert_eq!(bench.time()[..3], [0x59, 0x59, 0x23]);
}

#[test]
fn the_first_second_after_a_divider_reset_takes_half_a_second() {
    let mut bench = Bench::new();
    bench.pass(300_000_000);
    bench.write(REGISTER_A, 0x70);
    bench.pass(4_000_000_000);
    assert_eq!(bench.read(SECOND), 0x58);
    bench.write(REGISTER_A, A_DEFAULT);
    bench.pass(499_000_000);
    assert_eq!(bench.read(SECOND), 0x58);
    bench.pass(1_000_000);
    assert_eq!(bench.read(SECOND), 0x59);
}

#[test]
fn an_update_is_announced_and_its_end_interrupts() {
    let mut bench = Bench::new();
    bench.write(REGISTER_B, B_24_HOURS | B_UPDATE);
    assert_eq!(bench.rtc.deadline(), Some(1_000_000_000));
    bench.pass(999_700_000);
    assert_eq!(bench.read(REGISTER_A), A_DEFAULT);
    bench.pass(100_000);
    assert_eq!(bench.read(REGISTER_A), A_DEFAULT | A_UPDATE_IN_PROGRESS);
    assert!(!bench.line.is_high());
    bench.pass(200_000);
    assert_eq!(bench.read(REGISTER_A), A_DEFAULT);
    assert!(bench.line.is_high());
    assert_eq!(bench.rtc.deadline(), None, "nothing new until the flag is read");
    assert_eq!(bench.read(REGISTER_C), C_REQUEST | B_UPDATE | B_PERIODIC);
    assert!(!bench.line.is_high());
    assert_eq!(bench.read(REGISTER_C), 0);
}

#[test]
fn the_alarm_comes_at_its_time_and_not_before() {
    let mut bench = Bench::new();
    bench.write(SECOND_ALARM, 0x01);
    bench.write(MINUTE_ALARM, 0x00);
    bench.write(HOUR_ALARM, 0xff);
    bench.write(REGISTER_B, B_24_HOURS | B_ALARM);
    bench.pass(2_500_000_000);
    assert!(!bench.line.is_high(), "14:00:00");
    bench.pass(500_000_000);
    assert!(bench.line.is_high(), "14:00:01");
    assert_eq!(bench.read(REGISTER_C) & (C_REQUEST | B_ALARM), C_REQUEST | B_ALARM);
    bench.pass(7_200_000_000_000);
    assert!(bench.line.is_high(), "passed while nobody looked");
}

#[test]
fn the_periodic_interrupt_comes_at_its_rate() {
    let mut bench = Bench::new();
    bench.write(REGISTER_B, B_24_HOURS | B_PERIODIC);
    let mut count = 0;
    while let Some(due) = bench.rtc.deadline().filter(|&due| due <= 1_000_000_000) {
        let wait = due - bench.now;
        bench.pass(wait);
        count += usize::from(bench.line.is_high());
        bench.read(REGISTER_C);
    }
    assert_eq!(count, 1024);
    bench.write(REGISTER_A, 0x20);
    assert_eq!(bench.rtc.deadline(), None);
    // Rates 1 and 2 are slow ones: 256 and 128 Hz.
    bench.write(REGISTER_A, 0x21);
    let due = bench.rtc.deadline().unwrap();
    assert!(due - bench.now <= 3_906_250);
    bench.pass(due - bench.now);
    bench.read(REGISTER_C);
    assert_eq!(bench.rtc.deadline().unwrap() - due, 3_906_250);
}

#[test]
fn memory_sizes_and_processors_are_where_firmware_looks() {
    let mut bench = Bench::new();
    bench.rtc.set_memory(3 << 30, 5 << 30);
    bench.rtc.set_processors(4);
    let mut cells = |first: u8, count: u8| {
        (0..count).rev().fold(0u32, |sum, at| sum << 8 | u32::from(bench.read(first + at)))
    };
    assert_eq!(cells(0x15, 2), 640);
    assert_eq!(cells(0x17, 2), 0xffff);
    assert_eq!(cells(0x30, 2), 0xffff);
    assert_eq!(cells(0x34, 2), (3 * 1024 - 16) * 16);
    assert_eq!(cells(0x5b, 3), 5 * 1024 * 16);
    assert_eq!(cells(0x5f, 1), 3);
    let sum: u32 = (0x10..=0x2d).map(|index| cells(index, 1)).sum();
    assert_eq!(cells(0x2e, 1) << 8 | cells(0x2f, 1), sum);
}

#[test]
fn reset_keeps_time_and_memory_and_stops_interrupts() {
    let mut bench = Bench::new();
    bench.write(0x40, 0xa5);
    bench.write(REGISTER_B, B_24_HOURS | B_UPDATE);
    bench.pass(1_000_000_000);
    assert!(bench.line.is_high());
    bench.rtc.reset();
    assert!(!bench.line.is_high());
    assert_eq!(bench.read(0x40), 0xa5);
    assert_eq!(bench.read(SECOND), 0x59);
}

#[test]
fn the_nmi_mask_is_the_top_bit_of_the_index() {
    let mut bench = Bench::new();
    bench.rtc.write(0x70, &[0x8d]);
    assert!(bench.rtc.nmi_masked());
    let mut byte = [0];
    bench.rtc.read(0x71, &mut byte);
    assert_eq!(byte[0], D_VALID);
    bench.read(0);
    assert!(!bench.rtc.nmi_masked());
}
