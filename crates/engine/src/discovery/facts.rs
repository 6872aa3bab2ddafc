//! What was found, without judgement.

use crate::core::CoreFacts;
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

/// Everything the judgement looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The processor.
    pub cpu: Cpu,
    /// Our own core beneath this system.
    pub core: Core,
    /// `/dev/kvm`.
    pub kvm: Device,
    /// The vendor's KVM module.
    pub module: Option<Module>,
    /// IOMMU.
    pub iommu: Iommu,
    /// Huge pages.
    pub huge_pages: HugePages,
    /// RAM.
    pub memory: Memory,
    /// `/dev/net/tun`, for tap networks.
    pub tun: Device,
    /// `qemu-system-x86_64`, for engine `tcg`.
    pub qemu: Option<Program>,
    /// `passt`, for networks.
    pub passt: Option<Program>,
    /// `virtiofsd`, for virtio-fs shares.
    pub virtiofsd: Option<Program>,
    /// UEFI firmware for disks: code and variable store.
    pub firmware: Option<PathBuf>,
    /// Whether Landlock is among the kernel's security modules; `None` when it does not say.
    pub landlock: Option<bool>,
}

/// Who made the processor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Vendor {
    /// GenuineIntel.
    Intel,
    /// AuthenticAMD or HygonGenuine.
    Amd,
    /// Another one, by its own name.
    Other(String),
    /// CPUID did not say.
    #[default]
    Unknown,
}

/// The processor, by CPUID and what the kernel adds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// Maker.
    pub vendor: Vendor,
    /// Its name for people.
    pub brand: String,
    /// Logical processors online.
    pub logical: u32,
    /// This machine is itself a guest (CPUID.1:ECX bit 31).
    pub virtualized: bool,
    /// Bits of a physical address.
    pub physical_bits: u8,
    /// General features, by the names of `/proc/cpuinfo`.
    pub features: BTreeSet<&'static str>,
    /// Intel's virtualization, when CPUID shows it.
    pub vmx: Option<Vmx>,
    /// AMD's virtualization, when CPUID shows it.
    pub svm: Option<Svm>,
}

impl Cpu {
    /// Whether CPUID shows hardware virtualization.
    #[must_use]
    pub fn has_virtualization(&self) -> bool {
        self.vmx.is_some() || self.svm.is_some()
    }
}

/// What VMX can do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vmx {
    /// The kernel found VMX usable; false when the firmware locked it off.
    pub enabled: bool,
    /// By the names of the line `vmx flags` in `/proc/cpuinfo`, or from the capability MSRs;
    /// `None` when neither could be read.
    pub features: Option<BTreeSet<String>>,
}

/// What SVM can do (APM 2 15, CPUID 8000_000A).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Svm {
    /// The kernel found SVM usable; false when the firmware locked it off.
    pub enabled: bool,
    /// Address-space identifiers.
    pub asids: u32,
    /// By the names of `/proc/cpuinfo`.
    pub features: BTreeSet<&'static str>,
}

/// Our own core beneath this system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Core {
    /// None.
    #[default]
    Absent,
    /// There, and it cannot be used: why, and what to do.
    Unusable {
        /// In words.
        why: String,
    },
    /// There.
    Usable(CoreFacts),
}

/// A device file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// Not there.
    #[default]
    Absent,
    /// There, and this user may not open it.
    NoPermission {
        /// The group that owns it, when it has a name.
        group: Option<String>,
    },
    /// There, and it fails.
    Broken {
        /// What happened.
        error: String,
    },
    /// It opens.
    Usable,
}

/// A loaded kernel module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// `kvm_intel`, `kvm_amd`, ...
    pub name: String,
    /// Its parameter `nested`, where it has one.
    pub nested: Option<bool>,
}

/// IOMMU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Iommu {
    /// The firmware's table, `DMAR` (Intel) or `IVRS` (AMD).
    pub table: Option<&'static str>,
    /// Units in use by the kernel.
    pub units: Vec<String>,
}

/// Huge pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HugePages {
    /// Reserved pages by size in KiB: total and free.
    pub reserved: Vec<(u64, u64, u64)>,
    /// The chosen word of `transparent_hugepage/enabled`.
    pub transparent: Option<String>,
    /// The chosen word of `transparent_hugepage/shmem_enabled`, which decides for guest RAM.
    pub shared: Option<String>,
}

/// RAM in MiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// In the machine.
    pub total: u64,
    /// Free or easily freed.
    pub available: u64,
}

/// A program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Where.
    pub path: PathBuf,
    /// Its version, when it says one.
    pub version: Option<Version>,
}

/// A version, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}
