//! Model-specific registers as guests see them.
//!
//! Every number is of one kind: the processor's own, emulated here, somebody else's in
//! the core (the local APIC, EFER), constant, dangerous, or not there. [`read()`] and [`write()`] follow
//! from that; so do the bitmaps that let the processor's own through without an exit. What is in no
//! list faults.

mod bitmap;
mod kind;
mod mtrr;
mod state;
#[cfg(test)]
mod tests;

pub use bitmap::{KEPT_ON_VMX, fill_bitmap, set_exits};
pub use state::{Changed, MsrState, PAT_RESET, read, write};

/// A register of the local APIC that is reached as an MSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApicMsr {
    /// IA32_APIC_BASE.
    Base,
    /// IA32_TSC_DEADLINE.
    TscDeadline,
    /// x2APIC register, by its number from MSR 800H on: its offset in the xAPIC page divided by 16
    /// (SDM 3A 11.12.1.2).
    X2apic(u8),
}

/// How RDMSR and WRMSR end that are not answered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Other {
    /// The processor's own register; the exit was not needed.
    Processor,
    /// The guest's EFER. Before it is written: [`validate::efer`](crate::validate::efer).
    Efer,
    /// A register of the local APIC.
    Apic(ApicMsr),
    /// #GP(0).
    Fault,
    /// #GP(0), and counted.
    Refused,
}
