//! The one place where values that guests or root supply are checked. Each function is named after
//! what it protects and answers the value in a form that cannot be wrong, or what is wrong with it.
//! Nothing here touches hardware or changes state; nothing elsewhere trusts a value that has not been
//! here. (What CPUID tables and MSRs mean is checked where it is known, in `cpuid` and `msr`, with
//! functions of this module.)

mod address;
mod control;
mod memory_type;
mod segment;
mod state;
#[cfg(test)]
mod tests;

use hypervisor_abi::SegmentName;

pub use address::{RangeError, canonical, guest_pages, memory_access, physical_mask, pool_pages};
pub use control::{apic_base, cr8, efer, xsetbv, xsetbv_of_root};
pub use memory_type::{fixed_range, memory_type_default, pat, variable_range};
pub use segment::SegmentError;
pub use state::vcpu_state;

/// What is wrong with a register, or with a vCPU's state as a whole. A guest gets #GP(0) for each but
/// [`Self::Undefined`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// These bits of a control register are reserved, or CPUID does not show their feature.
    Reserved(u64),
    /// CR0.PG without CR0.PE.
    PagingWithoutProtection,
    /// CR0.NW without CR0.CD.
    NotWriteThroughWithoutCacheDisable,
    /// Long mode without CR4.PAE.
    LongModeWithoutPae,
    /// EFER.LME changed with paging on.
    LongModeEnableWithPaging,
    /// EFER.LMA is not EFER.LME and CR0.PG.
    LongModeActiveMismatch,
    /// CR4.PCIDE outside long mode.
    PcidsOutsideLongMode,
    /// CR4.CET without CR0.WP.
    CetWithoutWriteProtect,
    /// This XCR0 lacks x87 state, or has a component without what it needs.
    Components(u64),
    /// #UD: XSETBV while CR4.OSXSAVE is clear.
    Undefined,
    /// XSETBV outside kernel mode, or of a register that does not exist.
    Privilege,
    /// No such activity, or the reserved word is not zero.
    Activity(u32),
    /// RFLAGS has reserved bits, lacks bit 1, or asks for virtual-8086 mode where there is none.
    Flags(u64),
    /// RIP does not fit the mode.
    InstructionPointer(u64),
    /// A segment register.
    Segment(SegmentName, SegmentError),
    /// The limit of GDTR or IDTR has more than 16 bits, or its base is not canonical.
    DescriptorTable(u64),
    /// DR6 or DR7 has bits of the upper half.
    Debug(u64),
    /// IA32_PAT names a type that does not exist.
    Pat(u64),
    /// An address in an MSR is not canonical.
    Address(u64),
    /// IA32_APIC_BASE has reserved bits or asks for x2APIC mode while off.
    ApicBase(u64),
    /// A value has more bits than its register.
    Wide(u64),
}

/// A rule and what is wrong where it does not hold.
const fn ensure<E: Copy>(holds: bool, error: E) -> Result<(), E> {
    if holds { Ok(()) } else { Err(error) }
}
