//! Segment registers.

use hypervisor_abi::{Segment, SegmentName, SystemRegisters};

use super::{canonical, ensure};
use crate::registers::{CR0_PE, CR4_LA57, EFER_LMA, RFLAGS_VM};

/// What is wrong with a segment register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentError {
    /// Attribute bits 8 to 11 are reserved.
    Reserved,
    /// CS or the task register is absent.
    Absent,
    /// The type, or the S bit, does not fit the register.
    Type,
    /// The privilege level does not fit the register or the mode.
    Privilege,
    /// L and D are both set in long mode.
    LongAndDefault,
    /// The limit cannot come from a descriptor with that G bit.
    Limit,
    /// The base has bits it cannot have.
    Base,
    /// The selector is in a local table.
    Selector,
    /// Not as virtual-8086 mode has it.
    Virtual8086,
}

// Attribute bits (SDM 3C 25.4.1 table 25-2).
const TYPE: u16 = 0xf;
const CODE_OR_DATA: u16 = 1 << 4;
const DPL: u16 = 3 << 5;
const PRESENT: u16 = 1 << 7;
const RESERVED: u16 = 0xf00;
pub(super) const LONG: u16 = 1 << 13;
const DEFAULT: u16 = 1 << 14;
const GRANULARITY: u16 = 1 << 15;

// Type bits of code and data segments (SDM 3A 3.4.5.1).
const ACCESSED: u16 = 1 << 0;
const READABLE: u16 = 1 << 1;
const CODE: u16 = 1 << 3;
/// Writable data, accessed: CS of real mode.
const REAL_MODE_CODE: u16 = ACCESSED | READABLE;

/// Present, privilege 3, writable data: all attributes in virtual-8086 mode.
const VIRTUAL_8086: u16 = 0xf3;
/// Selector bit 2: the descriptor is in the LDT.
const LOCAL: u16 = 1 << 2;

/// Register `name` of `system` as a VM entry with unrestricted guest accepts it; what SVM asks for is
/// less (SDM 3C 27.3.1.2, APM 2 15.5.1).
pub(super) fn segment(
    name: SegmentName,
    system: &SystemRegisters,
    rflags: u64,
) -> Result<(), SegmentError> {
    use SegmentName::{Cs, Ds, Es, Fs, Gs, Ldt, Ss, Task};
    let Segment { base, limit, selector, attributes } = system.segments[name as usize];
    let [code, stack] = [Cs, Ss].map(|name| system.segments[name as usize].attributes);
    let application = !matches!(name, Task | Ldt);

    if application && rflags & RFLAGS_VM != 0 {
        // Base, limit and attributes follow from the selector.
        let follows =
            base == u64::from(selector) << 4 && limit == 0xffff && attributes == VIRTUAL_8086;
        return ensure(follows, SegmentError::Virtual8086);
    }

    let protected = system.cr0 & CR0_PE != 0;
    let long_mode = system.efer & EFER_LMA != 0;
    let kind = attributes & TYPE;
    let privilege = attributes & DPL;
    let privilege_fits = match (name, kind) {
        (Cs, REAL_MODE_CODE) => privilege == 0,
        (Cs, 9 | 11) => privilege == stack & DPL || !protected,
        // Conforming.
        (Cs, _) => privilege <= stack & DPL || !protected,
        // Counts even when SS is null.
        (Ss, _) => privilege == 0 || protected && code & TYPE != REAL_MODE_CODE,
        _ => true,
    };
    ensure(privilege_fits, SegmentError::Privilege)?;
    let base_fits = match name {
        Cs | Ss | Ds | Es => base >> 32 == 0,
        Fs | Gs | Task | Ldt => canonical(base, system.cr4 & CR4_LA57 != 0),
    };
    // The bases of FS and GS are also MSRs and count without a segment.
    ensure(base_fits || attributes & PRESENT == 0 && !matches!(name, Fs | Gs), SegmentError::Base)?;
    if attributes & PRESENT == 0 {
        return ensure(!matches!(name, Cs | Task), SegmentError::Absent);
    }

    let type_fits = match name {
        Cs => matches!(kind, REAL_MODE_CODE | 9 | 11 | 13 | 15),
        Ss => matches!(kind, 3 | 7),
        Ds | Es | Fs | Gs => kind & ACCESSED != 0 && (kind & CODE == 0 || kind & READABLE != 0),
        // Busy TSS of 16 bits, or of 32 and 64.
        Task => kind == 11 || kind == 3 && !long_mode,
        Ldt => kind == 2,
    };
    let limit_fits = match attributes & GRANULARITY {
        0 => limit >> 20 == 0,
        _ => limit & 0xfff == 0xfff,
    };
    ensure(attributes & RESERVED == 0, SegmentError::Reserved)?;
    ensure(type_fits && (attributes & CODE_OR_DATA != 0) == application, SegmentError::Type)?;
    ensure(limit_fits, SegmentError::Limit)?;
    ensure(application || selector & LOCAL == 0, SegmentError::Selector)?;
    let both = name == Cs && attributes & (LONG | DEFAULT) == LONG | DEFAULT;
    ensure(!(both && long_mode), SegmentError::LongAndDefault)
}
