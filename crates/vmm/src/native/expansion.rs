//! PCI on the buses of the machine: its own decoding asked where no fixed device answers, and what
//! follows when the guest moves a region (doorbells, memory behind a BAR, the ACPI power management
//! ports).

use super::bus::Subtractive;
use engine::{Access, Doorbell, DoorbellAddress, HostMapping, Partition};
use pci::{AddressSpace, Apertures, Bus, Owner, Region, Space};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use units::GuestPhysical;

/// Memory accesses for PCI.
pub(super) struct PciMemory(pub(super) Arc<Bus>);
/// Port accesses for PCI.
pub(super) struct PciPorts(pub(super) Arc<Bus>);

impl Subtractive for PciMemory {
    fn read(&self, address: u64, data: &mut [u8]) -> bool {
        self.0.read_memory(address, data)
    }
    fn write(&self, address: u64, data: &[u8]) -> bool {
        self.0.write_memory(address, data)
    }
}

impl Subtractive for PciPorts {
    fn read(&self, address: u64, data: &mut [u8]) -> bool {
        u16::try_from(address).is_ok_and(|port| self.0.read_port(port, data))
    }
    fn write(&self, address: u64, data: &[u8]) -> bool {
        u16::try_from(address).is_ok_and(|port| self.0.write_port(port, data))
    }
}

/// Called with the first port of the power management block, `None` when it is gone.
pub(super) type PowerManagementMoved = Box<dyn Fn(Option<u16>) + Send + Sync>;

/// What keeps a doorbell with the engine.
type Guard = Box<dyn Send + Sync>;

/// Follows regions that come and go.
pub(super) struct Follower {
    partition: Arc<dyn Partition>,
    bus: OnceLock<Weak<Bus>>,
    doorbells: Mutex<BTreeMap<Region, Vec<Guard>>>,
    /// Memory that stands behind a BAR, by device and BAR.
    memory: Mutex<BTreeMap<(u8, u8), Backing>>,
    power_management: PowerManagementMoved,
}

/// Memory behind a BAR.
struct Backing {
    mapping: Arc<dyn HostMapping>,
    /// Where the engine has it now.
    at: Option<GuestPhysical>,
}

/// Makes PCI bus 0 for a machine with this memory map.
pub(super) fn bus(
    partition: &Arc<dyn Partition>,
    map: &layout::MemoryMap,
    power_management: PowerManagementMoved,
) -> (Arc<Bus>, Arc<Follower>) {
    let last = |range: &layout::Range| (range.base.0, range.end().0 - 1);
    let mut memory: Vec<(u64, u64)> = map.pci_low(None).iter().map(last).collect();
    memory.push(last(&map.pci_high()));
    let follower = Arc::new(Follower {
        partition: Arc::clone(partition),
        bus: OnceLock::new(),
        doorbells: Mutex::new(BTreeMap::new()),
        memory: Mutex::new(BTreeMap::new()),
        power_management,
    });
    let apertures = Apertures { ports: layout::PCI_PORTS, memory };
    let bus = Arc::new(Bus::new(apertures, Arc::clone(&follower) as _));
    // Set once, here.
    let _ = follower.bus.set(Arc::downgrade(&bus));
    (bus, follower)
}

impl Follower {
    /// Has the engine map `mapping` wherever BAR `index` of `device` decodes, so that an access does not
    /// come as an exit. Before the first access to the bus.
    pub(super) fn back(&self, device: u8, index: u8, mapping: Arc<dyn HostMapping>) {
        self.memory().insert((device, index), Backing { mapping, at: None });
    }

    fn memory(&self) -> MutexGuard<'_, BTreeMap<(u8, u8), Backing>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn map(&self, region: &Region, bar: (u8, u8)) {
        let mut memory = self.memory();
        let Some(backing) = memory.get_mut(&bar) else { return };
        let at = GuestPhysical(region.base);
        match self.partition.map(at, Arc::clone(&backing.mapping), Access::ReadWrite) {
            Ok(()) => backing.at = Some(at),
            // Then each access comes as an exit and reaches the same memory.
            Err(error) => tracing::warn!(%at, %error, "memory behind a BAR is not mapped"),
        }
    }

    fn unmap(&self, bar: (u8, u8)) {
        let mut memory = self.memory();
        if let Some(at) = memory.get_mut(&bar).and_then(|backing| backing.at.take())
            && let Err(error) = self.partition.unmap(at)
        {
            tracing::warn!(%at, %error, "memory behind a BAR stays where it was");
        }
    }

    fn doorbells_of(&self, region: &Region, device: u8, index: u8) -> Vec<Guard> {
        let Some(function) =
            self.bus.get().and_then(Weak::upgrade).and_then(|bus| bus.function(device))
        else {
            return Vec::new();
        };
        let function = function.lock().unwrap_or_else(PoisonError::into_inner);
        let mut guards = Vec::new();
        for bell in function.doorbells() {
            if bell.bar != index || bell.offset >= region.size {
                continue;
            }
            let at = region.base + bell.offset;
            let address = match (region.space, u16::try_from(at)) {
                (Space::Memory, _) => DoorbellAddress::Memory(GuestPhysical(at)),
                (Space::Port, Ok(port)) => DoorbellAddress::Port(port),
                (Space::Port, Err(_)) => continue,
            };
            let doorbell = Doorbell { address, width: 0, value: None };
            match self.partition.doorbell(doorbell, bell.event) {
                Ok(guard) => guards.extend(guard),
                // Then the write comes as an exit and rings the same bell.
                Err(error) => tracing::debug!(at, %error, "no doorbell"),
            }
        }
        guards
    }
}

impl AddressSpace for Follower {
    fn added(&self, region: &Region) {
        match region.owner {
            Owner::Bar { device, index } => {
                let guards = self.doorbells_of(region, device, index);
                if !guards.is_empty() {
                    self.doorbells
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(*region, guards);
                }
                self.map(region, (device, index));
            }
            Owner::PowerManagement => {
                (self.power_management)(u16::try_from(region.base).ok());
            }
            Owner::Ecam => {}
        }
    }

    fn removed(&self, region: &Region) {
        match region.owner {
            Owner::Bar { device, index } => {
                self.doorbells.lock().unwrap_or_else(PoisonError::into_inner).remove(region);
                self.unmap((device, index));
            }
            Owner::PowerManagement => (self.power_management)(None),
            Owner::Ecam => {}
        }
    }
}
