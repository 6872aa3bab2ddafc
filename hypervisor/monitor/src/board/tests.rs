use super::*;
use crate::calls::{Core, PartitionId};
use crate::ram::tests::ram;
use crate::test_core::{HERTZ, Log, TestMachine, console, means, shown};
use crate::wake::Wakes;
use chipset::MachineEvent;
use units::Bytes;

struct Bench {
    log: Arc<Log>,
    board: Board,
    external: Arc<External>,
    happenings: Arc<Happenings>,
}

fn bench() -> Bench {
    let log = Arc::new(Log::default());
    let machine = TestMachine::leaked();
    let core: Arc<Core> = means(&log, machine).core;
    let console = console();
    let source = console.lock().add("a");
    let wakes = Arc::new(Wakes::new(machine, std::vec![0]));
    let external = Arc::new(External::new(Arc::clone(&wakes)));
    let happenings = Arc::new(Happenings::default());
    let messages = Messages::new(core, PartitionId(1), wakes);
    let board = Board::new(Parts {
        ram: ram(0x10000),
        map: &MemoryMap::new(Bytes::mib(2), 40).unwrap(),
        processors: 3,
        messages: Arc::new(messages),
        external: Arc::clone(&external),
        happenings: Arc::clone(&happenings),
        screen: Screen::new(console, source, || 0),
        clock: Clock::new(0, HERTZ),
        wall_clock: crate::clock::since_1970(2026, 11, 26, 3600 * 5),
        virtio: Vec::new(),
    });
    Bench { log, board, external, happenings }
}

impl Bench {
    fn read(&mut self, port: u16, tsc: u64) -> u8 {
        let mut byte = [0];
        self.board.read_port(port, &mut byte, tsc);
        byte[0]
    }

    fn write(&mut self, port: u16, byte: u8, tsc: u64) {
        self.board.write_port(port, &[byte], tsc);
    }

    /// Programs I/O APIC pin `pin` to send `vector`.
    fn route(&mut self, pin: u8, vector: u8) {
        for (register, value) in [(0x11 + 2 * pin, 0), (0x10 + 2 * pin, vector)] {
            self.board.write_memory(layout::IOAPIC.0, &[register, 0, 0, 0]);
            self.board.write_memory(layout::IOAPIC.0 + 0x10, &[value, 0, 0, 0]);
        }
    }
}

#[test]
fn the_timer_interrupts_through_the_io_apic_on_time() {
    let mut bench = bench();
    bench.route(2, 0x30);
    // Channel 0, rate generator, every 11932 ticks of 838 ns.
    for (port, byte) in [(0x43, 0x34), (0x40, 0x9c), (0x40, 0x2e)] {
        bench.write(port, byte, 0);
    }
    let due = bench.board.deadline();
    assert!((9_990_000..10_100_000).contains(&due), "{due}");
    // The output rises as the mode is set.
    bench.log.injected.lock().clear();
    bench.board.advance(due - 200_000);
    assert!(bench.log.injected.lock().is_empty());
    bench.board.advance(due);
    let injected = bench.log.injected.lock().clone();
    assert_eq!(injected, [(1, 0xfee0_0000, 0x30)]);
    assert!(bench.board.deadline() > due);
}

#[test]
fn the_clock_shows_the_machines_time_and_the_memory_cells_the_machine() {
    let mut bench = bench();
    let mut cell = |index, tsc| {
        bench.write(0x70, index, tsc);
        bench.read(0x71, tsc)
    };
    assert_eq!(cell(4, 0), 0x05, "hours, in BCD");
    assert_eq!(cell(2, 61 * HERTZ), 0x01, "minutes");
    assert_eq!(cell(0x5f, 0), 2, "processors but one");
}

#[test]
fn what_ends_the_machine_is_noted_once() {
    let mut bench = bench();
    bench.write(0x604, 0, 0);
    // SLP_TYP 7, SLP_EN in PM1 control.
    bench.board.write_port(0x604, &0x3c00u16.to_le_bytes(), 0);
    bench.write(0xf4, 5, 0);
    assert_eq!(bench.happenings.take(), Some(MachineEvent::PowerOff));
    assert_eq!(bench.happenings.take(), None);
    bench.write(0xcf9, 6, 0);
    assert_eq!(bench.happenings.take(), Some(MachineEvent::Reset));
}

#[test]
fn typed_text_reaches_the_serial_line_or_the_hypercall_ports() {
    let mut bench = bench();
    bench.board.typed(b"x");
    assert_eq!(bench.read(0x3fd, 0) & 1, 1);
    assert_eq!(bench.read(0x3f8, 0), b'x');
    bench.board.be_tiny();
    bench.board.typed(b"y");
    assert_eq!(bench.read(0xeb, 0), b'y');
    assert_eq!(bench.read(0x3fd, 0) & 1, 0);
}

#[test]
fn a_string_in_guest_memory_is_printed() {
    let mut bench = bench();
    let ram = ram(0x1000);
    ram.write(0x500, b"text\n\0");
    bench.board.hypercalls = HypercallPorts::new(
        Box::new({
            let console = console();
            let source = console.lock().add("b");
            Screen::new(console, source, || 0)
        }),
        Box::new(ram),
        bench.happenings.clone(),
    );
    bench.board.write_port(0xea, &0x500u32.to_le_bytes(), 0);
    assert_eq!(shown(), "b| text\r\n");
}

#[test]
fn every_access_of_every_width_is_answered() {
    let mut bench = bench();
    for port in 0..=u16::MAX {
        for width in [1, 2, 4] {
            let mut data = [0xa5; 4];
            bench.board.read_port(port, &mut data[..width], 1000);
            bench.board.write_port(port, &[0x5a; 4][..width], 1000);
        }
    }
    for address in (0xfec0_0000u64 - 8..0xfec0_0100).chain([0, u64::MAX]) {
        for width in 1..=8 {
            let mut data = [0; 8];
            bench.board.read_memory(address, &mut data[..width]);
            bench.board.write_memory(address, &[0x5a; 8][..width]);
        }
    }
    bench.board.advance(u64::MAX);
    let _ = (bench.board.deadline(), bench.external.asserted());
}
