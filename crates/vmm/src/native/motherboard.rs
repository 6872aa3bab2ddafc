//! Everything of the machine that is not a processor: memory, buses, devices, and what happens at
//! reset. Processor threads see it as a [`Board`].

use super::adapters::claim_ports;
use super::boot::Kernel;
use super::bus::{Bus, Edge};
use super::chipset::{Chipset, Wires};
use super::devices::Devices;
use super::events::Events;
use super::expansion::{self, PciMemory, PciPorts};
use super::gate::Gate;
use super::lines::{ExternalInterrupt, MessageSink};
use super::memory::GuestRam;
use super::processors::{Board, Halted};
use super::start_state::StartState;
use super::timers::{SharedDevice, Timers};
use super::window_memory::WindowMemory;
use super::{configuration, flash};
use crate::flash::FlashFiles;
use crate::{MachineError, Surroundings};
use engine::{CpuidEntry, Partition, Processor};
use firmware::{AcpiConfig, SmbiosConfig};
use layout::MemoryMap;
use loader::EntryPoint;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use units::{Bytes, GuestPhysical};
use vm_control::{Counters, Ending, Files, LaunchSpec};

pub(super) struct Motherboard {
    partition: Arc<dyn Partition>,
    pub(super) ram: GuestRam,
    map: MemoryMap,
    pub(super) ports: Arc<Bus>,
    pub(super) memory: Arc<Bus>,
    pub(super) pci: Arc<pci::Bus>,
    pub(super) chipset: Chipset,
    pub(super) devices: Devices,
    pub(super) window_memory: Option<WindowMemory>,
    external: Arc<ExternalInterrupt>,
    pub(super) timers: Arc<Timers>,
    pub(super) halted: Arc<Halted>,
    pub(super) gate: Arc<Gate>,
    events: Arc<Events>,
    pub(super) surroundings: Surroundings,
    smbios: SmbiosConfig,
    kernel: Mutex<Option<Kernel>>,
    entry: Mutex<EntryPoint>,
    start: StartState,
    /// One bit per processor (of 64 each) whose CPUID has been set.
    introduced: [AtomicU64; 4],
}

/// A failure of a part that only says a text.
pub(super) fn part(part: &'static str) -> impl Fn(&dyn std::fmt::Display) -> MachineError {
    move |error| MachineError::Part { part, reason: error.to_string() }
}

/// Where a machine with `mib` MiB of RAM has what. RAM is a multiple of `granule`.
fn memory_map(
    mib: u64,
    granule: Bytes,
    supported: &[CpuidEntry],
) -> Result<MemoryMap, MachineError> {
    let refused = |reason: String| MachineError::Definition {
        field: "memory".into(),
        value: format!("{mib} MiB"),
        reason,
    };
    let bits = u8::try_from(processor::physical_bits(supported)).unwrap_or(36);
    let size = mib
        .checked_mul(1 << 20)
        .and_then(|size| size.checked_next_multiple_of(granule.0))
        .ok_or_else(|| refused("more than any processor addresses".to_owned()))?;
    MemoryMap::new(Bytes(size), bits).map_err(|e| refused(e.to_string()))
}

/// The UUID of a VM: the same for the same name on every start (RFC 9562 5.8: version 8, made by
/// a rule of ours: FNV-1a, 128 bits, over the name).
fn identity(name: &str) -> [u8; 16] {
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let hash = name.bytes().fold(BASIS, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME));
    let mut uuid = hash.to_be_bytes();
    uuid[6] = 0x80 | (uuid[6] & 0x0f);
    uuid[8] = 0x80 | (uuid[8] & 0x3f);
    uuid
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
        let granule = partition.memory_granule();
        let map = memory_map(definition.memory, granule, &supported)?;
        let ranges: Vec<_> = map.ram().iter().map(|r| (r.base, r.size)).collect();
        let ram = GuestRam::new(&*partition, &ranges, definition.huge_pages)?;
        ram.map_into(&*partition)?;

        let halted = Arc::new(Halted::default());
        let clock = Arc::new(super::clock::Clock::new());
        let timers = Arc::new(Timers::new(clock));
        let messages = Arc::new(MessageSink::new(Arc::clone(&partition), Arc::clone(&halted)));
        let external = Arc::new(ExternalInterrupt::new(Arc::clone(&gate), Arc::clone(&halted)));
        let smbios = SmbiosConfig {
            name: definition.name.clone(),
            uuid: identity(&definition.name),
            processors: definition.cpus,
            map: map.clone(),
        };
        let ports = Arc::new(Bus::new(Edge::First));
        let memory = Arc::new(Bus::new(Edge::Split));
        let events = Arc::new(Events::new(surroundings.clone(), Arc::clone(&gate)));
        let wires = Wires {
            messages: Arc::clone(&messages),
            external: Arc::clone(&external),
            events: Arc::clone(&events) as _,
            timers: &timers,
            console: &surroundings.console,
            ram: &ram,
            processors: definition.cpus,
        };
        let mut chipset = Chipset::new(&ports, &memory, wires).map_err(|e| part("chipset")(&e))?;
        let power = Arc::clone(&chipset.power);
        let (pci, backed) =
            expansion::bus(&partition, &map, Box::new(move |base| power.place(base)));
        memory.set_subtractive(Arc::new(PciMemory(Arc::clone(&pci))));
        ports.set_subtractive(Arc::new(PciPorts(Arc::clone(&pci))));
        let guest_memory = virtio::GuestMemory::new(ram.memory().clone());
        let devices = Devices::new(spec, &guest_memory, &messages, &surroundings, &pci)?;
        // Behind the disks, which firmware boots from the lowest numbers.
        let window_memory = WindowMemory::new(&partition, definition.windows.memory)?;
        if let Some(memory) = &window_memory {
            let device =
                pci.add_anywhere(memory.function()?).map_err(|e| part("window memory")(&e))?;
            backed.back(device, WindowMemory::BAR, memory.mapping());
        }
        let fw_cfg = configuration::fw_cfg(
            &smbios,
            &map,
            &devices.boot_order(),
            spec.agent_token.as_deref(),
            guest_memory,
            &pci,
        )?;
        let fw_cfg: SharedDevice = Arc::new(Mutex::new(fw_cfg));
        claim_ports(&ports, &fw_cfg, &timers).map_err(|e| part("fw_cfg")(&e))?;
        chipset.adopt(fw_cfg);
        let kernel = Kernel::open(&definition.boot)?;
        if kernel.is_none() {
            let files = FlashFiles::find(definition.boot.firmware.as_deref())?;
            let nvram = Files::new(&spec.runtime, &spec.state).nvram();
            if let Some(chip) = flash::install(&files, &nvram, &partition, &memory)? {
                chipset.adopt(chip);
            }
        }
        Ok(Self {
            devices,
            window_memory,
            kernel: Mutex::new(kernel),
            entry: Mutex::new(EntryPoint::Reset),
            start: StartState { supported, count: definition.cpus },
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
            events,
            surroundings,
            smbios,
        })
    }

    /// Describes the machine to a kernel started without firmware; says where the ACPI root is.
    fn write_tables(&self) -> Result<GuestPhysical, MachineError> {
        let failed = part("firmware tables");
        let memory = self.ram.memory();
        let acpi = AcpiConfig {
            processors: self.start.count,
            map: self.map.clone(),
            ecam: Some(layout::Range { base: layout::ECAM, size: layout::ECAM_SIZE }),
            pm_base: layout::PM_BASE,
            virtio: Vec::new(),
        };
        firmware::write_smbios(memory, &self.smbios).map_err(|e| failed(&e))?;
        firmware::write_acpi(memory, &acpi).map_err(|e| failed(&e))
    }

    /// Puts the kernel (or firmware) in place and says where the first processor starts.
    pub(super) fn load(&self) -> Result<(), MachineError> {
        let mut kernel = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = match &mut *kernel {
            Some(kernel) => {
                self.pci.program_without_firmware(layout::ECAM.0, layout::PM_BASE);
                let rsdp = self.write_tables()?;
                let loaded = kernel.load(self.ram.memory(), &self.map, rsdp)?;
                let tiny = loaded.kind == loader::ImageKind::Tiny;
                self.chipset.input_to_hypercalls(tiny);
                self.chipset.enable_acpi();
                loaded.entry
            }
            None => EntryPoint::Reset,
        };
        *self.entry.lock().unwrap_or_else(PoisonError::into_inner) = entry;
        Ok(())
    }

    /// Counters of everything that is no processor.
    pub(super) fn counters(&self) -> BTreeMap<String, Counters> {
        let mut all = self.devices.counters();
        for (name, bus) in [("ports", &self.ports), ("memory", &self.memory)] {
            let (reads, writes) = bus.unclaimed();
            let counters = [("unclaimed-reads", reads), ("unclaimed-writes", writes)];
            let counters = counters.map(|(name, count)| (name.to_owned(), count));
            all.insert(name.to_owned(), counters.into());
        }
        let engine: Counters = self.partition.statistics().into_iter().collect();
        if !engine.is_empty() {
            all.insert("engine".to_owned(), engine);
        }
        all
    }

    /// The live state of the machine, for a person.
    pub(super) fn inspect(&self) -> serde_json::Value {
        let space = |bus: &Bus| -> Vec<String> {
            let regions = bus.map().into_iter();
            regions
                .map(|(start, size)| format!("{start:#x}..{:#x}", start.saturating_add(size)))
                .collect()
        };
        let pci: Vec<String> = self
            .pci
            .regions()
            .iter()
            .map(|r| format!("{:?} {:#x}..{:#x} {:?}", r.space, r.base, r.base + r.size, r.owner))
            .collect();
        serde_json::json!({
            "memory": {
                "ram": self.map.ram().iter()
                    .map(|r| format!("{}..{}", r.base, r.end())).collect::<Vec<_>>(),
                "huge-pages": self.ram.huge,
            },
            "time": self.timers.clock().now(),
            "ports": space(&self.ports),
            "registers": space(&self.memory),
            "pci": pci,
            "power-management": self.chipset.power.base(),
            "external-interrupt": self.external.asserted(),
            "devices": self.devices.inspect(),
            "chipset": self.chipset.inspect(),
        })
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
        self.chipset.router.lock().unwrap_or_else(PoisonError::into_inner).pic.acknowledge()
    }
    fn prepare(&self, processor: &mut dyn Processor) -> Result<(), MachineError> {
        let entry = self.entry.lock().unwrap_or_else(PoisonError::into_inner).clone();
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
        self.events.reset_or(Ending::TripleFault);
    }
    fn failed(&self, message: String) {
        tracing::error!("{message}");
        self.events.end(Ending::Failed { message });
    }
}
