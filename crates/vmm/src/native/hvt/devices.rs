//! The disks and network cards of a definition, in its order, as devices of a unikernel.

use super::net::Card;
use crate::MachineError;
use crate::native::processors::Halted;
use crate::service::{Service, passt};
use definition::{DiskFormat, NetworkMode, VmDefinition};
use disk::{Image, Wait};
use solo5::{Block, Devices, Manifest, Net};
use std::fmt::Display;
use std::sync::Arc;
use virtio::net::{Backend, Stream, Tap};

/// What a card over passt tells the guest: that of Ethernet.
const PASST_MTU: u16 = 1500;

/// What runs beside the machine for its cards.
#[derive(Default)]
pub(super) struct Cards {
    threads: Vec<super::net::Receiver>,
    services: Vec<Service>,
}

impl Cards {
    /// Ends all of it.
    pub(super) fn end(&self) {
        for thread in &self.threads {
            thread.end();
        }
        for service in &self.services {
            service.kill();
        }
    }
}

/// A disk of the host's.
struct Disk {
    image: Image,
}

impl Block for Disk {
    fn capacity(&self) -> u64 {
        self.image.size()
    }

    fn read(&mut self, offset: u64, mut into: &mut [u8]) -> bool {
        let read = self.image.read(&mut into, offset, Wait::Yes);
        read.inspect_err(|error| tracing::warn!(%error, offset, "disk read")).is_ok()
    }

    fn write(&mut self, offset: u64, mut bytes: &[u8]) -> bool {
        let written = self.image.write(&mut bytes, offset);
        written.inspect_err(|error| tracing::warn!(%error, offset, "disk write")).is_ok()
    }
}

/// Opens what `definition` gives for what `manifest` declares. Cards wake the guest by `halted`;
/// `refused` says that the unikernel does not fit.
pub(super) fn open(
    definition: &VmDefinition,
    manifest: &Manifest,
    halted: &Arc<Halted>,
    refused: &dyn Fn(&dyn Display) -> MachineError,
) -> Result<(Devices, Cards), MachineError> {
    let mut blocks: Vec<Box<dyn Block>> = Vec::new();
    for (index, disk) in definition.disks.iter().enumerate() {
        let format = match disk.format {
            DiskFormat::Raw => disk::Format::Raw,
            DiskFormat::Qcow2 => disk::Format::Qcow2,
        };
        let options =
            disk::OpenOptions { read_only: disk.read_only, ..disk::OpenOptions::new(format) };
        let image =
            options.open(&disk.path).map_err(|e| crate::disks::refused(index, &disk.path, &e))?;
        blocks.push(Box::new(Disk { image }));
    }
    let mut cards = Cards::default();
    let mut nets: Vec<Box<dyn Net>> = Vec::new();
    for (index, network) in definition.networks.iter().enumerate() {
        let backend: Box<dyn Backend> = match &network.mode {
            NetworkMode::Passt => {
                let (service, socket) = passt()?;
                cards.services.push(service);
                Box::new(Stream::new(socket.into(), PASST_MTU))
            }
            NetworkMode::Tap { interface } => {
                Box::new(Tap::open(interface).map_err(|e| MachineError::Definition {
                    field: format!("net[{index}].interface").into(),
                    value: interface.clone(),
                    reason: e.to_string(),
                })?)
            }
        };
        let wake = Arc::clone(halted);
        let (card, thread) = Card::start(backend, definition.mac_address(index).0, move || {
            wake.notify();
        })?;
        cards.threads.push(thread);
        nets.push(Box::new(card));
    }
    let devices = Devices::attach(manifest, blocks, nets).map_err(|e| refused(&e))?;
    Ok((devices, cards))
}
