//! Solo5 unikernels on engine kvm: real instructions on a real `/dev/kvm`.

use definition::{Boot, Disk, DiskFormat, EngineChoice, VmDefinition};
use engine::kvm::KvmEngine;
use solo5::EntryKind;
use solo5::test_support::unikernel;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use vm_control::{Ending, Files, LaunchSpec};
use vmm::native::HvtMachine;
use vmm::tcg::TcgMachine;
use vmm::{Console, EndingSlot, LifeCycle, MachineError, Surroundings};

/// A guest that has not ended by then never will; a paravirtual KVM runs a million instructions
/// per second.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where the call structures of the programs below lie: the page a test unikernel can write.
const STRUCTURE: u32 = 0x10_2000;

fn kvm() -> Option<KvmEngine> {
    match KvmEngine::open() {
        Ok(engine) => Some(engine),
        Err(error) => {
            eprintln!("SKIPPED: {error}");
            None
        }
    }
}

/// mov edx, 0x500 + number; mov eax, pointer; out dx, eax
fn call(number: u32, pointer: u32) -> Vec<u8> {
    let mut code = vec![0xba];
    code.extend((0x500 + number).to_le_bytes());
    code.push(0xb8);
    code.extend(pointer.to_le_bytes());
    code.push(0xef);
    code
}

/// mov qword [STRUCTURE + offset], value
fn store(offset: u32, value: i32) -> Vec<u8> {
    let mut code = vec![0x48, 0xc7, 0x04, 0x25];
    code.extend((STRUCTURE + offset).to_le_bytes());
    code.extend(value.to_le_bytes());
    code
}

/// Halts with `status`; jumps to itself, should it go on.
fn halt(status: i32) -> Vec<u8> {
    [store(0, 0), store(8, status), call(8, STRUCTURE), vec![0xeb, 0xfe]].concat()
}

struct Vm {
    life: LifeCycle,
    ending: Arc<EndingSlot>,
    console: Arc<Console>,
    folder: tempfile::TempDir,
}

struct Asked<'a> {
    image: &'a [u8],
    append: &'a str,
    disk: Option<&'a [u8]>,
}

impl<'a> Asked<'a> {
    fn for_image(image: &'a [u8]) -> Self {
        Self { image, append: "", disk: None }
    }
}

fn specification(folder: &Path, asked: &Asked<'_>) -> LaunchSpec {
    let file = folder.join("unikernel.hvt");
    std::fs::write(&file, asked.image).unwrap();
    let disks = asked.disk.map(|content| {
        let path = folder.join("disk");
        std::fs::write(&path, content).unwrap();
        Disk { path, format: DiskFormat::Raw, read_only: false, limit: None }
    });
    let definition = VmDefinition {
        name: "unikernel".to_owned(),
        memory: 16,
        cpus: 1,
        engine: EngineChoice::Kvm,
        huge_pages: false,
        agent: definition::AgentWay::default(),
        boot: Boot { hvt: Some(file), append: Some(asked.append.to_owned()), ..Boot::default() },
        disks: disks.into_iter().collect(),
        networks: Vec::new(),
        shares: Vec::new(),
        display: None,
        clipboard: definition::Clipboard::default(),
        integration: definition::Integration::default(),
        windows: definition::Windows::default(),
    };
    definition.check().unwrap();
    LaunchSpec {
        version: vm_control::VERSION,
        definition,
        engine: EngineChoice::Kvm,
        runtime: folder.to_owned(),
        state: folder.to_owned(),
        foreground: false,
        agent_token: None,
        timeout: None,
    }
}

fn surroundings(spec: &LaunchSpec) -> Surroundings {
    let files = Files::new(&spec.runtime, &spec.state);
    Surroundings {
        console: Arc::new(Console::new(&files.console_log()).unwrap()),
        virtio_console: Arc::new(Console::new(&files.virtio_console_log()).unwrap()),
        ending: Arc::new(EndingSlot::new().unwrap()),
        end_on_reset: false,
        host_ports: None,
    }
}

fn make(engine: &KvmEngine, asked: &Asked<'_>) -> Result<Vm, MachineError> {
    let folder = tempfile::tempdir().unwrap();
    let spec = specification(folder.path(), asked);
    let surroundings = surroundings(&spec);
    let (ending, console) = (Arc::clone(&surroundings.ending), Arc::clone(&surroundings.console));
    let machine = HvtMachine::new(engine, &spec, surroundings)?;
    Ok(Vm { life: LifeCycle::new(Box::new(machine), Arc::clone(&ending)), ending, console, folder })
}

impl Vm {
    fn wait(&self) -> Ending {
        let give_up = Instant::now() + PATIENCE;
        loop {
            if let Some(ending) = self.ending.get() {
                return ending;
            }
            assert!(Instant::now() < give_up, "the guest did not end: {}", self.printed());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Everything the guest printed so far.
    fn printed(&self) -> String {
        self.console.drain();
        let log = std::fs::read(self.folder.path().join("console.log")).unwrap();
        String::from_utf8_lossy(&log).into_owned()
    }

    fn calls(&self, name: &str) -> u64 {
        self.life.machine().statistics().unwrap().devices["tender"][name]
    }
}

/// Runs a program to its end.
fn run(engine: &KvmEngine, code: &[u8]) -> (Ending, String) {
    let image = unikernel(2, &[], code);
    let vm = make(engine, &Asked::for_image(&image)).unwrap();
    vm.life.start().unwrap();
    let ending = vm.wait();
    vm.life.quit().unwrap();
    (ending, vm.printed())
}

#[test]
fn a_unikernel_prints_and_ends_with_its_status() {
    let Some(engine) = kvm() else { return };
    let text = b"hello\n";
    // The text is the end of the code, which is one page at most and not writable.
    let code_length =
        |at| [store(0, at), store(8, text.len() as i32), call(2, STRUCTURE), halt(7)].concat();
    let mut code = code_length(0x10_0000 + code_length(0).len() as i32);
    code.extend(text);
    let (ending, printed) = run(&engine, &code);
    assert_eq!(ending, Ending::DebugExit { code: 7 });
    assert_eq!(printed, "hello\n");
    let (ending, _) = run(&engine, &halt(-1));
    assert_eq!(ending, Ending::DebugExit { code: 255 });
}

#[test]
fn a_unikernel_that_breaks_the_interface_is_ended_with_the_reason() {
    let Some(engine) = kvm() else { return };
    for (code, said) in [
        (call(9, STRUCTURE), "port write at 0x509"),
        (call(0, STRUCTURE), "hypercall 0, which does not exist"),
        (call(1, 0xffff_fff0), "hypercall walltime"),
        ([store(0, -1), store(8, 1), call(2, STRUCTURE)].concat(), "hypercall puts"),
        // in al, 0x60; out 0xe9, al
        (vec![0xe4, 0x60], "port read at 0x60"),
        (vec![0xe6, 0xe9], "port write at 0xe9"),
    ] {
        let code = [code, vec![0xeb, 0xfe]].concat();
        let (ending, _) = run(&engine, &code);
        let Ending::Failed { message } = ending else {
            panic!("{said}: {ending:?}");
        };
        assert!(message.contains(said), "{message}");
    }
}

#[test]
fn a_poll_takes_its_time_and_not_a_processor() {
    let Some(engine) = kvm() else { return };
    let begun = Instant::now();
    let (ending, _) = run(&engine, &[store(0, 50_000_000), call(3, STRUCTURE), halt(0)].concat());
    assert_eq!(ending, Ending::DebugExit { code: 0 });
    assert!(begun.elapsed() >= Duration::from_millis(50));
}

#[test]
fn a_unikernel_in_a_poll_is_paused_resumed_reset_and_stopped() {
    let Some(engine) = kvm() else { return };
    // Without a card a poll for ever never ends.
    let code = [store(0, -1), call(3, STRUCTURE), halt(1)].concat();
    let image = unikernel(2, &[], &code);
    let vm = make(&engine, &Asked::for_image(&image)).unwrap();
    vm.life.start().unwrap();
    let give_up = Instant::now() + PATIENCE;
    let polls = |count| {
        while vm.calls("poll") < count {
            assert!(Instant::now() < give_up, "{:?}", vm.ending.get());
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    polls(1);
    vm.life.pause().unwrap();
    vm.life.resume().unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(vm.calls("poll"), 1, "still the same one");
    vm.life.reset().unwrap();
    polls(2);
    assert_eq!(vm.ending.get(), None);
    assert!(vm.life.press_power_button().is_err());
    vm.life.quit().unwrap();
}

#[test]
fn what_does_not_fit_the_machine_is_refused_before_it_runs() {
    let Some(engine) = kvm() else { return };
    let refused = |image: &[u8], disk| {
        let asked = Asked { disk, ..Asked::for_image(image) };
        make(&engine, &asked).err().unwrap().to_string()
    };
    let message = refused(b"#!/bin/sh", None);
    assert!(message.contains("the ELF header"), "{message}");
    let with_disk = unikernel(1, &[("data", EntryKind::Block)], &halt(0));
    let message = refused(&with_disk, None);
    assert!(message.contains("declares block device \"data\""), "{message}");
    let message = refused(&unikernel(1, &[], &halt(0)), Some(&[0; 512]));
    assert!(
        message.contains("1 block devices were given, and the unikernel declares 0"),
        "{message}"
    );
}

#[test]
fn engine_tcg_names_the_engine_that_can() {
    let folder = tempfile::tempdir().unwrap();
    let image = unikernel(2, &[], &halt(0));
    let spec = specification(folder.path(), &Asked::for_image(&image));
    let error = TcgMachine::new(&spec, &surroundings(&spec)).err().unwrap();
    assert!(error.to_string().contains("use --engine kvm"), "{error}");
}

/// A program of `tests/unikernels`, where `cargo xtask test` has built it.
fn built(name: &str) -> Option<Vec<u8>> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let path: PathBuf = target.join("lab/unikernels").join(format!("{name}.hvt"));
    let image = std::fs::read(&path);
    if image.is_err() {
        eprintln!("SKIPPED: no {}: `cargo xtask test` builds it", path.display());
    }
    image.ok()
}

#[test]
fn the_unikernel_hello_says_what_it_was_told() {
    let (Some(engine), Some(image)) = (kvm(), built("hello")) else {
        return;
    };
    let asked = Asked { append: "one two status=42", ..Asked::for_image(&image) };
    let vm = make(&engine, &asked).unwrap();
    vm.life.start().unwrap();
    assert_eq!(vm.wait(), Ending::DebugExit { code: 42 }, "{}", vm.printed());
    let printed = vm.printed();
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(
        lines[..3],
        ["Hello from a unikernel.", "command line: one two status=42", "memory: 16 MiB"]
    );
    let year: u32 = lines[3].strip_prefix("year: ").unwrap().parse().unwrap();
    assert!(year >= 2024, "{year}");
    vm.life.quit().unwrap();
}

#[test]
fn the_unikernel_blockecho_changes_the_disk() {
    let (Some(engine), Some(image)) = (kvm(), built("blockecho")) else {
        return;
    };
    let content: Vec<u8> = b"disk".repeat(1024);
    let asked = Asked { disk: Some(&content), ..Asked::for_image(&image) };
    let vm = make(&engine, &asked).unwrap();
    vm.life.start().unwrap();
    assert_eq!(vm.wait(), Ending::DebugExit { code: 0 }, "{}", vm.printed());
    let written: Vec<u8> = (0..2048).map(|at| (at * 7 + at / 512) as u8).collect();
    let checksum = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
    };
    assert_eq!(
        vm.printed(),
        format!(
            "disk: 8 blocks of 512\nfirst sector: {:08x}\nchecksum: {:08x}\nwaited\n",
            checksum(&content[..512]),
            checksum(&written)
        )
    );
    vm.life.quit().unwrap();
    let disk = std::fs::read(vm.folder.path().join("disk")).unwrap();
    assert_eq!(disk[..512], content[..512]);
    assert_eq!(disk[512..2560], written);
    assert_eq!(disk[2560..], content[2560..]);
}
