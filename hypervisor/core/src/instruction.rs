//! Instructions of guests that exited: their length where the processor does not say it, their bytes,
//! and the memory they name. The only place where the core reads what a guest's page tables lead to.

use crate::decode::{AddressSpace, DecodeError, Instruction, MAX_LENGTH, Mode, decode};
use crate::exit::{Event, Exit, GENERAL_PROTECTION, INVALID_OPCODE};
use crate::processor::Vendor;
use crate::registers::{CR4_LA57, EFER_LMA};
use crate::vcpu::{Context, Run};
use crate::walk::{self, Access, Paging, walk};
use core::ops::Range;
use hypervisor_abi::{Segment, SegmentName};
use units::{GuestPhysical, PAGE_SIZE};

/// Privilege level of programs.
pub(crate) const USER: u8 = 3;
/// CS.L and CS.D in a segment's attributes.
const LONG: u16 = 1 << 13;
const DEFAULT: u16 = 1 << 14;

/// Why an instruction cannot be carried out.
pub enum Trouble {
    /// The guest gets this.
    Fault(Event),
    /// The guest gets a page fault at this address, for CR2, with this error code.
    PageFault(u64, u32),
    /// Not one the core emulates: its bytes, the first lowest.
    Unsupported(u128),
}

pub(crate) type Outcome<T> = Result<T, Trouble>;

/// The shortest encoding of what caused `exit`: what almost every instruction is.
const fn usual_length(exit: &Exit) -> u64 {
    match exit {
        Exit::Hypercall | Exit::SetExtendedControl => 3,
        Exit::Halt => 1,
        _ => 2,
    }
}

/// Bytes of the instruction of root's that caused `exit`. Root is trusted with its own code: where the
/// processor does not say, the usual length holds.
pub fn length_of_root(context: &Context, vendor: &Vendor, exit: &Exit) -> u64 {
    context.instruction_length(vendor).unwrap_or(usual_length(exit))
}

/// Where [`Inner::lengths`](crate::vcpu::Inner::lengths) has the instruction at `rip`.
const fn slot(rip: u64) -> usize {
    (rip ^ rip >> 5) as usize % 32
}

/// Bytes of the guest's instruction that caused `exit`.
#[inline(always)]
pub(crate) fn length_of_guest(run: &mut Run<'_>, exit: &Exit) -> u64 {
    if let Some(length) = run.held.context.instruction_length(&run.cpu.vendor) {
        return length;
    }
    let rip = run.held.context.rip();
    let tag = run.held.context.cr3() ^ (exit.kind() as u64) << 56;
    match run.held.lengths[slot(rip)] {
        (at, kind, length) if at == rip && kind == tag && length != 0 => length,
        _ => find_length(run, exit, rip, tag),
    }
}

/// The same, from the instruction itself.
#[cold]
#[inline(never)]
fn find_length(run: &mut Run<'_>, exit: &Exit, rip: u64, tag: u64) -> u64 {
    let length = run.decode().map_or(usual_length(exit), |(decoded, _)| decoded.length.into());
    run.held.lengths[slot(rip)] = (rip, tag, length);
    length
}

/// How the guest's processor reads code, and what effective addresses need.
pub(crate) fn address_space(context: &Context) -> AddressSpace {
    use SegmentName::{Cs, Ds, Es, Fs, Gs, Ss};
    let code = context.segment(Cs).attributes;
    let mode = if context.efer() & EFER_LMA != 0 && code & LONG != 0 {
        Mode::Bits64
    } else if code & DEFAULT != 0 {
        Mode::Bits32
    } else {
        Mode::Bits16
    };
    let bases = [Es, Cs, Ss, Ds, Fs, Gs].map(|name| context.segment(name).base);
    AddressSpace { mode, bases, five_levels: context.cr4() & CR4_LA57 != 0 }
}

/// Whether limit and rights of a segment allow an access outside 64-bit mode (SDM 3A 5.3, 5.5).
pub(crate) fn allows(segment: &Segment, offset: u64, width: u8, write: bool) -> bool {
    let has = |bit| segment.attributes & bit != 0;
    let (present, code, down, right) = (has(1 << 7), has(1 << 3), has(1 << 2), has(1 << 1));
    let permitted = if write { !code && right } else { !code || right };
    let (limit, end) = (u64::from(segment.limit), offset.wrapping_add(u64::from(width) - 1));
    // Expand-down data segments reach from above the limit to the end (SDM 3A 5.3).
    let inside = if down && !code {
        offset > limit && end <= if has(DEFAULT) { 0xffff_ffff } else { 0xffff }
    } else {
        end <= limit
    };
    present && permitted && inside
}

/// Decodes what is at `rip`, whose bytes `fetch` brings, none past a page's end at once.
fn decode_at<E>(
    rip: u64,
    space: &AddressSpace,
    bytes: &mut [u8; 16],
    mut fetch: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
) -> Result<Result<Instruction, DecodeError>, E> {
    let linear = space.linear(SegmentName::Cs, rip).unwrap_or(rip);
    // The part on this page first: what follows may lie on a page that is not there.
    let first = (PAGE_SIZE - linear % PAGE_SIZE).min(MAX_LENGTH as u64) as usize;
    fetch(linear, &mut bytes[..first])?;
    let mut result = decode(&bytes[..first], space.mode);
    if result == Err(DecodeError::Incomplete) && first < MAX_LENGTH {
        let next = linear.wrapping_add(first as u64);
        fetch(next, &mut bytes[first..MAX_LENGTH])?;
        result = decode(bytes, space.mode);
    }
    Ok(result)
}

/// The instruction of root's at RIP; `None` when `fetch` cannot bring its bytes.
pub(crate) fn decode_with(
    context: &Context,
    vendor: &Vendor,
    mut fetch: impl FnMut(u64, &mut [u8]) -> Option<()>,
) -> Option<Instruction> {
    let space = address_space(context);
    if let Some((bytes, count)) = context.instruction_bytes(vendor)
        && let Ok(decoded) = decode(&bytes[..count], space.mode)
    {
        return Some(decoded);
    }
    let fetch = |at: u64, into: &mut [u8]| fetch(at, into).ok_or(());
    decode_at(context.rip(), &space, &mut [0; 16], fetch).ok()?.ok()
}

impl Run<'_> {
    /// The instruction at the guest's RIP, and what its addresses need.
    pub(crate) fn decode(&mut self) -> Outcome<(Instruction, AddressSpace)> {
        let space = address_space(&self.held.context);
        let context = &self.held.context;
        if let Some((bytes, count)) = context.instruction_bytes(&self.cpu.vendor)
            && let Ok(decoded) = decode(&bytes[..count], space.mode)
        {
            return Ok((decoded, space));
        }
        let mut bytes = [0; 16];
        let rip = context.rip();
        let result =
            decode_at(rip, &space, &mut bytes, |at, into| self.read(at, into, Access::Fetch))?;
        result.map(|decoded| (decoded, space)).map_err(|error| match error {
            DecodeError::Invalid => Trouble::Fault(INVALID_OPCODE),
            DecodeError::TooLong | DecodeError::Incomplete => Trouble::Fault(GENERAL_PROTECTION),
            DecodeError::Unsupported => Trouble::Unsupported(u128::from_le_bytes(bytes)),
        })
    }

    /// Where a linear address leads for the guest's present privilege. Protection keys are checked where
    /// the processor makes the access; operands that only the core reaches pass, for PKRU lies in the
    /// guest's extended state.
    pub(crate) fn translate(&mut self, linear: u64, access: Access) -> Outcome<GuestPhysical> {
        let context = &self.held.context;
        let features = &self.held.msrs.features;
        let paging = Paging {
            cr0: context.cr0(),
            cr3: context.cr3(),
            cr4: context.cr4(),
            efer: context.efer(),
            rflags: context.rflags(),
            user: context.cpl() == USER,
            physical_bits: features.physical_bits,
            gigabyte_pages: features.gigabyte_pages,
        };
        let read = |address| {
            let host = self.partition.translate(address)?.host;
            Some(self.cpu.window.read_u64(host))
        };
        walk(read, &paging, linear, access).map_err(|error| match error {
            walk::Error::PageFault(code) => Trouble::PageFault(linear, code),
            _ => Trouble::Fault(GENERAL_PROTECTION),
        })
    }

    /// Calls `part` for the pieces of a range that lie on one page each; false from it is memory the
    /// guest has not.
    fn pieces(
        &mut self,
        linear: u64,
        length: usize,
        access: Access,
        mut part: impl FnMut(&mut Self, GuestPhysical, Range<usize>) -> bool,
    ) -> Outcome<()> {
        let mut done = 0;
        while done < length {
            let at = linear.wrapping_add(done as u64);
            let count = (length - done).min((PAGE_SIZE - at % PAGE_SIZE) as usize);
            let physical = self.translate(at, access)?;
            if !part(self, physical, done..done + count) {
                return Err(Trouble::Fault(GENERAL_PROTECTION));
            }
            done += count;
        }
        Ok(())
    }

    /// Reads memory the guest names.
    pub(crate) fn read(&mut self, linear: u64, into: &mut [u8], access: Access) -> Outcome<()> {
        self.pieces(linear, into.len(), access, |run, physical, range| {
            run.partition.read(&mut run.cpu.window, physical, &mut into[range])
        })
    }

    /// Writes memory the guest names; nothing of it where its page tables forbid a part.
    pub(crate) fn write(&mut self, linear: u64, bytes: &[u8]) -> Outcome<()> {
        self.check_write(linear, bytes.len())?;
        self.pieces(linear, bytes.len(), Access::Write, |run, physical, range| {
            run.partition.write(&mut run.cpu.window, physical, &bytes[range])
        })
    }

    /// Whether the guest may write memory it names.
    pub(crate) fn check_write(&mut self, linear: u64, length: usize) -> Outcome<()> {
        self.pieces(linear, length, Access::Write, |_, _, _| true)
    }
}

#[cfg(test)]
mod tests {
    use super::{Segment, allows};

    #[test]
    fn segments_allow_what_their_limits_and_types_do() {
        let writable = Segment { limit: 0xff, attributes: 0x93, ..Segment::default() };
        assert!(allows(&writable, 0xff, 1, true));
        assert!(!allows(&writable, 0xfe, 4, true));
        let absent = Segment { attributes: 0x13, ..writable };
        assert!(!allows(&absent, 0, 1, false));
        let constant = Segment { attributes: 0x91, ..writable };
        assert!(allows(&constant, 0, 4, false) && !allows(&constant, 0, 4, true));
        let code = Segment { attributes: 0x9b, ..writable };
        assert!(allows(&code, 0, 4, false) && !allows(&code, 0, 4, true));
        let down = Segment { attributes: 0x97, ..writable };
        assert!(allows(&down, 0x100, 4, true) && !allows(&down, 0xff, 4, true));
        assert!(!allows(&down, 0xfffe, 4, true));
        assert!(allows(&Segment { attributes: 0x4097, ..down }, 0xfffe, 4, true));
    }
}
