//! Which vCPU a processor runs next, and for how long. Pure: told what happened, it decides.
//!
//! The guest that has had the least time goes first, and of its vCPUs the one that has; a guest that
//! slept gets no credit for that beyond one quantum. While another waits a vCPU runs for a quantum;
//! alone it runs longer, because nothing is gained by interrupting it.

use alloc::vec::Vec;

/// A vCPU's state for its processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Can run.
    Ready,
    /// Sleeps until woken, or until the time-stamp counter reaches this.
    Asleep(u64),
    /// Will never run again.
    Ended,
}

#[derive(Clone, Copy, Debug)]
struct Entity {
    guest: usize,
    state: State,
    used: u64,
}

/// The vCPUs of one processor.
#[derive(Debug)]
pub struct Queue {
    entities: Vec<Entity>,
    /// Time each guest has had on this processor.
    guests: Vec<u64>,
    quantum: u64,
    alone: u64,
}

/// What to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Which vCPU, by the number [`Queue::add`] gave.
    pub vcpu: usize,
    /// How long, in ticks of the time-stamp counter.
    pub slice: u64,
}

impl Queue {
    /// An empty queue with these slices: while others wait, and alone.
    #[must_use]
    pub const fn new(quantum: u64, alone: u64) -> Self {
        Self { entities: Vec::new(), guests: Vec::new(), quantum, alone }
    }

    /// A new vCPU of guest `guest`, ready; gives its number.
    pub fn add(&mut self, guest: usize) -> usize {
        if self.guests.len() <= guest {
            self.guests.resize(guest + 1, 0);
        }
        self.entities.push(Entity { guest, state: State::Ready, used: 0 });
        self.entities.len() - 1
    }

    /// Its state.
    #[must_use]
    pub fn state(&self, vcpu: usize) -> State {
        self.entities[vcpu].state
    }

    /// Puts it to sleep until woken or `deadline`.
    pub fn sleep(&mut self, vcpu: usize, deadline: u64) {
        if self.entities[vcpu].state == State::Ready {
            self.entities[vcpu].state = State::Asleep(deadline);
        }
    }

    /// Ends every vCPU of `guest`.
    pub fn end(&mut self, guest: usize) {
        for entity in self.entities.iter_mut().filter(|e| e.guest == guest) {
            entity.state = State::Ended;
        }
    }

    /// It has something to do.
    pub fn wake(&mut self, vcpu: usize) {
        let entity = self.entities[vcpu];
        if !matches!(entity.state, State::Asleep(_)) {
            return;
        }
        let quantum = self.quantum;
        let floor = |least: Option<u64>| least.unwrap_or(0).saturating_sub(quantum);
        // Where the others are now, less a quantum: who wakes goes first, but not for long.
        let ready = || self.entities.iter().filter(|e| e.state == State::Ready);
        let guests = floor(ready().map(|e| self.guests[e.guest]).min());
        let same = ready().filter(|e| e.guest == entity.guest);
        let used = entity.used.max(floor(same.map(|e| e.used).min()));
        if !ready().any(|e| e.guest == entity.guest) {
            self.guests[entity.guest] = self.guests[entity.guest].max(guests);
        }
        let entity = &mut self.entities[vcpu];
        entity.used = used;
        entity.state = State::Ready;
    }

    /// Wakes those whose time has come.
    pub fn expire(&mut self, now: u64) {
        for vcpu in 0..self.entities.len() {
            if matches!(self.entities[vcpu].state, State::Asleep(deadline) if deadline <= now) {
                self.wake(vcpu);
            }
        }
    }

    /// The next moment at which someone wakes by itself; `u64::MAX` for none.
    #[must_use]
    pub fn next_deadline(&self) -> u64 {
        let deadlines = self.entities.iter().filter_map(|e| match e.state {
            State::Asleep(deadline) => Some(deadline),
            State::Ready | State::Ended => None,
        });
        deadlines.min().unwrap_or(u64::MAX)
    }

    /// What to run now.
    #[must_use]
    pub fn pick(&self) -> Option<Choice> {
        let mut ready = self.entities.iter().enumerate().filter(|(_, e)| e.state == State::Ready);
        let first = ready.next()?;
        let mut best = first;
        let mut several = false;
        for candidate in ready {
            several = true;
            let key = |(_, e): (usize, &Entity)| (self.guests[e.guest], e.used);
            if key(candidate) < key(best) {
                best = candidate;
            }
        }
        let slice = if several { self.quantum } else { self.alone };
        Some(Choice { vcpu: best.0, slice })
    }

    /// It ran for so many ticks.
    pub fn charge(&mut self, vcpu: usize, ticks: u64) {
        let entity = &mut self.entities[vcpu];
        entity.used += ticks;
        self.guests[entity.guest] += ticks;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUANTUM: u64 = 100;

    /// Runs for `time` ticks; gives what each vCPU had.
    fn run(queue: &mut Queue, time: u64, vcpus: usize) -> Vec<u64> {
        let mut had = std::vec![0; vcpus];
        let mut now = 0;
        while now < time {
            let choice = queue.pick().unwrap();
            queue.charge(choice.vcpu, choice.slice);
            had[choice.vcpu] += choice.slice;
            now += choice.slice;
        }
        had
    }

    #[test]
    fn guests_share_evenly_whatever_their_number_of_vcpus() {
        let mut queue = Queue::new(QUANTUM, 1000);
        for guest in [0, 1, 1, 1] {
            queue.add(guest);
        }
        let had = run(&mut queue, 60_000, 4);
        assert_eq!(had[0], 30_000);
        for share in &had[1..] {
            assert!((9_900..=10_100).contains(share), "{had:?}");
        }
    }

    #[test]
    fn alone_it_runs_longer() {
        let mut queue = Queue::new(QUANTUM, 1000);
        queue.add(0);
        assert_eq!(queue.pick().unwrap().slice, 1000);
        queue.add(1);
        assert_eq!(queue.pick().unwrap().slice, QUANTUM);
        queue.sleep(0, u64::MAX);
        assert_eq!(queue.pick(), Some(Choice { vcpu: 1, slice: 1000 }));
    }

    #[test]
    fn who_wakes_goes_first_but_not_for_the_time_it_slept() {
        let mut queue = Queue::new(QUANTUM, 1000);
        queue.add(0);
        queue.add(1);
        queue.sleep(1, 5000);
        run(&mut queue, 100_000, 2);
        queue.expire(4999);
        assert_eq!(queue.state(1), State::Asleep(5000));
        assert_eq!(queue.next_deadline(), 5000);
        queue.expire(5000);
        assert_eq!(queue.pick().unwrap().vcpu, 1);
        let had = run(&mut queue, 10_000, 2);
        assert!(had[1] - had[0] <= 2 * QUANTUM, "{had:?}");
    }

    #[test]
    fn ended_guests_never_run_and_never_wake() {
        let mut queue = Queue::new(QUANTUM, 1000);
        queue.add(0);
        queue.add(0);
        queue.sleep(1, 10);
        queue.end(0);
        queue.wake(1);
        queue.expire(100);
        queue.sleep(0, 7);
        assert_eq!(queue.pick(), None);
        assert_eq!(queue.next_deadline(), u64::MAX);
    }
}
