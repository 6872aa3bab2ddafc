//! Everything of the machine that is not a processor: memory, buses, devices, and what happens at
//! reset. Processor threads see it as a [`Board`].

use super::boot::Kernel;
use super::bus::Bus;
use super::chipset::Chipset;
use super::expansion::{self, PciMemory, PciPorts};
use super::gate::Gate;
use super::lines::{ExternalInterrupt, MessageSink};
use super::memory::GuestRam;
use super::processors::{Board, Halted};
use super::start_state::StartState;
use super::timers::Timers;
use crate::{MachineError, Surroundings};
use engine::{Partition, Processor};
use layout::MemoryMap;
use loader::EntryPoint;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use vm_control::{Ending, LaunchSpec};

pub(super) struct Motherboard {
    pub(super) partition: Arc<dyn Partition>,
    pub(super) ram: GuestRam,
    map: MemoryMap,
    pub(super) ports: Arc<Bus>,
    pub(super) memory: Arc<Bus>,
    pub(super) pci: Arc<pci::Bus>,
    pub(super) chipset: Chipset,
    external: Arc<ExternalInterrupt>,
    pub(super) timers: Arc<Timers>,
    pub(super) halted: Arc<Halted>,
    pub(super) gate: Arc<Gate>,
    pub(super) surroundings: Surroundings,
    kernel: Mutex<Option<Kernel>>,
    entry: Mutex<EntryPoint>,
    start: StartState,
    /// One bit per processor (of 64 each) whose CPUID has been set.
    introduced: [AtomicU64; 4],
}

/// A failure of a part that only says a text.
pub(super) fn part(part: &'static str) -> impl Fn(&dyn std::fmt::Display) -> MachineError {
    move |error| MachineError::Part {
        part,
        reason: error.to_string(),
    }
}

impl Motherboard {
    /// Builds the machine `spec` describes, ready for its processors.
    pub(super) fn new(
        spec: &LaunchSpec,
        partition: Arc<dyn Partition>,
        gate: Arc<Gate>,
        surroundings: Surroundings,
    ) -> Result<Self, MachineError> {
        let definition = &spec.definition;
        let supported = partition.supported_cpuid()?;
        let bits = super::cpuid::physical_bits(&supported);
        let size = definition
            .memory
            .checked_mul(1 << 20)
            .map(units::Bytes)
            .unwrap_or(units::Bytes(u64::MAX & !0xfff));
        let map = MemoryMap::new(size, u8::try_from(bits).unwrap_or(36)).map_err(|e| {
            MachineError::Definition {
                field: "memory",
                value: format!("{} MiB", definition.memory),
                reason: e.to_string(),
            }
        })?;
        let ranges: Vec<_> = map.ram().iter().map(|r| (r.base, r.size)).collect();
        let ram = GuestRam::new(&ranges, definition.huge_pages)?;
        ram.map_into(&*partition)?;

        let halted = Arc::new(Halted::default());
        let clock = Arc::new(super::clock::Clock::new());
        let timers = Arc::new(Timers::new(clock));
        let messages = Arc::new(MessageSink::new(
            Arc::clone(&partition),
            Arc::clone(&halted),
        ));
        let external = Arc::new(ExternalInterrupt::new(
            Arc::clone(&gate),
            Arc::clone(&halted),
        ));
        let ports = Arc::new(Bus::new());
        let memory = Arc::new(Bus::new());
        let chipset = Chipset::new(
            &ports,
            &memory,
            messages,
            Arc::clone(&external),
            &timers,
            &surroundings.console,
        )
        .map_err(|e| part("chipset")(&e))?;
        let pci = expansion::bus(&partition, &map, Box::new(|_| {}));
        memory.set_subtractive(Arc::new(PciMemory(Arc::clone(&pci))));
        ports.set_subtractive(Arc::new(PciPorts(Arc::clone(&pci))));
        Ok(Self {
            kernel: Mutex::new(Kernel::open(&definition.boot)?),
            entry: Mutex::new(EntryPoint::Reset),
            start: StartState {
                supported,
                count: definition.cpus,
            },
            introduced: Default::default(),
            partition,
            ram,
            map,
            ports,
            memory,
            pci,
            chipset,
            external,
            timers,
            halted,
            gate,
            surroundings,
        })
    }

    /// Puts the kernel (or firmware) in place and says where the first processor starts.
    pub(super) fn load(&self) -> Result<(), MachineError> {
        let mut kernel = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = match &mut *kernel {
            Some(kernel) => {
                self.pci
                    .program_without_firmware(layout::ECAM.0, layout::PM_BASE);
                kernel.load(self.ram.memory(), &self.map)?
            }
            None => EntryPoint::Reset,
        };
        *self.entry.lock().unwrap_or_else(PoisonError::into_inner) = entry;
        Ok(())
    }

    /// The guest (or the user) asked for a reset.
    pub(super) fn guest_reset(&self) {
        if self.surroundings.end_on_reset {
            self.end(Ending::Reset);
        } else {
            self.gate.request_reset();
        }
    }

    /// Ends the VM and keeps the processors at the gate.
    pub(super) fn end(&self, ending: Ending) {
        self.surroundings.ending.end(ending);
        self.gate.close();
    }

    /// Whether this is the first call for processor `index`.
    fn introduce(&self, index: u32) -> bool {
        let bit = 1u64 << (index % 64);
        self.introduced
            .get(index as usize / 64)
            .is_none_or(|word| word.fetch_or(bit, Ordering::Relaxed) & bit == 0)
    }
}

impl Board for Motherboard {
    fn read_port(&self, port: u16, data: &mut [u8]) {
        self.ports.read(port.into(), data);
    }
    fn write_port(&self, port: u16, data: &[u8]) {
        self.ports.write(port.into(), data);
    }
    fn read_memory(&self, address: u64, data: &mut [u8]) {
        self.memory.read(address, data);
    }
    fn write_memory(&self, address: u64, data: &[u8]) {
        self.memory.write(address, data);
    }
    fn end_of_interrupt(&self, vector: u8) {
        self.chipset
            .router
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .ioapic
            .end_of_interrupt(vector);
    }
    fn external_interrupt(&self) -> bool {
        self.external.asserted()
    }
    fn acknowledge(&self) -> u8 {
        self.chipset
            .router
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pic
            .acknowledge()
    }
    fn prepare(&self, processor: &mut dyn Processor) -> Result<(), MachineError> {
        let entry = self
            .entry
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let first = self.introduce(processor.index());
        Ok(self.start.apply(processor, &entry, first)?)
    }
    fn reset(&self) {
        tracing::info!("machine reset");
        self.pci.reset();
        self.chipset.reset();
        if let Err(error) = self.load() {
            self.failed(format!("after a reset: {error}"));
        }
    }
    fn triple_fault(&self) {
        tracing::info!("triple fault");
        if self.surroundings.end_on_reset {
            self.end(Ending::TripleFault);
        } else {
            self.gate.request_reset();
        }
    }
    fn failed(&self, message: String) {
        tracing::error!("{message}");
        self.end(Ending::Failed { message });
    }
}
