use super::*;
use crate::test_wires::{TestLine, TestSink};

struct Bench {
    uart: Uart,
    line: Arc<TestLine>,
    sink: TestSink,
}

impl Bench {
    fn new() -> Self {
        let (line, sink) = (TestLine::new(), TestSink::default());
        let uart = Uart::new("uart0", Uart::COM1, line.clone(), Box::new(sink.clone()));
        Self { uart, line, sink }
    }

    fn read(&mut self, offset: u16) -> u8 {
        let mut byte = [0];
        self.uart.read(Uart::COM1 + offset, &mut byte);
        byte[0]
    }

    fn write(&mut self, offset: u16, value: u8) {
        self.uart.write(Uart::COM1 + offset, &[value]);
    }

    /// As a driver opens the port: FIFOs with trigger 8, DTR, RTS and OUT2.
    fn open(&mut self, interrupts: u8) {
        self.write(2, 0x81);
        self.write(4, 0x0b);
        self.write(1, interrupts);
    }
}

#[test]
fn what_the_guest_sends_comes_out_in_order() {
    let mut bench = Bench::new();
    for byte in b"hello" {
        assert_eq!(bench.read(5) & 0x20, 0x20, "the transmitter is ready");
        bench.write(0, *byte);
    }
    assert_eq!(bench.sink.bytes(), b"hello");
}

#[test]
fn a_paste_larger_than_every_buffer_arrives_whole() {
    let mut bench = Bench::new();
    bench.open(0);
    let paste: alloc::vec::Vec<u8> = (0..20_000u32).map(|n| n as u8).collect();
    let mut offered = bench.uart.push(&paste);
    let mut got = alloc::vec::Vec::new();
    while got.len() < paste.len() {
        if bench.read(5) & LSR_DATA != 0 {
            got.push(bench.read(0));
            assert_eq!(bench.read(5) & LSR_OVERRUN, 0);
        } else {
            assert!(bench.sink.times_input_was_wanted() > 0, "asks for the rest");
            offered += bench.uart.push(&paste[offered..]);
        }
    }
    assert_eq!(got, paste);
}

#[test]
fn input_waits_while_the_guest_drops_rts() {
    let mut bench = Bench::new();
    bench.write(4, 0x01);
    bench.uart.push(b"x");
    assert_eq!(bench.read(5) & LSR_DATA, 0);
    bench.write(4, 0x03);
    assert_eq!(bench.read(5) & LSR_DATA, LSR_DATA);
    assert_eq!(bench.read(0), b'x');
}

#[test]
fn received_data_interrupts_at_the_trigger_and_below_it_after_four_character_times() {
    let mut bench = Bench::new();
    bench.open(IER_RECEIVED);
    bench.write(3, 0x03);
    bench.uart.push(b"1234567");
    assert!(!bench.line.is_high());
    bench.uart.push(b"8");
    assert!(bench.line.is_high());
    assert_eq!(bench.read(2), 0xc4);
    bench.read(0);
    assert!(!bench.line.is_high(), "below the trigger again");
    let due = bench.uart.deadline().unwrap();
    // 4 characters of 10 bits at 115200 baud.
    assert_eq!(due, 347_222);
    bench.uart.advance(due - 1);
    assert_eq!(bench.read(2), 0xc1);
    bench.uart.advance(due);
    assert_eq!(bench.read(2), 0xcc);
    assert!(bench.line.is_high());
    bench.read(0);
    assert!(!bench.line.is_high());
}

#[test]
fn the_transmitter_interrupts_when_enabled_when_emptied_and_until_identified() {
    let mut bench = Bench::new();
    bench.open(IER_TRANSMIT);
    assert!(bench.line.is_high());
    assert_eq!(bench.read(2) & 0x0f, IIR_TRANSMIT);
    assert!(!bench.line.is_high(), "reading the cause ends it");
    assert_eq!(bench.read(2) & 0x0f, IIR_NONE);
    bench.write(0, b'a');
    assert!(bench.line.is_high());
    let rises = bench.line.rises();
    bench.write(0, b'b');
    assert_eq!(bench.line.rises(), rises + 1, "each byte is an edge of its own");
    // How drivers test for parts that forget: disable, enable, look.
    bench.read(2);
    bench.write(1, 0);
    bench.write(1, IER_TRANSMIT);
    assert_eq!(bench.read(2) & 0x0f, IIR_TRANSMIT);
}

#[test]
fn loop_back_returns_data_and_modem_lines_and_sends_nothing_out() {
    let mut bench = Bench::new();
    bench.write(4, MCR_LOOP | 0x0a);
    bench.read(6);
    assert_eq!(bench.read(6), MSR_CTS | MSR_DCD);
    bench.write(4, MCR_LOOP | 0x05);
    assert_eq!(bench.read(6), MSR_DSR | MSR_RI | 0x0b, "CTS, DSR and DCD changed");
    bench.write(4, MCR_LOOP);
    assert_eq!(bench.read(6), MSR_DELTA_RI | 0x02, "RI ended, DSR changed");
    bench.write(3, 0x03);
    bench.write(2, 0x01);
    for byte in 0..17 {
        bench.write(0, byte);
    }
    assert_eq!(bench.read(5) & LSR_OVERRUN, LSR_OVERRUN, "the 17th has no place");
    assert_eq!(bench.read(5) & LSR_OVERRUN, 0);
    for byte in 0..16 {
        assert_eq!(bench.read(0), byte);
    }
    assert_eq!(bench.read(5) & LSR_DATA, 0);
    assert!(bench.sink.bytes().is_empty());
}

#[test]
fn without_out2_the_interrupt_stays_off_the_bus() {
    let mut bench = Bench::new();
    bench.write(4, 0x03);
    bench.write(1, IER_TRANSMIT);
    assert!(!bench.line.is_high());
    bench.write(4, 0x0b);
    assert!(bench.line.is_high());
}

#[test]
fn a_break_is_a_line_status_interrupt_with_a_zero_byte() {
    let mut bench = Bench::new();
    bench.open(IER_LINE);
    assert!(bench.uart.push_break());
    assert_eq!(bench.read(2) & 0x0f, IIR_LINE);
    assert_eq!(bench.read(5), 0x60 | LSR_DATA | LSR_BREAK | LSR_FIFO_ERROR);
    assert!(!bench.line.is_high());
    assert_eq!(bench.read(0), 0);
}

#[test]
fn the_divisor_hides_behind_its_access_bit() {
    let mut bench = Bench::new();
    bench.write(3, 0x83);
    bench.write(0, 0x0c);
    bench.write(1, 0x01);
    assert_eq!((bench.read(0), bench.read(1)), (0x0c, 0x01));
    bench.write(3, 0x03);
    assert_eq!(bench.read(1), 0, "interrupts were never enabled");
    assert!(bench.sink.bytes().is_empty());
}

#[test]
fn impossible_saved_state_is_refused_and_changes_nothing() {
    let mut bench = Bench::new();
    let good = bench.uart.save();
    let mut bad = good.clone();
    bad.registers.fifo = core::iter::repeat_n(Received { byte: 1, is_break: false }, 17).collect();
    assert!(matches!(bench.uart.restore(bad), Err(StateError::Field { .. })));
    let newer = Saved { version: 2, ..good.clone() };
    assert!(matches!(bench.uart.restore(newer), Err(StateError::Version { found: 2, .. })));
    assert_eq!(bench.uart.save(), good);
}
