//! Reads the machine into [`Facts`]. What cannot be read stays at its default; this never fails.

use super::facts::{
    Core, Cpu, Device, Facts, HugePages, Iommu, Memory, Module, Program, Svm, Vendor, Version, Vmx,
};
use crate::EngineError;
use crate::core::CoreEngine;
use crate::kvm::KvmEngine;
use raw_cpuid::CpuId;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

pub(super) fn facts() -> Facts {
    let root = Path::new("/");
    Facts {
        cpu: cpu(root),
        core: core(),
        kvm: kvm(),
        module: module(root),
        iommu: iommu(root),
        huge_pages: huge_pages(root),
        memory: memory(&text(root, "proc/meminfo")),
        tun: tun(),
        qemu: program(QEMU, true),
        passt: program("passt", false),
        virtiofsd: program("virtiofsd", true),
        firmware: system_firmware(),
        landlock: fs::read_to_string("/sys/kernel/security/lsm")
            .ok()
            .map(|names| names.split(',').any(|name| name.trim() == "landlock")),
    }
}

/// The part of [`facts`] that decides on the engine; asks what is slower to find out only where the better
/// has not won already.
pub(super) fn for_choice() -> Facts {
    let core = core();
    if let Core::Usable(_) = core {
        return Facts { core, ..Facts::default() };
    }
    let mut facts = Facts { core, cpu: cpu(Path::new("/")), kvm: kvm(), ..Facts::default() };
    if facts.kvm != Device::Usable || !facts.cpu.has_virtualization() {
        facts.qemu = program(QEMU, true);
    }
    facts
}

const QEMU: &str = "qemu-system-x86_64";

/// Where distributions keep OVMF's code: Debian, Fedora, Arch, openSUSE.
const FIRMWARE: [&str; 5] = [
    "/usr/share/OVMF/OVMF_CODE_4M.fd",
    "/usr/share/OVMF/OVMF_CODE.fd",
    "/usr/share/edk2/ovmf/OVMF_CODE.fd",
    "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
    "/usr/share/qemu/ovmf-x86_64-code.bin",
];

/// Where helper programs are besides the folders of PATH.
const HELPER_FOLDERS: [&str; 4] =
    ["/usr/libexec", "/usr/lib/qemu", "/usr/lib/virtiofsd", "/usr/sbin"];

fn text(root: &Path, path: &str) -> String {
    fs::read_to_string(root.join(path)).unwrap_or_default()
}

fn names(root: &Path, path: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(root.join(path)) else {
        return Vec::new();
    };
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn cpu(root: &Path) -> Cpu {
    let id = CpuId::new();
    let kernel = text(root, "proc/cpuinfo");
    let basic = id.get_feature_info();
    let extended = id.get_extended_processor_and_feature_identifiers();
    let structured = id.get_extended_feature_info();
    let power = id.get_advanced_power_mgmt_info();
    let mut features = BTreeSet::new();
    for (name, present) in [
        ("lm", extended.as_ref().is_some_and(|e| e.has_64bit_mode())),
        ("nx", extended.as_ref().is_some_and(|e| e.has_execute_disable())),
        ("pdpe1gb", extended.as_ref().is_some_and(|e| e.has_1gib_pages())),
        ("x2apic", basic.as_ref().is_some_and(|b| b.has_x2apic())),
        ("tsc_deadline_timer", basic.as_ref().is_some_and(|b| b.has_tsc_deadline())),
        ("xsave", basic.as_ref().is_some_and(|b| b.has_xsave())),
        ("smep", structured.as_ref().is_some_and(|s| s.has_smep())),
        ("smap", structured.as_ref().is_some_and(|s| s.has_smap())),
        ("constant_tsc", power.is_some_and(|p| p.has_invariant_tsc())),
    ] {
        if present {
            features.insert(name);
        }
    }
    let brand = id.get_processor_brand_string();
    Cpu {
        vendor: id.get_vendor_info().map_or(Vendor::Unknown, |vendor| vendor_of(vendor.as_str())),
        brand: brand.map(|brand| brand.as_str().trim().to_owned()).unwrap_or_default(),
        logical: std::thread::available_parallelism()
            .ok()
            .and_then(|count| u32::try_from(count.get()).ok())
            .unwrap_or(0),
        virtualized: basic.as_ref().is_some_and(|b| b.has_hypervisor()),
        physical_bits: id
            .get_processor_capacity_feature_info()
            .map_or(0, |capacity| capacity.physical_address_bits()),
        features,
        vmx: basic.is_some_and(|b| b.has_vmx()).then(|| vmx(root, &kernel)),
        svm: extended.is_some_and(|e| e.has_svm()).then(|| svm(&id, &kernel)),
    }
}

fn vendor_of(name: &str) -> Vendor {
    match name {
        "GenuineIntel" => Vendor::Intel,
        "AuthenticAMD" | "HygonGenuine" => Vendor::Amd,
        other => Vendor::Other(other.to_owned()),
    }
}

/// The words behind `key` in the first processor's paragraph of `/proc/cpuinfo`.
fn cpuinfo<'a>(cpuinfo: &'a str, key: &str) -> Option<impl Iterator<Item = &'a str> + use<'a>> {
    cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim() == key)
        .map(|(_, value)| value.split_whitespace())
}

/// True unless the kernel lists its flags and this one is not among them: it drops the flag when
/// the firmware locked the feature off.
fn kernel_keeps(kernel: &str, flag: &str) -> bool {
    cpuinfo(kernel, "flags").is_none_or(|mut flags| flags.any(|word| word == flag))
}

fn vmx(root: &Path, kernel: &str) -> Vmx {
    let from_kernel: Option<BTreeSet<String>> =
        cpuinfo(kernel, "vmx flags").map(|words| words.map(str::to_owned).collect());
    Vmx {
        enabled: kernel_keeps(kernel, "vmx"),
        features: from_kernel.or_else(|| {
            let file = File::open(root.join("dev/cpu/0/msr")).ok()?;
            vmx_features(|index| {
                let mut value = [0; 8];
                file.read_exact_at(&mut value, index.into()).ok()?;
                Some(u64::from_le_bytes(value))
            })
        }),
    }
}

/// What the capability MSRs allow (SDM 3D appendix A), by the kernel's names.
fn vmx_features(msr: impl Fn(u32) -> Option<u64>) -> Option<BTreeSet<String>> {
    const BASIC: u32 = 0x480;
    const SECONDARY: u32 = 0x48b;
    const EPT_VPID: u32 = 0x48c;
    // Bit 55 of IA32_VMX_BASIC: the "true" registers exist (A.2).
    let (pin, processor) = if msr(BASIC)? >> 55 & 1 == 1 { (0x48d, 0x48e) } else { (0x481, 0x482) };
    // The upper half says which controls may be 1 (A.3).
    let allowed = |index: u32| msr(index).map_or(0, |value| value >> 32);
    let pin = allowed(pin);
    let secondary = if allowed(processor) >> 31 & 1 == 1 { allowed(SECONDARY) } else { 0 };
    let ept = if secondary & 0b10_0010 == 0 { 0 } else { msr(EPT_VPID).unwrap_or(0) };
    let bit = |word: u64, n: u32| word >> n & 1 == 1;
    let found = [
        // SDM 3C 25.6.1
        ("preemption_timer", bit(pin, 6)),
        ("posted_intr", bit(pin, 7)),
        // SDM 3C 25.6.2
        ("ept", bit(secondary, 1)),
        ("vpid", bit(secondary, 5)),
        ("unrestricted_guest", bit(secondary, 7)),
        ("apicv", bit(secondary, 8) && bit(secondary, 9)),
        ("pml", bit(secondary, 17)),
        ("ept_mode_based_exec", bit(secondary, 22)),
        ("tsc_scaling", bit(secondary, 25)),
        // SDM 3D A.10
        ("ept_1gb", bit(ept, 17)),
        ("ept_ad", bit(ept, 21)),
    ];
    let present = found.iter().filter(|(_, present)| *present);
    Some(present.map(|(name, _)| (*name).to_owned()).collect())
}

fn svm(id: &CpuId<impl raw_cpuid::CpuIdReader>, kernel: &str) -> Svm {
    let enabled = kernel_keeps(kernel, "svm");
    let Some(info) = id.get_svm_info() else {
        return Svm { enabled, ..Svm::default() };
    };
    let found = [
        ("npt", info.has_nested_paging()),
        ("nrip_save", info.has_nrip()),
        ("decodeassists", info.has_decode_assists()),
        ("flushbyasid", info.has_flush_by_asid()),
        ("vmcb_clean", info.has_vmcb_clean_bits()),
        ("pausefilter", info.has_pause_filter()),
        ("vgif", info.has_gif()),
        ("v_vmsave_vmload", info.has_vmsave_virtualization()),
        ("avic", info.has_avic()),
        ("tsc_scale", info.has_tsc_rate_msr()),
    ];
    let present = found.into_iter().filter(|(_, present)| *present);
    Svm {
        enabled,
        asids: info.supported_asids(),
        features: present.map(|(name, _)| name).collect(),
    }
}

fn core() -> Core {
    if !crate::core::is_beneath() {
        return Core::Absent;
    }
    match CoreEngine::open().and_then(|engine| engine.facts()) {
        Ok(facts) => Core::Usable(facts),
        Err(error) => Core::Unusable { why: error.to_string() },
    }
}

fn kvm() -> Device {
    match KvmEngine::open() {
        Ok(_engine) => Device::Usable,
        Err(EngineError::Open { path, source, .. }) => refused(path, &source),
        Err(other) => Device::Broken { error: other.to_string() },
    }
}

fn tun() -> Device {
    let path = "/dev/net/tun";
    match File::options().read(true).write(true).open(path) {
        Ok(_file) => Device::Usable,
        Err(error) => refused(path, &error),
    }
}

fn refused(path: &str, error: &io::Error) -> Device {
    match error.kind() {
        io::ErrorKind::NotFound => Device::Absent,
        // ENODEV and ENXIO: the file is there, nothing answers behind it.
        _ if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO)) => Device::Absent,
        io::ErrorKind::PermissionDenied => Device::NoPermission {
            group: fs::metadata(path)
                .ok()
                .filter(|meta| meta.gid() != 0)
                .and_then(|meta| group_name(&text(Path::new("/"), "etc/group"), meta.gid())),
        },
        _ => Device::Broken { error: error.to_string() },
    }
}

/// The name of group `id` in a text like `/etc/group`.
fn group_name(groups: &str, id: u32) -> Option<String> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let found = fields.nth(1)?.parse() == Ok(id);
        found.then(|| name.to_owned())
    })
}

fn module(root: &Path) -> Option<Module> {
    ["kvm_intel", "kvm_amd"].into_iter().find_map(|name| {
        let folder = root.join("sys/module").join(name);
        folder.exists().then(|| Module {
            name: name.to_owned(),
            nested: fs::read_to_string(folder.join("parameters/nested"))
                .ok()
                .map(|value| matches!(value.trim(), "Y" | "1")),
        })
    })
}

fn iommu(root: &Path) -> Iommu {
    let tables = names(root, "sys/firmware/acpi/tables");
    Iommu {
        table: ["DMAR", "IVRS"].into_iter().find(|table| tables.iter().any(|name| name == table)),
        units: names(root, "sys/class/iommu"),
    }
}

fn huge_pages(root: &Path) -> HugePages {
    let folder = "sys/kernel/mm/hugepages";
    let count = |size: &str, file: &str| -> u64 {
        let value = text(root, &format!("{folder}/{size}/{file}"));
        value.trim().parse().unwrap_or(0)
    };
    let reserved = names(root, folder).into_iter().filter_map(|name| {
        let size = name.strip_prefix("hugepages-")?.strip_suffix("kB")?;
        let total = count(&name, "nr_hugepages");
        Some((size.parse().ok()?, total, count(&name, "free_hugepages")))
    });
    let mut reserved: Vec<_> = reserved.collect();
    reserved.sort_unstable();
    let transparent = "sys/kernel/mm/transparent_hugepage";
    HugePages {
        reserved,
        transparent: chosen(&text(root, &format!("{transparent}/enabled"))),
        shared: chosen(&text(root, &format!("{transparent}/shmem_enabled"))),
    }
}

/// The word in brackets of a sysfs choice such as `always [madvise] never`.
fn chosen(words: &str) -> Option<String> {
    words
        .split_whitespace()
        .find_map(|word| word.strip_prefix('[')?.strip_suffix(']'))
        .map(str::to_owned)
}

fn memory(meminfo: &str) -> Memory {
    let kib = |key: &str| -> u64 {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    Memory { total: kib("MemTotal:") / 1024, available: kib("MemAvailable:") / 1024 }
}

/// Where the program `name` is: in PATH, where distributions keep programs that other programs
/// start, or where `cargo install` puts them.
#[must_use]
pub fn program_path(name: &str) -> Option<PathBuf> {
    let search = std::env::var_os("PATH").unwrap_or_default();
    let own = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo/bin"));
    std::env::split_paths(&search)
        .chain(HELPER_FOLDERS.iter().map(PathBuf::from))
        .chain(own)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// The code of the system's UEFI firmware for VMs, without secure boot.
#[must_use]
pub fn system_firmware() -> Option<PathBuf> {
    FIRMWARE.iter().map(PathBuf::from).find(|path| path.is_file())
}

/// The program `name` with the version it says, and where it is.
#[must_use]
pub fn versioned_program(name: &str) -> Option<Program> {
    program(name, true)
}

fn program(name: &str, has_version: bool) -> Option<Program> {
    let path = program_path(name)?;
    let version = has_version
        .then(|| Command::new(&path).arg("--version").output().ok())
        .flatten()
        .and_then(|output| version(&String::from_utf8_lossy(&output.stdout)));
    Some(Program { path, version })
}

/// The first word of the shape `1.2` or `1.2.3` in what a program says about itself.
fn version(text: &str) -> Option<Version> {
    text.split_whitespace().find_map(|word| {
        let mut numbers = word.split('.').map(|part| {
            let digits = part.find(|c: char| !c.is_ascii_digit());
            part[..digits.unwrap_or(part.len())].parse().ok()
        });
        let major = numbers.next()??;
        let minor = numbers.next()??;
        Some(Version(major, minor, numbers.next().flatten().unwrap_or(0)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        let debian = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)";
        assert_eq!(version(debian), Some(Version(10, 0, 2)));
        assert_eq!(version("virtiofsd 1.13.0\n"), Some(Version(1, 13, 0)));
        assert_eq!(version("QEMU 9.1-rc3"), Some(Version(9, 1, 0)));
        assert_eq!(version("passt unknown version"), None);
        assert_eq!(version("version 10"), None);
    }

    #[test]
    fn the_kernels_word_on_vmx_is_read_and_its_silence_noticed() {
        let locked = "processor\t: 0\nflags\t\t: fpu lm\n";
        assert!(!kernel_keeps(locked, "vmx"));
        let open = "flags\t\t: fpu vmx lm\nvmx flags\t: vnmi ept vpid\n";
        assert!(kernel_keeps(open, "vmx"));
        let words = cpuinfo(open, "vmx flags").map(|words| words.collect::<Vec<_>>());
        assert_eq!(words, Some(vec!["vnmi", "ept", "vpid"]));
        assert!(kernel_keeps("", "svm"));
    }

    #[test]
    fn capability_registers_are_read_as_the_manual_says() {
        // Values of a Haswell with "true" controls.
        let msr = |index| match index {
            0x480 => Some(1 << 55 | 0x12),
            0x48d => Some(0x0000_00ff_0000_0016),
            0x48e => Some(0xfff9_fffe_0400_6172),
            0x48b => Some(0x0000_7cff_0000_0000),
            0x48c => Some(0x0000_0f01_0633_4141),
            _ => None,
        };
        let found = vmx_features(msr).expect("readable");
        for name in [
            "preemption_timer",
            "posted_intr",
            "ept",
            "vpid",
            "unrestricted_guest",
            "ept_1gb",
            "ept_ad",
        ] {
            assert!(found.contains(name), "{name}");
        }
        for name in ["apicv", "pml", "tsc_scaling"] {
            assert!(!found.contains(name), "{name}");
        }
        assert_eq!(vmx_features(|_| None), None);
    }

    #[test]
    fn a_choice_in_sysfs_is_the_word_in_brackets() {
        assert_eq!(chosen("always [madvise] never\n").as_deref(), Some("madvise"));
        assert_eq!(chosen(""), None);
    }

    #[test]
    fn groups_are_found_by_number() {
        let groups = "root:x:0:\nkvm:x:104:alice,bob\n";
        assert_eq!(group_name(groups, 104).as_deref(), Some("kvm"));
        assert_eq!(group_name(groups, 7), None);
    }

    #[test]
    fn memory_is_in_mebibytes() {
        let meminfo = "MemTotal:       24684092 kB\nMemFree: 1 kB\nMemAvailable:   23813116 kB\n";
        let memory = memory(meminfo);
        assert_eq!((memory.total, memory.available), (24105, 23254));
    }

    #[test]
    fn a_machine_is_read_from_its_files() {
        let root = tempfile::tempdir().expect("a folder");
        for (path, content) in [
            ("sys/module/kvm_amd/parameters/nested", "1\n"),
            ("sys/class/iommu/ivhd0/name", ""),
            ("sys/firmware/acpi/tables/IVRS", ""),
            ("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "8\n"),
            ("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "6\n"),
            (
                "sys/kernel/mm/transparent_hugepage/shmem_enabled",
                "always within_size [advise] never deny force\n",
            ),
        ] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, content).expect("written");
        }
        let module = module(root.path()).expect("kvm_amd");
        assert_eq!((module.name.as_str(), module.nested), ("kvm_amd", Some(true)));
        let iommu = iommu(root.path());
        assert_eq!((iommu.table, iommu.units), (Some("IVRS"), vec!["ivhd0".to_owned()]));
        let pages = huge_pages(root.path());
        assert_eq!(pages.reserved, [(2048, 8, 6)]);
        assert_eq!(pages.shared.as_deref(), Some("advise"));
    }
}
