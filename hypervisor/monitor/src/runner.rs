//! The loop of each processor: take interrupts, wake who has something to do, run the vCPU whose turn
//! it is, answer its exits; halt when there is nothing to run. Ends when every guest has ended.

use crate::Machine;
use crate::clock::Clock;
use crate::exits::Next;
use crate::guest::{Ending, Guest, SharedConsole};
use crate::scheduler::Queue;
use crate::vcpu::Vcpu;
use crate::virtio::Switch;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

/// How long a vCPU runs while others wait, and how long alone, in nanoseconds.
const QUANTUM: u64 = 3_000_000;
const ALONE: u64 = 50_000_000;
/// How often the first processor looks for input and unfinished lines, in nanoseconds.
const CONSOLE_PERIOD: u64 = 10_000_000;
/// How often it looks for frames of the machine's network card, which interrupts nobody.
const UPLINK_PERIOD: u64 = 500_000;

/// What all processors share.
pub struct Shared {
    /// The machine.
    pub machine: &'static dyn Machine,
    /// All guests.
    pub guests: Vec<Arc<Guest>>,
    /// The console.
    pub console: SharedConsole,
    /// The machine's time.
    pub clock: Clock,
    /// What joins the guests' network cards.
    pub switch: Arc<Switch>,
    /// Each processor: whether it halts.
    pub idle: Vec<AtomicBool>,
}

impl Shared {
    /// Whether every guest has ended.
    #[must_use]
    pub fn all_ended(&self) -> bool {
        self.guests.iter().all(|guest| guest.ended())
    }

    fn end(&self, guest: &Guest, ending: Ending) {
        if !guest.end(ending.clone()) {
            return;
        }
        {
            let mut console = self.console.lock();
            console.finish(guest.source);
            console.line(format_args!("guest {} ended: {ending}", guest.name));
        }
        // Its vCPUs elsewhere stop, and everyone sees whether all have ended.
        for index in 0..self.idle.len() {
            if index != self.machine.current() {
                self.machine.wake(index);
            }
        }
    }
}

/// One processor's loop.
pub struct Runner<'a> {
    shared: &'a Shared,
    index: usize,
    vcpus: Vec<Vcpu>,
    queue: Queue,
    /// Guests whose time this processor keeps.
    kept: Vec<Arc<Guest>>,
    armed: u64,
    console_due: u64,
    /// This processor brings frames of the machine's network card.
    uplink: bool,
}

impl<'a> Runner<'a> {
    /// Processor `index`, which runs `vcpus`.
    #[must_use]
    pub fn new(shared: &'a Shared, index: usize, vcpus: Vec<Vcpu>) -> Self {
        let clock = &shared.clock;
        let mut queue = Queue::new(clock.duration(QUANTUM), clock.duration(ALONE));
        for vcpu in &vcpus {
            let same = |guest: &Arc<Guest>| Arc::ptr_eq(guest, &vcpu.guest);
            let guest = shared.guests.iter().position(same).unwrap_or(0);
            queue.add(guest);
        }
        let keeps = |guest: &&Arc<Guest>| guest.wakes.processors().first() == Some(&index);
        let kept = shared.guests.iter().filter(keeps).cloned().collect();
        Self {
            shared,
            index,
            vcpus,
            queue,
            kept,
            armed: u64::MAX,
            uplink: index == 0 && shared.switch.has_uplink(),
            console_due: if index == 0 { 0 } else { u64::MAX },
        }
    }

    /// Runs until all guests have ended.
    pub fn run(&mut self) {
        while !self.shared.all_ended() {
            self.shared.machine.take_interrupts();
            let due = self.look_around();
            match self.queue.pick() {
                Some(choice) => self.serve(choice.vcpu, choice.slice, due),
                None => self.idle(due),
            }
        }
    }

    /// Does what fell due and wakes who has something to do; gives the next moment something falls
    /// due by itself.
    fn look_around(&mut self) -> u64 {
        let now = self.shared.machine.tsc();
        let mut due = self.look_at_console(now);
        if self.uplink {
            self.shared.switch.poll();
            due = due.min(now + self.shared.clock.duration(UPLINK_PERIOD));
        }
        for guest in self.kept.iter().filter(|guest| !guest.ended()) {
            due = due.min(guest.advance(now));
        }
        for (index, guest) in self.shared.guests.iter().enumerate() {
            if guest.ended() {
                self.queue.end(index);
            }
        }
        self.queue.expire(now);
        for (number, vcpu) in self.vcpus.iter().enumerate() {
            if vcpu.guest.wakes.take(vcpu.bit()) != 0 {
                self.queue.wake(number);
            }
        }
        due.min(self.queue.next_deadline())
    }

    /// Input goes to the first guest that has not ended.
    fn look_at_console(&mut self, now: u64) -> u64 {
        if now < self.console_due {
            return self.console_due;
        }
        let mut input = [0; 16];
        let mut count = 0;
        while let Some(place) = input.get_mut(count)
            && let Some(byte) = self.shared.machine.typed()
        {
            *place = byte;
            count += 1;
        }
        if count > 0
            && let Some(guest) = self.shared.guests.iter().find(|guest| !guest.ended())
        {
            guest.board.lock().typed(&input[..count]);
        }
        let clock = &self.shared.clock;
        self.shared.console.lock().tick(clock.nanoseconds(now));
        self.console_due = now + clock.duration(CONSOLE_PERIOD);
        self.console_due
    }

    fn arm(&mut self, deadline: u64) {
        if deadline != self.armed {
            self.shared.machine.arm(deadline);
            self.armed = deadline;
        }
    }

    /// Runs a vCPU until its slice is over, it sleeps, or something else is to be done.
    fn serve(&mut self, number: usize, slice: u64, due: u64) {
        let machine = self.shared.machine;
        let start = machine.tsc();
        let timer = self.vcpus[number].timer();
        // A timer that is due already is the core's to deliver at the next entry.
        let timer = if timer > start { timer } else { u64::MAX };
        let deadline = due.min(start + slice).min(timer);
        self.arm(deadline);
        let vcpu = &mut self.vcpus[number];
        let next = loop {
            match vcpu.run(deadline, || machine.tsc()) {
                Next::Run
                    if !vcpu.guest.ended() && !vcpu.woke_a_mate() && machine.tsc() < deadline => {}
                next => break next,
            }
        };
        let now = machine.tsc();
        if now >= deadline || matches!(next, Next::Look) {
            // The timer came, or comes at once. It may come a little before its time too, where it
            // counts in ticks of its own: after any interrupt it is armed anew.
            self.armed = 0;
        }
        self.queue.charge(number, now.saturating_sub(start));
        match next {
            Next::Run | Next::Look => {}
            Next::Sleep(deadline) => self.queue.sleep(number, deadline),
            Next::End(ending) => {
                let guest = Arc::clone(&self.vcpus[number].guest);
                self.shared.end(&guest, ending);
            }
        }
    }

    /// Halts until an interrupt, unless someone was woken meanwhile.
    fn idle(&mut self, due: u64) {
        let idle = &self.shared.idle[self.index];
        idle.store(true, Ordering::SeqCst);
        let woken = self.vcpus.iter().any(|vcpu| vcpu.guest.wakes.any(vcpu.bit()));
        if !woken && !self.shared.all_ended() {
            // Armed anew each time: an interrupt that came meanwhile may have been the timer's.
            self.shared.machine.arm(due);
            self.armed = due;
            self.shared.machine.halt();
            self.armed = 0;
        }
        idle.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests;
