use super::*;
use crate::test_wires::{TestEvents, TestLine};

struct Bench {
    controller: I8042,
    keyboard: Arc<TestLine>,
    mouse: Arc<TestLine>,
    events: Arc<TestEvents>,
}

impl Bench {
    fn new() -> Self {
        let (keyboard, mouse, events) = (TestLine::new(), TestLine::new(), TestEvents::new());
        let controller = I8042::new(keyboard.clone(), mouse.clone(), events.clone());
        Self { controller, keyboard, mouse, events }
    }

    fn read(&mut self, port: u16) -> u8 {
        let mut byte = [0];
        self.controller.read(port, &mut byte);
        byte[0]
    }

    fn write(&mut self, port: u16, value: u8) {
        self.controller.write(port, &[value]);
    }

    /// All bytes waiting from one of the two devices.
    fn drain(&mut self, from_mouse: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let status = self.read(COMMAND);
            if status & STATUS_OUTPUT == 0 {
                return bytes;
            }
            assert_eq!(status & STATUS_MOUSE != 0, from_mouse);
            bytes.push(self.read(DATA));
        }
    }

    fn keyboard_command(&mut self, byte: u8) -> Vec<u8> {
        self.write(DATA, byte);
        self.drain(false)
    }

    fn mouse_command(&mut self, byte: u8) -> Vec<u8> {
        self.write(COMMAND, 0xd4);
        self.write(DATA, byte);
        self.drain(true)
    }

    fn config(&mut self) -> u8 {
        self.write(COMMAND, 0x20);
        self.read(DATA)
    }

    fn set_config(&mut self, value: u8) {
        self.write(COMMAND, 0x60);
        self.write(DATA, value);
    }
}

#[test]
fn a_driver_finds_controller_keyboard_and_mouse() {
    let mut bench = Bench::new();
    bench.write(COMMAND, 0xaa);
    assert_eq!(bench.drain(false), [0x55]);
    assert_eq!(bench.config(), CONFIG_DEFAULT);
    bench.write(COMMAND, 0xab);
    assert_eq!(bench.drain(false), [0]);
    // As Linux does: without translation, loop-back of the mouse port, then both devices.
    bench.set_config(0x34);
    bench.write(COMMAND, 0xd3);
    bench.write(DATA, 0xa5);
    assert_eq!(bench.drain(true), [0xa5]);
    bench.write(COMMAND, 0xa7);
    assert_eq!(bench.config() & CONFIG_MOUSE_OFF, CONFIG_MOUSE_OFF);
    bench.write(COMMAND, 0xa8);
    assert_eq!(bench.config() & CONFIG_MOUSE_OFF, 0);
    assert_eq!(bench.keyboard_command(0xff), [0xfa, 0xaa]);
    assert_eq!(bench.keyboard_command(0xf2), [0xfa, 0xab, 0x83]);
    assert_eq!(bench.mouse_command(0xff), [0xfa, 0xaa, 0x00]);
    assert_eq!(bench.mouse_command(0xf2), [0xfa, 0x00]);
}

#[test]
fn keys_arrive_translated_or_not_with_one_interrupt_per_byte() {
    let mut bench = Bench::new();
    assert!(bench.controller.push_key(30, true));
    assert!(bench.keyboard.is_high());
    assert!(bench.controller.push_key(105, false));
    assert_eq!(bench.drain(false), [0x1e, 0xe0, 0xcb]);
    assert_eq!(bench.keyboard.rises(), 3);
    assert!(!bench.keyboard.is_high());
    bench.set_config(CONFIG_KEYBOARD_INTERRUPT);
    bench.controller.push_key(30, false);
    assert_eq!(bench.drain(false), [0xf0, 0x1c]);
}

#[test]
fn a_disabled_interface_holds_its_keys() {
    let mut bench = Bench::new();
    bench.write(COMMAND, 0xad);
    bench.controller.push_key(30, true);
    assert_eq!(bench.read(COMMAND) & STATUS_OUTPUT, 0);
    bench.write(COMMAND, 0xae);
    assert_eq!(bench.drain(false), [0x1e]);
}

#[test]
fn a_guest_that_does_not_read_is_offered_the_key_again() {
    let mut bench = Bench::new();
    while bench.controller.push_key(30, true) {}
    assert_eq!([bench.read(DATA), bench.read(DATA)], [0x1e, 0x1e]);
    assert!(bench.controller.push_key(30, false), "there is room again");
    assert!(bench.drain(false).ends_with(&[0x1e, 0x9e]), "the release comes last");
}

#[test]
fn keyboard_settings_are_taken_and_told() {
    let mut bench = Bench::new();
    assert_eq!(bench.keyboard_command(0xed), [0xfa]);
    assert_eq!(bench.keyboard_command(0x05), [0xfa]);
    assert_eq!(bench.controller.leds(), 5);
    bench.set_config(CONFIG_KEYBOARD_INTERRUPT);
    assert_eq!(bench.keyboard_command(0xf0), [0xfa]);
    assert_eq!(bench.keyboard_command(0x00), [0xfa, 0x02]);
    bench.keyboard_command(0xf0);
    assert_eq!(bench.keyboard_command(0x01), [0xfa]);
    bench.controller.push_key(30, false);
    assert_eq!(bench.drain(false), [0x9e]);
    bench.keyboard_command(0xf0);
    assert_eq!(bench.keyboard_command(0x03), [0xfe], "set 3 is refused");
    assert_eq!(bench.keyboard_command(0xee), [0xee]);
    assert_eq!(bench.keyboard_command(0xf5), [0xfa]);
    bench.controller.push_key(30, true);
    assert_eq!(bench.drain(false), [0u8; 0], "scanning is off");
    assert_eq!(bench.keyboard_command(0x7f), [0xfe], "no such command");
    assert_eq!(bench.keyboard_command(0xfe), [0xfa], "what was sent before");
}

#[test]
fn a_held_key_repeats_after_its_delay_at_its_rate() {
    let mut bench = Bench::new();
    bench.controller.push_key(30, true);
    bench.drain(false);
    assert_eq!(bench.controller.deadline(), Some(500_000_000));
    bench.controller.advance(500_000_000);
    assert_eq!(bench.drain(false), [0x1e]);
    let next = bench.controller.deadline().unwrap() - 500_000_000;
    assert_eq!(1_000_000_000 / next, 10, "10.9 a second");
    bench.controller.push_key(30, false);
    assert_eq!(bench.controller.deadline(), None);
}

#[test]
fn mouse_packets_carry_signed_motion_and_buttons() {
    let mut bench = Bench::new();
    bench.controller.push_mouse(5, 5, 0, 0);
    assert_eq!(bench.drain(true), [0u8; 0], "it does not report before it is enabled");
    assert_eq!(bench.mouse_command(0xf4), [0xfa]);
    bench.controller.push_mouse(10, 3, 0, 1);
    assert!(bench.mouse.is_high() && !bench.keyboard.is_high());
    assert_eq!(bench.drain(true), [0x29, 10, 0xfd]);
    bench.controller.push_mouse(-300, 0, 0, 1);
    assert_eq!(bench.drain(true), [0x19, 0x01, 0, 0x19, 0xd3, 0]);
    bench.controller.push_mouse(0, 0, 0, 0);
    assert_eq!(bench.drain(true), [0x08, 0, 0]);
    bench.controller.push_mouse(0, 0, 3, 0);
    assert_eq!(bench.drain(true), [0u8; 0], "a plain mouse has no wheel");
}

#[test]
fn the_wheel_and_the_side_buttons_are_unlocked_by_sample_rates() {
    let mut bench = Bench::new();
    let knock = |bench: &mut Bench, rates: [u8; 3]| {
        for rate in rates {
            bench.mouse_command(0xf3);
            bench.mouse_command(rate);
        }
        bench.mouse_command(0xf2)
    };
    assert_eq!(knock(&mut bench, [200, 200, 80]), [0xfa, 0], "the wheel comes first");
    assert_eq!(knock(&mut bench, [200, 100, 80]), [0xfa, 3]);
    bench.mouse_command(0xf4);
    bench.controller.push_mouse(0, 0, 1, 0);
    assert_eq!(bench.drain(true), [0x08, 0, 0, 0xff], "away from the user is negative");
    assert_eq!(knock(&mut bench, [200, 200, 80]), [0xfa, 4]);
    bench.controller.push_mouse(0, 0, -1, 0x18);
    assert_eq!(bench.drain(true), [0x08, 0, 0, 0x31]);
}

#[test]
fn mouse_status_and_remote_mode() {
    let mut bench = Bench::new();
    bench.mouse_command(0xe8);
    bench.mouse_command(0x03);
    bench.mouse_command(0xe7);
    bench.mouse_command(0xf0);
    bench.controller.push_mouse(1, 0, 0, 0x01);
    assert_eq!(bench.mouse_command(0xe9), [0xfa, 0x54, 3, 100]);
    assert_eq!(bench.mouse_command(0xeb), [0xfa, 0x09, 1, 0]);
    assert_eq!(bench.mouse_command(0xee), [0xfa]);
    assert_eq!(bench.mouse_command(0xf4), [0xf4], "wrap mode echoes");
    assert_eq!(bench.mouse_command(0xec), [0xfa]);
}

#[test]
fn motion_of_a_guest_that_does_not_read_is_summed_and_bounded() {
    let mut bench = Bench::new();
    bench.mouse_command(0xf4);
    for _ in 0..1000 {
        bench.controller.push_mouse(1, i32::MIN, i32::MAX, 0);
    }
    let bytes = bench.drain(true);
    assert!(bytes.len() < 3 * 700, "{} bytes", bytes.len());
    let right: i32 = bytes.chunks(3).map(|packet| i32::from(packet[1])).sum();
    assert_eq!(right, 1000);
}

#[test]
fn all_three_ways_to_reset_and_the_a20_gate_work() {
    let mut bench = Bench::new();
    bench.write(COMMAND, 0xfe);
    bench.write(COMMAND, 0xff);
    bench.write(PORT_92, 0x03);
    bench.write(COMMAND, 0xd1);
    bench.write(DATA, 0x02);
    assert_eq!(bench.events.taken(), [MachineEvent::Reset; 3]);
    assert_eq!(bench.read(PORT_92), PORT_92_A20);
    bench.write(COMMAND, 0xd1);
    bench.write(DATA, 0x01);
    assert!(!bench.controller.a20());
    assert_eq!(bench.read(PORT_92), 0);
    bench.write(COMMAND, 0xdf);
    bench.write(COMMAND, 0xd0);
    assert_eq!(bench.read(DATA) & OUTPUT_A20, OUTPUT_A20);
}
