//! From the machine's CPUID to a guest's.

use hypervisor_abi::{CPUID_LEAF, CPUID_SIGNATURE, CpuidRow, VERSION};

use super::bits::{self, bit, xcr0};
use super::table::{CpuidError, CpuidTable};
use super::{EAX, EBX, ECX, EDX, leaf, topology};

/// The first block of hypervisor leaves spells the interface that guests' kernels look for. With this
/// one and no feature bit, Linux uses x2APIC without interrupt remapping and nothing else.
const INTERFACE_SIGNATURE: [u8; 12] = *b"KVMKVMKVM\0\0\0";
/// The last leaves that are passed on.
const LAST_BASIC: u32 = leaf::TOPOLOGY_V2;
const LAST_EXTENDED: u32 = leaf::FEATURES_AMD;

/// What of the machine this core, on this processor, can switch between guests and control.
#[derive(Clone, Copy, Debug)]
pub struct Capabilities {
    /// XCR0 bits whose state the core saves.
    pub xcr0: u64,
    /// RDTSCP and RDPID can be let through and IA32_TSC_AUX is switched.
    pub tsc_aux: bool,
    /// The second-level page tables reach this many physical address bits.
    pub physical_bits: u8,
}

/// An answer that spells `name` in EBX, ECX and EDX.
pub fn spell(eax: u32, name: [u8; 12]) -> [u32; 4] {
    let word = |at: usize| u32::from_le_bytes([name[at], name[at + 1], name[at + 2], name[at + 3]]);
    [eax, word(0), word(4), word(8)]
}

fn insert_hypervisor(table: &mut CpuidTable) -> Result<(), CpuidError> {
    let interface = spell(leaf::HYPERVISOR_FEATURES, INTERFACE_SIGNATURE);
    table.insert(leaf::HYPERVISOR, None, interface)?;
    table.insert(leaf::HYPERVISOR_FEATURES, None, [0; 4])?;
    table.insert(CPUID_LEAF, None, spell(VERSION, CPUID_SIGNATURE))
}

/// What the core can give a guest with one processor. `host` executes CPUID with a leaf and a subleaf.
///
/// # Errors
///
/// [`CpuidError::TooManyRows`] on a machine with more leaves than a table has rows.
pub fn supported(
    host: impl Fn(u32, u32) -> [u32; 4],
    capabilities: &Capabilities,
) -> Result<CpuidTable, CpuidError> {
    let mut table = CpuidTable::new(0);
    for leaf in (leaf::VENDOR..=LAST_BASIC).chain(leaf::EXTENDED..=LAST_EXTENDED) {
        let exists = leaf <= host(leaf & leaf::EXTENDED, 0)[EAX];
        let answer = if exists { host(leaf, 0) } else { [0; 4] };
        let [a, b, c, d] = answer;
        match leaf {
            // x2APIC without leaf B would be a processor that never was.
            leaf::VENDOR => {
                table.insert(leaf, None, [a.clamp(leaf::XSAVE, LAST_BASIC), b, c, d])?;
            }
            leaf::THERMAL => table.insert(leaf, None, [0; 4])?,
            leaf::FEATURES => {
                table.insert(leaf, Some(0), [a.min(2), b, c, d])?;
                for subleaf in 1..=a.min(2) {
                    table.insert(leaf, Some(subleaf), host(leaf, subleaf))?;
                }
            }
            leaf::TOPOLOGY => insert_levels(&mut table, leaf)?,
            _ if !exists => {}
            leaf::CACHES | leaf::CACHES_AMD => insert_caches(&mut table, leaf, &host)?,
            leaf::XSAVE if table.has(leaf::VERSION, 0, ECX, bit::XSAVE) => {
                insert_xsave(&mut table, capabilities, &host)?;
            }
            leaf::TOPOLOGY_V2 => insert_levels(&mut table, leaf)?,
            leaf::EXTENDED => table.insert(leaf, None, [a.min(LAST_EXTENDED), b, c, d])?,
            leaf::SIZES => {
                let physical = (a as u8).min(capabilities.physical_bits);
                // Physical and linear address bits; no guest-physical ones of its own.
                table.insert(leaf, None, [a & 0xff00 | u32::from(physical), b, c, d])?;
            }
            _ if bits::allowed(leaf, 0).is_some() || free(leaf) => {
                table.insert(leaf, None, answer)?;
            }
            _ => {}
        }
    }
    insert_hypervisor(&mut table)?;
    if !capabilities.tsc_aux {
        table.clear(leaf::FEATURES, 0, ECX, bit::RDPID);
        table.clear(leaf::EXTENDED_FEATURES, 0, EDX, bit::RDTSCP);
    }
    close(&mut table);
    topology::arrange(&mut table, 0, 1);
    Ok(table)
}

/// The two levels of a topology, for [`topology::arrange`] to fill.
fn insert_levels(table: &mut CpuidTable, leaf: u32) -> Result<(), CpuidError> {
    table.insert(leaf, Some(0), [0; 4])?;
    table.insert(leaf, Some(1), [0; 4])
}

/// Leaves that list caches until one of type 0 (SDM 2A CPUID leaf 4, APM 3 E.4.15).
fn insert_caches(
    table: &mut CpuidTable,
    leaf: u32,
    host: &impl Fn(u32, u32) -> [u32; 4],
) -> Result<(), CpuidError> {
    const MOST: u32 = 8;
    (0..MOST)
        .map(|subleaf| (subleaf, host(leaf, subleaf)))
        .take_while(|(_, answer)| answer[EAX] & 0x1f != 0)
        .try_for_each(|(subleaf, answer)| table.insert(leaf, Some(subleaf), answer))
}

/// Leaf D for the components that processor and core both know.
fn insert_xsave(
    table: &mut CpuidTable,
    capabilities: &Capabilities,
    host: &impl Fn(u32, u32) -> [u32; 4],
) -> Result<(), CpuidError> {
    let [low, _, _, high] = host(leaf::XSAVE, 0);
    let offered = u64::from(high) << 32 | u64::from(low);
    let components = legal_xcr0(offered & capabilities.xcr0 & xcr0::KNOWN);
    insert_components(table, components, |component| host(leaf::XSAVE, component))?;
    // `close` fills in the sizes.
    table.insert(leaf::XSAVE, Some(0), [components as u32, 0, 0, (components >> 32) as u32])?;
    table.insert(leaf::XSAVE, Some(1), host(leaf::XSAVE, 1))
}

/// Where each of `components` but x87 and SSE lies, as `row` tells.
fn insert_components(
    table: &mut CpuidTable,
    components: u64,
    row: impl Fn(u32) -> [u32; 4],
) -> Result<(), CpuidError> {
    (2..63)
        .filter(|component| components >> component & 1 != 0)
        .try_for_each(|component| table.insert(leaf::XSAVE, Some(component), row(component)))
}

/// The part of `components` that can be set together (SDM 1 13.3).
pub(crate) const fn legal_xcr0(mut components: u64) -> u64 {
    components |= xcr0::X87 | xcr0::SSE;
    if components & xcr0::AVX == 0 || components & xcr0::AVX512 != xcr0::AVX512 {
        components &= !xcr0::AVX512;
    }
    components
}

/// Leaves that describe the machine and promise nothing: root may write what it likes there.
const fn free(leaf: u32) -> bool {
    use leaf::{
        BRAND, BRAND_END, CACHE_DESCRIPTORS, CACHES, CACHES_AMD, FREQUENCY, L1, L2_L3,
        PERFORMANCE_HINTS, TLB_1G, TOPOLOGY, TOPOLOGY_AMD, TOPOLOGY_V2, TSC,
    };
    matches!(leaf, CACHE_DESCRIPTORS | CACHES | TOPOLOGY | TSC | FREQUENCY | TOPOLOGY_V2)
        || matches!(leaf, BRAND..=BRAND_END | L1 | L2_L3 | TLB_1G | PERFORMANCE_HINTS)
        || matches!(leaf, CACHES_AMD | TOPOLOGY_AMD)
}

/// The table of a vCPU with `apic_id` that root asked for with `rows`, cut down to what `supported`
/// offers. Leaves that the core does not know are left out; those of hypervisors are the core's.
///
/// # Errors
///
/// When a row is malformed, there are two for one question, or more than a table holds.
pub fn restrict(
    rows: impl IntoIterator<Item = CpuidRow>,
    supported: &CpuidTable,
    apic_id: u32,
) -> Result<CpuidTable, CpuidError> {
    let mut table = CpuidTable::new(apic_id);
    insert_hypervisor(&mut table)?;
    for CpuidRow { leaf, subleaf, indexed, reserved, answer } in rows {
        if indexed > 1 || reserved != 0 {
            return Err(CpuidError::BadRow(leaf));
        }
        let subleaf = if indexed == 1 { subleaf } else { 0 };
        let known =
            leaf >> 28 != leaf::HYPERVISOR >> 28 && (free(leaf) || supported.contains(leaf));
        // The processor decides where components of XSAVE lie.
        if known && (leaf != leaf::XSAVE || subleaf <= 1) {
            // Leaf D and 7 have subleaves whatever the row says.
            let indexed = indexed == 1 || matches!(leaf, leaf::XSAVE | leaf::FEATURES);
            let answer = cut(leaf, subleaf, answer, supported.lookup(leaf, subleaf));
            table.insert(leaf, indexed.then_some(subleaf), answer)?;
        }
    }
    if table.contains(leaf::XSAVE) {
        let components = legal_xcr0(table.xcr0() & supported.xcr0());
        insert_components(&mut table, components, |component| {
            supported.lookup(leaf::XSAVE, component)
        })?;
    }
    close(&mut table);
    table.set_apic_id(apic_id);
    Ok(table)
}

/// What is left of `asked` where `offered` is all there is. Bits that tell of several processors are
/// free: a table for one does not offer them. So is the promise of a counter whose rate never changes: it is no
/// feature but a fact, which root's kernel may know better than the processor tells it.
fn cut(leaf: u32, subleaf: u32, asked: [u32; 4], offered: [u32; 4]) -> [u32; 4] {
    let [a, b, c, d] = asked;
    let both = [EAX, EBX, ECX, EDX].map(|register| asked[register] & offered[register]);
    let smaller = |mask: u32| (a & mask).min(offered[EAX] & mask);
    match (leaf, subleaf) {
        (leaf::VENDOR | leaf::EXTENDED, _) => [smaller(u32::MAX), b, c, d],
        (leaf::VERSION, _) => [a, b, both[ECX], both[EDX] | d & bit::HTT],
        (leaf::EXTENDED_FEATURES, _) => [a, b, both[ECX] | c & bit::CMP_LEGACY, both[EDX]],
        (leaf::SIZES, _) => [smaller(0xff) | smaller(0xff00), both[EBX], c, 0],
        (leaf::FEATURES, 0) => [smaller(u32::MAX), both[EBX], both[ECX], both[EDX]],
        (leaf::POWER, _) => [0, 0, 0, d],
        _ if free(leaf) => asked,
        _ => both,
    }
}

/// Cuts the lists of features to what may be seen, drops features without what they need, and adds
/// what the core gives on any machine.
fn close(table: &mut CpuidTable) {
    table.edit(|leaf, subleaf, answer| {
        if let Some(allowed) = bits::allowed(leaf, subleaf) {
            *answer = [EAX, EBX, ECX, EDX].map(|register| answer[register] & allowed[register]);
        }
    });
    let xsave = table.has(leaf::VERSION, 0, ECX, bit::XSAVE) && table.contains(leaf::XSAVE);
    let xcr0 = if xsave { legal_xcr0(table.xcr0()) } else { 0 };
    for (leaf, subleaf, register, mask, components) in bits::WITH_XSAVE {
        if xcr0 & components != *components {
            table.clear(*leaf, *subleaf, *register, *mask);
        }
    }
    // With all components the standard form is as large as it can be.
    let largest = table.xsave_size(xcr0, false);
    // The local APIC, its timer and the counter's adjustment are the core's own.
    table.edit(|leaf, subleaf, answer| match (leaf, subleaf) {
        (leaf::VERSION, _) => {
            answer[ECX] |= bit::X2APIC | bit::TSC_DEADLINE | bit::HYPERVISOR;
            if xcr0 == 0 {
                answer[ECX] &= !bit::XSAVE;
            }
            answer[EDX] |= bit::APIC;
        }
        (leaf::THERMAL, _) => answer[EAX] |= bit::ARAT,
        (leaf::FEATURES, 0) => answer[EBX] |= bit::TSC_ADJUST,
        (leaf::XSAVE, 0) => *answer = [xcr0 as u32, largest, largest, (xcr0 >> 32) as u32],
        _ => {}
    });
}
