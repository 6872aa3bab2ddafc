use super::*;
use alloc::vec::Vec;
use std::sync::Mutex;

#[derive(Default)]
struct Sink {
    delivered: Mutex<Vec<(u64, u32)>>,
    routes: Mutex<Vec<PinRoutes>>,
}

impl IoApicSink for Sink {
    fn deliver(&self, address: u64, data: u32) {
        self.delivered.lock().unwrap().push((address, data));
    }

    fn routes_changed(&self, routes: &PinRoutes) {
        self.routes.lock().unwrap().push(*routes);
    }
}

struct Bench {
    ioapic: IoApic,
    sink: Arc<Sink>,
}

impl Bench {
    fn new() -> Self {
        let sink = Arc::new(Sink::default());
        Self { ioapic: IoApic::new(sink.clone()), sink }
    }

    fn read(&mut self, index: u8) -> u32 {
        self.ioapic.write(SELECT, &[index, 0, 0, 0]);
        let mut bytes = [0; 4];
        self.ioapic.read(WINDOW, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn write(&mut self, index: u8, value: u32) {
        self.ioapic.write(SELECT, &[index, 0, 0, 0]);
        self.ioapic.write(WINDOW, &value.to_le_bytes());
    }

    fn program(&mut self, pin: u8, low: u32, high: u32) {
        self.write(0x11 + 2 * pin, high);
        self.write(0x10 + 2 * pin, low);
    }

    fn delivered(&self) -> Vec<(u64, u32)> {
        core::mem::take(&mut *self.sink.delivered.lock().unwrap())
    }
}

#[test]
fn it_has_24_masked_pins() {
    let mut bench = Bench::new();
    assert_eq!(bench.read(0x01), 0x0017_0020);
    assert_eq!(bench.read(0x10), 0x0001_0000);
    assert_eq!(bench.read(0x3f), 0);
    assert_eq!(bench.read(0x40), u32::MAX, "there is no pin 24");
    bench.write(0x00, 0xff00_0000);
    assert_eq!(bench.read(0x00), 0x0f00_0000);
    assert_eq!(bench.ioapic.routes(), [None; 24]);
}

#[test]
fn an_edge_sends_one_message_and_a_masked_one_is_forgotten() {
    let mut bench = Bench::new();
    bench.ioapic.set_pin(4, true);
    bench.program(4, 0x0000_0034, 0x0300_0000);
    assert_eq!(bench.delivered(), []);
    bench.ioapic.set_pin(4, false);
    bench.ioapic.set_pin(4, true);
    bench.ioapic.set_pin(4, true);
    assert_eq!(bench.delivered(), [(0xfee0_3000, 0x34)]);
}

#[test]
fn a_level_is_sent_again_at_each_end_of_interrupt_until_the_line_falls() {
    let mut bench = Bench::new();
    bench.program(16, 0x0000_a951, 0x0f00_0000);
    let message = (0xfee0_f004, 0xc151);
    bench.ioapic.set_pin(16, true);
    assert_eq!(bench.delivered(), [message]);
    assert_eq!(bench.read(0x30) & 1 << 14, 1 << 14, "remote IRR");
    bench.ioapic.set_pin(16, true);
    assert_eq!(bench.delivered(), []);
    bench.ioapic.end_of_interrupt(0x50);
    assert_eq!(bench.delivered(), [], "another vector");
    bench.ioapic.end_of_interrupt(0x51);
    assert_eq!(bench.delivered(), [message]);
    bench.ioapic.set_pin(16, false);
    bench.ioapic.write(0x40, &[0x51, 0, 0, 0]);
    assert_eq!(bench.delivered(), []);
    assert_eq!(bench.read(0x30) & 1 << 14, 0);
}

#[test]
fn a_level_asserted_while_masked_is_sent_when_unmasked() {
    let mut bench = Bench::new();
    bench.program(17, 0x0001_8060, 0);
    bench.ioapic.set_pin(17, true);
    assert_eq!(bench.delivered(), []);
    bench.write(0x32, 0x0000_8060);
    assert_eq!(bench.delivered(), [(0xfee0_0000, 0xc060)]);
}

#[test]
fn switching_to_edge_and_back_ends_the_interrupt_under_way() {
    let mut bench = Bench::new();
    bench.program(17, 0x0000_8060, 0);
    bench.ioapic.set_pin(17, true);
    bench.delivered();
    bench.write(0x32, 0x0001_0060);
    bench.write(0x32, 0x0000_8060);
    assert_eq!(bench.delivered(), [(0xfee0_0000, 0xc060)]);
}

#[test]
fn read_only_bits_stay_and_routes_are_told_when_they_change() {
    let mut bench = Bench::new();
    bench.write(0x14, 0x0000_7030);
    assert_eq!(bench.read(0x14), 0x0000_2030, "delivery status and remote IRR are not writable");
    assert_eq!(bench.sink.routes.lock().unwrap().len(), 1);
    bench.write(0x14, 0x0000_0030);
    assert_eq!(bench.sink.routes.lock().unwrap().len(), 1, "polarity alone changes no message");
    bench.write(0x15, 0x0100_0000);
    let routes = *bench.sink.routes.lock().unwrap().last().unwrap();
    assert_eq!(routes[2], Some((0xfee0_1000, 0x30)));
    assert_eq!(routes, bench.ioapic.routes());
}

#[test]
fn vectors_no_apic_accepts_and_external_interrupts_send_nothing() {
    let mut bench = Bench::new();
    bench.program(5, 0x0000_000f, 0);
    bench.program(0, 0x0000_0700, 0);
    bench.ioapic.set_pin(5, true);
    bench.ioapic.set_pin(0, true);
    assert_eq!(bench.delivered(), []);
    bench.program(6, 0x0000_8400, 0);
    bench.ioapic.set_pin(6, true);
    assert_eq!(
        bench.delivered(),
        [(0xfee0_0000, 0x0400)],
        "an NMI is an edge, whatever bit 15 says"
    );
}
