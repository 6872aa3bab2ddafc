//! Which device stands behind which handle.

use crate::manifest::{EntryKind, Manifest, Properties};
use crate::tender::{Block, Net};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

/// The devices given do not fit those declared, or one of them cannot be offered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// Fewer than the manifest declares.
    #[error(
        "the unikernel declares {kind} device {name:?}, its {number}., and {given} were given; give \
         it one for each it declares"
    )]
    Missing {
        /// `block` or `net`.
        kind: &'static str,
        /// Its name in the manifest.
        name: String,
        /// Which of its kind, from 1.
        number: usize,
        /// How many there are.
        given: usize,
    },
    /// More than the manifest declares.
    #[error("{given} {kind} devices were given, and the unikernel declares {declared}")]
    TooMany {
        /// `block` or `net`.
        kind: &'static str,
        /// How many were given.
        given: usize,
        /// How many it declares.
        declared: usize,
    },
    /// A disk that cannot be counted in its blocks.
    #[error(
        "block device {name:?} has {capacity} bytes in blocks of {block_size}; it must have one \
         block at least and no part of one, and a block is a power of two from 512 on"
    )]
    Capacity {
        /// Its name in the manifest.
        name: String,
        /// Bytes it has.
        capacity: u64,
        /// Bytes of a block.
        block_size: u16,
    },
}

/// A device behind a handle.
pub(crate) enum Device {
    /// None: entry 0.
    Reserved,
    Block(Box<dyn Block>),
    Net(Box<dyn Net>),
}

/// Devices by handle.
pub struct Devices(pub(crate) Vec<Device>);

impl Devices {
    /// Gives the disks and cards the manifest declares, in its order, those that there are.
    ///
    /// # Errors
    /// There are more or fewer of a kind than it declares, or a disk is of no whole blocks.
    pub fn attach(
        manifest: &Manifest,
        blocks: Vec<Box<dyn Block>>,
        nets: Vec<Box<dyn Net>>,
    ) -> Result<Self, AttachError> {
        let declared = |kind| manifest.entries().iter().filter(|e| e.kind == kind).count();
        for (kind, name, given) in
            [(EntryKind::Block, "block", blocks.len()), (EntryKind::Net, "net", nets.len())]
        {
            let declared = declared(kind);
            if given > declared {
                let kind = name;
                return Err(AttachError::TooMany { kind, given, declared });
            }
        }
        let given = (blocks.len(), nets.len());
        let (mut blocks, mut nets) = (blocks.into_iter(), nets.into_iter());
        let mut devices = Vec::with_capacity(manifest.entries().len());
        for entry in manifest.entries() {
            let missing = |kind, given| AttachError::Missing {
                kind,
                name: entry.name.clone(),
                number: given + 1,
                given,
            };
            devices.push(match entry.kind {
                EntryKind::ReservedFirst => Device::Reserved,
                EntryKind::Block => {
                    let block = blocks.next().ok_or_else(|| missing("block", given.0))?;
                    check(&entry.name, &*block)?;
                    Device::Block(block)
                }
                EntryKind::Net => Device::Net(nets.next().ok_or_else(|| missing("net", given.1))?),
            });
        }
        Ok(Self(devices))
    }

    /// What the guest is told of each.
    pub(crate) fn properties(&self) -> Vec<Option<Properties>> {
        let properties = |device: &Device| match device {
            Device::Reserved => None,
            Device::Block(block) => Some(Properties::Block {
                capacity: block.capacity(),
                block_size: block.block_size(),
            }),
            Device::Net(net) => Some(Properties::Net { mac: net.mac(), mtu: net.mtu() }),
        };
        self.0.iter().map(properties).collect()
    }
}

fn check(name: &str, block: &dyn Block) -> Result<(), AttachError> {
    let (capacity, block_size) = (block.capacity(), block.block_size());
    let sound = block_size >= 512
        && block_size.is_power_of_two()
        && capacity > 0
        && capacity.is_multiple_of(block_size.into());
    if sound {
        Ok(())
    } else {
        Err(AttachError::Capacity { name: name.into(), capacity, block_size })
    }
}
