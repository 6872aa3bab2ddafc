//! One virtual CPU's control block, its accessors, and the world switch.
#![allow(unsafe_code)]

use super::enable::{CLEAN_BITS, DECODE_ASSISTS, FLUSH_BY_TAG, NEXT_RIP};
use super::switch::world_switch;
use super::vmcb::{Vmcb, VmcbSegment, clean, code, intercept1, intercept2, tlb, vintr};
use super::{SvmCpu, exits};
use crate::event;
use crate::exit::{Event, Exit};
use crate::memory::Object;
use crate::registers::{DR6_BS, EFER_SVME, RFLAGS_IF, RFLAGS_TF};
use crate::vcpu::Setup;
use hypervisor_abi::{DescriptorTable, Segment, SegmentName, SystemRegisters};

const DEBUG: u8 = 1;
const ALIGNMENT_CHECK: u8 = 17;
const SECURITY: u8 = 30;
const RAX: usize = 0;
const RSP: usize = 4;

/// Where the control block has the segment registers, by [`SegmentName`], and the tables.
const SEGMENTS: [usize; 8] = [0, 1, 2, 3, 4, 5, 7, 9];
const GDT: usize = 6;
const IDT: usize = 8;

/// Copies fields of the same name.
macro_rules! copy {
    ($from:ident => $to:ident: $($field:ident),*) => {
        $($to.$field = $from.$field;)*
    };
}

/// The IRET that ends the blocking of NMIs is about to run. SVM tells before it, never behind it
/// (APM 2 15.21.9): it is single-stepped.
#[derive(Clone, Copy, Debug)]
struct Iret {
    /// RIP and RSP at the IRET.
    at: (u64, u64),
    /// The guest itself has RFLAGS.TF set.
    stepped_by_guest: bool,
    /// #DB exits anyway.
    watched: bool,
}

/// A virtual CPU as SVM runs it.
#[repr(C)]
pub struct SvmContext {
    /// RAX, RCX, ... as [`GeneralRegisters`](hypervisor_abi::GeneralRegisters) orders them. First, as
    /// with VMX: [`Context`](crate::vcpu::Context) finds them without asking whose they are.
    pub general: [u64; 16],
    pub(super) vmcb: Object<Vmcb>,
    nmi_blocked: bool,
    /// The IRET that ends the blocking: until it is done they are blocked. One NMI too
    /// early would be pushed over the frame that IRET is about to pop.
    iret: Option<Iret>,
    window: bool,
}

impl SvmContext {
    /// A control block of the kind `setup` describes. `None` when the core is out of memory.
    pub fn new(setup: &Setup) -> Option<Self> {
        // SAFETY: all zeros is a control block.
        let mut vmcb = unsafe { Object::<Vmcb>::zeroed() }?;
        vmcb.nested_control = 1;
        vmcb.nested_cr3 = setup.second_level;
        vmcb.msrpm_base = setup.msr_map.0;
        vmcb.iopm_base = setup.port_map.0;
        vmcb.asid = setup.tag;
        vmcb.tsc_offset = setup.tsc_offset;
        vmcb.efer = EFER_SVME;
        vmcb.intercept2 = intercept2::VMRUN
            | intercept2::VMMCALL
            | intercept2::SVM_INSTRUCTIONS
            | intercept2::XSETBV;
        vmcb.intercept1 = intercept1::NMI
            | intercept1::CPUID
            | intercept1::INVLPGA
            | intercept1::MSRS
            | intercept1::SHUTDOWN;
        // INIT arrives as #SX (APM 2 15.28, VM_CR.R_INIT).
        vmcb.intercept_exceptions = 1 << SECURITY;
        if setup.root {
            // What a processor does that goes off line, and what turns the machine off.
            vmcb.intercept2 |= intercept2::WBINVD;
            vmcb.intercept1 |= intercept1::PORTS;
        } else {
            vmcb.intercept1 |= intercept1::INTR
                | intercept1::INIT
                | intercept1::RDPMC
                | intercept1::INVD
                | intercept1::HLT
                | intercept1::PORTS
                | intercept1::TASK_SWITCH;
            vmcb.intercept2 |= intercept2::WBINVD | intercept2::MONITOR | intercept2::RDPRU;
            vmcb.virtual_interrupt = vintr::MASKING;
            // #AC and #DB loops could keep a guest in the processor for ever (CVE-2015-8104).
            vmcb.intercept_exceptions |= 1 << ALIGNMENT_CHECK | 1 << DEBUG;
        }
        Some(Self { vmcb, general: [0; 16], nmi_blocked: false, iret: None, window: false })
    }

    /// Runs the guest on this processor until it exits. Inlined: the caller keeps its registers on the
    /// stack already, and so does the world switch.
    #[inline(always)]
    pub fn enter(&mut self, cpu: &SvmCpu) -> Exit {
        let vmcb = &mut *self.vmcb;
        vmcb.rax = self.general[RAX];
        vmcb.rsp = self.general[RSP];
        if !cpu.has(CLEAN_BITS) {
            vmcb.clean = 0;
        }
        // SAFETY: the control block is one `new` made and whose address only this module sets; the
        // processor runs SVM (`SvmCpu` exists); the nested tables keep the guest off the core's memory.
        unsafe { world_switch(self.vmcb.physical().0, cpu.host.physical().0, &mut self.general) };
        let vmcb = &mut *self.vmcb;
        self.general[RAX] = vmcb.rax;
        self.general[RSP] = vmcb.rsp;
        vmcb.clean = clean::ALL;
        vmcb.tlb_control = tlb::KEEP;
        vmcb.event_injection = exits::unfinished(vmcb.exit_interrupt_info);
        let at = (vmcb.rip, vmcb.rsp);
        match self.iret {
            Some(iret) if iret.at != at => self.iret_done(iret),
            _ => exits::read(self),
        }
    }

    /// The guest is about to execute IRET while NMIs are blocked.
    pub(super) fn iret_begins(&mut self) {
        let vmcb = &mut *self.vmcb;
        self.iret = Some(Iret {
            at: (vmcb.rip, vmcb.rsp),
            stepped_by_guest: vmcb.rflags & RFLAGS_TF != 0,
            watched: vmcb.intercept_exceptions & 1 << DEBUG != 0,
        });
        // The trap comes behind the IRET, with the flags the IRET has loaded.
        vmcb.rflags |= RFLAGS_TF;
        vmcb.intercept_exceptions |= 1 << DEBUG;
        self.intercept_iret(false);
    }

    /// The IRET is done, or has ended in an exception: NMIs come through again. The trap behind it is
    /// the core's own, unless the guest steps too.
    fn iret_done(&mut self, iret: Iret) -> Exit {
        self.nmi_blocked = false;
        self.iret = None;
        if !iret.watched {
            self.vmcb.intercept_exceptions &= !(1 << DEBUG);
            self.dirty(clean::INTERCEPTS);
        }
        let exit = exits::read(self);
        let trap = matches!(exit, Exit::Exception { vector: DEBUG, .. });
        if trap && !iret.stepped_by_guest && self.vmcb.dr6 & DR6_BS != 0 {
            self.vmcb.dr6 &= !DR6_BS;
            self.dirty(clean::DEBUG);
            return Exit::NmiWindow;
        }
        exit
    }

    fn intercept_iret(&mut self, wanted: bool) {
        if wanted {
            self.vmcb.intercept1 |= intercept1::IRET;
        } else {
            self.vmcb.intercept1 &= !intercept1::IRET;
        }
        self.dirty(clean::INTERCEPTS);
    }

    /// Makes HLT exit, or not.
    pub fn watch_halt(&mut self, wanted: bool) {
        if wanted {
            self.vmcb.intercept1 |= intercept1::HLT;
        } else {
            self.vmcb.intercept1 &= !intercept1::HLT;
        }
        self.dirty(clean::INTERCEPTS);
    }

    fn dirty(&mut self, bits: u32) {
        self.vmcb.clean &= !bits;
    }

    /// Another processor runs it next: one may keep an older state of the control block than the last
    /// one's, and is told to read all of it (APM 2 15.15.2).
    pub fn arrive(&mut self) {
        self.vmcb.clean = 0;
    }

    /// RIP.
    pub fn rip(&self) -> u64 {
        self.vmcb.rip
    }

    /// Sets RIP.
    pub fn set_rip(&mut self, rip: u64) {
        self.vmcb.rip = rip;
    }

    /// RFLAGS.
    pub fn rflags(&self) -> u64 {
        match self.iret {
            Some(iret) if !iret.stepped_by_guest => self.vmcb.rflags & !RFLAGS_TF,
            _ => self.vmcb.rflags,
        }
    }

    /// Sets RFLAGS.
    pub fn set_rflags(&mut self, rflags: u64) {
        self.vmcb.rflags = rflags;
        if let Some(iret) = &mut self.iret {
            iret.stepped_by_guest = rflags & RFLAGS_TF != 0;
            self.vmcb.rflags |= RFLAGS_TF;
        }
    }

    /// Goes on behind the instruction of `length` bytes that exited.
    #[inline]
    pub fn advance(&mut self, length: u64) {
        let vmcb = &mut *self.vmcb;
        let next = vmcb.rip.wrapping_add(length);
        // Outside 64-bit code the instruction pointer has 32 bits (APM 2 1.2.4).
        let long = vmcb.segments[SegmentName::Cs as usize].attributes & 1 << 9 != 0;
        vmcb.rip = if long { next } else { next & 0xffff_ffff };
        vmcb.interrupt_shadow = 0;
    }

    /// The guest has made a step: it takes #DB next, with DR6.BS (APM 2 13.1.4).
    pub fn step(&mut self) {
        self.vmcb.dr6 |= DR6_BS;
        self.dirty(clean::DEBUG);
        self.inject(Event::Exception { vector: DEBUG, error: None });
    }

    /// Length of the instruction that exited, where the processor knows it.
    #[inline]
    pub fn instruction_length(&self, cpu: &SvmCpu) -> Option<u64> {
        let vmcb = &*self.vmcb;
        if vmcb.exit_code == code::PORT {
            // The exit names the next RIP itself (APM 2 15.10.2).
            return Some(vmcb.exit_info2.wrapping_sub(vmcb.rip));
        }
        cpu.has(NEXT_RIP).then(|| vmcb.next_rip.wrapping_sub(vmcb.rip))
    }

    /// Bytes of the instruction that exited, where the processor has fetched them.
    pub fn instruction_bytes(&self, cpu: &SvmCpu) -> Option<([u8; 15], usize)> {
        let vmcb = &*self.vmcb;
        let count = usize::from(vmcb.fetched & 0xf);
        (cpu.has(DECODE_ASSISTS) && count > 0).then_some((vmcb.instruction, count))
    }

    /// CR0.
    pub fn cr0(&self) -> u64 {
        self.vmcb.cr0
    }

    /// CR3.
    pub fn cr3(&self) -> u64 {
        self.vmcb.cr3
    }

    /// CR4.
    pub fn cr4(&self) -> u64 {
        self.vmcb.cr4
    }

    /// EFER as the guest sees it.
    pub fn efer(&self) -> u64 {
        self.vmcb.efer & !EFER_SVME
    }

    /// Nothing: with nested paging the processor reads them from memory (APM 2 15.25.10).
    pub fn set_directory_pointers(&mut self, _: &[[u8; 8]]) {}

    /// Sets IA32_DEBUGCTL of the guest, which only a processor with LBR virtualization switches
    /// (APM 2 15.23); without it the register stays the core's, which is 0.
    pub fn set_debug_control(&mut self, value: u64) {
        self.vmcb.debug_control = value;
    }

    /// Sets CR2.
    pub fn set_cr2(&mut self, value: u64) {
        self.vmcb.cr2 = value;
        self.dirty(clean::CR2);
    }

    /// Sets EFER, checked by the caller.
    pub fn set_efer(&mut self, value: u64) {
        self.vmcb.efer = value | EFER_SVME;
        self.dirty(clean::CONTROL);
    }

    /// Sets IA32_PAT of the guest, checked by the caller.
    pub fn set_pat(&mut self, value: u64) {
        self.vmcb.pat = value;
        self.dirty(clean::NESTED);
    }

    /// Privilege level.
    pub fn cpl(&self) -> u8 {
        self.vmcb.cpl
    }

    /// The guest's CR8, when it is virtual.
    pub fn task_priority(&self) -> u8 {
        (self.vmcb.virtual_interrupt & 0xf) as u8
    }

    /// Sets it.
    pub fn set_task_priority(&mut self, value: u8) {
        let old = self.vmcb.virtual_interrupt;
        let new = old & !vintr::TPR | u64::from(value & 0xf);
        if old != new {
            self.vmcb.virtual_interrupt = new;
            self.dirty(clean::INTERRUPT);
        }
    }

    /// Whether an external interrupt would be taken now.
    pub fn accepts_interrupt(&self) -> bool {
        self.vmcb.rflags & RFLAGS_IF != 0
            && self.vmcb.interrupt_shadow & 1 == 0
            && !self.event_waits()
    }

    /// Whether an NMI would be taken now.
    pub fn accepts_nmi(&self) -> bool {
        !self.nmi_blocked && self.vmcb.interrupt_shadow & 1 == 0 && !self.event_waits()
    }

    /// Whether an event waits for the next entry.
    pub fn event_waits(&self) -> bool {
        self.vmcb.event_injection & event::VALID != 0
    }

    /// The vector of the exception that waits for the next entry.
    pub fn exception_waits(&self) -> Option<u8> {
        event::exception(self.vmcb.event_injection)
    }

    /// Makes the guest take `new` at its next entry.
    pub fn inject(&mut self, new: Event) {
        self.vmcb.event_injection = event::word(new);
        if new == Event::Nmi {
            self.nmi_blocked = true;
            self.iret = None;
            self.intercept_iret(true);
        }
    }

    /// Asks for an exit as soon as the guest can take an external interrupt.
    pub fn request_window(&mut self, wanted: bool) {
        if self.window == wanted {
            return;
        }
        self.window = wanted;
        let vmcb = &mut *self.vmcb;
        if wanted {
            vmcb.intercept1 |= intercept1::VINTR;
            vmcb.virtual_interrupt |= vintr::PENDING | vintr::IGNORE_TPR | vintr::PRIORITY;
        } else {
            vmcb.intercept1 &= !intercept1::VINTR;
            vmcb.virtual_interrupt &= !(vintr::PENDING | vintr::IGNORE_TPR | vintr::PRIORITY);
        }
        self.dirty(clean::INTERCEPTS | clean::INTERRUPT);
    }

    /// An NMI waits. True when a window for interrupts is to be asked for: at the end of a shadow it
    /// opens at once, where the guest has interrupts on; else the next exit is soon enough. While NMIs are
    /// blocked the exits of the IRET come first.
    pub fn await_nmi(&mut self) -> bool {
        !self.nmi_blocked
    }

    /// Makes the next entry forget all translations of this guest.
    pub fn flush_tlb(&mut self, cpu: &SvmCpu) {
        self.vmcb.tlb_control =
            if cpu.has(FLUSH_BY_TAG) { tlb::FLUSH_GUEST } else { tlb::FLUSH_ALL };
    }

    /// Sets the offset of the guest's time-stamp counter.
    pub fn set_tsc_offset(&mut self, offset: u64) {
        self.vmcb.tsc_offset = offset;
        self.dirty(clean::INTERCEPTS);
    }

    /// Base, limit and attributes of a segment register.
    pub fn segment(&self, name: SegmentName) -> Segment {
        unpack(&self.vmcb.segments[SEGMENTS[name as usize]])
    }

    /// What of the system state the control block holds; the rest is left as it is.
    pub fn read_system(&self, into: &mut SystemRegisters) {
        let vmcb = &*self.vmcb;
        copy!(vmcb => into: cr0, cr2, cr3, cr4, pat, syscall, kernel_gs_base, sysenter, tsc_offset);
        into.segments = SEGMENTS.map(|place| unpack(&vmcb.segments[place]));
        let table = |place: usize| {
            let VmcbSegment { base, limit, .. } = vmcb.segments[place];
            DescriptorTable { base, limit: u64::from(limit) }
        };
        (into.gdt, into.idt) = (table(GDT), table(IDT));
        into.cr8 = u64::from(self.task_priority());
        into.efer = self.efer();
        (into.debug[4], into.debug[5]) = (vmcb.dr6, vmcb.dr7);
    }

    /// Sets what of the system state the control block holds. Checked by the caller. Pending events
    /// and interrupt shadows end.
    pub fn write_system(&mut self, from: &SystemRegisters) {
        let vmcb = &mut *self.vmcb;
        copy!(from => vmcb: cr0, cr2, cr3, cr4, pat, syscall, kernel_gs_base, sysenter, tsc_offset);
        for (place, segment) in SEGMENTS.into_iter().zip(&from.segments) {
            vmcb.segments[place] = pack(segment);
        }
        for (place, DescriptorTable { base, limit }) in [(GDT, from.gdt), (IDT, from.idt)] {
            (vmcb.segments[place].base, vmcb.segments[place].limit) = (base, limit as u32);
        }
        vmcb.cpl = (from.segments[SegmentName::Ss as usize].attributes >> 5 & 3) as u8;
        vmcb.efer = from.efer | EFER_SVME;
        (vmcb.dr6, vmcb.dr7) = (from.debug[4], from.debug[5]);
        vmcb.event_injection = 0;
        vmcb.interrupt_shadow = 0;
        vmcb.clean = 0;
        self.nmi_blocked = false;
        self.iret = None;
        self.intercept_iret(false);
        self.request_window(false);
        self.set_task_priority(from.cr8 as u8);
    }
}

/// The control block keeps attribute bits 8 to 11 where VMX and the interface have 12 to 15.
fn unpack(from: &VmcbSegment) -> Segment {
    Segment {
        base: from.base,
        limit: from.limit,
        selector: from.selector,
        attributes: from.attributes & 0xff | (from.attributes & 0xf00) << 4,
    }
}

fn pack(from: &Segment) -> VmcbSegment {
    VmcbSegment {
        base: from.base,
        limit: from.limit,
        selector: from.selector,
        attributes: from.attributes & 0xff | (from.attributes & 0xf000) >> 4,
    }
}
