//! The virtio devices a definition asks for, as functions on PCI bus 0.

use super::console_end::HubEnd;
use super::lines::MessageSink;
use crate::screen::Screen;
use crate::service::{Service, passt, shared_folder};
use crate::{MachineError, Surroundings};
use definition::{AgentWay, DiskFormat, NetworkMode, Share, ShareKind, VmDefinition};
use std::collections::BTreeMap;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};
use units::Bytes;
use virtio::balloon::{Balloon, BalloonControl, BalloonError, MappedMemory};
use virtio::block::{Block, BlockOptions, RateLimit};
use virtio::console::port::NamedPort;
use virtio::net::{Backend, Net, Stream, Tap};
use virtio::pci::VirtioPci;
use virtio::plan9::Plan9;
use virtio::{Device, DeviceId, GuestMemory};
use vm_control::{Counters, Files, LaunchSpec};

/// The guest's vsock address: the same in every VM, for each has a host side of its own
/// (virtio 1.2 5.10.4 reserves 0 to 2).
const GUEST_CID: u64 = 3;
/// The largest MTU passt takes (its man page, `--mtu`): fewer, larger frames over its socket.
const PASST_MTU: u16 = 65520;

/// Stack of a thread that stops a device: a flush may go through a qcow2 image, as a worker's.
const END_STACK: usize = 256 << 10;

/// A device on the bus.
struct Placed {
    name: String,
    is_disk: bool,
    /// PCI device number.
    slot: u8,
    function: Arc<Mutex<VirtioPci>>,
    /// Its counters when they were read last.
    last: Mutex<Counters>,
}

/// All of them, in bus order.
pub(super) struct Devices {
    placed: Vec<Placed>,
    balloon: BalloonControl,
    /// Processes behind network cards and shares; they end with these.
    services: Vec<Service>,
    /// Shows the screen to viewers.
    _viewers: Option<display::Server>,
}

fn lock(function: &Mutex<VirtioPci>) -> MutexGuard<'_, VirtioPci> {
    function.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `None` when it is held for longer than a register access takes: the device is being stopped.
fn lock_soon(function: &Mutex<VirtioPci>) -> Option<MutexGuard<'_, VirtioPci>> {
    const LOOKS: u32 = 50;
    for _ in 0..LOOKS {
        match function.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(error)) => return Some(error.into_inner()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    None
}

fn field(
    field: String,
    value: impl Into<String>,
) -> impl FnOnce(&dyn std::fmt::Display) -> MachineError {
    let value = value.into();
    move |error| MachineError::Definition { field: field.into(), value, reason: error.to_string() }
}

impl Devices {
    /// Makes the devices of `spec` and puts them on `bus`. Helper processes are started here.
    pub(super) fn new(
        spec: &LaunchSpec,
        memory: &GuestMemory,
        messages: &Arc<MessageSink>,
        surroundings: &Surroundings,
        bus: &pci::Bus,
    ) -> Result<Self, MachineError> {
        let Made { devices, balloon, services, viewers } = make(spec, memory, surroundings)?;
        let mut placed = Vec::new();
        for device in devices {
            let name = device.name().to_owned();
            let is_disk = device.id() == DeviceId::Block;
            let failed = super::motherboard::part("virtio device");
            let function = VirtioPci::new(device, memory.clone(), Arc::clone(messages) as _)
                .map_err(|e| failed(&e))?;
            let function = Arc::new(Mutex::new(function));
            let slot = bus.add_anywhere(Arc::clone(&function) as _).map_err(|e| failed(&e))?;
            placed.push(Placed { name, is_disk, slot, function, last: Mutex::default() });
        }
        Ok(Self { placed, balloon, services, _viewers: viewers })
    }

    /// The disks as firmware names them, in order (OVMF's translation of Open Firmware paths of
    /// virtio-blk functions on bus 0).
    pub(super) fn boot_order(&self) -> Vec<String> {
        let disks = self.placed.iter().filter(|d| d.is_disk);
        disks.map(|d| format!("/pci@i0cf8/scsi@{:x}/disk@0,0", d.slot)).collect()
    }

    /// Stops all workers; the guest does not notice.
    pub(super) fn pause(&self) {
        for device in &self.placed {
            lock(&device.function).pause();
        }
    }

    /// Stops all workers side by side, so that one the host does not answer keeps no other from
    /// writing what it has. The names of those not stopped by `deadline`.
    pub(super) fn end(&self, deadline: Instant) -> Vec<String> {
        let (done, stopped) = channel();
        let mut waiting = BTreeMap::new();
        for (index, device) in self.placed.iter().enumerate() {
            let (function, done) = (Arc::clone(&device.function), done.clone());
            let spawned = std::thread::Builder::new()
                .name("end".to_owned())
                .stack_size(END_STACK)
                .spawn(move || {
                    lock(&function).pause();
                    // Nobody waits any more after the deadline.
                    let _ = done.send(index);
                });
            match spawned {
                Ok(_) => drop(waiting.insert(index, device.name.clone())),
                Err(_) => lock(&device.function).pause(),
            }
        }
        while !waiting.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            match stopped.recv_timeout(left) {
                Ok(index) => drop(waiting.remove(&index)),
                Err(_) => break,
            }
        }
        waiting.into_values().collect()
    }

    /// Lets the workers go on.
    pub(super) fn resume(&self) {
        for device in &self.placed {
            lock(&device.function).resume();
        }
    }

    /// Asks the guest to give back so much of its RAM.
    pub(super) fn set_balloon(&self, target: Bytes) -> Result<(), BalloonError> {
        self.balloon.set_size(target)
    }

    /// Ends the processes behind devices, after [`Self::pause`].
    pub(super) fn end_services(&self) {
        for service in &self.services {
            service.kill();
        }
    }

    /// What each device did so far. One that is being stopped and takes its time is given as it was
    /// last, with `stopping` beside its counters.
    pub(super) fn counters(&self) -> BTreeMap<String, Counters> {
        let counters = |device: &Placed| {
            let mut last = device.last.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(function) = lock_soon(&device.function) else {
                let mut counters = last.clone();
                counters.insert("stopping".to_owned(), 1);
                return (device.name.clone(), counters);
            };
            let named = function.device().counters().into_iter();
            *last = named.map(|(name, count)| (name.to_owned(), count)).collect();
            (device.name.clone(), last.clone())
        };
        self.placed.iter().map(counters).collect()
    }

    /// The state of each device in words.
    pub(super) fn inspect(&self) -> serde_json::Value {
        let devices = self.placed.iter().map(|device| {
            let mut facts = serde_json::Map::new();
            facts.insert("slot".to_owned(), device.slot.into());
            let mut queues: Vec<serde_json::Value> = Vec::new();
            let Some(function) = lock_soon(&device.function) else {
                facts.insert("state".to_owned(), "being stopped".into());
                return (device.name.clone(), facts.into());
            };
            for (name, value) in function.inspect() {
                if name == "queue" {
                    queues.push(value.into());
                } else {
                    facts.insert(name.to_owned(), value.into());
                }
            }
            facts.insert("queues".to_owned(), queues.into());
            (device.name.clone(), facts.into())
        });
        serde_json::Value::Object(devices.collect())
    }
}

/// The devices before they are on the bus.
struct Made {
    devices: Vec<Box<dyn Device>>,
    balloon: BalloonControl,
    services: Vec<Service>,
    viewers: Option<display::Server>,
}

/// Disks first, so that firmware finds them at the lowest numbers.
fn make(
    spec: &LaunchSpec,
    memory: &GuestMemory,
    surroundings: &Surroundings,
) -> Result<Made, MachineError> {
    let definition = &spec.definition;
    let files = Files::new(&spec.runtime, &spec.state);
    let mut devices: Vec<Box<dyn Device>> = Vec::new();
    let mut services = Vec::new();
    for index in 0..definition.disks.len() {
        devices.push(Box::new(disk(definition, index)?));
    }
    for index in 0..definition.networks.len() {
        devices.push(Box::new(network(definition, index, &mut services)?));
    }
    let end = HubEnd::new(Arc::clone(&surroundings.virtio_console))?;
    devices.push(Box::new(virtio::console::Console::new("console0", Box::new(end))));
    devices.push(Box::new(virtio::rng::Rng::new("rng0")));
    let ram = Bytes(definition.memory << 20);
    let reclaim = Box::new(MappedMemory(memory.clone()));
    let (balloon, control) = Balloon::new("balloon0", ram, reclaim)
        .map_err(|e| MachineError::system("cannot make the balloon", e))?;
    devices.push(Box::new(balloon));
    let ports = surroundings.host_ports.clone();
    devices.push(match definition.agent {
        AgentWay::Vsock => Box::new(
            virtio::vsock::Vsock::new("vsock0", GUEST_CID, &files.vsock(), ports)
                .map_err(|e| super::motherboard::part("vsock")(&e))?,
        ),
        AgentWay::Serial => Box::new(agent_port(&files)?),
    });
    for (index, share) in definition.shares.iter().enumerate() {
        devices.extend(folder(share, index, &spec.runtime, &mut services)?);
    }
    let mut viewers = None;
    if let Some(wanted) = &definition.display {
        let screen = Screen::new(wanted)?;
        devices.extend(screen.devices);
        viewers = Some(screen.viewers.serve(&files.display(), None)?);
    }
    Ok(Made { devices, balloon: control, services, viewers })
}

/// The serial port, for the daemon to connect to.
fn agent_port(files: &Files<'_>) -> Result<NamedPort, MachineError> {
    let listener = crate::service::listen_at(&files.agent_port())?;
    NamedPort::new("port0", vm_control::AGENT_PORT, listener)
        .map_err(|e| MachineError::system("cannot listen at the agent's port", e))
}

fn folder(
    share: &Share,
    index: usize,
    runtime: &std::path::Path,
    services: &mut Vec<Service>,
) -> Result<Option<Box<dyn Device>>, MachineError> {
    let name = format!("share{index}");
    match share.kind {
        // A process of its own, which the daemon starts.
        ShareKind::Vsock => Ok(None),
        ShareKind::Plan9 => {
            let device = Plan9::new(&name, &share.tag, &share.path, share.read_only);
            let refused = field(format!("share[{index}].path"), share.path.display().to_string());
            Ok(Some(Box::new(device.map_err(|e| refused(&e))?)))
        }
        ShareKind::VirtioFs => {
            let socket = runtime.join(format!("{name}.sock"));
            let (device, service) = shared_folder(&name, share, &socket)?;
            services.push(service);
            Ok(Some(Box::new(device)))
        }
    }
}

fn disk(definition: &VmDefinition, index: usize) -> Result<Block, MachineError> {
    let disk = &definition.disks[index];
    let format = match disk.format {
        DiskFormat::Raw => disk::Format::Raw,
        DiskFormat::Qcow2 => disk::Format::Qcow2,
    };
    let options = disk::OpenOptions { read_only: disk.read_only, ..disk::OpenOptions::new(format) };
    let image =
        options.open(&disk.path).map_err(|e| crate::disks::refused(index, &disk.path, &e))?;
    let limit = disk.limit.unwrap_or_default();
    Ok(Block::new(BlockOptions {
        name: format!("block{index}"),
        image: Arc::new(image),
        serial: format!("disk{index}"),
        queues: u16::try_from(definition.cpus).unwrap_or(u16::MAX),
        limit: RateLimit {
            bytes_per_second: limit.bytes_per_second,
            operations_per_second: limit.operations_per_second,
        },
    }))
}

fn network(
    definition: &VmDefinition,
    index: usize,
    services: &mut Vec<Service>,
) -> Result<Net, MachineError> {
    let backend: Box<dyn Backend> = match &definition.networks[index].mode {
        NetworkMode::Passt => {
            let (service, socket) = passt()?;
            services.push(service);
            Box::new(Stream::new(socket.into(), PASST_MTU))
        }
        NetworkMode::Tap { interface } => Box::new(
            Tap::open(interface)
                .map_err(|e| field(format!("net[{index}].interface"), interface.clone())(&e))?,
        ),
    };
    let mac = definition.mac_address(index);
    Net::new(&format!("net{index}"), mac.0, backend)
        .map_err(|e| field(format!("net[{index}].mac"), mac.to_string())(&e))
}

#[cfg(test)]
impl Devices {
    /// Keeps the device `name` from being stopped as long as the guard lives, as a host does whose
    /// disk is dead.
    pub(super) fn hold(&self, name: &str) -> MutexGuard<'_, VirtioPci> {
        let found = self.placed.iter().find(|device| device.name == name);
        lock(&found.expect("such a device").function)
    }
}
