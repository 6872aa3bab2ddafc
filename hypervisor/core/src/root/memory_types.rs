//! Memory types of root's memory. AMD combines nested tables with the MTRRs itself (APM 2 15.25.8); on
//! Intel the second-level tables must repeat what the MTRRs say, also after root has changed them
//! (SDM 3C 29.3.7).

use super::{Root, forget_everywhere};
use crate::cpu::{control, exceptions, msr};
use crate::memory_type::{MemoryType, Mtrrs};
use crate::processor::has_vmx;
use crate::second_level::SecondLevel;
use hypervisor_boot::memory_map::Span;
use units::{Bytes, GuestPhysical, HostPhysical};

/// IA32_MTRR_PHYSBASE0 and the fixed ranges' registers up to IA32_MTRR_FIX4K_F8000; IA32_PAT comes
/// later (SDM 4 table 2-2).
pub(super) const MTRRS: core::ops::RangeInclusive<u32> = 0x200..=0x26f;
/// IA32_MTRR_DEF_TYPE and its bit E (SDM 3A 12.11.2.1).
pub(super) const DEFAULT_TYPE: u32 = 0x2ff;
const ENABLED: u64 = 1 << 11;
/// CPUID 1 EDX: MTRR.
const CPUID_MTRR: u32 = 1 << 12;

/// This processor's MTRRs, where root's tables must repeat them and they are in use.
pub(super) fn current() -> Option<Mtrrs> {
    if !has_vmx() || control::cpuid(1, 0)[3] & CPUID_MTRR == 0 {
        return None;
    }
    let bits = control::cpuid(0x8000_0008, 0)[0] as u8;
    (msr::read(DEFAULT_TYPE) & ENABLED != 0).then(|| Mtrrs::read(bits, msr::read))
}

/// Maps `span` for root one to one, with the types `mtrrs` says.
pub(super) fn map(tables: &mut SecondLevel, span: Span, mtrrs: Option<&Mtrrs>) -> Option<()> {
    match mtrrs {
        None => super::map(tables, span, MemoryType::WriteBack),
        Some(mtrrs) => mtrrs.ranges(span.start, span.size()).try_for_each(|range| {
            super::map(tables, Span::of(range.start, range.bytes), range.memory_type)
        }),
    }
}

/// The type of one page.
pub(super) fn of_page(page: HostPhysical) -> MemoryType {
    current().map_or(MemoryType::Uncacheable, |mtrrs| mtrrs.type_of(page))
}

impl Root {
    /// Root writes an MTRR on this processor: false when the processor refuses. The tables follow as
    /// soon as the MTRRs are in use and say something new; while root changes them they are not.
    pub(super) fn write_mtrr(&self, index: u32, value: u64) -> bool {
        // SAFETY: the core's own memory keeps the type its page tables give it: write-back memory that
        // the MTRRs make uncacheable stays coherent.
        #[expect(unsafe_code, reason = "a register of root's machine")]
        let written = unsafe { exceptions::try_write_msr(index, value) };
        if written && let Some(new) = current() {
            let mut known = self.mtrrs.lock();
            if *known != Some(new) {
                *known = Some(new);
                self.retype(&new);
            }
        }
        written
    }

    fn retype(&self, mtrrs: &Mtrrs) {
        let mut tables = self.tables.lock();
        for range in mtrrs.ranges(HostPhysical(0), Bytes(self.mapped)) {
            let at = GuestPhysical(range.start.0);
            if tables.set_memory_type(at, range.bytes, range.memory_type).is_err() {
                crate::log!("out of memory: root's memory from {at} on keeps its old type");
            }
        }
        forget_everywhere();
        tables.release_retired();
    }
}
