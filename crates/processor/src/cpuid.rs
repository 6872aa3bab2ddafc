//! What a guest sees in CPUID: the engine's offer, less what names or leaks the host, with the
//! machine's own topology: one package of single-threaded cores. Pure; called once per processor.
//!
//! Leaves not listed in [`passes`] read as zero: a leaf of a future engine has to be thought about
//! before a guest sees it.

use crate::CpuidEntry;
use alloc::vec::Vec;

/// CPUID.1:ECX (SDM 2A, table 3-10).
mod leaf1_ecx {
    /// DTES64, MONITOR, DS-CPL, VMX, SMX, EIST, TM2, SDBG, xTPR, PDCM, DCA: parts of the host
    /// that are not virtualized. OSXSAVE is the engine's to set as CR4 changes.
    pub(super) const HIDDEN: u32 = 1 << 2
        | 1 << 3
        | 1 << 4
        | 1 << 5
        | 1 << 6
        | 1 << 7
        | 1 << 8
        | 1 << 11
        | 1 << 14
        | 1 << 15
        | 1 << 18
        | 1 << 27;
    pub(super) const X2APIC: u32 = 1 << 21;
    pub(super) const HYPERVISOR: u32 = 1 << 31;
}

/// CPUID.1:EDX (SDM 2A, table 3-11).
mod leaf1_edx {
    /// PSN (serial number), DS, ACPI thermal, TM, PBE.
    pub(super) const HIDDEN: u32 = 1 << 18 | 1 << 21 | 1 << 22 | 1 << 29 | 1 << 31;
    pub(super) const HTT: u32 = 1 << 28;
}

/// CPUID.7.0 (SDM 2A, table 3-8).
mod leaf7 {
    /// EBX: SGX, RDT monitoring, RDT allocation, processor trace.
    pub(super) const EBX_HIDDEN: u32 = 1 << 2 | 1 << 12 | 1 << 15 | 1 << 25;
    /// ECX: key locker, PKS-less enclaves (SGX_LC).
    pub(super) const ECX_HIDDEN: u32 = 1 << 23 | 1 << 30;
    /// EDX: hybrid, PCONFIG, architectural LBR.
    pub(super) const EDX_HIDDEN: u32 = 1 << 15 | 1 << 18 | 1 << 19;
}

/// CPUID.8000_0001:ECX (APM 3, E.4.2).
mod extended_ecx {
    /// SVM, extended APIC space, OSVW, IBS, SKINIT, WDT, LWP, node id, performance counters (core,
    /// northbridge, L2), data breakpoints, performance TSC, MWAITX.
    pub(super) const HIDDEN: u32 = 1 << 2
        | 1 << 3
        | 1 << 9
        | 1 << 10
        | 1 << 12
        | 1 << 13
        | 1 << 15
        | 1 << 19
        | 1 << 23
        | 1 << 24
        | 1 << 26
        | 1 << 27
        | 1 << 28
        | 1 << 29;
    /// More than one core (AMD only).
    pub(super) const CMP_LEGACY: u32 = 1 << 1;
    /// Leaves 8000_001D and 8000_001E are there.
    pub(super) const TOPOLOGY: u32 = 1 << 22;
}

/// CPUID.6:EAX, the APIC timer runs in every power state (SDM 2A, table 3-8).
const ARAT: u32 = 1 << 2;
/// CPUID.8000_0007:EDX, the time-stamp counter never changes its rate (APM 3, E.4.6).
const INVARIANT_TSC: u32 = 1 << 8;
/// The last extended leaf a guest may see.
const LAST_EXTENDED: u32 = 0x8000_0021;
/// Topology levels of leaves 0BH and 1FH (SDM 2A, table 3-8).
const LEVEL_THREAD: u32 = 1;
const LEVEL_CORE: u32 = 2;

/// Leaves whose content (after [`restrict`]) a guest may see.
fn passes(leaf: u32) -> bool {
    matches!(
        leaf,
        0x0 | 0x1
            | 0x2
            | 0x4
            | 0x6
            | 0x7
            | 0xd
            | 0x15
            | 0x16
            | 0x1d
            | 0x1e
            | 0x24
            | 0x4000_0000..=0x4000_0001
            | 0x8000_0000..=0x8000_0008
            | 0x8000_0019
            | 0x8000_001a
            | 0x8000_001d
            | 0x8000_0021
    )
}

/// The leaves of processor `index` (its APIC id) of `count`, from what the engine can virtualize.
#[must_use]
pub fn guest_cpuid(supported: &[CpuidEntry], count: u32, index: u32) -> Vec<CpuidEntry> {
    let machine = Topology { count: count.max(1), index, amd: is_amd(supported) };
    let mut leaves: Vec<CpuidEntry> =
        supported.iter().filter(|entry| passes(entry.leaf)).copied().collect();
    for entry in &mut leaves {
        restrict(entry, &machine);
    }
    let x2apic = leaves.iter().any(|e| e.leaf == 1 && e.ecx & leaf1_ecx::X2APIC != 0);
    let last_basic = leaves.iter().find(|e| e.leaf == 0).map_or(0, |e| e.eax);
    if x2apic {
        leaves.extend(machine.extended_topology(0xb));
        if last_basic >= 0x1f && !machine.amd {
            leaves.extend(machine.extended_topology(0x1f));
        }
    }
    if machine.amd {
        leaves.push(machine.amd_identity());
    }
    cap_ranges(&mut leaves);
    leaves
}

/// Physical-address bits a guest sees (SDM 2A: CPUID.8000_0008:EAX[7:0]); 36 where none are told.
#[must_use]
pub fn physical_bits(leaves: &[CpuidEntry]) -> u32 {
    leaves.iter().find(|e| e.leaf == 0x8000_0008).map_or(36, |e| e.eax & 0xff)
}

/// Whether the vendor is AMD or Hygon, which share topology leaves.
#[must_use]
pub fn is_amd(leaves: &[CpuidEntry]) -> bool {
    leaves.iter().any(|e| {
        e.leaf == 0
            && matches!(
                &[e.ebx.to_le_bytes(), e.edx.to_le_bytes(), e.ecx.to_le_bytes()].concat()[..],
                b"AuthenticAMD" | b"HygonGenuine"
            )
    })
}

struct Topology {
    count: u32,
    index: u32,
    amd: bool,
}

impl Topology {
    /// APIC-id bits below the package.
    fn core_bits(&self) -> u32 {
        self.count.next_power_of_two().trailing_zeros()
    }

    /// Leaves 0BH and 1FH: threads, cores, end.
    fn extended_topology(&self, leaf: u32) -> [CpuidEntry; 3] {
        let level = |subleaf, shift, logical, kind: u32| CpuidEntry {
            leaf,
            subleaf,
            subleaf_matters: true,
            eax: shift,
            ebx: logical,
            ecx: subleaf | kind << 8,
            edx: self.index,
        };
        [
            level(0, 0, 1, LEVEL_THREAD),
            level(1, self.core_bits(), self.count & 0xffff, LEVEL_CORE),
            level(2, 0, 0, 0),
        ]
    }

    /// Leaf 8000_001E (APM 3, E.4.17): one thread per core, one node.
    fn amd_identity(&self) -> CpuidEntry {
        CpuidEntry {
            leaf: 0x8000_001e,
            eax: self.index,
            ebx: self.index & 0xff,
            ..CpuidEntry::default()
        }
    }

    /// Leaves 4 and 8000_001D, EAX[25:14]: who shares a cache. Levels 1 and 2 belong to a core, the
    /// rest to the package.
    fn share_cache(&self, eax: u32) -> u32 {
        let level = eax >> 5 & 0x7;
        let sharing = if level < 3 { 0 } else { (self.count.next_power_of_two() - 1).min(0xfff) };
        (eax & !(0xfff << 14)) | sharing << 14
    }
}

fn restrict(entry: &mut CpuidEntry, machine: &Topology) {
    match entry.leaf {
        0x1 => {
            let logical = machine.count.next_power_of_two().min(0xff);
            entry.ebx = (entry.ebx & 0xff00) | logical << 16 | (machine.index & 0xff) << 24;
            entry.ecx = (entry.ecx & !leaf1_ecx::HIDDEN) | leaf1_ecx::HYPERVISOR;
            entry.edx &= !leaf1_edx::HIDDEN;
            if machine.count > 1 {
                entry.edx |= leaf1_edx::HTT;
            } else {
                entry.edx &= !leaf1_edx::HTT;
            }
        }
        // EAX[4:0] is the cache's type; 0 ends the list.
        0x4 if entry.eax & 0x1f != 0 => {
            let cores = (machine.count.next_power_of_two() - 1).min(0x3f);
            entry.eax = (machine.share_cache(entry.eax) & !(0x3f << 26)) | cores << 26;
        }
        0x6 => *entry = CpuidEntry { eax: entry.eax & ARAT, ebx: 0, ecx: 0, edx: 0, ..*entry },
        0x7 if entry.subleaf == 0 => {
            entry.ebx &= !leaf7::EBX_HIDDEN;
            entry.ecx &= !leaf7::ECX_HIDDEN;
            entry.edx &= !leaf7::EDX_HIDDEN;
        }
        0x8000_0001 => {
            entry.ecx &=
                !(extended_ecx::HIDDEN | extended_ecx::CMP_LEGACY | extended_ecx::TOPOLOGY);
            if machine.amd {
                entry.ecx |= extended_ecx::TOPOLOGY;
                if machine.count > 1 {
                    entry.ecx |= extended_ecx::CMP_LEGACY;
                }
            }
        }
        0x8000_0007 => {
            *entry = CpuidEntry { eax: 0, ebx: 0, ecx: 0, edx: entry.edx & INVARIANT_TSC, ..*entry }
        }
        // APM 3, E.4.7: ECX[7:0] cores less one, ECX[15:12] APIC-id bits of a core.
        0x8000_0008 if machine.amd => {
            entry.ecx = (machine.count - 1).min(0xff) | machine.core_bits().min(0xf) << 12;
            entry.edx = 0;
        }
        0x8000_001d if entry.eax & 0x1f != 0 => entry.eax = machine.share_cache(entry.eax),
        _ => {}
    }
}

/// Makes leaf 0 and 8000_0000 name the last leaf that is there.
fn cap_ranges(leaves: &mut [CpuidEntry]) {
    let last = |from: u32, to: u32| {
        leaves
            .iter()
            .map(|e| e.leaf)
            .filter(|leaf| (from..=to).contains(leaf))
            .max()
            .unwrap_or(from)
    };
    let basic = last(0, 0x3fff_ffff);
    let engine = last(0x4000_0000, 0x4000_ffff);
    let extended = last(0x8000_0000, LAST_EXTENDED);
    for entry in leaves {
        match entry.leaf {
            0 => entry.eax = basic,
            0x4000_0000 => entry.eax = engine,
            0x8000_0000 => entry.eax = extended,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn leaf(leaf: u32, registers: [u32; 4]) -> CpuidEntry {
        CpuidEntry {
            leaf,
            subleaf: 0,
            subleaf_matters: false,
            eax: registers[0],
            ebx: registers[1],
            ecx: registers[2],
            edx: registers[3],
        }
    }

    fn vendor(name: &[u8; 12], last: u32) -> CpuidEntry {
        let word = |i: usize| u32::from_le_bytes(name[i..i + 4].try_into().unwrap());
        leaf(0, [last, word(0), word(8), word(4)])
    }

    /// A host that offers every bit of every leaf.
    fn everything(name: &[u8; 12]) -> Vec<CpuidEntry> {
        let mut all = vec![vendor(name, 0x24)];
        for number in (1..=0x24).chain(0x4000_0001..=0x4000_0001).chain(0x8000_0001..=0x8000_0028) {
            all.push(leaf(number, [u32::MAX; 4]));
        }
        all.push(leaf(0x4000_0000, [0x4000_0001, 0, 0, 0]));
        all.push(leaf(0x8000_0000, [0x8000_0028, 0, 0, 0]));
        all
    }

    fn find(leaves: &[CpuidEntry], leaf: u32, subleaf: u32) -> Option<CpuidEntry> {
        leaves
            .iter()
            .find(|e| e.leaf == leaf && (!e.subleaf_matters || e.subleaf == subleaf))
            .copied()
    }

    #[test]
    fn each_processor_sees_its_own_id_in_one_package_of_cores() {
        for (count, bits) in [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (200, 8)] {
            for index in [0, count - 1] {
                let leaves = guest_cpuid(&everything(b"GenuineIntel"), count, index);
                assert_eq!(find(&leaves, 1, 0).unwrap().ebx >> 24, index);
                for topology in [0xb, 0x1f] {
                    let thread = find(&leaves, topology, 0).unwrap();
                    let core = find(&leaves, topology, 1).unwrap();
                    assert_eq!((thread.eax, thread.ebx, thread.edx), (0, 1, index));
                    assert_eq!((core.eax, core.ebx, core.edx), (bits, count, index));
                    assert_eq!(find(&leaves, topology, 2).unwrap().ecx, 2);
                }
            }
        }
    }

    #[test]
    fn an_amd_guest_finds_its_cores_in_the_amd_leaves() {
        let leaves = guest_cpuid(&everything(b"AuthenticAMD"), 6, 4);
        let identity = find(&leaves, 0x8000_001e, 0).unwrap();
        assert_eq!((identity.eax, identity.ebx, identity.ecx), (4, 4, 0));
        assert_eq!(find(&leaves, 0x8000_0008, 0).unwrap().ecx, 5 | 3 << 12);
        assert!(find(&leaves, 0x1f, 0).is_none());
        let features = find(&leaves, 0x8000_0001, 0).unwrap().ecx;
        assert_ne!(features & extended_ecx::TOPOLOGY, 0);
        assert_ne!(features & extended_ecx::CMP_LEGACY, 0);
    }

    #[test]
    fn what_is_not_virtualized_is_hidden() {
        for name in [b"GenuineIntel", b"AuthenticAMD"] {
            let leaves = guest_cpuid(&everything(name), 2, 0);
            // Serial number, MONITOR, performance monitoring, SGX, trace, RDT, SVM, IBS, SEV.
            for hidden in [
                0x3,
                0x5,
                0x9,
                0xa,
                0xf,
                0x10,
                0x12,
                0x14,
                0x1a,
                0x8000_000a,
                0x8000_001b,
                0x8000_001f,
                0x8000_0022,
                0x8000_0026,
            ] {
                assert!(find(&leaves, hidden, 0).is_none(), "{hidden:#x}");
            }
            let one = find(&leaves, 1, 0).unwrap();
            assert_eq!(one.ecx & 1 << 5, 0, "VMX");
            assert_eq!(one.edx & 1 << 18, 0, "serial number");
            assert_ne!(one.ecx & leaf1_ecx::HYPERVISOR, 0);
            assert_eq!(find(&leaves, 6, 0).unwrap().eax, ARAT);
            assert_eq!(find(&leaves, 0x8000_0007, 0).unwrap().edx, INVARIANT_TSC);
            assert_eq!(find(&leaves, 0x8000_0001, 0).unwrap().ecx & 1 << 2, 0, "SVM");
        }
    }

    #[test]
    fn last_leaves_are_true_and_the_engine_leaves_stay() {
        let leaves = guest_cpuid(&everything(b"GenuineIntel"), 1, 0);
        assert_eq!(find(&leaves, 0, 0).unwrap().eax, 0x24);
        assert_eq!(find(&leaves, 0x8000_0000, 0).unwrap().eax, 0x8000_0021);
        assert_eq!(find(&leaves, 0x4000_0001, 0).unwrap().eax, u32::MAX);
    }

    #[test]
    fn caches_of_level_three_are_shared_by_the_package_only() {
        let mut offer = everything(b"GenuineIntel");
        offer.retain(|e| e.leaf != 4);
        for (subleaf, level) in [(0, 1), (1, 2), (2, 3)] {
            offer.push(CpuidEntry {
                subleaf,
                subleaf_matters: true,
                ..leaf(4, [1 | level << 5 | 0xfff << 14, 0, 0, 0])
            });
        }
        let leaves = guest_cpuid(&offer, 4, 0);
        let sharing = |subleaf| find(&leaves, 4, subleaf).unwrap().eax >> 14 & 0xfff;
        assert_eq!([sharing(0), sharing(1), sharing(2)], [0, 0, 3]);
        assert_eq!(find(&leaves, 4, 0).unwrap().eax >> 26, 3);
    }
}
