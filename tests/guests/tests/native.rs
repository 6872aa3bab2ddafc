//! Runs every program on the machine's own `/dev/kvm`, with nothing between it and the program but
//! the hypercall ports: what they do here, they must do on every engine.

use chipset::{
    ByteSink, ClockFn, EventFn, GuestBytes, HypercallPorts, LineFn, MachineEvent, PortDevice, Rtc,
};
use kvm_bindings::{
    CpuId, KVM_CAP_SPLIT_IRQCHIP, KVM_MAX_CPUID_ENTRIES, kvm_enable_cap,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use std::io::Write;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use tiny_guests::{ALL, Ending, Guest, LOAD_ADDRESS, SMP, find, smp_lines};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

const MEMORY: usize = 4 << 20;
/// A program runs for well below a second; this ends a test that hangs.
const HANG: Duration = Duration::from_secs(120);
/// The number Linux gives "try again" on x86-64 (asm-generic/errno-base.h).
const EAGAIN: i32 = 11;

/// The one program that takes interrupts in protected mode: INT and IRET there are beyond KVM's
/// instruction emulator, which is all a KVM without hardware virtualization has.
const NEEDS_HARDWARE: &str = "pmode_test";

fn has_hardware() -> bool {
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm")
}

struct Memory(GuestMemoryMmap);

impl GuestBytes for Memory {
    fn read(&self, address: u64, into: &mut [u8]) -> usize {
        self.0.read(into, GuestAddress(address)).unwrap_or(0)
    }
}

#[derive(Clone, Default)]
struct Printed(Arc<Mutex<Vec<u8>>>);

impl ByteSink for Printed {
    fn write(&mut self, bytes: &[u8]) {
        self.0.lock().unwrap().extend_from_slice(bytes);
    }
}

/// The devices of the machine, shared by its processors.
struct Ports {
    hypercalls: HypercallPorts,
    rtc: Rtc,
}

impl Ports {
    fn device(&mut self, port: u16) -> Option<&mut dyn PortDevice> {
        let devices: [&mut dyn PortDevice; 2] = [&mut self.hypercalls, &mut self.rtc];
        devices.into_iter().find(|device| device.ranges().iter().any(|range| range.contains(port)))
    }
}

/// Why a program stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Ended(Ending),
    /// KVM met an instruction it can only emulate, and cannot.
    NotEmulated,
}

/// A machine about to run.
struct Machine {
    vm: Arc<VmFd>,
    memory: GuestMemoryMmap,
    ports: Arc<Mutex<Ports>>,
    printed: Printed,
    /// Status plus one, zero until the program ended.
    status: Arc<(AtomicU8, AtomicUsize)>,
    cpuid: CpuId,
}

/// Says what was not tested, past the test harness, which keeps the output of tests that pass.
fn skip(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// `/dev/kvm`, or a loud word why not.
fn kvm() -> Option<Kvm> {
    match Kvm::new() {
        Ok(kvm) => Some(kvm),
        Err(error) => {
            skip(&format!("/dev/kvm cannot be opened: {error}"));
            None
        }
    }
}

impl Machine {
    fn new(kvm: &Kvm, guest: Guest, input: &[u8], processors: u8) -> Self {
        let vm = kvm.create_vm().unwrap();
        if guest.name == SMP.name {
            let mut capability =
                kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, ..Default::default() };
            capability.args[0] = 24;
            vm.enable_cap(&capability).unwrap();
        }
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
        memory.write_slice(guest.image, GuestAddress(LOAD_ADDRESS)).unwrap();
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: MEMORY as u64,
            userspace_addr: memory.get_host_address(GuestAddress(0)).unwrap() as u64,
        };
        // SAFETY: the mapping is MEMORY bytes long and lives as long as `memory`, a clone of which
        // every thread that runs a processor of this VM keeps.
        unsafe { vm.set_user_memory_region(region) }.unwrap();

        let printed = Printed::default();
        let status = Arc::new((AtomicU8::new(0), AtomicUsize::new(0)));
        let ended = status.clone();
        let events = EventFn(move |event| {
            let MachineEvent::Exit(code) = event else {
                return;
            };
            ended.0.store(code, Ordering::SeqCst);
            ended.1.fetch_add(1, Ordering::SeqCst);
        });
        let mut hypercalls = HypercallPorts::new(
            Box::new(printed.clone()),
            Box::new(Memory(memory.clone())),
            Arc::new(events),
        );
        assert_eq!(hypercalls.push(input), input.len());
        let mut rtc = Rtc::new(Box::new(ClockFn(|| 0)), Arc::new(LineFn(|_| {})));
        rtc.set_processors(processors.into());
        Self {
            vm: Arc::new(vm),
            memory,
            ports: Arc::new(Mutex::new(Ports { hypercalls, rtc })),
            printed,
            status,
            cpuid: kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap(),
        }
    }

    fn processor(&self, index: u8) -> VcpuFd {
        let vcpu = self.vm.create_vcpu(index.into()).unwrap();
        vcpu.set_cpuid2(&self.cpuid).unwrap();
        if index == 0 {
            let mut system = vcpu.get_sregs().unwrap();
            for segment in [
                &mut system.cs,
                &mut system.ds,
                &mut system.es,
                &mut system.ss,
                &mut system.fs,
                &mut system.gs,
            ] {
                (segment.base, segment.selector) = (0, 0);
            }
            vcpu.set_sregs(&system).unwrap();
            let mut registers = vcpu.get_regs().unwrap();
            (registers.rip, registers.rsp) = (LOAD_ADDRESS, LOAD_ADDRESS);
            registers.rflags = 2;
            vcpu.set_regs(&registers).unwrap();
        }
        vcpu
    }

    /// Runs processor 0 to the program's end on a thread of its own and the others beside it; the
    /// others never come back from their last HLT, and their threads end with the test.
    fn start(&self, processors: u8) -> Receiver<Outcome> {
        let (done, result) = mpsc::channel();
        let vcpus: Vec<_> = (0..processors).map(|index| self.processor(index)).collect();
        for vcpu in vcpus {
            let (vm, memory) = (self.vm.clone(), self.memory.clone());
            let (ports, status, done) = (self.ports.clone(), self.status.clone(), done.clone());
            thread::spawn(move || {
                run(vcpu, &ports, &status, &done);
                drop((vm, memory));
            });
        }
        result
    }
}

fn run(
    mut vcpu: VcpuFd,
    ports: &Mutex<Ports>,
    status: &(AtomicU8, AtomicUsize),
    done: &Sender<Outcome>,
) {
    loop {
        let exit = match vcpu.run() {
            // A processor that was waiting for INIT or SIPI got it.
            Err(error) if error.errno() == EAGAIN => continue,
            exit => exit.unwrap(),
        };
        match exit {
            VcpuExit::IoIn(port, data) => match ports.lock().unwrap().device(port) {
                Some(device) => device.read(port, data),
                None => data.fill(0xff),
            },
            VcpuExit::IoOut(port, data) => {
                let mut ports = ports.lock().unwrap();
                if let Some(device) = ports.device(port) {
                    device.write(port, data);
                }
                if status.1.load(Ordering::SeqCst) > 0 {
                    let _ =
                        done.send(Outcome::Ended(Ending::Exits(status.0.load(Ordering::SeqCst))));
                    return;
                }
            }
            VcpuExit::Hlt => {
                let _ = done.send(Outcome::Ended(Ending::Halts));
                return;
            }
            VcpuExit::InternalError => {
                let _ = done.send(Outcome::NotEmulated);
                return;
            }
            other => panic!("unexpected exit {other:?}"),
        }
    }
}

/// Runs `guest` and gives what it printed and how it ended.
fn outcome(kvm: &Kvm, guest: Guest, input: &[u8], processors: u8) -> (String, Outcome) {
    let machine = Machine::new(kvm, guest, input, processors);
    let ending = machine.start(processors).recv_timeout(HANG);
    let printed = machine.printed.0.lock().unwrap();
    let printed = String::from_utf8_lossy(&printed).into_owned();
    let ending = ending.unwrap_or_else(|_| {
        panic!("{} did not end; it printed {printed:?}", guest.name);
    });
    (printed, ending)
}

#[test]
fn every_program_prints_and_ends_as_it_should() {
    let Some(kvm) = kvm() else { return };
    for &guest in ALL {
        let (printed, ending) = outcome(&kvm, guest, b"", 1);
        if guest.name == NEEDS_HARDWARE && ending == Outcome::NotEmulated && !has_hardware() {
            skip(&format!(
                "{}: this machine's KVM has no hardware behind it, and its emulator has no \
                 interrupts in protected mode",
                guest.name
            ));
            continue;
        }
        let expected = (guest.output, Outcome::Ended(guest.ending));
        assert_eq!((printed.as_str(), ending), expected, "{}", guest.name);
    }
}

#[test]
fn hctest_echoes_its_input() {
    let Some(kvm) = kvm() else { return };
    let (printed, ending) = outcome(&kvm, find("hctest").unwrap(), b"some input", 1);
    assert!(printed.contains("getchar: some input\n"), "{printed}");
    assert_eq!(ending, Outcome::Ended(Ending::Exits(42)));
}

#[test]
fn several_machines_run_at_once_without_touching_each_other() {
    let Some(kvm) = kvm() else { return };
    let guests =
        ["counter", "multiplication", "pmode_simple", "matrix"].map(|name| find(name).unwrap());
    let machines = guests.map(|guest| (guest, Machine::new(&kvm, guest, b"", 1)));
    let running: Vec<_> =
        machines.into_iter().map(|(guest, machine)| (guest, machine.start(1), machine)).collect();
    for (guest, result, machine) in running {
        assert_eq!(result.recv_timeout(HANG), Ok(Outcome::Ended(guest.ending)), "{}", guest.name);
        let printed = machine.printed.0.lock().unwrap();
        assert_eq!(String::from_utf8_lossy(&printed), guest.output, "{}", guest.name);
    }
}

#[test]
fn one_to_four_processors_of_one_machine_run_programs_at_the_same_time() {
    let Some(kvm) = kvm() else { return };
    for processors in 1..=4u8 {
        let (printed, ending) = outcome(&kvm, SMP, b"", processors);
        assert_eq!(ending, Outcome::Ended(Ending::Exits(0)));
        let mut expected = smp_lines(processors.into());
        let mut lines: Vec<&str> = printed.lines().collect();
        assert_eq!(lines.last().copied(), expected.last().map(String::as_str));
        for id in 0..processors {
            let own = |lines: Vec<&str>| -> Vec<String> {
                let prefix = format!("[{id}]");
                lines
                    .into_iter()
                    .filter(|line| line.starts_with(&prefix))
                    .map(str::to_owned)
                    .collect()
            };
            let wanted = own(expected.iter().map(String::as_str).collect());
            assert_eq!(own(lines.clone()), wanted, "order of processor {id}");
        }
        lines.sort_unstable();
        expected.sort_unstable();
        assert_eq!(lines, expected);
    }
}
