//! Leaves that tell how processors are arranged: here one package of cores with one thread each.

use super::bits::bit;
use super::features::Vendor;
use super::table::CpuidTable;
use super::{EAX, EBX, ECX, EDX, leaf};

/// Level types of leaf B (SDM 2A CPUID).
const LEVEL_THREADS: u32 = 1 << 8;
const LEVEL_CORES: u32 = 2 << 8;

/// Makes the table that of processor `apic_id` of `processors` in one package.
pub fn arrange(table: &mut CpuidTable, apic_id: u32, processors: u32) {
    let processors = processors.max(1);
    let others = processors - 1;
    let amd = Vendor::of(table) == Vendor::Amd;
    // Bits of an APIC id inside the package.
    let shift = u32::BITS - apic_id.max(others).leading_zeros();
    let several = |mask| if processors > 1 { mask } else { 0 };
    table.edit(|leaf, subleaf, answer| match leaf {
        leaf::VERSION => {
            // Logical processors in the package, 8 bits.
            answer[EBX] = answer[EBX] & !0x00ff_0000 | processors.min(255) << 16;
            answer[EDX] = answer[EDX] & !bit::HTT | several(bit::HTT);
        }
        // EAX 25-14: ids that share the cache less 1; 31-26 of leaf 4: cores in the package less 1.
        leaf::CACHES | leaf::CACHES_AMD => {
            let level = answer[EAX] >> 5 & 7;
            let sharing = if level >= 3 { others.min(0xfff) } else { 0 };
            let cores = if leaf == leaf::CACHES { others.min(0x3f) } else { 0 };
            answer[EAX] = answer[EAX] & 0x3fff | sharing << 14 | cores << 26;
        }
        leaf::TOPOLOGY | leaf::TOPOLOGY_V2 => {
            *answer = match subleaf {
                0 => [0, 1, LEVEL_THREADS, 0],
                1 => [shift, processors.min(0xffff), LEVEL_CORES | 1, 0],
                _ => [0, 0, subleaf & 0xff, 0],
            };
        }
        leaf::EXTENDED_FEATURES => {
            let legacy = if amd { several(bit::CMP_LEGACY) } else { 0 };
            answer[ECX] = answer[ECX] & !bit::CMP_LEGACY | legacy;
        }
        // ECX 7-0: cores less 1; 15-12: bits of an APIC id that number them.
        leaf::SIZES => answer[ECX] = if amd { others.min(0xff) | shift.min(15) << 12 } else { 0 },
        // EBX: core id, threads of it less 1; ECX: node 0, one node.
        leaf::TOPOLOGY_AMD => *answer = [0, apic_id & 0xff, 0, 0],
        _ => {}
    });
    table.set_apic_id(apic_id);
}
