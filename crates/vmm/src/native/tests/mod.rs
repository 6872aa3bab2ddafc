//! The assembled machine without a CPU: every device at once against random accesses, and the life
//! cycle with processors that never execute.

mod still_engine;
mod window_memory;

use super::NativeMachine;
use super::processors::Board;
use crate::{Console, EndingSlot, Machine, QUIT_PATIENCE, Surroundings};
use definition::{Boot, Disk, DiskFormat, EngineChoice, VmDefinition};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};
use still_engine::{Script, StillEngine};
use vm_control::{Ending, Files, LaunchSpec};

/// A program that never runs, in a form the loader takes.
fn tiny_program() -> Vec<u8> {
    let mut image = vec![0xeb, 0x0a, 0, 0];
    image.extend_from_slice(&loader::tiny::MAGIC);
    image.extend_from_slice(&[0xf4; 16]);
    image
}

struct Rig {
    machine: NativeMachine,
    script: Arc<Script>,
    ending: Arc<EndingSlot>,
    console: Arc<Console>,
    _folder: tempfile::TempDir,
}

fn definition(folder: &Path, cpus: u32) -> VmDefinition {
    let kernel = folder.join("kernel");
    std::fs::write(&kernel, tiny_program()).unwrap();
    let disk = folder.join("disk");
    std::fs::write(&disk, vec![0; 1 << 20]).unwrap();
    VmDefinition {
        name: "rig".to_owned(),
        memory: 16,
        cpus,
        engine: EngineChoice::Kvm,
        huge_pages: false,
        agent: definition::AgentWay::default(),
        boot: Boot { kernel: Some(kernel), ..Boot::default() },
        disks: vec![Disk { path: disk, format: DiskFormat::Raw, read_only: false, limit: None }],
        networks: Vec::new(),
        shares: Vec::new(),
        display: Some(definition::Display { width: 640, height: 480 }),
        clipboard: definition::Clipboard::default(),
        integration: definition::Integration::default(),
        windows: definition::Windows::default(),
    }
}

fn rig(cpus: u32, end_on_reset: bool) -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let spec = LaunchSpec {
        version: vm_control::VERSION,
        definition: definition(folder.path(), cpus),
        engine: EngineChoice::Kvm,
        runtime: folder.path().to_owned(),
        state: folder.path().to_owned(),
        foreground: false,
        agent_token: None,
        timeout: None,
    };
    let files = Files::new(&spec.runtime, &spec.state);
    let console = Arc::new(Console::new(&files.console_log()).unwrap());
    let ending = Arc::new(EndingSlot::new().unwrap());
    let surroundings = Surroundings {
        console: Arc::clone(&console),
        virtio_console: Arc::new(Console::new(&files.virtio_console_log()).unwrap()),
        ending: Arc::clone(&ending),
        end_on_reset,
        host_ports: None,
    };
    let script = Arc::new(Script::default());
    let engine = StillEngine(Arc::clone(&script));
    let machine = NativeMachine::new(&engine, &spec, surroundings).unwrap();
    Rig { machine, script, ending, console, _folder: folder }
}

fn wait_for(ending: &EndingSlot) -> Ending {
    loop {
        if let Some(ending) = ending.get() {
            return ending;
        }
        std::thread::yield_now();
    }
}

/// xorshift64* (Vigna 2016): the same sequence on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}

/// Ports that end or reset the machine; the test goes on without them.
fn ends_the_machine(port: u16) -> bool {
    port == 0xec || (0xf4..0xf8).contains(&port)
}

#[test]
fn random_accesses_to_every_port_and_register_are_survived() {
    for seed in 1..=4u64 {
        let rig = rig(2, false);
        let board = &rig.machine.board;
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        // Decoding on for every function, so that BARs are reached.
        for slot in 0..32u8 {
            board.pci.write_config(slot, 4, &[0x07, 0x00]);
        }
        for round in 0..30_000u32 {
            let mut data = random.next().to_le_bytes();
            let spaces = random.below(8);
            if spaces < 4 {
                let claimed = board.ports.map();
                let port = if spaces == 0 {
                    random.next() as u16
                } else {
                    let (start, size) = claimed[random.below(claimed.len() as u64) as usize];
                    (start + random.below(size)) as u16
                };
                let width = 1usize << random.below(3);
                if random.below(2) == 0 {
                    board.read_port(port, &mut data[..width]);
                } else if !(0..width as u16).any(|i| ends_the_machine(port.wrapping_add(i))) {
                    board.write_port(port, &data[..width]);
                }
            } else {
                let mut regions: Vec<(u64, u64)> = board.memory.map();
                let bars = board.pci.regions();
                regions.extend(
                    bars.iter().filter(|r| r.space == pci::Space::Memory).map(|r| (r.base, r.size)),
                );
                let (start, size) = regions[random.below(regions.len() as u64) as usize];
                let address = start.wrapping_add(random.below(size));
                let width = 1 + random.below(8) as usize;
                if random.below(2) == 0 {
                    board.read_memory(address, &mut data[..width]);
                } else {
                    board.write_memory(address, &data[..width]);
                }
            }
            if round % 4096 == 0 {
                board.end_of_interrupt(random.next() as u8);
                board.acknowledge();
                rig.console.offer_input(b"typed");
                rig.machine.inspect().unwrap();
                rig.machine.statistics().unwrap();
            }
        }
        // Random writes may have powered the machine off; nothing may have failed.
        assert!(
            matches!(rig.ending.get(), None | Some(Ending::PoweredOff)),
            "{:?}",
            rig.ending.get()
        );
        rig.machine.quit().unwrap();
    }
}

#[test]
fn a_guest_that_resets_finds_every_device_as_after_power_on() {
    let rig = rig(2, false);
    let board = &rig.machine.board;
    let fresh = board.chipset.inspect();
    board.write_port(0x3fb, &[0x03]);
    board.write_port(0x21, &[0x55]);
    board.write_memory(layout::IOAPIC.0, &[0x10]);
    board.write_memory(layout::IOAPIC.0 + 0x10, &[1, 0, 0, 0]);
    assert_ne!(board.chipset.inspect(), fresh);
    rig.machine.start().unwrap();
    rig.script.writes.lock().unwrap().push_back((0xcf9, vec![0x06]));
    // The processor is in the guest; any event makes it come back.
    board.gate.kick(0);
    while *rig.script.resets.lock().unwrap() < 4 {
        std::thread::yield_now();
    }
    rig.machine.pause().unwrap();
    let after = board.chipset.inspect();
    for part in ["pic", "ioapic"] {
        assert_eq!(after[part], fresh[part]);
    }
    assert_eq!(after["uart0"]["line_control"], fresh["uart0"]["line_control"]);
    assert_eq!(rig.ending.get(), None);
    // The write to the reset port ended before the processor that made it was reset.
    assert!(!rig.script.torn.load(SeqCst));
    rig.machine.quit().unwrap();
}

#[test]
fn halted_processors_come_to_a_pause_and_a_reset() {
    let rig = rig(2, false);
    rig.script.halts.store(true, SeqCst);
    rig.machine.start().unwrap();
    rig.machine.pause().unwrap();
    rig.machine.resume().unwrap();
    rig.machine.reset().unwrap();
    assert_eq!(*rig.script.resets.lock().unwrap(), 4);
    rig.machine.quit().unwrap();
}

#[test]
fn a_reset_ends_a_machine_that_is_not_to_be_restarted() {
    let rig = rig(1, true);
    rig.script.writes.lock().unwrap().push_back((0xcf9, vec![0x06]));
    rig.machine.start().unwrap();
    assert_eq!(wait_for(&rig.ending), Ending::Reset);
    rig.machine.quit().unwrap();
}

#[test]
fn the_debug_exit_code_is_the_ending() {
    let rig = rig(1, false);
    rig.script.writes.lock().unwrap().push_back((0xf4, vec![42]));
    rig.machine.start().unwrap();
    assert_eq!(wait_for(&rig.ending), Ending::DebugExit { code: 42 });
    rig.machine.quit().unwrap();
}

#[test]
fn a_thread_the_guest_depends_on_does_not_die_unnoticed() {
    let rig = rig(1, false);
    super::indispensable(&*rig.machine.board, "chipset", || panic!("told to"));
    let Some(Ending::Failed { message }) = rig.ending.get() else {
        panic!("{:?}", rig.ending.get());
    };
    assert!(message.contains("chipset thread panicked"), "{message}");
    rig.machine.quit().unwrap();
}

#[test]
fn every_processor_learns_after_a_pause_that_it_stood_still() {
    let rig = rig(2, false);
    let told = || rig.script.stood_still.each_ref().map(|n| n.load(SeqCst));
    rig.machine.start().unwrap();
    rig.machine.pause().unwrap();
    let before = told();
    rig.machine.resume().unwrap();
    while told().iter().zip(&before).any(|(now, was)| now <= was) {
        std::thread::yield_now();
    }
    assert_eq!(told(), before.map(|n| n + 1));
    rig.machine.quit().unwrap();
}

#[test]
fn machine_time_stands_still_while_paused() {
    let rig = rig(2, false);
    rig.machine.start().unwrap();
    rig.machine.pause().unwrap();
    let now = rig.machine.board.timers.clock().now();
    rig.machine.inspect().unwrap();
    assert_eq!(rig.machine.board.timers.clock().now(), now);
    rig.machine.resume().unwrap();
    rig.machine.reset().unwrap();
    rig.machine.quit().unwrap();
}

#[test]
fn viewers_are_told_of_the_screen_and_a_size_they_want_reaches_the_device() {
    let rig = rig(1, false);
    rig.machine.start().unwrap();
    let wanted =
        |rig: &Rig| rig.machine.inspect().unwrap()["devices"]["gpu0"]["wanted-size"].clone();
    assert_eq!(wanted(&rig), "640 x 480");
    let path = Files::new(rig._folder.path(), rig._folder.path()).display();
    let mut viewer = display::Viewer::connect(&path).unwrap();
    let far = Instant::now() + Duration::from_secs(20);
    assert_eq!(viewer.wait(far).unwrap(), Some(display::Event::Configured(None)));
    let size = display::Size::new(800, 600).unwrap();
    viewer.send(display::FromViewer::Resize { size, width_mm: 0, height_mm: 0 }).unwrap();
    // Typed at a guest without a driver: dropped, counted.
    viewer.send(display::FromViewer::Key { code: 30, pressed: true }).unwrap();
    viewer.send(display::FromViewer::Button { code: 0x110, pressed: true }).unwrap();
    let dropped = |name: &str| rig.machine.board.devices.counters()[name]["dropped"];
    while wanted(&rig) != "800 x 600" || dropped("keyboard0") == 0 || dropped("pointer0") == 0 {
        assert!(Instant::now() < far);
        std::thread::yield_now();
    }
    rig.machine.quit().unwrap();
}

#[test]
fn a_device_the_host_does_not_answer_is_named_and_the_others_are_stopped() {
    let rig = rig(1, false);
    rig.machine.start().unwrap();
    let devices = &rig.machine.board.devices;
    let before = devices.counters();
    let stuck = devices.hold("block0");
    // Its counters are those it had.
    let mut counters = devices.counters();
    assert_eq!(counters["block0"]["stopping"], 1);
    counters.get_mut("block0").unwrap().remove("stopping");
    assert_eq!(counters, before);
    assert_eq!(rig.machine.inspect().unwrap()["devices"]["block0"]["state"], "being stopped");
    let soon = Instant::now() + Duration::from_millis(50);
    assert_eq!(devices.end(soon), ["block0"]);
    drop(stuck);
    assert_eq!(devices.end(Instant::now() + QUIT_PATIENCE), [""; 0]);
    rig.machine.quit().unwrap();
}
