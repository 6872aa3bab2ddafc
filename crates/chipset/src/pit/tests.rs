use super::*;
use crate::test_wires::TestLine;

/// A timer on a bench, told the time in timer ticks.
struct Bench {
    pit: Pit,
    line: Arc<TestLine>,
}

impl Bench {
    fn new() -> Self {
        let line = TestLine::new();
        Self { pit: Pit::new(line.clone()), line }
    }

    fn read(&mut self, port: u16) -> u8 {
        let mut byte = [0];
        self.pit.read(port, &mut byte);
        byte[0]
    }

    fn write(&mut self, port: u16, value: u8) {
        self.pit.write(port, &[value]);
    }

    fn at(&mut self, ticks: u64) {
        self.pit.advance(to_nanoseconds(ticks));
    }

    /// Control word and both bytes of a count.
    fn start(&mut self, channel: u8, control: u8, count: u16) {
        self.write(0x43, channel << 6 | control);
        for byte in count.to_le_bytes() {
            self.write(0x40 + u16::from(channel), byte);
        }
    }

    fn latched(&mut self, channel: u8) -> u16 {
        self.write(0x43, channel << 6);
        let port = 0x40 + u16::from(channel);
        u16::from_le_bytes([self.read(port), self.read(port)])
    }

    fn speaker_output(&mut self) -> bool {
        self.read(0x61) & SPEAKER_OUTPUT != 0
    }

    /// Runs to each deadline up to tick `end` and says how many interrupts came.
    fn interrupts_until(&mut self, end: u64) -> usize {
        let before = self.line.rises();
        while let Some(due) = self.pit.deadline().filter(|due| *due <= to_nanoseconds(end)) {
            self.pit.advance(due);
        }
        self.at(end);
        self.line.rises() - before
    }
}

#[test]
fn ticks_and_nanoseconds_agree_at_every_boundary() {
    for ticks in [0, 1, 2, 17, 1_193_182, 0xffff_ffff] {
        let at = to_nanoseconds(ticks);
        assert_eq!(to_ticks(at), ticks);
        assert!(at == 0 || to_ticks(at - 1) < ticks);
    }
}

#[test]
fn mode_2_interrupts_once_per_period_and_counts_down() {
    let mut bench = Bench::new();
    bench.start(0, 0x34, 11932);
    assert_eq!(bench.interrupts_until(1 + 11932 * 100), 100);
    bench.at(1 + 11932 * 100 + 932);
    assert_eq!(bench.latched(0), 11000);
}

#[test]
fn mode_3_interrupts_once_per_period_and_counts_by_two() {
    let mut bench = Bench::new();
    bench.start(0, 0x36, 1000);
    assert_eq!(bench.interrupts_until(1 + 1000 * 10), 10);
    assert!(bench.line.is_high());
    bench.at(1 + 10_000 + 100);
    assert_eq!(bench.latched(0), 800);
    bench.at(1 + 10_000 + 501);
    assert!(!bench.line.is_high());
    assert_eq!(bench.latched(0), 998);
}

#[test]
fn an_odd_square_wave_is_high_one_tick_longer() {
    let mut bench = Bench::new();
    bench.write(0x61, 1);
    bench.start(2, 0x36, 5);
    let mut outputs = alloc::vec::Vec::new();
    for tick in 1..=10 {
        bench.at(tick);
        outputs.push(bench.speaker_output());
    }
    assert_eq!(outputs, [true, true, true, false, false, true, true, true, false, false]);
}

#[test]
fn ticks_the_vmm_was_late_for_are_one_interrupt() {
    let mut bench = Bench::new();
    bench.start(0, 0x34, 1000);
    bench.at(1_000_051);
    assert_eq!(bench.line.rises(), 2, "one edge now, one high level before the first");
    bench.at(1_000_100);
    assert_eq!(bench.line.rises(), 2);
}

#[test]
fn a_tiny_period_does_not_flood_the_host() {
    let mut bench = Bench::new();
    bench.start(0, 0x34, 2);
    let interrupts = bench.interrupts_until(FREQUENCY / 100);
    assert!((90..=101).contains(&interrupts), "{interrupts} in 10 ms");
}

#[test]
fn mode_0_interrupts_once_when_the_count_ends() {
    let mut bench = Bench::new();
    bench.start(0, 0x30, 100);
    assert!(!bench.line.is_high());
    bench.at(100);
    assert!(!bench.line.is_high());
    assert_eq!(bench.pit.deadline(), Some(to_nanoseconds(101)));
    bench.at(101);
    assert!(bench.line.is_high());
    assert_eq!(bench.pit.deadline(), None);
    bench.at(111);
    assert_eq!(bench.latched(0), 0xfff6, "it goes on counting from 65535");
    assert_eq!(bench.line.rises(), 1);
    bench.write(0x40, 5);
    assert!(!bench.line.is_high(), "the first byte of a new count lowers the output");
}

#[test]
fn the_gate_stops_mode_0_and_lets_it_go_on() {
    let mut bench = Bench::new();
    bench.write(0x61, 1);
    bench.start(2, 0x30, 100);
    bench.at(41);
    bench.write(0x61, 0);
    bench.at(1000);
    assert_eq!(bench.latched(2), 60);
    bench.write(0x61, 1);
    bench.at(1059);
    assert!(!bench.speaker_output());
    bench.at(1060);
    assert!(bench.speaker_output());
}

#[test]
fn a_count_written_while_the_gate_is_low_waits_for_the_gate() {
    let mut bench = Bench::new();
    bench.start(2, 0x30, 100);
    bench.at(500);
    assert!(!bench.speaker_output());
    bench.write(0x61, 1);
    bench.at(600);
    assert!(bench.speaker_output(), "as Linux calibrates the TSC");
}

#[test]
fn mode_1_pulses_low_on_each_gate_edge() {
    let mut bench = Bench::new();
    bench.start(2, 0x32, 10);
    assert!(bench.speaker_output());
    bench.write(0x61, 1);
    bench.at(5);
    assert!(!bench.speaker_output());
    bench.write(0x61, 0);
    bench.write(0x61, 1);
    bench.at(15);
    assert!(!bench.speaker_output(), "a new edge starts it over");
    bench.at(16);
    assert!(bench.speaker_output());
}

#[test]
fn mode_4_strobes_low_for_one_tick() {
    let mut bench = Bench::new();
    bench.start(0, 0x38, 10);
    assert!(bench.line.is_high());
    bench.at(11);
    assert!(!bench.line.is_high());
    bench.at(12);
    assert!(bench.line.is_high());
    bench.at(12 + 0x1_0000);
    assert_eq!(bench.line.rises(), 2, "no second strobe without a new count");
}

#[test]
fn mode_5_strobes_after_a_gate_edge() {
    let mut bench = Bench::new();
    bench.start(2, 0x3a, 10);
    bench.at(50);
    assert!(bench.speaker_output());
    bench.write(0x61, 1);
    bench.at(61);
    assert!(!bench.speaker_output());
    bench.at(62);
    assert!(bench.speaker_output());
}

#[test]
fn a_new_count_in_mode_2_takes_effect_when_the_period_ends() {
    let mut bench = Bench::new();
    bench.start(0, 0x34, 1000);
    bench.at(501);
    bench.write(0x40, 100);
    bench.write(0x40, 0);
    assert_eq!(bench.pit.deadline(), Some(to_nanoseconds(1001)));
    bench.at(1001);
    assert_eq!(bench.latched(0), 100);
    bench.at(1051);
    assert_eq!(bench.latched(0), 50);
}

#[test]
fn read_back_latches_status_before_count() {
    let mut bench = Bench::new();
    bench.start(0, 0x34, 1000);
    bench.write(0x43, 0xc2);
    assert_eq!(bench.read(0x40), 0xf4, "output high, not loaded yet, both bytes, mode 2");
    bench.read(0x40);
    bench.read(0x40);
    bench.at(101);
    bench.write(0x43, 0xc2);
    bench.at(500);
    assert_eq!(bench.read(0x40), 0xb4);
    assert_eq!([bench.read(0x40), bench.read(0x40)], 900u16.to_le_bytes());
}

#[test]
fn bcd_counts_in_decimal() {
    let mut bench = Bench::new();
    bench.start(0, 0x35, 0x1000);
    bench.at(2);
    assert_eq!(bench.latched(0), 0x0999);
    bench.start(0, 0x35, 0);
    assert_eq!(bench.pit.deadline(), Some(to_nanoseconds(2 + 1 + 10_000)));
}

#[test]
fn the_refresh_bit_toggles() {
    let mut bench = Bench::new();
    let before = bench.read(0x61) & REFRESH_TOGGLE;
    bench.at(REFRESH_TICKS);
    assert_ne!(bench.read(0x61) & REFRESH_TOGGLE, before);
}

#[test]
fn a_saved_count_of_zero_is_refused() {
    let mut bench = Bench::new();
    bench.start(0, 0x34, 1000);
    let mut saved = serde_json::to_value(bench.pit.save()).unwrap();
    saved["registers"]["channels"][0]["loaded"] = 0.into();
    let damaged = serde_json::from_value(saved).unwrap();
    assert!(matches!(bench.pit.restore(damaged), Err(StateError::Field { .. })));
}
