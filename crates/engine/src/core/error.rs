//! What can go wrong between this engine and the core, with what to do.

use super::gate::CallError;
use hypervisor_abi::VERSION;
use std::io;
use std::path::PathBuf;
use units::Bytes;

/// A failure of engine `core`.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// CPUID does not name a core.
    #[error("no core runs beneath this system: start the machine with it, or use --engine kvm")]
    NotBeneath,
    /// No driver shows the pool.
    #[error(
        "a core runs beneath this system, but nothing shows its pool of guest memory: \
         sudo modprobe -a device_dax dax_hmem"
    )]
    NoDevice,
    /// Another driver has taken the device.
    #[error(
        "{device} is with {driver}, and guest memory needs it as a device of its own: \
         echo {device} | sudo tee /sys/bus/dax/drivers/kmem/unbind; \
         echo {device} | sudo tee /sys/bus/dax/drivers/device_dax/new_id"
    )]
    OtherDriver {
        /// Its name, e.g. `dax0.0`.
        device: String,
        /// The driver in words.
        driver: String,
    },
    /// The device may not be opened.
    #[error(
        "you may not open {path}: join the group `{group}` (sudo usermod -aG {group} \"$USER\"), \
         then log in again"
    )]
    NoPermission {
        /// The device.
        path: PathBuf,
        /// Who may.
        group: String,
    },
    /// The device does not work.
    #[error("{operation} of {path} failed: {source}")]
    Device {
        /// What was tried.
        operation: &'static str,
        /// The device.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// There are devices, none of which is a pool.
    #[error("none of {devices} is the core's pool (its first page does not say so)")]
    NoPool {
        /// Those there are.
        devices: String,
    },
    /// Core and program are of different times.
    #[error(
        "the core speaks version {}.{} of its interface, this program {}.{}: install the same \
         release of both and restart the machine",
        found >> 16, found & 0xffff, VERSION >> 16, VERSION & 0xffff
    )]
    Version {
        /// What the core speaks.
        found: u32,
    },
    /// The information page makes no sense.
    #[error("the pool's first page says {field} = {value:#x}, which no core writes")]
    Information {
        /// Which field.
        field: &'static str,
        /// What it says.
        value: u64,
    },
    /// The pool has no room.
    #[error(
        "{} MiB for {purpose}: {} MiB of the core's pool are free, {} MiB of them in one piece; \
         end other VMs, give this one less memory, or start the core with a larger pool (pool=MIB)",
        asked.0 >> 20, free.0 >> 20, largest.0 >> 20
    )]
    PoolFull {
        /// What for.
        purpose: &'static str,
        /// How much was asked for.
        asked: Bytes,
        /// How much is free.
        free: Bytes,
        /// How much of it in one piece.
        largest: Bytes,
    },
    /// The core refused a call.
    #[error(transparent)]
    Call(#[from] CallError),
}
