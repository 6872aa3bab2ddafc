//! The definition's types: exactly what stands in the TOML file.

use crate::desktop::{Clipboard, Display, Integration, is_default};
use crate::network::NetworkTable;
use crate::windows::Windows;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Which engine runs the VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineChoice {
    /// core > kvm > tcg, whichever is there.
    #[default]
    Auto,
    /// Our own core beneath this system.
    Core,
    /// Linux KVM.
    Kvm,
    /// QEMU's software CPU.
    Tcg,
}

/// How the guest's agent reaches the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentWay {
    /// A vsock device.
    #[default]
    Vsock,
    /// A virtio-serial port, for guests without a driver for vsock; the VM has no vsock device then.
    Serial,
}

/// One VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct VmDefinition {
    /// 1 to 100 letters, digits, spaces and some punctuation ([`crate::check_name`]).
    pub name: String,
    /// Guest RAM in MiB.
    pub memory: u64,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Who runs it.
    #[serde(default)]
    pub engine: EngineChoice,
    /// Back guest RAM with huge pages where the host has them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub huge_pages: bool,
    /// How the guest's agent reaches the host.
    #[serde(default, skip_serializing_if = "is_default")]
    pub agent: AgentWay,
    /// What the machine starts.
    #[serde(default, skip_serializing_if = "Boot::is_empty")]
    pub boot: Boot,
    /// Disks in the order the guest sees them.
    #[serde(default, rename = "disk", skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<Disk>,
    /// Network cards in the order the guest sees them.
    #[serde(default, rename = "net", skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<Network>,
    /// Shared folders.
    #[serde(default, rename = "share", skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<Share>,
    /// Its screen, keyboard and pointer; none without the table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display: Option<Display>,
    /// What it may do with the clipboard.
    #[serde(default, skip_serializing_if = "is_default")]
    pub clipboard: Clipboard,
    /// What else of it reaches the desktop.
    #[serde(default, skip_serializing_if = "is_default")]
    pub integration: Integration,
    /// How its windows stand on the desktop.
    #[serde(default, skip_serializing_if = "is_default")]
    pub windows: Windows,
}

/// What the machine starts: a kernel or unikernel when one is given, else firmware from disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Boot {
    /// Linux bzImage, PVH ELF or Multiboot 1 kernel, told apart by content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// Solo5 hvt unikernel, instead of a kernel: the machine is then a tender and has no devices but
    /// those the unikernel declares.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hvt: Option<PathBuf>,
    /// Initial RAM disk, or module 0 of a Multiboot kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// Command line of the kernel or unikernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub append: Option<String>,
    /// Firmware image to use instead of the system's OVMF.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<PathBuf>,
}

impl Boot {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How the bytes of a disk file are to be read. Never guessed from content: a guest could write a
/// qcow2 header into a raw disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// Bytes as they are.
    Raw,
    /// QEMU's copy-on-write format, version 2 or 3.
    Qcow2,
}

/// A virtual disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Disk {
    /// The image file or block device.
    pub path: PathBuf,
    /// Its format.
    pub format: DiskFormat,
    /// The guest cannot write.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// Upper bounds on what the guest may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<RateLimit>,
}

/// Bounds on a disk's use; 0 means no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct RateLimit {
    /// Bytes per second.
    pub bytes_per_second: u64,
    /// Requests per second.
    pub operations_per_second: u64,
}

/// How a network card reaches the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkMode {
    /// User-mode networking by a passt process; needs no privilege.
    Passt,
    /// An existing or creatable tap interface of this name.
    Tap {
        /// The interface.
        interface: String,
    },
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "NetworkTable", into = "NetworkTable")]
pub struct Network {
    /// Its other end.
    pub mode: NetworkMode,
    /// Its hardware address as `52:54:00:xx:xx:xx`; derived from the VM's name when absent
    /// ([`VmDefinition::mac_address`]).
    pub mac: Option<String>,
}

/// How a folder is shared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShareKind {
    /// 9P2000.L inside the VM process.
    #[default]
    #[serde(rename = "9p")]
    Plan9,
    /// virtio-fs by a virtiofsd process.
    VirtioFs,
    /// 9P2000.L by a process of its own over vsock, or over the agent's serial port where that is its way, which
    /// needs no device and so comes and goes while the VM runs; mounted by the guest's agent.
    Vsock,
}

impl ShareKind {
    /// The machine has a device for it.
    #[must_use]
    pub fn has_device(self) -> bool {
        self != Self::Vsock
    }
}

/// A folder of the host that the guest can mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Share {
    /// The name the guest mounts it by: 1 to 31 letters, digits, `-`, `_`, `.`.
    pub tag: String,
    /// The folder.
    pub path: PathBuf,
    /// How.
    #[serde(default)]
    pub kind: ShareKind,
    /// The guest cannot write.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
}
