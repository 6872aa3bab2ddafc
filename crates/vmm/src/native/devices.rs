//! The virtio devices a definition asks for, as functions on PCI bus 0.

use super::console_end::HubEnd;
use super::lines::MessageSink;
use crate::service::{Service, passt};
use crate::{MachineError, Surroundings};
use definition::{DiskFormat, NetworkMode, Share, ShareKind, VmDefinition};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use units::Bytes;
use virtio::balloon::{Balloon, BalloonControl, BalloonError, MappedMemory};
use virtio::block::{Block, BlockOptions, RateLimit};
use virtio::fs::{FsOptions, VirtioFs};
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

/// A device on the bus.
struct Placed {
    name: String,
    is_disk: bool,
    /// PCI device number.
    slot: u8,
    function: Arc<Mutex<VirtioPci>>,
}

/// All of them, in bus order.
pub(super) struct Devices {
    placed: Vec<Placed>,
    balloon: BalloonControl,
    /// Processes behind network cards; they end with these.
    services: Vec<Service>,
}

fn lock(function: &Mutex<VirtioPci>) -> MutexGuard<'_, VirtioPci> {
    function.lock().unwrap_or_else(PoisonError::into_inner)
}

fn field(
    field: &'static str,
    value: impl Into<String>,
) -> impl FnOnce(&dyn std::fmt::Display) -> MachineError {
    let value = value.into();
    move |error| MachineError::Definition {
        field,
        value,
        reason: error.to_string(),
    }
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
        let Made {
            devices,
            balloon,
            services,
        } = make(spec, memory, surroundings)?;
        let mut placed = Vec::new();
        for device in devices {
            let name = device.name().to_owned();
            let is_disk = device.id() == DeviceId::Block;
            let failed = super::motherboard::part("virtio device");
            let function = VirtioPci::new(device, memory.clone(), Arc::clone(messages) as _)
                .map_err(|e| failed(&e))?;
            let function = Arc::new(Mutex::new(function));
            let slot = bus
                .add_anywhere(Arc::clone(&function) as _)
                .map_err(|e| failed(&e))?;
            placed.push(Placed {
                name,
                is_disk,
                slot,
                function,
            });
        }
        Ok(Self {
            placed,
            balloon,
            services,
        })
    }

    /// The disks as firmware names them, in order (OVMF's translation of Open Firmware paths of
    /// virtio-blk functions on bus 0).
    pub(super) fn boot_order(&self) -> Vec<String> {
        let disks = self.placed.iter().filter(|d| d.is_disk);
        disks
            .map(|d| format!("/pci@i0cf8/scsi@{:x}/disk@0,0", d.slot))
            .collect()
    }

    /// Stops all workers; the guest does not notice.
    pub(super) fn pause(&self) {
        for device in &self.placed {
            lock(&device.function).pause();
        }
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

    /// What each device did so far.
    pub(super) fn counters(&self) -> BTreeMap<String, Counters> {
        let counters = |device: &Placed| {
            let function = lock(&device.function);
            let named = function.device().counters().into_iter();
            let named = named.map(|(name, count)| (name.to_owned(), count));
            (device.name.clone(), named.collect())
        };
        self.placed.iter().map(counters).collect()
    }

    /// The state of each device in words.
    pub(super) fn inspect(&self) -> serde_json::Value {
        let devices = self.placed.iter().map(|device| {
            let mut facts = serde_json::Map::new();
            facts.insert("slot".to_owned(), device.slot.into());
            let mut queues: Vec<serde_json::Value> = Vec::new();
            for (name, value) in lock(&device.function).inspect() {
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
    devices.push(Box::new(virtio::console::Console::new(
        "console0",
        Box::new(end),
    )));
    devices.push(Box::new(virtio::rng::Rng::new("rng0")));
    let ram = Bytes(definition.memory << 20);
    let reclaim = Box::new(MappedMemory(memory.clone()));
    let (balloon, control) = Balloon::new("balloon0", ram, reclaim)
        .map_err(|e| MachineError::system("cannot make the balloon", e))?;
    devices.push(Box::new(balloon));
    let vsock = virtio::vsock::Vsock::new("vsock0", GUEST_CID, &files.vsock())
        .map_err(|e| super::motherboard::part("vsock")(&e))?;
    devices.push(Box::new(vsock));
    for (index, share) in definition.shares.iter().enumerate() {
        devices.push(folder(share, index, &spec.runtime)?);
    }
    Ok(Made {
        devices,
        balloon: control,
        services,
    })
}

fn folder(
    share: &Share,
    index: usize,
    runtime: &std::path::Path,
) -> Result<Box<dyn Device>, MachineError> {
    let name = format!("share{index}");
    let refused = field("share.path", share.path.display().to_string());
    match share.kind {
        ShareKind::Plan9 => {
            let device = Plan9::new(&name, &share.tag, &share.path, share.read_only);
            Ok(Box::new(device.map_err(|e| refused(&e))?))
        }
        ShareKind::VirtioFs => {
            let options = FsOptions {
                socket: runtime.join(format!("{name}.sock")),
                name,
                tag: share.tag.clone(),
                folder: share.path.clone(),
                read_only: share.read_only,
            };
            Ok(Box::new(VirtioFs::start(options).map_err(|e| refused(&e))?))
        }
    }
}

fn disk(definition: &VmDefinition, index: usize) -> Result<Block, MachineError> {
    let disk = &definition.disks[index];
    let format = match disk.format {
        DiskFormat::Raw => disk::Format::Raw,
        DiskFormat::Qcow2 => disk::Format::Qcow2,
    };
    let options = disk::OpenOptions {
        read_only: disk.read_only,
        ..disk::OpenOptions::new(format)
    };
    let image = options
        .open(&disk.path)
        .map_err(|e| field("disk.path", disk.path.display().to_string())(&e))?;
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
            Tap::open(interface).map_err(|e| field("net.interface", interface.clone())(&e))?,
        ),
    };
    let mac = definition.mac_address(index);
    Net::new(&format!("net{index}"), mac.0, backend)
        .map_err(|e| field("net.mac", mac.to_string())(&e))
}
