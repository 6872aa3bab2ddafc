//! The guest of these tests: one MiB of memory and code given as bytes.

use engine::kvm::KvmEngine;
use engine::{
    Access, Engine, EngineError, Exit, HostMapping, Msi, Partition, PartitionConfig, Processor,
    Registers,
};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::sync::Arc;
use units::{Bytes, GuestPhysical};

const MEBIBYTE: usize = 1 << 20;
/// Where the test programs start.
const START: u16 = 0x1000;
/// Physical local APIC of processor 0, edge, fixed, this vector (SDM 3A 11.11).
pub(crate) const fn message(vector: u8) -> Msi {
    Msi { address: 0xfee0_0000, data: vector as u32 }
}

pub(crate) struct Memory {
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
    pub(crate) fn new(size: usize) -> Arc<Self> {
        // SAFETY: a fresh anonymous mapping.
        let address = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                size,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        };
        Arc::new(Self { address: address.expect("memory for a guest") as usize, size })
    }
    pub(crate) fn write(&self, at: usize, bytes: &[u8]) {
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
    pub(crate) fn byte(&self, at: usize) -> u8 {
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

pub(crate) struct Machine {
    pub(crate) partition: Arc<dyn Partition>,
    pub(crate) memory: Arc<Memory>,
}

/// `None`, with a loud word, where there is no KVM to test.
pub(crate) fn kvm() -> Option<KvmEngine> {
    match KvmEngine::open() {
        Ok(engine) => Some(engine),
        Err(EngineError::Open { path, source, .. }) => {
            eprintln!("SKIPPED: {path} cannot be opened: {source}");
            None
        }
        Err(other) => panic!("{other}"),
    }
}

pub(crate) fn machine(processors: u32) -> Option<Machine> {
    let partition = kvm()?.create_partition(&PartitionConfig { processors }).expect("a partition");
    let memory = Memory::new(MEBIBYTE);
    partition
        .map(GuestPhysical(0), Arc::clone(&memory) as Arc<dyn HostMapping>, Access::ReadWrite)
        .expect("guest memory");
    Some(Machine { partition, memory })
}

impl Machine {
    /// Processor `index` in real mode, about to run `code` at [`START`] with a stack below it.
    pub(crate) fn processor(&self, index: u32, code: &[u8]) -> Box<dyn Processor> {
        let mut processor = self.partition.create_processor(index).expect("a processor");
        let cpuid = self.partition.supported_cpuid().expect("CPUID");
        processor.set_cpuid(&cpuid).expect("CPUID is accepted");
        self.memory.write(START.into(), code);
        start(processor.as_mut());
        processor
    }

    /// An interrupt handler at 0x800 that writes `vector` to port 0x99 and returns.
    pub(crate) fn handler(&self, vector: u8) {
        // push ax; mov al, vector; out 0x99, al; pop ax; iret
        self.memory.write(0x800, &[0x50, 0xb0, vector, 0xe6, 0x99, 0x58, 0xcf]);
        self.memory.write(usize::from(vector) * 4, &[0x00, 0x08, 0x00, 0x00]);
    }
}

pub(crate) fn start(processor: &mut dyn Processor) {
    let mut system = processor.system_registers().expect("system registers");
    system.cs.selector = 0;
    system.cs.base = 0;
    processor.set_system_registers(&system).expect("flat real mode");
    processor
        .set_registers(&Registers { rip: START.into(), rsp: START.into(), ..Registers::default() })
        .expect("registers");
}

/// Runs until the guest writes a port, and says which and what.
pub(crate) fn next_write(processor: &mut dyn Processor) -> (u16, Vec<u8>) {
    loop {
        match processor.run().expect("the guest runs") {
            Exit::PortWrite { port, data, .. } => return (port, data.to_vec()),
            Exit::Interrupted => {}
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) fn counter(processor: &dyn Processor, name: &str) -> u64 {
    let counters = processor.statistics().read();
    counters
        .iter()
        .find(|(counter, _)| counter == name)
        .unwrap_or_else(|| panic!("no counter {name}"))
        .1
}

/// Turns the local APIC to x2APIC mode and enables it (SDM 3A 11.12.1, 11.9).
pub(crate) fn enable_local_apic(cpu: &mut dyn Processor) {
    let mut system = cpu.system_registers().expect("system registers");
    system.apic_base |= 1 << 10;
    cpu.set_system_registers(&system).expect("x2APIC mode");
    cpu.set_msrs(&[engine::Msr { index: 0x80f, value: 0x1ff }])
        .expect("spurious-interrupt vector register");
}
