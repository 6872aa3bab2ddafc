//! The tiny guests on engine kvm: real instructions on a real `/dev/kvm`.

use definition::{Boot, EngineChoice, VmDefinition};
use engine::kvm::KvmEngine;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tiny_guests::{ALL, Guest, SMP, smp_lines};
use vm_control::{Ending, Files, LaunchSpec};
use vmm::native::NativeMachine;
use vmm::{Console, EndingSlot, LifeCycle, Surroundings};

/// A guest that has not ended by then never will; a paravirtual KVM runs a million instructions
/// per second.
const PATIENCE: Duration = Duration::from_secs(120);

/// Takes exceptions, which the instruction emulator of a KVM without hardware cannot.
const NEEDS_HARDWARE: &str = "pmode_test";

/// VMX or SVM behind this machine's KVM.
fn has_hardware() -> bool {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    info.split_whitespace().any(|w| w == "vmx" || w == "svm")
}

fn kvm() -> Option<KvmEngine> {
    match KvmEngine::open() {
        Ok(engine) => Some(engine),
        Err(error) => {
            eprintln!("SKIPPED: {error}");
            None
        }
    }
}

struct Vm {
    life: LifeCycle,
    ending: Arc<EndingSlot>,
    console: Arc<Console>,
    folder: tempfile::TempDir,
}

fn start(engine: &KvmEngine, image: &[u8], cpus: u32) -> Vm {
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("kernel");
    std::fs::write(&kernel, image).unwrap();
    let definition = VmDefinition {
        name: "tiny".to_owned(),
        memory: 16,
        cpus,
        engine: EngineChoice::Kvm,
        huge_pages: false,
        agent: definition::AgentWay::default(),
        boot: Boot { kernel: Some(kernel), ..Boot::default() },
        disks: Vec::new(),
        networks: Vec::new(),
        shares: Vec::new(),
        display: None,
        clipboard: definition::Clipboard::default(),
        integration: definition::Integration::default(),
        windows: definition::Windows::default(),
    };
    let spec = LaunchSpec {
        version: vm_control::VERSION,
        definition,
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
        end_on_reset: false,
        host_ports: None,
    };
    let machine = NativeMachine::new(engine, &spec, surroundings).unwrap();
    Vm { life: LifeCycle::new(Box::new(machine), Arc::clone(&ending)), ending, console, folder }
}

impl Vm {
    fn wait(&self) -> Ending {
        let give_up = Instant::now() + PATIENCE;
        loop {
            if let Some(ending) = self.ending.get() {
                return ending;
            }
            assert!(Instant::now() < give_up, "the guest did not end: {}", self.printed());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Everything the guest printed so far.
    fn printed(&self) -> String {
        self.console.drain();
        read(&self.folder.path().join("console.log"))
    }

    /// Exits of all kinds on processor `index`.
    fn exits(&self, index: usize) -> u64 {
        let statistics = self.life.machine().statistics().unwrap();
        let names = ["port_read", "port_write", "halt", "interrupted"];
        let counters = &statistics.processors[index];
        names.iter().filter_map(|name| counters.get(*name)).sum()
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned()
}

fn ends_as_it_should(vm: &Vm, guest: &Guest) {
    let tiny_guests::Ending::Exits(code) = guest.ending else {
        return;
    };
    let ending = vm.wait();
    if let Ending::Failed { message } = &ending
        && guest.name == NEEDS_HARDWARE
        && message.contains("cannot emulate")
        && !has_hardware()
    {
        eprintln!(
            "SKIPPED: {}: this machine's KVM has no hardware behind it, and its emulator lacks \
             an instruction",
            guest.name
        );
        return;
    }
    assert_eq!(ending, Ending::DebugExit { code }, "{}", guest.name);
    assert_eq!(vm.printed(), guest.output, "{}", guest.name);
    assert!(vm.exits(0) > 0, "{}: no exits counted", guest.name);
}

#[test]
fn every_tiny_guest_prints_and_ends_as_it_should() {
    let Some(engine) = kvm() else { return };
    for guest in ALL {
        let vm = start(&engine, guest.image, 1);
        vm.life.start().unwrap();
        ends_as_it_should(&vm, guest);
        vm.life.quit().unwrap();
    }
}

#[test]
fn four_machines_run_at_once() {
    let Some(engine) = kvm() else { return };
    let guests: Vec<_> =
        ALL.iter().filter(|g| g.ending != tiny_guests::Ending::Halts).rev().take(4).collect();
    let vms: Vec<_> = guests.iter().map(|g| start(&engine, g.image, 1)).collect();
    for vm in &vms {
        vm.life.start().unwrap();
    }
    for (vm, guest) in vms.iter().zip(guests) {
        ends_as_it_should(vm, guest);
        vm.life.quit().unwrap();
    }
}

#[test]
fn several_processors_of_one_machine_work_at_once() {
    let Some(engine) = kvm() else { return };
    let count = 3;
    let vm = start(&engine, SMP.image, count);
    vm.life.start().unwrap();
    assert_eq!(vm.wait(), Ending::DebugExit { code: 0 });
    let printed = vm.printed();
    let mut lines: Vec<&str> = printed.lines().collect();
    let mut expected = smp_lines(count);
    assert_eq!(lines.last().copied(), expected.last().map(String::as_str));
    lines.sort_unstable();
    expected.sort_unstable();
    assert_eq!(lines, expected);
    vm.life.quit().unwrap();
}

#[test]
fn a_halted_guest_is_paused_resumed_reset_and_stopped() {
    let Some(engine) = kvm() else { return };
    let minimal = tiny_guests::find("minimal").unwrap();
    let vm = start(&engine, minimal.image, 1);
    vm.life.start().unwrap();
    vm.life.pause().unwrap();
    vm.life.resume().unwrap();
    vm.life.reset().unwrap();
    vm.life.pause().unwrap();
    vm.life.reset().unwrap();
    assert_eq!(vm.ending.get(), None);
    vm.life.quit().unwrap();
}

#[test]
fn a_reset_guest_starts_over() {
    let Some(engine) = kvm() else { return };
    // Waits for a byte of input and ends with it; prints `!` first.
    let program = [
        0xeb, 0x0a, 0, 0, b'M', b'H', b'V', b'T', b'I', b'N', b'Y',
        b'1', // jump over the magic
        0xb0, b'!', 0xe6, 0xe9, // mov al, '!'; out 0xe9, al
        0xe4, 0xeb, // in al, 0xeb
        0x3c, 0xff, 0x74, 0xfa, // cmp al, 0xff; je back
        0xe6, 0xec, // out 0xec, al
        0xf4, // hlt
    ];
    let vm = start(&engine, &program, 1);
    vm.life.start().unwrap();
    let give_up = Instant::now() + PATIENCE;
    let wait_for = |text: &str| {
        while vm.printed() != text {
            assert!(Instant::now() < give_up, "printed {:?}", vm.printed());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    wait_for("!");
    vm.life.reset().unwrap();
    wait_for("!!");
    vm.console.offer_input(b"\x07");
    assert_eq!(vm.wait(), Ending::DebugExit { code: 7 });
    vm.life.quit().unwrap();
}
