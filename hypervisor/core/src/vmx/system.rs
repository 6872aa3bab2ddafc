//! Segments, control registers and the rest of the system state: between the VMCS, the few registers
//! VMX does not switch, and the words of the core's interface.
#![allow(unsafe_code)]

use core::array;

use hypervisor_abi::{Segment, SegmentName, SystemRegisters};
use x86::vmx::vmcs::control::{self as field, EntryControls};
use x86::vmx::vmcs::guest;

use super::context::VmxContext;
use super::controls::Kind;
use super::unswitched::{Changing, Unswitched};
use super::vmcs::Cached;
use crate::registers::{CR0_CD, CR0_NW, CR0_PG, CR4_VMXE, EFER_LMA, EFER_LME};

/// Fields of the nth segment register by [`SegmentName`]: the VMCS has them in that order, two apart
/// (SDM 3D B.1.2, B.3.3, B.4.3).
pub(super) const fn segment_field(first: u32, segment: usize) -> u32 {
    first + 2 * segment as u32
}

pub(super) const CS: usize = SegmentName::Cs as usize;
pub(super) const SS: usize = SegmentName::Ss as usize;
pub(super) const TASK: usize = SegmentName::Task as usize;
const _: () = assert!(segment_field(guest::ES_BASE, TASK) == guest::TR_BASE);
const _: () = assert!(segment_field(guest::ES_LIMIT, TASK) == guest::TR_LIMIT);
const _: () = assert!(segment_field(guest::ES_SELECTOR, TASK) == guest::TR_SELECTOR);
const _: () = assert!(segment_field(guest::ES_ACCESS_RIGHTS, SS) == guest::SS_ACCESS_RIGHTS);

/// Access rights: the segment is unusable (SDM 3C table 25-2).
pub(super) const UNUSABLE: u32 = 1 << 16;
/// Attributes of the interface: P.
const PRESENT: u16 = 1 << 7;
/// S: code or data.
const CODE_OR_DATA: u16 = 1 << 4;
/// G.
const PAGES: u16 = 1 << 15;

/// Access rights as attributes: a segment that is not usable is not present.
const fn attributes(access: u32) -> u16 {
    let attributes = access as u16 & 0xf0ff;
    if access & UNUSABLE == 0 { attributes } else { attributes & !PRESENT }
}

/// Access rights and limit of a segment as VMX takes it (SDM 3C 27.3.1.2): accessed, a busy task, and
/// a limit that its granularity can express.
const fn access_and_limit(segment: &Segment, name: usize) -> (u32, u32) {
    let mut attributes = segment.attributes & 0xf0ff;
    let mut limit = segment.limit;
    if attributes & PRESENT == 0 && name != CS && name != TASK {
        return (attributes as u32 | UNUSABLE, limit);
    }
    if name == TASK {
        attributes |= 0b10;
    } else if attributes & CODE_OR_DATA != 0 {
        attributes |= 1;
    }
    if limit >> 20 != 0 {
        attributes |= PAGES;
        limit |= 0xfff;
    } else if limit & 0xfff != 0xfff {
        attributes &= !PAGES;
    }
    (attributes as u32, limit)
}

/// The access rights that are kept.
const fn kept_access(segment: usize) -> Option<Cached> {
    match segment {
        CS => Some(Cached::CsAccess),
        SS => Some(Cached::SsAccess),
        _ => None,
    }
}

/// A field with a register that only root reads and sets, and where the interface has it.
type Plain = (u32, fn(&mut SystemRegisters) -> &mut u64);

const PLAIN: [Plain; 10] = [
    (guest::GDTR_BASE, |system| &mut system.gdt.base),
    (guest::GDTR_LIMIT, |system| &mut system.gdt.limit),
    (guest::IDTR_BASE, |system| &mut system.idt.base),
    (guest::IDTR_LIMIT, |system| &mut system.idt.limit),
    (guest::DR7, |system| &mut system.debug[5]),
    (guest::IA32_PAT_FULL, |system| &mut system.pat),
    (guest::IA32_SYSENTER_CS, |system| &mut system.sysenter[0]),
    (guest::IA32_SYSENTER_ESP, |system| &mut system.sysenter[1]),
    (guest::IA32_SYSENTER_EIP, |system| &mut system.sysenter[2]),
    (field::TSC_OFFSET_FULL, |system| &mut system.tsc_offset),
];

impl VmxContext {
    /// CR0 as the guest sees it.
    pub fn cr0(&self) -> u64 {
        self.cr0.seen(self.vmcs.get(Cached::Cr0))
    }

    /// CR3.
    pub fn cr3(&self) -> u64 {
        self.vmcs.get(Cached::Cr3)
    }

    /// CR4 as the guest sees it.
    pub fn cr4(&self) -> u64 {
        self.cr4.seen(self.vmcs.get(Cached::Cr4))
    }

    /// EFER.
    pub fn efer(&self) -> u64 {
        self.vmcs.get(Cached::Efer)
    }

    /// Sets CR0, checked by the caller.
    fn set_cr0(&mut self, value: u64) {
        let wanted = match self.kind {
            Kind::Root => value,
            // The caches are the machine's, not a guest's.
            Kind::Guest => value & !(CR0_CD | CR0_NW),
        };
        self.vmcs.set(Cached::Cr0, self.capabilities.cr0.unrestricted().apply(wanted));
        self.cr0.show(&self.vmcs, value);
        self.set_mode();
    }

    /// Sets CR2.
    pub fn set_cr2(&mut self, value: u64) {
        self.cr2 = value;
    }

    /// Sets CR4, checked by the caller.
    fn set_cr4(&mut self, value: u64) {
        self.vmcs.set(Cached::Cr4, self.capabilities.cr4.apply(value & !self.cr4.mask | CR4_VMXE));
        self.cr4.show(&self.vmcs, value);
        self.stale = true;
    }

    /// Sets EFER, checked by the caller.
    pub fn set_efer(&mut self, value: u64) {
        self.vmcs.set(Cached::Efer, value);
        self.set_mode();
    }

    /// Long mode is active with LME and paging (SDM 3A 2.2.1), and an entry must say so.
    fn set_mode(&mut self) {
        let efer = self.efer();
        let long = efer & EFER_LME != 0 && self.vmcs.get(Cached::Cr0) & CR0_PG != 0;
        let (lma, entry) =
            if long { (EFER_LMA, EntryControls::IA32E_MODE_GUEST.bits()) } else { (0, 0) };
        self.vmcs.set(Cached::Efer, efer & !EFER_LMA | lma);
        // SAFETY: the guest's mode.
        unsafe { self.vmcs.write(field::VMENTRY_CONTROLS, u64::from(self.entry_controls | entry)) };
        self.stale = true;
    }

    pub(super) fn in_64_bit_code(&self) -> bool {
        self.efer() & EFER_LMA != 0 && self.vmcs.get(Cached::CsAccess) & 1 << 13 != 0
    }

    /// Privilege level: always SS.DPL (SDM 3C 25.4.1).
    pub fn cpl(&self) -> u8 {
        (self.vmcs.get(Cached::SsAccess) >> 5 & 3) as u8
    }

    /// Sets IA32_PAT of the guest, checked by the caller.
    pub fn set_pat(&mut self, value: u64) {
        self.vmcs.write_guest(guest::IA32_PAT_FULL, value);
    }

    /// Sets the page-directory pointers an entry with PAE paging takes from the VMCS (SDM 3C 27.3.2.4).
    pub fn set_directory_pointers(&mut self, pointers: &[[u8; 8]]) {
        for (place, pointer) in (0..4).zip(pointers) {
            self.vmcs.write_guest(guest::PDPTE0_FULL + 2 * place, u64::from_le_bytes(*pointer));
        }
    }

    /// Sets IA32_DEBUGCTL of the guest, which is switched at every entry and exit.
    pub fn set_debug_control(&mut self, value: u64) {
        self.vmcs.write_guest(guest::IA32_DEBUGCTL_FULL, value);
    }

    /// Sets the offset of the guest's time-stamp counter. Root's is the machine's own.
    pub fn set_tsc_offset(&mut self, offset: u64) {
        // SAFETY: changes only what the guest reads.
        unsafe { self.vmcs.write(field::TSC_OFFSET_FULL, offset) };
    }

    /// Base, limit and attributes of a segment register.
    pub fn segment(&self, name: SegmentName) -> Segment {
        self.nth_segment(name as usize)
    }

    fn nth_segment(&self, segment: usize) -> Segment {
        let read = |first| self.vmcs.read(segment_field(first, segment));
        let access = kept_access(segment)
            .map_or_else(|| read(guest::ES_ACCESS_RIGHTS), |kept| self.vmcs.get(kept));
        Segment {
            base: read(guest::ES_BASE),
            limit: read(guest::ES_LIMIT) as u32,
            selector: read(guest::ES_SELECTOR) as u16,
            attributes: attributes(access as u32),
        }
    }

    /// What of the system state VMX holds; the rest is left as it is. System-call registers and DR6 as
    /// at the last [`Self::leave`].
    pub fn read_system(&self, into: &mut SystemRegisters) {
        into.segments = array::from_fn(|segment| self.nth_segment(segment));
        for (number, place) in PLAIN {
            *place(into) = self.vmcs.read(number);
        }
        into.cr0 = self.cr0();
        into.cr2 = self.cr2;
        into.cr3 = self.cr3();
        into.cr4 = self.cr4();
        into.cr8 = u64::from(self.task_priority);
        into.efer = self.efer();
        let Unswitched { syscall, changing } = self.unswitched;
        into.syscall = syscall;
        into.kernel_gs_base = changing.kernel_gs_base;
        into.debug[4] = changing.dr6;
    }

    /// Sets what of the system state VMX holds. Checked by the caller. Pending events and interrupt
    /// shadows end, and the guest is active.
    pub fn write_system(&mut self, from: &SystemRegisters) {
        for (index, segment) in from.segments.iter().enumerate() {
            let (access, limit) = access_and_limit(segment, index);
            if let Some(kept) = kept_access(index) {
                self.vmcs.set(kept, u64::from(access));
            }
            for (first, value) in [
                (guest::ES_SELECTOR, u64::from(segment.selector)),
                (guest::ES_BASE, segment.base),
                (guest::ES_LIMIT, u64::from(limit)),
                (guest::ES_ACCESS_RIGHTS, u64::from(access)),
            ] {
                self.vmcs.write_guest(segment_field(first, index), value);
            }
        }
        let mut plain = *from;
        plain.gdt.limit &= 0xffff;
        plain.idt.limit &= 0xffff;
        plain.debug[5] &= 0xffff_ffff;
        let fields = PLAIN.map(|(number, place)| (number, *place(&mut plain)));
        // SAFETY: guest registers, and what the guest reads of the time-stamp counter; an entry that
        // injects nothing into an active guest.
        unsafe {
            self.vmcs.write_all(fields);
            self.vmcs.write_all([
                (guest::ACTIVITY_STATE, 0),
                (guest::PENDING_DBG_EXCEPTIONS, 0),
                (guest::IA32_DEBUGCTL_FULL, 0),
                (field::VMENTRY_INTERRUPTION_INFO_FIELD, 0),
            ]);
        }
        self.cr2 = from.cr2;
        self.task_priority = from.cr8 as u8;
        self.vmcs.set(Cached::Cr3, from.cr3);
        self.vmcs.set(Cached::Efer, from.efer);
        self.set_cr4(from.cr4);
        self.set_cr0(from.cr0);
        self.unswitched = Unswitched {
            syscall: from.syscall,
            changing: Changing { kernel_gs_base: from.kernel_gs_base, dr6: from.debug[4] },
        };
        self.unswitched_changed = true;
        self.vmcs.set(Cached::Interruptibility, 0);
        self.pending = 0;
        self.request_window(false);
        self.request_nmi_window(false);
    }
}

#[cfg(test)]
mod tests {
    use super::{CS, SS, TASK, UNUSABLE, access_and_limit, attributes};
    use hypervisor_abi::{Segment, SegmentName};

    const ES: usize = SegmentName::Es as usize;
    const DS: usize = SegmentName::Ds as usize;

    fn segment(attributes: u16, limit: u32) -> Segment {
        Segment { attributes, limit, ..Segment::default() }
    }

    #[test]
    fn a_null_segment_is_unusable_and_comes_back_absent() {
        let null = segment(0, 0);
        let (access, _) = access_and_limit(&null, DS);
        assert_eq!(access, UNUSABLE);
        assert_eq!(attributes(access), 0);
        // A processor leaves other bits in an unusable segment.
        assert_eq!(attributes(0x1_c093), 0xc013);
        // A null SS keeps its privilege level.
        let (access, _) = access_and_limit(&segment(0x60, 0), SS);
        assert_eq!(access >> 5 & 3, 3);
    }

    #[test]
    fn segments_are_given_what_vmx_insists_on() {
        // Data never accessed; an available task segment.
        assert_eq!(access_and_limit(&segment(0x92, 0xffff), DS).0, 0x93);
        assert_eq!(access_and_limit(&segment(0x89, 0x67), TASK).0, 0x8b);
        // Limit and granularity.
        assert_eq!(access_and_limit(&segment(0x0093, u32::MAX), ES), (0x8093, u32::MAX));
        assert_eq!(access_and_limit(&segment(0x809b, 0x1234), CS), (0x9b, 0x1234));
        assert_eq!(access_and_limit(&segment(0xa09b, 0xfff), CS), (0xa09b, 0xfff));
    }
}
