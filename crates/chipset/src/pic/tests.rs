use super::*;
use crate::test_wires::TestLine;

struct Bench {
    pic: Pic,
    output: Arc<TestLine>,
}

impl Bench {
    /// As every PC operating system sets it up: vectors 0x20 and 0x28, nothing masked.
    fn new(icw4: u8) -> Self {
        let output = TestLine::new();
        let mut bench = Self { pic: Pic::new(output.clone()), output };
        for (port, value) in [
            (0x20, 0x11),
            (0x21, 0x20),
            (0x21, 0x04),
            (0x21, icw4),
            (0xa0, 0x11),
            (0xa1, 0x28),
            (0xa1, 0x02),
            (0xa1, icw4 & !ICW4_FULLY_NESTED),
        ] {
            bench.write(port, value);
        }
        bench
    }

    fn read(&mut self, port: u16) -> u8 {
        let mut byte = [0];
        self.pic.read(port, &mut byte);
        byte[0]
    }

    fn write(&mut self, port: u16, value: u8) {
        self.pic.write(port, &[value]);
    }

    fn edge(&mut self, irq: u8) {
        self.pic.set_input(irq, false);
        self.pic.set_input(irq, true);
    }

    fn request_register(&mut self, port: u16) -> u8 {
        self.write(port, 0x0a);
        self.read(port)
    }

    fn in_service(&mut self, port: u16) -> u8 {
        self.write(port, 0x0b);
        self.read(port)
    }
}

#[test]
fn an_edge_is_delivered_once_and_blocks_its_like_until_ended() {
    let mut bench = Bench::new(0x01);
    bench.edge(4);
    assert!(bench.output.is_high());
    assert_eq!(bench.pic.acknowledge(), 0x24);
    assert!(!bench.output.is_high());
    bench.edge(4);
    assert!(!bench.output.is_high(), "4 is in service");
    bench.edge(5);
    assert!(!bench.output.is_high(), "5 ranks below 4");
    bench.edge(1);
    assert!(bench.output.is_high(), "1 ranks above 4");
    assert_eq!(bench.pic.acknowledge(), 0x21);
    assert_eq!(bench.in_service(0x20), 0x12);
    bench.write(0x20, 0x20);
    assert_eq!(bench.in_service(0x20), 0x10, "a non-specific EOI ends the highest");
    bench.write(0x20, 0x64);
    assert_eq!(bench.in_service(0x20), 0, "a specific EOI ends the one named");
    assert_eq!(bench.pic.acknowledge(), 0x24);
    bench.write(0x20, 0x20);
    assert_eq!(bench.pic.acknowledge(), 0x25);
}

#[test]
fn the_slave_comes_in_through_input_2() {
    let mut bench = Bench::new(0x01);
    bench.edge(12);
    assert_eq!(bench.pic.acknowledge(), 0x2c);
    assert_eq!((bench.in_service(0x20), bench.in_service(0xa0)), (0x04, 0x10));
    bench.edge(8);
    assert!(!bench.pic.pending(), "the master still serves input 2");
    bench.write(0xa0, 0x20);
    bench.write(0x20, 0x20);
    assert_eq!(bench.pic.acknowledge(), 0x28);
}

#[test]
fn in_special_fully_nested_mode_the_slave_interrupts_itself() {
    let mut bench = Bench::new(0x11);
    bench.edge(12);
    bench.pic.acknowledge();
    bench.edge(8);
    assert_eq!(bench.pic.acknowledge(), 0x28);
}

#[test]
fn a_request_that_vanishes_is_spurious_7_with_nothing_new_in_service() {
    let mut bench = Bench::new(0x01);
    bench.edge(3);
    bench.write(0x21, 0x08);
    assert_eq!(bench.pic.acknowledge(), 0x27);
    assert_eq!(bench.in_service(0x20), 0);
    bench.write(0x4d1, 0x02);
    bench.pic.set_input(9, true);
    bench.pic.set_input(9, false);
    assert!(!bench.pic.pending());
    assert_eq!(bench.pic.acknowledge(), 0x27);
}

#[test]
fn a_level_input_asks_again_until_its_line_falls() {
    let mut bench = Bench::new(0x01);
    bench.pic.write(0x4d0, &[0x20, 0x0c]);
    assert_eq!((bench.read(0x4d0), bench.read(0x4d1)), (0x20, 0x0c));
    bench.pic.set_input(5, true);
    assert_eq!(bench.pic.acknowledge(), 0x25);
    bench.write(0x20, 0x20);
    assert!(bench.pic.pending());
    assert_eq!(bench.pic.acknowledge(), 0x25);
    bench.pic.set_input(5, false);
    bench.write(0x20, 0x20);
    assert!(!bench.pic.pending());
}

#[test]
fn timer_keyboard_cascade_rtc_and_coprocessor_stay_edge_triggered() {
    let mut bench = Bench::new(0x01);
    bench.write(0x4d0, 0xff);
    bench.write(0x4d1, 0xff);
    assert_eq!((bench.read(0x4d0), bench.read(0x4d1)), (0xf8, 0xde));
}

#[test]
fn automatic_end_of_interrupt_leaves_nothing_in_service_and_may_rotate() {
    let mut bench = Bench::new(0x03);
    bench.edge(3);
    assert_eq!(bench.pic.acknowledge(), 0x23);
    assert_eq!(bench.in_service(0x20), 0);
    bench.write(0x20, 0x80);
    bench.edge(3);
    bench.pic.acknowledge();
    bench.edge(3);
    bench.edge(6);
    assert_eq!(bench.pic.acknowledge(), 0x26, "3 went to the end of the queue");
}

#[test]
fn rotation_moves_the_served_or_the_named_input_to_the_end() {
    let mut bench = Bench::new(0x01);
    bench.edge(0);
    bench.pic.acknowledge();
    bench.write(0x20, 0xa0);
    bench.edge(0);
    bench.edge(1);
    assert_eq!(bench.pic.acknowledge(), 0x21);
    bench.write(0x20, 0xe1);
    assert_eq!(bench.in_service(0x20), 0);
    bench.write(0x20, 0xc4);
    bench.edge(4);
    bench.edge(5);
    assert_eq!(bench.pic.acknowledge(), 0x25, "4 was set to be the lowest");
}

#[test]
fn in_special_mask_mode_a_masked_input_in_service_blocks_nobody() {
    let mut bench = Bench::new(0x01);
    bench.edge(1);
    bench.pic.acknowledge();
    bench.edge(6);
    assert!(!bench.pic.pending());
    bench.write(0x21, 0x02);
    bench.write(0x20, 0x68);
    assert_eq!(bench.pic.acknowledge(), 0x26);
    bench.write(0x20, 0x20);
    assert_eq!(bench.in_service(0x20), 0x02, "a non-specific EOI passes over the masked one");
    bench.write(0x20, 0x48);
    bench.edge(6);
    assert!(!bench.pic.pending(), "special mask mode is over");
}

#[test]
fn polling_acknowledges_without_the_processor() {
    let mut bench = Bench::new(0x01);
    bench.write(0x20, 0x0c);
    assert_eq!(bench.read(0x20) & 0x80, 0);
    bench.edge(5);
    bench.write(0x20, 0x0c);
    assert_eq!(bench.read(0x20), 0x85);
    assert_eq!(bench.in_service(0x20), 0x20);
    assert!(!bench.pic.pending());
}

#[test]
fn initialization_clears_mask_service_and_remembered_edges() {
    let mut bench = Bench::new(0x01);
    bench.edge(4);
    bench.write(0x20, 0x11);
    assert!(!bench.pic.pending(), "no interrupt in the middle of initialization");
    bench.write(0x21, 0x30);
    bench.write(0x21, 0x04);
    bench.write(0x21, 0x01);
    assert_eq!((bench.read(0x21), bench.request_register(0x20)), (0, 0));
    bench.edge(4);
    assert_eq!(bench.pic.acknowledge(), 0x34);
}

#[test]
fn the_mask_reads_back_before_any_initialization() {
    // How Linux finds out whether there is an 8259 at all.
    let mut pic = Pic::new(TestLine::new());
    pic.write(0xa1, &[0xff]);
    pic.write(0x21, &[0xfb]);
    let mut byte = [0];
    pic.read(0x21, &mut byte);
    assert_eq!(byte[0], 0xfb);
}
