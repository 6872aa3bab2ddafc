//! Bus 0 and its root complex: finds the function an access is for, and keeps the decoded regions
//! in step with what the guest programs.

use crate::address_space::{AddressSpace, Apertures, Owner, Region, Space};
use crate::config_space::{BARS_END, COMMAND, SIZE};
use crate::place::Allocator;
use crate::{
    BarKind, ConfigState, Function, HOST_BRIDGE_DEVICE, HostBridge, LPC_BRIDGE_DEVICE, LpcBridge,
    StateError,
};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// A function as the bus and its owner hold it.
pub type SharedFunction = Arc<Mutex<dyn Function>>;

/// Device numbers on a bus (PCI 3.0 3.2.2.3.4).
const DEVICES: usize = 32;
/// Configuration address register and data window (PCI 3.0 3.2.2.3.2).
const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;
const ADDRESS_ENABLE: u32 = 1 << 31;

/// A device cannot be put on the bus; a mistake of the machine's assembly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// The number is past 31, or something is there.
    #[error("PCI device number {0} is taken or does not exist (1 to 30 are for devices)")]
    Slot(u8),
    /// No number is free.
    #[error("all {DEVICES} PCI device numbers are taken")]
    Full,
}

/// The root complex as saved. Functions save themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusState {
    address: u32,
    host_bridge: ConfigState,
    lpc_bridge: ConfigState,
}

/// What guest writes change; one lock, taken before any function's.
struct Programmed {
    /// 0xcf8 as last written.
    address: u32,
    host_bridge: HostBridge,
    lpc_bridge: LpcBridge,
    /// What each device wants decoded, by device number.
    wanted: Vec<Vec<Region>>,
}

/// Bus 0. Shared by all processors.
pub struct Bus {
    functions: RwLock<Vec<Option<SharedFunction>>>,
    programmed: Mutex<Programmed>,
    /// Decoded now; no two overlap.
    regions: RwLock<Vec<Region>>,
    apertures: Apertures,
    listener: Arc<dyn AddressSpace>,
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Bus {
    /// A bus with the two bridges and nothing else. BARs decode only inside `apertures`.
    #[must_use]
    pub fn new(apertures: Apertures, listener: Arc<dyn AddressSpace>) -> Self {
        Self {
            functions: RwLock::new(vec![None; DEVICES]),
            programmed: Mutex::new(Programmed {
                address: 0,
                host_bridge: HostBridge::default(),
                lpc_bridge: LpcBridge::default(),
                wanted: vec![Vec::new(); DEVICES],
            }),
            regions: RwLock::new(Vec::new()),
            apertures,
            listener,
        }
    }

    /// Puts `function` at `device` (1 to 30).
    ///
    /// # Errors
    /// The number is taken or a bridge's.
    pub fn add(&self, device: u8, function: SharedFunction) -> Result<(), BusError> {
        let mut functions = self.functions.write().unwrap_or_else(PoisonError::into_inner);
        match functions.get_mut(usize::from(device)) {
            Some(slot @ None) if device != HOST_BRIDGE_DEVICE && device != LPC_BRIDGE_DEVICE => {
                *slot = Some(function);
                Ok(())
            }
            _ => Err(BusError::Slot(device)),
        }
    }

    /// Puts `function` at the lowest free number and says which.
    ///
    /// # Errors
    /// None is free.
    pub fn add_anywhere(&self, function: SharedFunction) -> Result<u8, BusError> {
        (1..LPC_BRIDGE_DEVICE)
            .find(|device| self.add(*device, function.clone()).is_ok())
            .ok_or(BusError::Full)
    }

    /// The function at `device`, bridges excepted.
    #[must_use]
    pub fn function(&self, device: u8) -> Option<SharedFunction> {
        let functions = self.functions.read().unwrap_or_else(PoisonError::into_inner);
        functions.get(usize::from(device)).cloned().flatten()
    }

    /// Every function with its device number, in order.
    #[must_use]
    pub fn functions(&self) -> Vec<(u8, SharedFunction)> {
        let functions = self.functions.read().unwrap_or_else(PoisonError::into_inner);
        (0u8..).zip(functions.iter()).filter_map(|(n, f)| Some((n, f.clone()?))).collect()
    }

    /// All that is decoded now.
    #[must_use]
    pub fn regions(&self) -> Vec<Region> {
        self.regions.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The region that wholly contains the access.
    #[must_use]
    pub fn find(&self, space: Space, address: u64, length: usize) -> Option<Region> {
        let regions = self.regions.read().unwrap_or_else(PoisonError::into_inner);
        regions.iter().find(|r| r.space == space && r.contains(address, length)).copied()
    }

    /// Guest read from memory: true when a BAR or the configuration window answered.
    pub fn read_memory(&self, address: u64, data: &mut [u8]) -> bool {
        self.read_space(Space::Memory, address, data)
    }

    /// Guest write to memory: true when a BAR or the configuration window took it.
    pub fn write_memory(&self, address: u64, data: &[u8]) -> bool {
        self.write_space(Space::Memory, address, data)
    }

    /// Guest read from a port: true when a port BAR or the configuration ports answered. Of
    /// 0xcf8 to 0xcfb only whole 32-bit accesses are ours; 0xcf9 as a byte is the reset register.
    pub fn read_port(&self, port: u16, data: &mut [u8]) -> bool {
        if port == CONFIG_ADDRESS && data.len() == 4 {
            data.copy_from_slice(&lock(&self.programmed).address.to_le_bytes());
            return true;
        }
        if let Some(byte) = port.checked_sub(CONFIG_DATA).filter(|byte| *byte < 4) {
            let address = lock(&self.programmed).address;
            match config_target(address, byte) {
                Some((device, register)) => self.read_config(device, register, data),
                None => data.fill(0xff),
            }
            return true;
        }
        self.read_space(Space::Port, u64::from(port), data)
    }

    /// Guest write to a port; see [`Self::read_port`].
    pub fn write_port(&self, port: u16, data: &[u8]) -> bool {
        if let (CONFIG_ADDRESS, Ok(value)) = (port, data.try_into()) {
            // Bits 30:24 and 1:0 are reserved and read zero (PCI 3.0 3.2.2.3.2).
            lock(&self.programmed).address = u32::from_le_bytes(value) & 0x80ff_fffc;
            return true;
        }
        if let Some(byte) = port.checked_sub(CONFIG_DATA).filter(|byte| *byte < 4) {
            let address = lock(&self.programmed).address;
            if let Some((device, register)) = config_target(address, byte) {
                self.write_config(device, register, data);
            }
            return true;
        }
        self.write_space(Space::Port, u64::from(port), data)
    }

    fn read_space(&self, space: Space, address: u64, data: &mut [u8]) -> bool {
        let Some(region) = self.find(space, address, data.len()) else {
            return false;
        };
        let offset = address - region.base;
        match region.owner {
            Owner::Bar { device, index } => match self.function(device) {
                Some(function) => lock(&function).read_bar(index, offset, data),
                None => return false,
            },
            Owner::Ecam => match ecam_target(offset) {
                Some((device, register)) => self.read_config(device, register, data),
                None => data.fill(0xff),
            },
            Owner::PowerManagement => return false,
        }
        true
    }

    fn write_space(&self, space: Space, address: u64, data: &[u8]) -> bool {
        let Some(region) = self.find(space, address, data.len()) else {
            return false;
        };
        let offset = address - region.base;
        match region.owner {
            Owner::Bar { device, index } => match self.function(device) {
                Some(function) => lock(&function).write_bar(index, offset, data),
                None => return false,
            },
            Owner::Ecam => {
                if let Some((device, register)) = ecam_target(offset) {
                    self.write_config(device, register, data);
                }
            }
            Owner::PowerManagement => return false,
        }
        true
    }

    /// Reads configuration space of `device`; ones where no function is or past 4 KiB.
    pub fn read_config(&self, device: u8, register: u16, data: &mut [u8]) {
        data.fill(0xff);
        if usize::from(register) + data.len() > SIZE {
            return;
        }
        match device {
            HOST_BRIDGE_DEVICE => {
                lock(&self.programmed).host_bridge.read_config(register, data);
            }
            LPC_BRIDGE_DEVICE => lock(&self.programmed).lpc_bridge.read_config(register, data),
            _ => {
                if let Some(function) = self.function(device) {
                    lock(&function).read_config(register, data);
                }
            }
        }
    }

    /// Writes configuration space of `device` and moves regions that changed by it.
    pub fn write_config(&self, device: u8, register: u16, data: &[u8]) {
        let end = usize::from(register) + data.len();
        if end > SIZE || data.is_empty() {
            return;
        }
        let mut programmed = lock(&self.programmed);
        match device {
            HOST_BRIDGE_DEVICE => programmed.host_bridge.write_config(register, data),
            LPC_BRIDGE_DEVICE => programmed.lpc_bridge.write_config(register, data),
            _ => {
                let Some(function) = self.function(device) else {
                    return;
                };
                lock(&function).write_config(register, data);
                if register >= BARS_END || end <= usize::from(COMMAND) {
                    return;
                }
            }
        }
        self.look_at(&mut programmed, device);
        self.settle(&programmed);
    }

    /// Notes what `device` wants decoded now.
    fn look_at(&self, programmed: &mut Programmed, device: u8) {
        let wanted: Vec<Region> = match device {
            HOST_BRIDGE_DEVICE => programmed.host_bridge.ecam().into_iter().collect(),
            LPC_BRIDGE_DEVICE => programmed.lpc_bridge.power_management().into_iter().collect(),
            _ => match self.function(device) {
                Some(function) => self.bars_of(device, &*lock(&function)),
                None => Vec::new(),
            },
        };
        if let Some(slot) = programmed.wanted.get_mut(usize::from(device)) {
            *slot = wanted;
        }
    }

    fn bars_of(&self, device: u8, function: &dyn Function) -> Vec<Region> {
        let region = |(index, kind, size): (u8, BarKind, u64)| {
            let base = function.bar_address(index)?;
            let space = if kind == BarKind::Port { Space::Port } else { Space::Memory };
            base.checked_add(size.checked_sub(1)?)?.checked_add(1)?;
            let region = Region { space, base, size, owner: Owner::Bar { device, index } };
            self.apertures.allow(&region).then_some(region)
        };
        function.bars().into_iter().filter_map(region).collect()
    }

    /// Brings the decoded regions in step with what is wanted. Of regions that overlap, the one
    /// decoded first stays; the other waits until there is room.
    fn settle(&self, programmed: &Programmed) {
        let before = self.regions();
        let all: Vec<Region> = programmed.wanted.iter().flatten().copied().collect();
        let mut now: Vec<Region> = before.iter().filter(|r| all.contains(r)).copied().collect();
        for region in all {
            if !now.iter().any(|taken| *taken == region || taken.overlaps(&region)) {
                now.push(region);
            }
        }
        now.sort();
        *self.regions.write().unwrap_or_else(PoisonError::into_inner) = now.clone();
        for gone in before.iter().filter(|r| !now.contains(r)) {
            self.listener.removed(gone);
        }
        for new in now.iter().filter(|r| !before.contains(r)) {
            self.listener.added(new);
        }
    }

    fn look_at_all(&self, programmed: &mut Programmed) {
        for device in 0..=LPC_BRIDGE_DEVICE {
            self.look_at(programmed, device);
        }
        self.settle(programmed);
    }

    /// Programs what firmware would: the configuration window at `ecam` (a multiple of 256 MiB),
    /// the power management block at port `power_management` (a multiple of 128), and an address
    /// in every BAR. Before the first run and after each reset of a machine without firmware.
    pub fn program_without_firmware(&self, ecam: u64, power_management: u16) {
        let mut programmed = lock(&self.programmed);
        programmed.host_bridge.set_ecam(ecam);
        programmed.lpc_bridge.set_power_management(power_management);
        let mut allocator = Allocator::new(&self.apertures, programmed.host_bridge.ecam());
        for (_, function) in self.functions() {
            allocator.place(&mut *lock(&function));
        }
        self.look_at_all(&mut programmed);
    }

    /// Everything back to power-on.
    pub fn reset(&self) {
        let mut programmed = lock(&self.programmed);
        programmed.address = 0;
        programmed.host_bridge.reset();
        programmed.lpc_bridge.reset();
        for (_, function) in self.functions() {
            lock(&function).reset();
        }
        self.look_at_all(&mut programmed);
    }

    /// For a snapshot.
    #[must_use]
    pub fn save(&self) -> BusState {
        let programmed = lock(&self.programmed);
        BusState {
            address: programmed.address,
            host_bridge: programmed.host_bridge.save(),
            lpc_bridge: programmed.lpc_bridge.save(),
        }
    }

    /// Takes a snapshot back. Restore the functions first: their regions are looked at here.
    ///
    /// # Errors
    /// Another version or another machine.
    pub fn restore(&self, state: &BusState) -> Result<(), StateError> {
        let mut programmed = lock(&self.programmed);
        programmed.host_bridge.restore(&state.host_bridge)?;
        programmed.lpc_bridge.restore(&state.lpc_bridge)?;
        programmed.address = state.address & 0x80ff_fffc;
        self.look_at_all(&mut programmed);
        Ok(())
    }
}

/// Device and register an access through 0xcfc + `byte` is for, if any exists there.
fn config_target(address: u32, byte: u16) -> Option<(u8, u16)> {
    let [register, function, bus, _] = address.to_le_bytes();
    let on_bus = address & ADDRESS_ENABLE != 0 && bus == 0 && function & 0b111 == 0;
    on_bus.then(|| (function >> 3, u16::from(register) + byte))
}

/// Device and register at `offset` of the configuration window (PCIe 6.0 7.2.2), if any exists.
fn ecam_target(offset: u64) -> Option<(u8, u16)> {
    let register = u16::try_from(offset & 0xfff).ok()?;
    let function = u8::try_from(offset >> 12).ok()?;
    (function & 0b111 == 0).then_some((function >> 3, register))
}
