//! Rows about the processor.

use super::facts::{Cpu, Svm, Vendor, Vmx};
use super::report::Requirement::{self, Recommended, Required};
use super::report::Row;

const PROCESSOR: &str = "processor";
const VIRTUALIZATION: &str = "virtualization";

/// A feature by the kernel's name for it.
struct Feature {
    name: &'static str,
    item: &'static str,
    requirement: Requirement,
    without: &'static str,
}

const fn feature(
    name: &'static str,
    item: &'static str,
    requirement: Requirement,
    without: &'static str,
) -> Feature {
    Feature { name, item, requirement, without }
}

/// What engines and guests expect of any x86 processor.
const GENERAL: [Feature; 9] = [
    feature("lm", "64-bit mode", Required, "Use a 64-bit processor"),
    feature("nx", "no-execute pages", Required, "Turn on XD/NX in the firmware set-up"),
    feature(
        "x2apic",
        "x2APIC",
        Recommended,
        "Interrupts cost more; turn on x2APIC in the firmware set-up if it is offered",
    ),
    feature("tsc_deadline_timer", "TSC-deadline timer", Recommended, "Guest timers cost more"),
    feature("constant_tsc", "invariant TSC", Recommended, "Guests fall back to slower clocks"),
    feature("xsave", "XSAVE", Recommended, "Guests get no AVX"),
    feature("pdpe1gb", "1 GiB pages", Recommended, "Large guests use more page tables"),
    feature(
        "smep",
        "supervisor-mode execution prevention",
        Recommended,
        "Guest kernels are less protected",
    ),
    feature(
        "smap",
        "supervisor-mode access prevention",
        Recommended,
        "Guest kernels are less protected",
    ),
];

/// SDM 3C 25.6 and appendix A, by the kernel's names.
const INTEL: [Feature; 11] = [
    feature("ept", "EPT (second-level page tables)", Required, "Use --engine tcg"),
    feature("vpid", "VPID (tagged TLB)", Required, "Use --engine tcg"),
    feature(
        "unrestricted_guest",
        "unrestricted guest (real mode in hardware)",
        Required,
        "Firmware and boot loaders of guests run slowly; use --engine tcg if they fail",
    ),
    feature("preemption_timer", "VMX preemption timer", Recommended, "Guest timers cost more"),
    feature(
        "ept_ad",
        "accessed and dirty bits in EPT",
        Recommended,
        "Dirty-page tracking costs more",
    ),
    feature("ept_1gb", "1 GiB pages in EPT", Recommended, "Large guests use more page tables"),
    feature("pml", "page-modification log", Recommended, "Dirty-page tracking costs more"),
    feature("apicv", "APIC virtualization", Recommended, "Interrupts cost an exit each"),
    feature("posted_intr", "posted interrupts", Recommended, "Interrupts cost an exit each"),
    feature(
        "tsc_scaling",
        "TSC scaling",
        Recommended,
        "Saved VMs keep their clock only on equal machines",
    ),
    feature(
        "ept_mode_based_exec",
        "mode-based execute control",
        Recommended,
        "Windows guests with memory integrity run slower",
    ),
];

/// APM 2 15 and CPUID 8000_000A, by the kernel's names.
const AMD: [Feature; 10] = [
    feature("npt", "nested page tables", Required, "Use --engine tcg"),
    feature("nrip_save", "next-RIP save", Recommended, "Each exit decodes an instruction first"),
    feature(
        "decodeassists",
        "decode assists",
        Recommended,
        "Each exit decodes an instruction first",
    ),
    feature(
        "flushbyasid",
        "flush by ASID",
        Recommended,
        "Switches between VMs flush the whole TLB",
    ),
    feature("vmcb_clean", "VMCB clean bits", Recommended, "Each entry loads the whole VMCB"),
    feature(
        "pausefilter",
        "PAUSE filter",
        Recommended,
        "Guests with more vCPUs than CPUs waste time on locks",
    ),
    feature("vgif", "virtual GIF", Recommended, "Nested guests cost more"),
    feature("v_vmsave_vmload", "virtual VMSAVE/VMLOAD", Recommended, "Nested guests cost more"),
    feature("avic", "AVIC (APIC virtualization)", Recommended, "Interrupts cost an exit each"),
    feature(
        "tsc_scale",
        "TSC scaling",
        Recommended,
        "Saved VMs keep their clock only on equal machines",
    ),
];

/// Two identifiers are the least with which host and one guest are told apart.
const LEAST_ASIDS: u32 = 8;

/// `core`: our own core is beneath, and keeps the processor's virtualization for itself.
pub(super) fn rows(cpu: &Cpu, core: bool) -> Vec<Row> {
    let mut rows = vec![Row::judged(
        PROCESSOR,
        "model",
        Recommended,
        model(cpu),
        !matches!(cpu.vendor, Vendor::Other(_) | Vendor::Unknown),
        "Engine kvm is tried on Intel and AMD processors only",
    )];
    rows.extend(GENERAL.iter().map(|feature| {
        Row::presence(
            PROCESSOR,
            feature.item,
            feature.requirement,
            cpu.features.contains(feature.name),
            feature.without,
        )
    }));
    match (&cpu.vmx, &cpu.svm) {
        (Some(vmx), _) => intel(vmx, &mut rows),
        (None, Some(svm)) => amd(svm, &mut rows),
        (None, None) if core => {}
        (None, None) => rows.push(Row::judged(
            VIRTUALIZATION,
            none_item(&cpu.vendor),
            Required,
            "CPUID shows none",
            false,
            if cpu.virtualized {
                "This machine is a guest itself: turn on nested virtualization in its hypervisor, \
                 or use --engine tcg"
            } else {
                "Turn on virtualization (VT-x, AMD-V, SVM mode) in the firmware set-up, or use \
                 --engine tcg"
            },
        )),
    }
    rows
}

fn none_item(vendor: &Vendor) -> &'static str {
    match vendor {
        Vendor::Intel => "VMX (VT-x)",
        Vendor::Amd => "SVM (AMD-V)",
        Vendor::Other(_) | Vendor::Unknown => "VMX or SVM",
    }
}

fn model(cpu: &Cpu) -> String {
    let vendor = match &cpu.vendor {
        Vendor::Intel => "Intel",
        Vendor::Amd => "AMD",
        Vendor::Other(name) => name,
        Vendor::Unknown => "unknown",
    };
    let brand = if cpu.brand.is_empty() { vendor } else { &cpu.brand };
    let guest = if cpu.virtualized { ", itself in a virtual machine" } else { "" };
    format!(
        "{brand}, {} logical processors, {}-bit physical addresses{guest}",
        cpu.logical, cpu.physical_bits
    )
}

fn switch(item: &'static str, enabled: bool) -> Row {
    let found = if enabled { "yes" } else { "locked off by the firmware" };
    Row::judged(
        VIRTUALIZATION,
        item,
        Required,
        found,
        enabled,
        "Turn on virtualization (VT-x, AMD-V, SVM mode) in the firmware set-up and power-cycle",
    )
}

fn intel(vmx: &Vmx, rows: &mut Vec<Row>) {
    rows.push(switch("VMX (VT-x)", vmx.enabled));
    rows.extend(INTEL.iter().map(|feature| match &vmx.features {
        Some(features) => Row::presence(
            VIRTUALIZATION,
            feature.item,
            feature.requirement,
            features.contains(feature.name),
            feature.without,
        ),
        None => Row::unknown(
            VIRTUALIZATION,
            feature.item,
            feature.requirement,
            "Linux 5.8 or later shows it; or load the module `msr` and run doctor as root",
        ),
    }));
}

fn amd(svm: &Svm, rows: &mut Vec<Row>) {
    rows.push(switch("SVM (AMD-V)", svm.enabled));
    rows.extend(AMD.iter().map(|feature| {
        Row::presence(
            VIRTUALIZATION,
            feature.item,
            feature.requirement,
            svm.features.contains(feature.name),
            feature.without,
        )
    }));
    rows.push(Row::judged(
        VIRTUALIZATION,
        "address-space identifiers (ASIDs)",
        Recommended,
        svm.asids.to_string(),
        svm.asids >= LEAST_ASIDS,
        "Switches between VMs flush the TLB",
    ));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::report::Verdict;

    fn row<'a>(rows: &'a [Row], start: &str) -> &'a Row {
        let found = rows.iter().find(|row| row.item.starts_with(start));
        found.unwrap_or_else(|| panic!("no row {start}"))
    }

    #[test]
    fn an_old_intel_without_unrestricted_guest_is_told_so() {
        let vmx = Vmx { enabled: true, features: Some(["ept", "vpid"].map(str::to_owned).into()) };
        let cpu = Cpu { vendor: Vendor::Intel, vmx: Some(vmx), ..Cpu::default() };
        let rows = rows(&cpu, false);
        assert_eq!(row(&rows, "EPT (").verdict, Verdict::Good);
        assert_eq!(row(&rows, "unrestricted").verdict, Verdict::Missing);
        assert_eq!(row(&rows, "VMX preemption").verdict, Verdict::Weak);
        assert_eq!(row(&rows, "VMX (").verdict, Verdict::Good);
    }

    #[test]
    fn an_intel_whose_capabilities_cannot_be_read_is_not_called_bad() {
        let cpu = Cpu {
            vendor: Vendor::Intel,
            vmx: Some(Vmx { enabled: true, features: None }),
            ..Cpu::default()
        };
        let rows = rows(&cpu, false);
        assert_eq!(row(&rows, "EPT (").verdict, Verdict::Unknown);
        assert!(row(&rows, "EPT (").next_step.is_some());
    }

    #[test]
    fn an_amd_locked_off_by_firmware_sends_the_user_there() {
        let cpu = Cpu {
            vendor: Vendor::Amd,
            svm: Some(Svm { enabled: false, asids: 0x8000, features: ["npt", "nrip_save"].into() }),
            ..Cpu::default()
        };
        let rows = rows(&cpu, false);
        let switch = row(&rows, "SVM (");
        assert_eq!(switch.verdict, Verdict::Missing);
        assert!(switch.next_step.as_ref().is_some_and(|s| s.contains("firmware")));
        assert_eq!(row(&rows, "next-RIP").verdict, Verdict::Good);
        assert_eq!(row(&rows, "decode").verdict, Verdict::Weak);
        assert_eq!(row(&rows, "address-space").verdict, Verdict::Good);
        assert!(!rows.iter().any(|row| row.item.starts_with("EPT")));
    }

    #[test]
    fn above_a_core_nobody_is_told_to_turn_virtualization_on() {
        let cpu = Cpu { vendor: Vendor::Amd, ..Cpu::default() };
        assert!(rows(&cpu, true).iter().all(|row| row.topic != VIRTUALIZATION));
        assert!(rows(&cpu, false).iter().any(|row| row.topic == VIRTUALIZATION));
    }

    #[test]
    fn a_cloud_guest_without_virtualization_is_sent_to_its_hypervisor() {
        let cpu = Cpu { vendor: Vendor::Amd, virtualized: true, ..Cpu::default() };
        let rows = rows(&cpu, false);
        let none = row(&rows, "SVM (");
        assert_eq!(none.verdict, Verdict::Missing);
        assert!(none.next_step.as_ref().is_some_and(|s| s.contains("nested")));
    }
}
