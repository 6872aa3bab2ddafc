//! Rows about the host around the processor: KVM, IOMMU, memory, programs.

use super::choice::OLDEST_QEMU;
use super::facts::{Core, Device, Facts, HugePages, Iommu, Memory, Program};
use super::report::Requirement::{self, Recommended, Required};
use super::report::Row;

pub(super) fn rows(facts: &Facts) -> Vec<Row> {
    let mut rows: Vec<Row> = core(&facts.core).into_iter().collect();
    rows.push(kvm(facts));
    rows.extend(nested(facts));
    rows.push(iommu(&facts.iommu));
    rows.push(memory(facts.memory));
    rows.extend(huge_pages(&facts.huge_pages));
    rows.push(landlock(facts.landlock));
    rows.push(qemu(facts.qemu.as_ref()));
    rows.push(match &facts.firmware {
        Some(code) => Row::judged(
            "firmware",
            "OVMF (UEFI for disks)",
            Recommended,
            code.display().to_string(),
            true,
            "",
        ),
        None => Row::judged(
            "firmware",
            "OVMF (UEFI for disks)",
            Recommended,
            "no",
            false,
            "Install the package ovmf, or give --firmware; VMs that boot a kernel need none",
        ),
    });
    rows.push(program(
        "network",
        "passt",
        facts.passt.as_ref(),
        "Install the package passt, or use --net tap",
    ));
    rows.push(device(
        "network",
        "/dev/net/tun (for --net tap)",
        Recommended,
        &facts.tun,
        "sudo modprobe tun; networks by passt do not need it",
    ));
    rows.push(program(
        "shares",
        "virtiofsd",
        facts.virtiofsd.as_ref(),
        "Install the package virtiofsd, or run `cargo install virtiofsd`; shares of kind 9p do not \
         need it",
    ));
    rows
}

/// Nothing on a system without one: then nobody has to do anything about it.
fn core(core: &Core) -> Option<Row> {
    let item = "our own core beneath";
    Some(match core {
        Core::Absent => return None,
        Core::Unusable { why } => {
            Row::judged("core", item, Recommended, "there, and not usable", false, why)
        }
        Core::Usable(core) => {
            let found = format!(
                "interface {}.{} on {} processors, pool {} MiB, {} MiB free",
                core.version >> 16,
                core.version & 0xffff,
                core.processors,
                core.pool.0 >> 20,
                core.free.0 >> 20
            );
            Row::judged("core", item, Recommended, found, true, "")
        }
    })
}

fn kvm(facts: &Facts) -> Row {
    let requirement = match facts.core {
        Core::Usable(_) => Recommended,
        _ => Required,
    };
    let item = "/dev/kvm";
    if facts.kvm == Device::Usable && !facts.cpu.has_virtualization() {
        return Row::judged(
            "kvm",
            item,
            requirement,
            "paravirtual: no hardware virtualization behind it, far slower than QEMU",
            false,
            "Nothing to do: auto takes engine tcg; --engine kvm still uses it",
        );
    }
    let load = if facts.cpu.vmx.is_some() {
        "sudo modprobe kvm_intel"
    } else if facts.cpu.svm.is_some() {
        "sudo modprobe kvm_amd"
    } else {
        "KVM needs hardware virtualization; auto takes engine tcg"
    };
    device("kvm", item, requirement, &facts.kvm, load)
}

fn device(
    topic: &'static str,
    item: &'static str,
    requirement: Requirement,
    device: &Device,
    when_absent: &str,
) -> Row {
    match device {
        Device::Usable => Row::judged(topic, item, requirement, "usable", true, ""),
        Device::Absent => Row::judged(topic, item, requirement, "no", false, when_absent),
        Device::Broken { error } => Row::judged(
            topic,
            item,
            requirement,
            error.as_str(),
            false,
            "See `dmesg` for what the kernel says",
        ),
        Device::NoPermission { group } => {
            let step = match group {
                Some(group) => {
                    format!("sudo usermod -aG {group} \"$USER\", then log in again")
                }
                None => "Ask the administrator for access to the device".to_owned(),
            };
            Row::judged(topic, item, requirement, "there, but you may not open it", false, &step)
        }
    }
}

/// Only where a vendor's module says something about it.
fn nested(facts: &Facts) -> Option<Row> {
    let module = facts.module.as_ref()?;
    let nested = module.nested?;
    Some(Row::judged(
        "kvm",
        "nested virtualization (hypervisors inside guests)",
        Recommended,
        format!("{}: {}", module.name, if nested { "on" } else { "off" }),
        nested,
        &format!(
            "echo options {0} nested=1 | sudo tee /etc/modprobe.d/{0}.conf, then reload the module",
            module.name
        ),
    ))
}

fn iommu(iommu: &Iommu) -> Row {
    let item = "IOMMU (for devices given to guests)";
    let (found, good, step) = match (iommu.units.len(), iommu.table) {
        (0, None) => {
            ("no".to_owned(), false, "Turn on VT-d or AMD-Vi (IOMMU) in the firmware set-up")
        }
        (0, Some(table)) => (
            format!("table {table}, not in use"),
            false,
            "Boot the kernel with intel_iommu=on or amd_iommu=on",
        ),
        (count, _) => (format!("{count} in use: {}", iommu.units.join(", ")), true, ""),
    };
    Row::judged("iommu", item, Recommended, found, good, step)
}

/// A Debian guest with its desktop wants this much, in MiB.
const ROOM_FOR_ONE_GUEST: u64 = 2048;

fn memory(memory: Memory) -> Row {
    if memory.total == 0 {
        return Row::unknown(
            "memory",
            "RAM",
            Recommended,
            "Is /proc mounted? It says how much there is",
        );
    }
    Row::judged(
        "memory",
        "RAM",
        Recommended,
        format!("{} MiB, {} MiB available", memory.total, memory.available),
        memory.available >= ROOM_FOR_ONE_GUEST,
        "Close programs, or give guests little memory (--memory 512)",
    )
}

fn huge_pages(pages: &HugePages) -> Vec<Row> {
    let shared = pages.shared.as_deref();
    let transparent = Row::judged(
        "memory",
        "transparent huge pages for guest RAM",
        Recommended,
        shared.unwrap_or("not offered by the kernel"),
        matches!(shared, Some("always" | "advise" | "within_size" | "force")),
        "echo advise | sudo tee /sys/kernel/mm/transparent_hugepage/shmem_enabled",
    );
    let reserved: u64 = pages.reserved.iter().map(|(_, total, _)| total).sum();
    let words: Vec<String> = pages
        .reserved
        .iter()
        .map(|(kib, total, free)| format!("{total} of {} MiB ({free} free)", kib / 1024))
        .collect();
    let found =
        if words.is_empty() { "not offered by the kernel".to_owned() } else { words.join(", ") };
    vec![
        transparent,
        Row::judged(
            "memory",
            "reserved huge pages (for huge-pages = true)",
            Recommended,
            found,
            reserved > 0,
            "sudo sysctl vm.nr_hugepages=N reserves N pages of 2 MiB",
        ),
    ]
}

fn landlock(abi: Option<bool>) -> Row {
    let item = "Landlock (sandbox of VM processes)";
    match abi {
        Some(on) => Row::presence(
            "sandbox",
            item,
            Recommended,
            on,
            "Boot the kernel with lsm=landlock,... ; VM processes then run with seccomp alone",
        ),
        None => Row::unknown(
            "sandbox",
            item,
            Recommended,
            "sudo mount -t securityfs none /sys/kernel/security shows it",
        ),
    }
}

fn qemu(program: Option<&Program>) -> Row {
    let item = "QEMU (for engine tcg)";
    let judge =
        |found: String, good, step| Row::judged("programs", item, Recommended, found, good, step);
    match program {
        None => judge("no".to_owned(), false, "Install the package qemu-system-x86"),
        Some(program) => match program.version {
            Some(version) => judge(
                version.to_string(),
                version >= OLDEST_QEMU,
                "Install a QEMU of 8.0 or later; on Debian 12: \
                 sudo apt install -t bookworm-backports qemu-system-x86",
            ),
            None => judge(
                format!("{}, version unknown", program.path.display()),
                false,
                "`qemu-system-x86_64 --version` must say 8.0 or later",
            ),
        },
    }
}

fn program(
    topic: &'static str,
    item: &'static str,
    program: Option<&Program>,
    next_step: &str,
) -> Row {
    let found = match program {
        Some(Program { version: Some(version), .. }) => version.to_string(),
        Some(Program { path, .. }) => path.display().to_string(),
        None => "no".to_owned(),
    };
    Row::judged(topic, item, Recommended, found, program.is_some(), next_step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::facts::{Cpu, Module, Svm, Version};
    use crate::discovery::report::Verdict;

    fn row<'a>(rows: &'a [Row], start: &str) -> &'a Row {
        let found = rows.iter().find(|row| row.item.starts_with(start));
        found.unwrap_or_else(|| panic!("no row {start}"))
    }

    #[test]
    fn a_core_is_told_of_where_there_is_one() {
        let unusable = Core::Unusable { why: "join the group".to_owned() };
        let rows = rows(&Facts { core: unusable, ..Facts::default() });
        assert_eq!(row(&rows, "our own core").next_step.as_deref(), Some("join the group"));
        let facts = crate::core::CoreFacts {
            version: 0x0001_0001,
            pool: units::Bytes(1 << 30),
            free: units::Bytes(1 << 29),
            processors: 2,
        };
        let rows = super::rows(&Facts { core: Core::Usable(facts), ..Facts::default() });
        assert!(row(&rows, "our own core").found.contains("1.1 on 2 processors"));
        assert_eq!(row(&rows, "/dev/kvm").requirement, Recommended);
        let rows = super::rows(&Facts::default());
        assert!(rows.iter().all(|row| row.topic != "core"));
    }

    #[test]
    fn a_kvm_without_hardware_behind_it_is_called_paravirtual() {
        let facts = Facts { kvm: Device::Usable, ..Facts::default() };
        let rows = rows(&facts);
        assert!(row(&rows, "/dev/kvm").found.starts_with("paravirtual"));
        assert_eq!(row(&rows, "/dev/kvm").verdict, Verdict::Missing);
    }

    #[test]
    fn a_desktop_with_everything_has_nothing_left_to_do() {
        let program = |version| Some(Program { path: "/usr/bin/x".into(), version });
        let facts = Facts {
            cpu: Cpu { svm: Some(Svm::default()), ..Cpu::default() },
            core: Core::Absent,
            kvm: Device::Usable,
            module: Some(Module { name: "kvm_amd".to_owned(), nested: Some(true) }),
            iommu: Iommu { table: Some("IVRS"), units: vec!["ivhd0".to_owned()] },
            huge_pages: HugePages {
                reserved: vec![(2048, 512, 512)],
                transparent: Some("madvise".to_owned()),
                shared: Some("advise".to_owned()),
            },
            memory: Memory { total: 32_000, available: 20_000 },
            tun: Device::Usable,
            qemu: program(Some(Version(10, 0, 2))),
            passt: program(None),
            virtiofsd: program(Some(Version(1, 13, 0))),
            firmware: Some("/usr/share/OVMF/OVMF_CODE_4M.fd".into()),
            landlock: Some(true),
        };
        for row in rows(&facts) {
            assert_eq!((row.verdict, row.next_step), (Verdict::Good, None));
        }
    }

    #[test]
    fn a_bare_machine_gets_a_next_step_for_every_row() {
        for row in rows(&Facts::default()) {
            assert_ne!(row.verdict, Verdict::Good, "{}", row.item);
            assert!(row.next_step.is_some(), "{}", row.item);
        }
    }

    #[test]
    fn without_permission_the_devices_own_group_is_named() {
        let facts = Facts {
            kvm: Device::NoPermission { group: Some("virt".to_owned()) },
            ..Facts::default()
        };
        let rows = rows(&facts);
        let step = row(&rows, "/dev/kvm").next_step.clone();
        assert!(step.is_some_and(|step| step.contains("-aG virt")));
    }

    #[test]
    fn an_iommu_the_kernel_leaves_alone_wants_a_kernel_parameter() {
        let facts =
            Facts { iommu: Iommu { table: Some("DMAR"), units: vec![] }, ..Facts::default() };
        let rows = rows(&facts);
        let step = row(&rows, "IOMMU").next_step.clone();
        assert!(step.is_some_and(|step| step.contains("intel_iommu=on")));
    }

    #[test]
    fn the_qemu_of_debian_12_is_too_old() {
        let facts = Facts {
            qemu: Some(Program {
                path: "/usr/bin/qemu-system-x86_64".into(),
                version: Some(Version(7, 2, 19)),
            }),
            ..Facts::default()
        };
        let rows = rows(&facts);
        assert_eq!(row(&rows, "QEMU").verdict, Verdict::Weak);
    }
}
