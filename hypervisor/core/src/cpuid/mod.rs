//! What guests see in CPUID.
//!
//! [`supported`] computes from the machine's own CPUID what the core can give guests: a feature is
//! offered only when it is on the list in `bits`, so whatever processors learn tomorrow stays hidden
//! until the core can virtualize it. [`restrict`] cuts what root asks for down to that.
//! [`CpuidTable::answer`] is the exit path. [`Features`] says what the rest of the core derives from a
//! guest's table: which bits of CR4, EFER and XCR0 exist for it.

mod bits;
mod features;
mod policy;
mod table;
#[cfg(test)]
mod tests;
mod topology;

pub(crate) use bits::xcr0;
pub use features::{Features, Vendor};
pub(crate) use policy::legal_xcr0;
pub use policy::{Capabilities, restrict, spell, supported};
pub use table::{CpuidError, CpuidTable, Dynamic};
pub use topology::arrange;

/// Leaves of CPUID (SDM 2A CPUID, APM 3 appendix E).
pub(crate) mod leaf {
    pub(crate) const VENDOR: u32 = 0;
    pub(crate) const VERSION: u32 = 1;
    pub(crate) const CACHE_DESCRIPTORS: u32 = 2;
    pub(crate) const CACHES: u32 = 4;
    pub(crate) const THERMAL: u32 = 6;
    pub(crate) const FEATURES: u32 = 7;
    pub(crate) const TOPOLOGY: u32 = 0xb;
    pub(crate) const XSAVE: u32 = 0xd;
    pub(crate) const TSC: u32 = 0x15;
    pub(crate) const FREQUENCY: u32 = 0x16;
    pub(crate) const TOPOLOGY_V2: u32 = 0x1f;
    /// The first block of leaves for hypervisors.
    pub(crate) const HYPERVISOR: u32 = 0x4000_0000;
    pub(crate) const HYPERVISOR_FEATURES: u32 = 0x4000_0001;
    pub(crate) const EXTENDED: u32 = 0x8000_0000;
    pub(crate) const EXTENDED_FEATURES: u32 = 0x8000_0001;
    pub(crate) const BRAND: u32 = 0x8000_0002;
    pub(crate) const BRAND_END: u32 = 0x8000_0004;
    pub(crate) const L1: u32 = 0x8000_0005;
    pub(crate) const L2_L3: u32 = 0x8000_0006;
    pub(crate) const POWER: u32 = 0x8000_0007;
    pub(crate) const SIZES: u32 = 0x8000_0008;
    pub(crate) const TLB_1G: u32 = 0x8000_0019;
    pub(crate) const PERFORMANCE_HINTS: u32 = 0x8000_001a;
    pub(crate) const CACHES_AMD: u32 = 0x8000_001d;
    pub(crate) const TOPOLOGY_AMD: u32 = 0x8000_001e;
    pub(crate) const FEATURES_AMD: u32 = 0x8000_0021;
}

/// Indices into an answer.
pub(crate) const EAX: usize = 0;
pub(crate) const EBX: usize = 1;
pub(crate) const ECX: usize = 2;
pub(crate) const EDX: usize = 3;
