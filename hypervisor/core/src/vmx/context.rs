//! One virtual CPU as VMX runs it: entry and exit, events and windows.
#![allow(unsafe_code)]

use x86::vmx::vmcs::control::{self as field, PrimaryControls};
use x86::vmx::vmcs::{guest, ro};

use super::capability::Capabilities;
use super::controls::Kind;
use super::enable::VmxCpu;
use super::instruction_error::{NON_CLEAR, VmxFailure};
use super::instructions::{failure, invept, invvpid, vmread};
use super::switch::{Ended, Registers, world_switch};
use super::unswitched::Unswitched;
use super::vmcs::{Cached, Vmcs};
use super::{diagnosis, exit_reason, exits};
use crate::cpu::control;
use crate::event;
use crate::exit::{Event, Exit};
use crate::registers::{CR0_PE, DR6_BS, RFLAGS_IF};
use crate::vcpu::Setup;

const RSP: usize = 4;
/// Guest interruptibility state (SDM 3C table 25-3): STI blocks, MOV SS blocks, (virtual) NMIs are
/// blocked.
pub(super) const BLOCKED_BY_STI: u64 = 1 << 0;
pub(super) const BLOCKED_BY_MOV_SS: u64 = 1 << 1;
pub(super) const NMI_BLOCKED: u64 = 1 << 3;
/// The shadow of an instruction that lets no interrupt come before the next one.
const SHADOW: u64 = BLOCKED_BY_STI | BLOCKED_BY_MOV_SS;

/// A virtual CPU as VMX runs it.
#[repr(C)]
pub struct VmxContext {
    /// First, as with SVM.
    pub(crate) registers: Registers,
    pub(super) vmcs: Vmcs,
    pub(super) kind: Kind,
    pub(super) setup: Setup,
    /// The controls it started with; the windows are kept in `primary`.
    pub(super) entry_controls: u32,
    pub(super) primary: u32,
    pub(super) cr0: Watched,
    pub(super) cr4: Watched,
    pub(super) unswitched: Unswitched,
    /// `unswitched` was set: what a processor has loaded is old.
    pub(super) unswitched_changed: bool,
    pub(super) cr2: u64,
    pub(super) task_priority: u8,
    /// What the next entry injects ([`event`]), 0 for nothing.
    pub(super) pending: u64,
    /// Bytes of the instruction that raised it, where one did.
    pub(super) pending_length: u64,
    /// Translations of this VPID may be wrong: the core changed control registers.
    pub(super) stale: bool,
    /// Why it exited last: the exit-reason field.
    pub(super) reason: u32,
    /// The processor whose host state the VMCS has.
    pub(super) host_of: u64,
    /// RSP as the VMCS has it.
    pub(super) guest_rsp: u64,
    pub(super) timer: u32,
    pub(super) capabilities: Capabilities,
}

/// CR0 or CR4: bits the guest sees in a shadow, because it may not have or must have them in truth.
pub(super) struct Watched {
    /// The bits.
    pub(super) mask: u64,
    /// What the guest sees there.
    pub(super) shadow: u64,
    /// The field of the shadow.
    pub(super) field: u32,
}

impl Watched {
    pub(super) const fn seen(&self, real: u64) -> u64 {
        real & !self.mask | self.shadow & self.mask
    }

    /// Sets what the guest sees.
    pub(super) fn show(&mut self, vmcs: &Vmcs, value: u64) {
        self.shadow = value;
        // SAFETY: changes only what the guest reads.
        unsafe { vmcs.write(self.field, value) };
    }
}

impl VmxContext {
    /// Runs the guest on this processor until it exits, or until about `deadline`, a physical
    /// time-stamp counter.
    pub fn enter(&mut self, cpu: &mut VmxCpu, deadline: Option<u64>) -> Exit {
        self.prepare(cpu, deadline);
        self.run()
    }

    #[inline]
    fn run(&mut self) -> Exit {
        // SAFETY: `new` has set the VMCS up, only this module changes it, and it is current; the
        // second-level tables keep the guest off the core's memory.
        match unsafe { world_switch(&mut self.registers) } {
            Ended::Exit => self.exited(),
            Ended::Nmi => Exit::Nmi,
            Ended::NoCurrentVmcs => diagnosis::refused(self, VmxFailure::NoCurrentVmcs),
            Ended::Refused => self.refused(),
        }
    }

    #[inline]
    fn prepare(&mut self, cpu: &mut VmxCpu, deadline: Option<u64>) {
        if self.unswitched_changed {
            self.unswitched_changed = false;
            cpu.loaded.forget(self.vmcs.physical().0, self.kind);
        }
        cpu.change_to(self.vmcs.physical().0, self.kind, &self.unswitched);
        if control::cr2() != self.cr2 {
            control::set_cr2(self.cr2);
        }
        self.vmcs.flush();
        if self.host_of != cpu.id() {
            self.host_of = cpu.id();
            // SAFETY: the processor's own state, read from it.
            unsafe { self.vmcs.write_all(cpu.host) };
        }
        if self.registers.general[RSP] != self.guest_rsp {
            self.guest_rsp = self.registers.general[RSP];
            self.vmcs.write_guest(guest::RSP, self.guest_rsp);
        }
        if self.kind == Kind::Guest {
            let timer = deadline.map_or(u32::MAX, |deadline| {
                let left = deadline.saturating_sub(control::tsc().0);
                self.capabilities.preemption_timer_value(left)
            });
            if timer != self.timer {
                self.timer = timer;
                self.vmcs.write_guest(guest::VMX_PREEMPTION_TIMER_VALUE, u64::from(timer));
            }
        }
        if self.event_waits() {
            self.write_event();
        }
        if self.stale {
            self.stale = false;
            invvpid(Some(u64::from(self.setup.tag)));
        }
    }

    fn write_event(&self) {
        let information = entry_information(self.pending, self.vmcs.get(Cached::Cr0));
        // SAFETY: an event for the guest; the processor checks it.
        unsafe {
            self.vmcs.write(field::VMENTRY_INTERRUPTION_INFO_FIELD, information);
            if self.pending & event::HAS_ERROR != 0 {
                self.vmcs.write(field::VMENTRY_EXCEPTION_ERR_CODE, self.pending >> 32);
            }
            if self.pending & event::TYPE >= event::SOFTWARE {
                self.vmcs.write(field::VMENTRY_INSTRUCTION_LEN, self.pending_length);
            }
        }
    }

    #[inline]
    fn exited(&mut self) -> Exit {
        // The VMCS is current: it was entered.
        self.vmcs.forget();
        self.reason = vmread(ro::EXIT_REASON) as u32;
        if self.reason & exit_reason::ENTRY_FAILED != 0 {
            return diagnosis::entry_failed(self);
        }
        self.guest_rsp = vmread(guest::RSP);
        self.registers.general[RSP] = self.guest_rsp;
        self.cr2 = control::cr2();
        let vectoring = vmread(ro::IDT_VECTORING_INFO);
        self.pending =
            if vectoring & event::VALID == 0 { 0 } else { self.interrupted_delivery(vectoring) };
        exits::read(self, vectoring)
    }

    #[cold]
    fn interrupted_delivery(&mut self, vectoring: u64) -> u64 {
        self.pending_length = self.vmcs.read(ro::VMEXIT_INSTRUCTION_LEN);
        if vectoring & event::TYPE == event::NMI {
            // Its delivery had begun to block NMIs; it could not be delivered again else.
            self.unblock(NMI_BLOCKED);
        }
        delivered_again(vectoring, self.vmcs.read(ro::IDT_VECTORING_ERR_CODE))
    }

    /// VMfailValid. A VMRESUME that fails for its own reason is followed by a VMLAUNCH that fails because
    /// the VMCS is launched: cleared, it tells the real reason.
    #[cold]
    fn refused(&mut self) -> Exit {
        let why = failure();
        if why == VmxFailure::Error(NON_CLEAR) {
            self.vmcs.clear();
            self.vmcs.make_current();
            return self.run();
        }
        diagnosis::refused(self, why)
    }

    /// Takes back the registers VMX does not switch, after the last entry of a run.
    pub fn leave(&mut self, cpu: &mut VmxCpu) {
        if let Some(changing) = cpu.loaded.take(self.vmcs.physical().0) {
            self.unswitched.changing = changing;
        }
    }

    /// Writes STAR, LSTAR, CSTAR or FMASK, right after an exit: false when the processor refuses.
    pub fn write_syscall_register(&mut self, cpu: &mut VmxCpu, index: u32, value: u64) -> bool {
        cpu.loaded.write_syscall(&mut self.unswitched, index, value)
    }

    /// Takes the VMCS off this processor: before another may run it or look at it.
    pub fn release(&mut self) {
        self.vmcs.leave();
    }

    /// RIP.
    #[inline]
    pub fn rip(&self) -> u64 {
        self.vmcs.get(Cached::Rip)
    }

    /// Sets RIP.
    #[inline]
    pub fn set_rip(&mut self, rip: u64) {
        self.vmcs.set(Cached::Rip, rip);
    }

    /// RFLAGS.
    pub fn rflags(&self) -> u64 {
        self.vmcs.get(Cached::Rflags)
    }

    /// Sets RFLAGS.
    pub fn set_rflags(&mut self, rflags: u64) {
        self.vmcs.set(Cached::Rflags, rflags);
    }

    /// Goes on behind the instruction of `length` bytes that exited: STI and MOV SS block no longer.
    #[inline]
    pub fn advance(&mut self, length: u64) {
        let next = self.rip().wrapping_add(length);
        // Outside 64-bit code the instruction pointer has 32 bits (SDM 1 3.5).
        let wraps = next >> 32 != 0 && !self.in_64_bit_code();
        self.set_rip(if wraps { next & 0xffff_ffff } else { next });
        self.unblock(SHADOW);
    }

    /// The guest has made a step: it takes #DB next. The processor makes the exception of what is
    /// pending, and the exit for it tells DR6 (SDM 3C 27.7.3).
    pub fn step(&mut self) {
        let pending = self.vmcs.read(guest::PENDING_DBG_EXCEPTIONS);
        self.vmcs.write_guest(guest::PENDING_DBG_EXCEPTIONS, pending | DR6_BS);
    }

    /// Clears bits of the interruptibility state.
    #[inline]
    fn unblock(&self, bits: u64) {
        let blocked = self.vmcs.get(Cached::Interruptibility);
        if blocked & bits != 0 {
            self.vmcs.set(Cached::Interruptibility, blocked & !bits);
        }
    }

    pub(super) fn block_nmi(&self) {
        let blocked = self.vmcs.get(Cached::Interruptibility);
        self.vmcs.set(Cached::Interruptibility, blocked | NMI_BLOCKED);
    }

    /// Length of the instruction that exited, where the processor knows it.
    #[inline]
    pub fn instruction_length(&self) -> Option<u64> {
        exit_reason::has_instruction_length(self.reason)
            .then(|| self.vmcs.read(ro::VMEXIT_INSTRUCTION_LEN))
    }

    /// The guest's CR8, as last set: reads and writes of it exit.
    pub fn task_priority(&self) -> u8 {
        self.task_priority
    }

    /// Sets it.
    pub fn set_task_priority(&mut self, value: u8) {
        self.task_priority = value & 0xf;
    }

    /// Whether an external interrupt would be taken now.
    pub fn accepts_interrupt(&self) -> bool {
        !self.event_waits() && self.rflags() & RFLAGS_IF != 0 && !self.blocks(SHADOW)
    }

    /// Whether an NMI would be taken now.
    pub fn accepts_nmi(&self) -> bool {
        !self.event_waits() && !self.blocks(SHADOW | NMI_BLOCKED)
    }

    fn blocks(&self, bits: u64) -> bool {
        self.vmcs.get(Cached::Interruptibility) & bits != 0
    }

    /// Whether an event waits for the next entry.
    pub fn event_waits(&self) -> bool {
        self.pending != 0
    }

    /// The vector of the exception that waits for the next entry.
    pub fn exception_waits(&self) -> Option<u8> {
        event::exception(self.pending)
    }

    /// Makes the guest take `new` at its next entry.
    pub fn inject(&mut self, new: Event) {
        self.pending = event::word(new);
    }

    /// Asks for an exit as soon as the guest can take an external interrupt.
    pub fn request_window(&mut self, wanted: bool) {
        self.set_primary(PrimaryControls::INTERRUPT_WINDOW_EXITING, wanted);
    }

    /// Asks for an exit as soon as the guest can take an NMI.
    pub(super) fn request_nmi_window(&mut self, wanted: bool) {
        self.set_primary(PrimaryControls::NMI_WINDOW_EXITING, wanted);
    }

    /// An NMI waits. False: no window for interrupts is needed, NMIs have their own.
    pub fn await_nmi(&mut self) -> bool {
        self.request_nmi_window(true);
        false
    }

    fn set_primary(&mut self, control: PrimaryControls, wanted: bool) {
        let old = self.primary;
        let new = if wanted { old | control.bits() } else { old & !control.bits() };
        if new != old {
            self.primary = new;
            // SAFETY: the windows only add exits.
            unsafe { self.vmcs.write(field::PRIMARY_PROCBASED_EXEC_CONTROLS, u64::from(new)) };
        }
    }

    /// Makes this processor forget all translations of this guest.
    pub fn flush_tlb(&mut self) {
        self.stale = false;
        invept(Some(self.setup.second_level));
        invvpid(Some(u64::from(self.setup.tag)));
    }
}

/// The event an exit interrupted the delivery of, to be delivered again at the next entry as it was: the
/// exit was not its end (SDM 3C 28.2.4). External interrupts and NMIs are taken already and would be
/// lost; faults and software events would mostly come again by themselves, but with a delivery half done
/// only this gives the guest what the processor would.
const fn delivered_again(vectoring: u64, error: u64) -> u64 {
    let word = vectoring & (event::VALID | event::HAS_ERROR | event::TYPE | event::VECTOR);
    if word & event::HAS_ERROR != 0 { word | error << 32 } else { word }
}

/// The entry interruption-information field for an event. In real mode no exception pushes an error
/// code, and an entry that asks for one fails (SDM 3C 27.2.1.3).
const fn entry_information(word: u64, cr0: u64) -> u64 {
    let information = word & 0xffff_ffff;
    if cr0 & CR0_PE != 0 { information } else { information & !event::HAS_ERROR }
}

#[cfg(test)]
mod tests {
    use super::{delivered_again, entry_information};
    use crate::event::word;
    use crate::exit::{Event, GENERAL_PROTECTION};

    #[test]
    fn an_interrupted_delivery_is_delivered_again_as_it_was() {
        let fault = delivered_again(0x8000_0b0e, 6);
        assert_eq!(fault, word(Event::Exception { vector: 14, error: Some(6) }));
        assert_eq!(entry_information(fault, 1), 0x8000_0b0e);
        // An error code of an earlier exit.
        assert_eq!(delivered_again(0x8000_0030, 9), word(Event::Interrupt(0x30)));
        assert_eq!(entry_information(delivered_again(0x8000_0480, 0), 1), 0x8000_0480);
        // The unblocking bit does not go into an entry.
        assert_eq!(delivered_again(0x8000_1202, 0), word(Event::Nmi));
    }

    #[test]
    fn real_mode_has_no_error_codes() {
        let protection = word(GENERAL_PROTECTION);
        assert_eq!(entry_information(protection, 1), 0x8000_0b0d);
        assert_eq!(entry_information(protection, 0), 0x8000_030d);
    }
}
