//! One run of a virtual CPU: from root's call to an exit for root. The order of the steps before an
//! entry is what loses no wake-up: say where the vCPU is, then look at the inbox, then enter; a message
//! that comes in between sends an NMI, which ends the entry at once.

use super::access::{self, Progress};
use super::{Activity, Extended, Held, Place, Vcpu, answer, signal};
use crate::apic::Effect;
use crate::cpu::control;
use crate::exit::{Event, Exit};
use crate::machine::machine;
use crate::partition::{Orders, Partition};
use crate::processor::Cpu;
use crate::registers::{RFLAGS_IF, RFLAGS_TF};
use crate::translations::State;
use core::sync::atomic::Ordering;
use hypervisor_abi::{ExitReason, FailureKind, RunFlags};
use units::Tsc;

/// Exits in a row for exceptions or in the middle of an event's delivery, after which root runs.
const MOST_UNDELIVERED: u32 = 8;

/// What becomes of a run after an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The guest goes on.
    Enter,
    /// Root is told; the run page's exit record is filled but for the reason.
    Return(ExitReason),
}

/// Everything at hand while a virtual CPU runs.
pub struct Run<'a> {
    pub(crate) partition: &'a Partition,
    pub(super) vcpu: &'a Vcpu,
    pub(crate) held: Held<'a>,
    pub(crate) cpu: &'a mut Cpu,
    /// The guest's time-stamp counter minus the physical one.
    pub(super) offset: u64,
    /// What root wrote to the run page, read once.
    orders: Orders,
    /// Virtual CPUs this one woke that sleep with root.
    pub(super) woken: u64,
}

/// Runs `vcpu` on this processor. `None` when another has it.
pub fn run(
    partition: &Partition,
    vcpu: &Vcpu,
    cpu: &mut Cpu,
    root: &mut Extended,
) -> Option<ExitReason> {
    let mut held = vcpu.hold()?;
    held.arrive(cpu.shared.index);
    let offset = held.msrs.tsc_offset;
    root.hand_over(&held.extended);
    cpu.enter_partition(partition.number);
    let orders = held.page.orders();
    let mut run = Run { partition, vcpu, held, cpu, offset, orders, woken: 0 };
    if !run.held.started {
        run.held.started = true;
        run.held.statistics.first_entry = control::tsc().0.wrapping_sub(machine().began.0);
    }
    run.take_orders();
    let mut reason = match access::resume(&mut run) {
        Next::Return(reason) => reason,
        Next::Enter if run.woken != 0 => run.wake(),
        Next::Enter => run.cycle(),
    };
    let sleeps = matches!(reason, ExitReason::Halt | ExitReason::WaitForSipi);
    vcpu.place.set(if sleeps { Place::Asleep } else { Place::Out });
    // A message that came after the last look, before the vCPU was asleep, would be lost on root.
    if sleeps && !vcpu.inbox.is_empty() && vcpu.place.wake() {
        reason = ExitReason::Interrupted;
    }
    run.report(reason);
    run.held.extended.hand_over(root);
    run.held.statistics.returns[reason as usize & 15] += 1;
    run.held.context.leave(&mut run.cpu.vendor);
    Some(reason)
}

impl Run<'_> {
    /// What root wants of the vCPU between two instructions.
    fn take_orders(&mut self) {
        let external = self.wants(RunFlags::EXTERNAL_INTERRUPT);
        let (held, orders) = (&mut *self.held, &self.orders);
        if !matches!(held.progress, Progress::None) {
            return;
        }
        if external && held.context.accepts_interrupt() {
            if held.activity == Activity::Halted {
                held.activity = Activity::Running;
            }
            held.context.inject(Event::Interrupt(orders.external_vector as u8));
        }
    }

    /// Root is told whom to run.
    fn wake(&mut self) -> ExitReason {
        let woken = core::mem::take(&mut self.woken);
        self.held.page.set_arguments([woken, 0, 0, 0, 0, 0]);
        ExitReason::Wake
    }

    /// Entries and exits until root must be told.
    fn cycle(&mut self) -> ExitReason {
        // Nobody moves a vCPU that is not asleep, so once is enough for all entries of this run.
        self.vcpu.place.set(Place::In(self.cpu.shared.index));
        let mut undelivered = 0;
        loop {
            if !self.vcpu.inbox.is_empty() && self.open_inbox()
                || self.wants(RunFlags::RETURN_AT_ONCE)
            {
                return ExitReason::Interrupted;
            }
            let now = self.now();
            self.held.apic.advance(now);
            self.deliver();
            match self.held.activity {
                Activity::Running => {}
                Activity::Halted => return ExitReason::Halt,
                Activity::WaitForSipi => return ExitReason::WaitForSipi,
                Activity::Shutdown => return ExitReason::Shutdown,
            }
            if self.wants_window() && self.held.context.accepts_interrupt() {
                return ExitReason::InterruptWindow;
            }
            let deadline = self.deadline();
            let timer = self.cpu.vendor.has_timer();
            if !timer && deadline.is_some_and(|deadline| deadline < self.armed()) {
                return ExitReason::Deadline;
            }
            // Said before the tables are looked at: whoever changes them after that waits for the exit.
            self.vcpu.inside.store(true, Ordering::SeqCst);
            self.flush_if_changed();
            // The inbox again: what came before the vCPU said where it is has set no NMI off.
            if !self.vcpu.inbox.is_empty() {
                self.vcpu.inside.store(false, Ordering::Release);
                continue;
            }
            let held = &mut *self.held;
            held.statistics.entries += 1;
            let exit = held.context.enter(&mut self.cpu.vendor, deadline.filter(|_| timer));
            self.vcpu.inside.store(false, Ordering::Release);
            held.statistics.exits[exit.kind()] += 1;
            // A debug exception that its own delivery raises comes between two instructions, before any
            // interrupt.
            let exception = matches!(exit, Exit::Exception { .. });
            undelivered = if exception || held.context.event_waits() { undelivered + 1 } else { 0 };
            let priority = held.context.task_priority();
            held.apic.set_cr8_if_changed(priority);
            match answer::answer(self, exit) {
                Next::Enter if self.woken != 0 => return self.wake(),
                // While no event is delivered and no instruction executed, no physical interrupt is
                // taken either (CVE-2015-5307, CVE-2015-8104).
                Next::Enter if undelivered == MOST_UNDELIVERED => return ExitReason::Interrupted,
                Next::Enter => {}
                Next::Return(reason) => return reason,
            }
        }
    }

    /// Whether root made a request of [`RunFlags`].
    const fn wants(&self, request: u32) -> bool {
        self.orders.request & request != 0
    }

    /// Whether root waits for a moment to hand in an 8259's vector. While the local APIC keeps such
    /// vectors from the processor there is none.
    fn wants_window(&self) -> bool {
        self.wants(RunFlags::INTERRUPT_WINDOW) && self.held.apic.takes_external()
    }

    /// Goes on `length` bytes further, behind an instruction the core has carried out. A guest that
    /// single-steps gets its debug exception as after any other (SDM 3B 18.3.1.4).
    #[inline(always)]
    pub(super) fn advance(&mut self, length: u64) {
        /// IA32_DEBUGCTL.BTF: only branches are steps.
        const BRANCHES: u64 = 1 << 1;
        let held = &mut *self.held;
        held.context.advance(length);
        if held.context.rflags() & RFLAGS_TF != 0 && held.msrs.debug_control & BRANCHES == 0 {
            held.context.step();
        }
    }

    /// The guest's time.
    pub(super) fn now(&self) -> Tsc {
        Tsc(control::tsc().0.wrapping_add(self.offset))
    }

    /// When the guest's timer is due, in physical time.
    fn deadline(&self) -> Option<u64> {
        self.held.apic.next_deadline().map(|deadline| deadline.0.wrapping_sub(self.offset))
    }

    /// The physical time by which root's interrupt comes to this processor.
    fn armed(&self) -> u64 {
        let Orders { armed, armed_on, .. } = self.orders;
        let here = armed_on == 0 || armed_on == self.cpu.shared.apic_id.wrapping_add(1);
        if here { armed } else { u64::MAX }
    }

    /// Takes the messages; true when root wants the run to end.
    fn open_inbox(&mut self) -> bool {
        let bits = self.vcpu.inbox.take_signals();
        if bits & signal::VECTORS != 0 {
            let (edges, levels) = self.vcpu.inbox.take_vectors();
            self.held.apic.accept(edges, levels);
        }
        if bits & signal::INIT != 0 && self.held.activity != Activity::Shutdown {
            self.held.init();
            self.held.publish();
        }
        if bits & signal::STARTUP != 0 && self.held.activity == Activity::WaitForSipi {
            self.held.startup((bits & signal::STARTUP_PAGE) as u8);
        }
        self.held.nmi |= bits & signal::NMI != 0;
        bits & signal::KICK != 0
    }

    /// Makes the guest take what waits, or makes it exit when it can.
    fn deliver(&mut self) {
        let mut window = self.wants_window();
        let held = &mut *self.held;
        let pending = held.apic.highest_pending().is_some();
        let wakes = || {
            held.nmi && held.context.accepts_nmi()
                || pending && held.context.rflags() & RFLAGS_IF != 0
                || held.context.event_waits()
        };
        if held.activity == Activity::Halted && wakes() {
            held.activity = Activity::Running;
        }
        if held.activity != Activity::Running {
            return;
        }
        held.context.set_task_priority(held.apic.cr8());
        if held.nmi {
            if held.context.accepts_nmi() {
                held.nmi = false;
                held.context.inject(Event::Nmi);
            } else {
                window |= held.context.await_nmi();
            }
        }
        if pending {
            if held.context.accepts_interrupt() {
                if let Some(vector) = held.apic.acknowledge() {
                    held.context.inject(Event::Interrupt(vector));
                    held.statistics.interrupts += 1;
                }
                window |= held.apic.highest_pending().is_some();
            } else {
                window = true;
            }
        }
        held.context.request_window(window);
    }

    /// Forgets translations when the partition's tables changed, when another vCPU with the same tag ran
    /// here since, or when this one ran elsewhere since.
    fn flush_if_changed(&mut self) {
        let state = State {
            vcpu: self.vcpu.serial,
            moves: self.held.moves,
            changes: self.partition.changes(),
        };
        if self.cpu.translations.use_tag(self.partition.tag, state) {
            self.held.context.flush_tlb(&self.cpu.vendor);
        }
    }

    /// Fills what root wants to know beside the exit itself.
    fn report(&mut self, reason: ExitReason) {
        let accepts = self.held.apic.takes_external()
            && self.held.context.accepts_interrupt()
            && matches!(self.held.progress, Progress::None)
            && self.held.activity != Activity::WaitForSipi;
        let deadline = self.deadline().unwrap_or(u64::MAX);
        let context = &self.held.context;
        let (rip, rflags) = (context.rip(), context.rflags());
        self.held.page.report(reason, accepts, deadline, rip, rflags);
    }

    /// What a write to the APIC does beyond it.
    pub(super) fn carry_on(&mut self, effect: Effect) -> Next {
        match effect {
            Effect::None => {}
            // Remembers whom root must wake.
            Effect::Send(message) => {
                self.woken |= self.partition.route(message, Some(self.vcpu.index));
            }
            Effect::EndOfInterrupt(vector) => {
                self.held.page.set_detail(u32::from(vector));
                return Next::Return(ExitReason::EndOfInterrupt);
            }
        }
        Next::Enter
    }

    /// The guest cannot go on. It stays so until root sets its state or resets it.
    pub(super) fn fail(&mut self, kind: FailureKind, facts: [u64; 4]) -> Next {
        self.held.page.set_detail(kind as u32);
        self.held.page.set_arguments([facts[0], facts[1], facts[2], facts[3], 0, 0]);
        Next::Return(ExitReason::Failure)
    }
}
