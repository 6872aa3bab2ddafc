//! PCI Express as a guest sees it: a root complex with configuration space (ports 0xcf8/0xcfc and
//! ECAM), the two Q35 bridges, functions with BARs, capabilities and MSI-X.
//!
//! Called by `vmm`, which owns the address spaces and hands accesses to [`Bus`], and by `virtio`,
//! whose PCI transport is a [`Function`] built from [`ConfigSpace`] and [`Msix`]. Knows no engine:
//! interrupts leave through [`MsiSink`]. Nothing a guest writes may panic.
//!
//! All functions sit on bus 0 as root complex integrated endpoints and interrupt by MSI-X only;
//! their interrupt pin reads 0, so no guest waits for an INTx that never comes.
#![forbid(unsafe_code)]

mod address_space;
mod bus;
mod config_space;
mod function;
mod host_bridge;
mod lpc_bridge;
mod msix;
mod place;
mod shared_memory;

pub use address_space::{AddressSpace, Apertures, Owner, Region, Space};
pub use bus::{Bus, BusError, BusState, SharedFunction};
pub use config_space::{
    CAPABILITY_VENDOR, ConfigError, ConfigSpace, ConfigState, Identity, StateError,
};
pub use function::{BarKind, Doorbell, Function, MsiLine, MsiMessage, MsiSink};
use host_bridge::{HOST_BRIDGE_DEVICE, HostBridge};
use lpc_bridge::{LPC_BRIDGE_DEVICE, LpcBridge};
pub use msix::{Msix, MsixLayout, MsixState};
pub use shared_memory::{SHARED_MEMORY_DEVICE, SHARED_MEMORY_VENDOR, SharedBytes, SharedMemory};
