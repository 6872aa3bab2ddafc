//! Engine `kvm` against the real `/dev/kvm`: small pieces of real-mode code, and what comes back.
//! A machine without one says so loudly and proves nothing.

use engine::kvm::KvmEngine;
use engine::{
    Access, Doorbell, DoorbellAddress, Engine, EngineError, Exit, HostMapping, Msi, Partition,
    PartitionConfig, Processor, Registers, RunState,
};
use rustix::event::{EventfdFlags, eventfd};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use units::{Bytes, GuestPhysical};

const MEBIBYTE: usize = 1 << 20;
/// Where the test programs start.
const START: u16 = 0x1000;
/// Physical local APIC of processor 0, edge, fixed, this vector (SDM 3A 11.11).
const fn message(vector: u8) -> Msi {
    Msi {
        address: 0xfee0_0000,
        data: vector as u32,
    }
}

struct Memory {
    address: usize,
    size: usize,
}

// SAFETY: mapped in `new` at a page boundary, unmapped only in `drop`; the tests touch it through
// raw copies only.
unsafe impl HostMapping for Memory {
    fn address(&self) -> usize {
        self.address
    }
    fn size(&self) -> Bytes {
        Bytes(self.size as u64)
    }
}

impl Memory {
    fn new(size: usize) -> Arc<Self> {
        // SAFETY: a fresh anonymous mapping.
        let address = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                size,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        };
        Arc::new(Self {
            address: address.expect("memory for a guest") as usize,
            size,
        })
    }
    fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.size);
        // SAFETY: inside the mapping, just checked.
        unsafe {
            std::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                (self.address as *mut u8).add(at),
                bytes.len(),
            );
        }
    }
    fn byte(&self, at: usize) -> u8 {
        assert!(at < self.size);
        // SAFETY: inside the mapping, just checked.
        unsafe { (self.address as *const u8).add(at).read_volatile() }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`; nothing refers to it any more.
        unsafe { munmap(self.address as *mut _, self.size) }.expect("munmap");
    }
}

struct Machine {
    partition: Arc<dyn Partition>,
    memory: Arc<Memory>,
}

/// `None`, with a loud word, where there is no KVM to test.
fn kvm() -> Option<KvmEngine> {
    match KvmEngine::open() {
        Ok(engine) => Some(engine),
        Err(EngineError::Open { path, source, .. }) => {
            eprintln!("SKIPPED: {path} cannot be opened: {source}");
            None
        }
        Err(other) => panic!("{other}"),
    }
}

fn machine(processors: u32) -> Option<Machine> {
    let partition = kvm()?
        .create_partition(&PartitionConfig { processors })
        .expect("a partition");
    let memory = Memory::new(MEBIBYTE);
    partition
        .map(
            GuestPhysical(0),
            Arc::clone(&memory) as Arc<dyn HostMapping>,
            Access::ReadWrite,
        )
        .expect("guest memory");
    Some(Machine { partition, memory })
}

impl Machine {
    /// Processor `index` in real mode, about to run `code` at [`START`] with a stack below it.
    fn processor(&self, index: u32, code: &[u8]) -> Box<dyn Processor> {
        let mut processor = self.partition.create_processor(index).expect("a processor");
        let cpuid = self.partition.supported_cpuid().expect("CPUID");
        processor.set_cpuid(&cpuid).expect("CPUID is accepted");
        self.memory.write(START.into(), code);
        start(processor.as_mut());
        processor
    }

    /// An interrupt handler at 0x800 that writes `vector` to port 0x99 and returns.
    fn handler(&self, vector: u8) {
        // push ax; mov al, vector; out 0x99, al; pop ax; iret
        self.memory
            .write(0x800, &[0x50, 0xb0, vector, 0xe6, 0x99, 0x58, 0xcf]);
        self.memory
            .write(usize::from(vector) * 4, &[0x00, 0x08, 0x00, 0x00]);
    }
}

fn start(processor: &mut dyn Processor) {
    let mut system = processor.system_registers().expect("system registers");
    system.cs.selector = 0;
    system.cs.base = 0;
    processor
        .set_system_registers(&system)
        .expect("flat real mode");
    processor
        .set_registers(&Registers {
            rip: START.into(),
            rsp: START.into(),
            ..Registers::default()
        })
        .expect("registers");
}

/// Runs until the guest writes a port, and says which and what.
fn next_write(processor: &mut dyn Processor) -> (u16, Vec<u8>) {
    loop {
        match processor.run().expect("the guest runs") {
            Exit::PortWrite { port, data, .. } => return (port, data.to_vec()),
            Exit::Interrupted => {}
            other => panic!("{other:?}"),
        }
    }
}

fn counter(processor: &dyn Processor, name: &str) -> u64 {
    let counters = processor.statistics().read();
    counters
        .iter()
        .find(|(counter, _)| counter == name)
        .unwrap_or_else(|| panic!("no counter {name}"))
        .1
}

#[test]
fn port_reads_and_writes_come_out_with_their_width() {
    let Some(machine) = machine(1) else { return };
    let mut cpu = machine.processor(
        0,
        &[
            0xe4, 0x60, // in al, 0x60
            0xe6, 0x80, // out 0x80, al
            0xe5, 0x62, // in ax, 0x62
            0xe7, 0x82, // out 0x82, ax
            0x66, 0xe5, 0x64, // in eax, 0x64
            0x66, 0xe7, 0x84, // out 0x84, eax
        ],
    );
    for (width, port) in [(1, 0x60), (2, 0x62), (4, 0x64)] {
        match cpu.run().expect("the guest runs") {
            Exit::PortRead {
                port: read,
                width: bytes,
                data,
            } => {
                assert_eq!((read, usize::from(bytes), data.len()), (port, width, width));
                data.copy_from_slice(&[0x11, 0x22, 0x33, 0x44][..width]);
            }
            other => panic!("{other:?}"),
        }
        let (out, data) = next_write(cpu.as_mut());
        assert_eq!(out, port + 0x20);
        assert_eq!(data, [0x11, 0x22, 0x33, 0x44][..width]);
    }
    assert_eq!(counter(cpu.as_ref(), "port_read"), 3);
    assert_eq!(counter(cpu.as_ref(), "port_write"), 3);
}

#[test]
fn string_port_writes_and_reads_carry_every_item() {
    let Some(machine) = machine(1) else { return };
    machine.memory.write(0x2000, b"hello, world");
    let mut cpu = machine.processor(
        0,
        &[
            0xfc, // cld
            0xbe, 0x00, 0x20, // mov si, 0x2000
            0xb9, 0x06, 0x00, // mov cx, 6
            0xba, 0x50, 0x01, // mov dx, 0x150
            0xf3, 0x6f, // rep outsw
            0xbf, 0x00, 0x30, // mov di, 0x3000
            0xb9, 0x05, 0x00, // mov cx, 5
            0xf3, 0x6c, // rep insb
            0xe6, 0x80, // out 0x80, al
        ],
    );
    let mut written = Vec::new();
    let mut read = 0u8;
    loop {
        match cpu.run().expect("the guest runs") {
            Exit::PortWrite {
                port: 0x150,
                width,
                data,
            } => {
                assert_eq!(width, 2);
                written.extend_from_slice(data);
            }
            Exit::PortRead {
                port: 0x150,
                width,
                data,
            } => {
                assert_eq!(width, 1);
                for byte in data {
                    read += 1;
                    *byte = read;
                }
            }
            Exit::PortWrite { port: 0x80, .. } => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(written, b"hello, world");
    let arrived: Vec<u8> = (0x3000..0x3006).map(|at| machine.memory.byte(at)).collect();
    assert_eq!(arrived, [1, 2, 3, 4, 5, 0]);
}

#[test]
fn memory_that_is_not_there_is_the_callers() {
    let Some(machine) = machine(1) else { return };
    let mut cpu = machine.processor(
        0,
        &[
            0xb8, 0xff, 0xff, // mov ax, 0xffff
            0x8e, 0xd8, // mov ds, ax
            0xa1, 0x10, 0x00, // mov ax, [0x10]: ffff:0010 is 0x100000, just past the memory
            0xe7, 0x80, // out 0x80, ax
            0xa3, 0x20, 0x00, // mov [0x20], ax
        ],
    );
    match cpu.run().expect("the guest runs") {
        Exit::MemoryRead { address, data } => {
            assert_eq!((address, data.len()), (0x10_0000, 2));
            data.copy_from_slice(&[0xcd, 0xab]);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(next_write(cpu.as_mut()), (0x80, vec![0xcd, 0xab]));
    match cpu.run().expect("the guest runs") {
        Exit::MemoryWrite { address, data } => {
            assert_eq!((address, data), (0x10_0010, &[0xcd, 0xab][..]));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_halted_processor_wakes_at_a_message() {
    let Some(machine) = machine(1) else { return };
    machine.handler(0x30);
    let mut cpu = machine.processor(
        0,
        &[
            0xfb, // sti
            0xf4, // hlt
            0xe6, 0x80, // out 0x80, al
        ],
    );
    enable_local_apic(cpu.as_mut());
    machine.partition.inject(message(0x30)).expect("injected");
    assert_eq!(next_write(cpu.as_mut()), (0x99, vec![0x30]));
    assert_eq!(next_write(cpu.as_mut()).0, 0x80);
}

/// Turns the local APIC to x2APIC mode and enables it (SDM 3A 11.12.1, 11.9).
fn enable_local_apic(cpu: &mut dyn Processor) {
    let mut system = cpu.system_registers().expect("system registers");
    system.apic_base |= 1 << 10;
    cpu.set_system_registers(&system).expect("x2APIC mode");
    cpu.set_msrs(&[engine::Msr {
        index: 0x80f,
        value: 0x1ff,
    }])
    .expect("spurious-interrupt vector register");
}

#[test]
fn an_interrupt_descriptor_delivers_its_message() {
    let Some(machine) = machine(1) else { return };
    machine.handler(0x31);
    let mut cpu = machine.processor(0, &[0xfb, 0xf4, 0xe6, 0x80]);
    enable_local_apic(cpu.as_mut());
    let Some(interrupt) = machine
        .partition
        .interrupt_fd(message(0x40))
        .expect("irqfd")
    else {
        eprintln!("SKIPPED: this KVM has no irqfd");
        return;
    };
    interrupt.set(Some(message(0x31))).expect("rerouted");
    let event = interrupt.descriptor().expect("a descriptor");
    rustix::io::write(&event, &1u64.to_ne_bytes()).expect("signalled");
    assert_eq!(next_write(cpu.as_mut()), (0x99, vec![0x31]));
}

#[test]
fn a_doorbell_signals_without_an_exit_and_only_for_its_value() {
    let Some(machine) = machine(1) else { return };
    let mut cpu = machine.processor(
        0,
        &[
            0xb8, 0x05, 0x00, // mov ax, 5
            0xba, 0x00, 0x05, // mov dx, 0x500
            0xef, // out dx, ax
            0xb8, 0x06, 0x00, // mov ax, 6
            0xef, // out dx, ax
        ],
    );
    let event = eventfd(0, EventfdFlags::NONBLOCK).expect("an event");
    let doorbell = Doorbell {
        address: DoorbellAddress::Port(0x500),
        width: 2,
        value: Some(5),
    };
    let guard = machine.partition.doorbell(doorbell, event.as_fd());
    let Some(guard) = guard.expect("ioeventfd") else {
        eprintln!("SKIPPED: this KVM has no ioeventfd");
        return;
    };
    assert_eq!(next_write(cpu.as_mut()), (0x500, vec![6, 0]));
    let mut rung = [0; 8];
    rustix::io::read(&event, &mut rung).expect("it rang");
    assert_eq!(u64::from_ne_bytes(rung), 1);
    drop(guard);
    start(cpu.as_mut());
    assert_eq!(next_write(cpu.as_mut()), (0x500, vec![5, 0]));
}

#[test]
fn an_external_interrupt_waits_for_its_window() {
    let Some(machine) = machine(1) else { return };
    machine.handler(0x08);
    let mut cpu = machine.processor(
        0,
        &[
            0xe6, 0x80, // out 0x80, al (interrupts are off)
            0xfb, // sti
            0xb9, 0xff, 0xff, // mov cx, 0xffff
            0xe2, 0xfe, // loop to itself
            0xe6, 0x81, // out 0x81, al
        ],
    );
    assert_eq!(next_write(cpu.as_mut()).0, 0x80);
    assert!(!cpu.accepts_external_interrupt());
    cpu.request_interrupt_window(true);
    match cpu.run().expect("the guest runs") {
        Exit::InterruptWindow => {}
        other => panic!("{other:?}"),
    }
    assert!(cpu.accepts_external_interrupt());
    cpu.request_interrupt_window(false);
    cpu.queue_external_interrupt(0x08).expect("queued");
    assert!(!cpu.accepts_external_interrupt());
    assert_eq!(next_write(cpu.as_mut()), (0x99, vec![8]));
    assert_eq!(next_write(cpu.as_mut()).0, 0x81);
}

#[test]
fn a_non_maskable_interrupt_arrives_with_interrupts_off() {
    let Some(machine) = machine(1) else { return };
    machine.handler(2);
    let mut cpu = machine.processor(0, &[0xfa, 0xf4]); // cli; hlt
    cpu.inject_nmi().expect("injected");
    assert_eq!(next_write(cpu.as_mut()), (0x99, vec![2]));
}

#[test]
fn the_end_of_a_level_interrupt_comes_back() {
    let Some(machine) = machine(1) else { return };
    let level = Msi {
        address: 0xfee0_0000,
        data: 0x33 | 1 << 15 | 1 << 14,
    };
    // mov ecx, 0x80b; xor eax, eax; xor edx, edx; wrmsr (end of interrupt, SDM 3A 11.12.1.2);
    // out 0x99, al; iret
    machine.memory.write(
        0x800,
        &[
            0x66, 0xb9, 0x0b, 0x08, 0x00, 0x00, 0x66, 0x31, 0xc0, 0x66, 0x31, 0xd2, 0x0f, 0x30,
            0xe6, 0x99, 0xcf,
        ],
    );
    machine.memory.write(0x33 * 4, &[0x00, 0x08, 0x00, 0x00]);
    let mut cpu = machine.processor(0, &[0xfb, 0xf4, 0xe6, 0x80]);
    enable_local_apic(cpu.as_mut());
    let mut pins = [None; 24];
    pins[5] = Some(level);
    machine.partition.set_line_routes(&pins).expect("routes");
    machine.partition.inject(level).expect("injected");
    // KVM reports it no later than the next entry, which may come after the handler's last exit.
    let mut ended = Vec::new();
    loop {
        match cpu.run().expect("the guest runs") {
            Exit::EndOfInterrupt { vector } => ended.push(vector),
            Exit::PortWrite { port: 0x99, .. } => {}
            Exit::PortWrite { port: 0x80, .. } => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(ended, [0x33]);
}

#[test]
fn flash_is_read_in_place_and_its_writes_exit() {
    let Some(machine) = machine(1) else { return };
    let flash = Memory::new(4096);
    flash.write(0, &[0x7e]);
    machine
        .partition
        .map(
            GuestPhysical(0x10_0000),
            Arc::clone(&flash) as Arc<dyn HostMapping>,
            Access::ReadOnly,
        )
        .expect("read-only memory");
    let mut cpu = machine.processor(
        0,
        &[
            0xb8, 0xff, 0xff, // mov ax, 0xffff
            0x8e, 0xd8, // mov ds, ax
            0xa0, 0x10, 0x00, // mov al, [0x10]
            0xe6, 0x80, // out 0x80, al
            0xa2, 0x11, 0x00, // mov [0x11], al
        ],
    );
    assert_eq!(next_write(cpu.as_mut()), (0x80, vec![0x7e]));
    match cpu.run().expect("the guest runs") {
        Exit::MemoryWrite { address, data } => {
            assert_eq!((address, data), (0x10_0001, &[0x7e][..]));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(flash.byte(1), 0);
}

#[test]
fn the_dirty_log_names_the_pages_the_guest_wrote() {
    let Some(machine) = machine(1) else { return };
    let mut cpu = machine.processor(
        0,
        &[
            0xe6, 0x80, // out 0x80, al
            0xa2, 0x00, 0x50, // mov [0x5000], al
            0xe6, 0x81, // out 0x81, al
        ],
    );
    next_write(cpu.as_mut());
    let first = machine
        .partition
        .dirty_pages(GuestPhysical(0))
        .expect("the log starts");
    assert_eq!(first, [u64::MAX; 4]);
    next_write(cpu.as_mut());
    let dirty = machine.partition.dirty_pages(GuestPhysical(0));
    assert_eq!(dirty.expect("the log"), [1 << 5, 0, 0, 0]);
    let again = machine.partition.dirty_pages(GuestPhysical(0));
    assert_eq!(again.expect("the log"), [0; 4]);
}

#[test]
fn a_mapping_over_another_is_refused_and_an_unmapped_one_is_gone() {
    let Some(machine) = machine(1) else { return };
    let more = Memory::new(8192);
    let map = |guest| {
        machine.partition.map(
            GuestPhysical(guest),
            Arc::clone(&more) as Arc<dyn HostMapping>,
            Access::ReadWrite,
        )
    };
    assert!(matches!(map(0xf_f000), Err(EngineError::Mapping { .. })));
    assert!(matches!(map(0x20_0001), Err(EngineError::Mapping { .. })));
    assert!(matches!(
        map(u64::MAX - 4095),
        Err(EngineError::Mapping { .. })
    ));
    map(0x20_0000).expect("free");
    machine
        .partition
        .unmap(GuestPhysical(0x20_0000))
        .expect("was mapped");
    assert!(machine.partition.unmap(GuestPhysical(0x20_0000)).is_err());
    map(0x20_1000).expect("free again");
}

#[test]
fn no_kick_is_lost_however_it_falls() {
    let Some(machine) = machine(1) else { return };
    let mut cpu = machine.processor(0, &[0xfa, 0xf4]); // cli; hlt: nothing else ends this
    let kick = cpu.kicker();
    // One before the first run counts for it.
    kick.kick();
    assert!(matches!(cpu.run(), Ok(Exit::Interrupted)));
    let (ask, asked) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // One kick per round, at a moment that drifts over the whole way in and out.
            for round in asked {
                for _ in 0..round % 64 {
                    std::hint::spin_loop();
                }
                kick.kick();
            }
        });
        for round in 0u32..2000 {
            ask.send(round).expect("the kicker lives");
            // A lost kick would leave this waiting for ever.
            match cpu.run().expect("the guest runs") {
                Exit::Interrupted => {}
                other => panic!("{other:?}"),
            }
        }
        drop(ask);
    });
    assert!(counter(cpu.as_ref(), "interrupted") >= 2001);
}

#[test]
fn a_kicker_may_outlive_its_processor() {
    let Some(machine) = machine(1) else { return };
    let cpu = machine.processor(0, &[0xf4]);
    let kick = cpu.kicker();
    drop(cpu);
    drop(machine);
    kick.kick();
}

#[test]
fn a_reset_forgets_everything_the_guest_did() {
    let Some(machine) = machine(1) else { return };
    let mut cpu = machine.processor(
        0,
        &[
            0x66, 0xb9, 0x74, 0x01, 0x00, 0x00, // mov ecx, 0x174 (IA32_SYSENTER_CS)
            0x66, 0xb8, 0x08, 0x00, 0x00, 0x00, // mov eax, 8
            0x66, 0x31, 0xd2, // xor edx, edx
            0x0f, 0x30, // wrmsr
            0x0f, 0x23, 0xc0, // mov dr0, eax
            0x0f, 0x22, 0xd8, // mov cr3, eax
            0xe6, 0x80, // out 0x80, al
        ],
    );
    next_write(cpu.as_mut());
    enable_local_apic(cpu.as_mut());
    assert_eq!(cpu.msrs(&[0x174]).expect("MSRs")[0].value, 8);
    cpu.inject_nmi().expect("injected");
    cpu.reset().expect("reset");
    let registers = cpu.registers().expect("registers");
    assert_eq!((registers.rip, registers.rax), (0xfff0, 0));
    let system = cpu.system_registers().expect("system registers");
    assert_eq!((system.cs.base, system.cr3), (0xffff_0000, 0));
    assert_eq!(system.apic_base, 0xfee0_0900);
    assert_eq!(cpu.msrs(&[0x174]).expect("MSRs")[0].value, 0);
    // The pending NMI is gone: its vector leads nowhere, and the program runs from the start.
    start(cpu.as_mut());
    assert_eq!(next_write(cpu.as_mut()).0, 0x80);
}

#[test]
fn a_second_processor_waits_until_it_is_called() {
    let Some(machine) = machine(2) else { return };
    let mut first = machine.processor(
        0,
        &[
            // IA32_X2APIC_ICR (0x830): INIT to processor 1, then SIPI with page 3.
            0x66, 0xb9, 0x30, 0x08, 0x00, 0x00, // mov ecx, 0x830
            0x66, 0xba, 0x01, 0x00, 0x00, 0x00, // mov edx, 1
            0x66, 0xb8, 0x00, 0x45, 0x00, 0x00, // mov eax, 0x4500
            0x0f, 0x30, // wrmsr
            0x66, 0xb8, 0x03, 0x46, 0x00, 0x00, // mov eax, 0x4603
            0x0f, 0x30, // wrmsr
            0xe6, 0x80, // out 0x80, al
        ],
    );
    enable_local_apic(first.as_mut());
    machine.memory.write(0x3000, &[0xe6, 0x81, 0xf4]); // out 0x81, al; hlt
    let mut second = machine.partition.create_processor(1).expect("a processor");
    second
        .set_cpuid(&machine.partition.supported_cpuid().expect("CPUID"))
        .expect("CPUID is accepted");
    assert_eq!(second.run_state().expect("a state"), RunState::WaitForSipi);
    std::thread::scope(|scope| {
        let waits = scope.spawn(move || next_write(second.as_mut()).0);
        assert_eq!(next_write(first.as_mut()).0, 0x80);
        assert_eq!(waits.join().expect("no panic"), 0x81);
    });
}

#[test]
fn a_triple_fault_is_a_shutdown() {
    let Some(machine) = machine(1) else { return };
    // mov ax, 0x10; mov ds, ax: no such segment, in protected mode without a single vector.
    let mut cpu = machine.processor(0, &[0x66, 0xb8, 0x10, 0x00, 0x8e, 0xd8]);
    let mut system = cpu.system_registers().expect("system registers");
    system.cr0 |= 1;
    system.cs.rights = 0xc09b;
    system.cs.limit = u32::MAX;
    system.cs.selector = 8;
    system.gdt.limit = 0;
    system.idt.limit = 0;
    cpu.set_system_registers(&system)
        .expect("protected mode without vectors");
    match cpu.run().expect("the guest runs") {
        Exit::Shutdown => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(counter(cpu.as_ref(), "shutdown"), 1);
}

#[test]
fn impossible_partitions_and_processors_are_refused() {
    let Some(engine) = kvm() else { return };
    for processors in [0, u32::MAX] {
        let refused = engine.create_partition(&PartitionConfig { processors });
        assert!(matches!(refused, Err(EngineError::ProcessorCount { .. })));
    }
    let partition = engine
        .create_partition(&PartitionConfig { processors: 1 })
        .expect("a partition");
    let _taken = partition.create_processor(0).expect("a processor");
    for index in [0, 1, u32::MAX] {
        assert!(matches!(
            partition.create_processor(index),
            Err(EngineError::ProcessorIndex { limit: 1, .. })
        ));
    }
}

#[test]
fn kernel_counters_move_with_the_guest() {
    let Some(machine) = machine(1) else { return };
    let mut cpu = machine.processor(0, &[0xe6, 0x80, 0xeb, 0xfc]); // out 0x80, al; jmp back
    let statistics = cpu.statistics();
    let exits = || {
        let counters = statistics.read();
        let found = counters.into_iter().find(|(name, _)| name == "kvm.exits");
        found.map(|(_, count)| count)
    };
    let Some(before) = exits() else {
        eprintln!("SKIPPED: this KVM offers no statistics");
        return;
    };
    for _ in 0..10 {
        next_write(cpu.as_mut());
    }
    assert!(exits().expect("still there") >= before + 10);
}

#[test]
fn a_program_that_blocks_signals_can_still_be_kicked() {
    let Some(machine) = machine(1) else { return };
    let running = Arc::new(AtomicBool::new(false));
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let runs = Arc::clone(&running);
        let machine = &machine;
        scope.spawn(move || {
            block_all_signals();
            let mut cpu = machine.processor(0, &[0xfa, 0xf4]);
            sender.send(cpu.kicker()).expect("the test waits");
            runs.store(true, Ordering::SeqCst);
            assert!(matches!(cpu.run(), Ok(Exit::Interrupted)));
        });
        let kick = receiver.recv().expect("a kicker");
        // Long enough that the processor is most likely inside; right either way.
        std::thread::sleep(std::time::Duration::from_millis(50));
        kick.kick();
    });
    assert!(running.load(Ordering::SeqCst));
}

fn block_all_signals() {
    // SAFETY: a zeroed set is made valid by `sigfillset`; only this thread's mask changes.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
}
