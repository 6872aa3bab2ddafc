//! A virtual CPU that halted sleeps in its thread until someone has something for it.
//!
//! The core names each sleeper once: in the result of an injection, in the exit of the vCPU that sent an
//! IPI, or not at all when the message came before the vCPU was asleep (the run then does not end with a
//! halt). Whoever is told a name leaves a token here. The vCPU takes the token away *before* it runs, never
//! after: a token that comes while it runs is for the halt that ends the run, or for an earlier one, and
//! then costs one run more. So none is ever lost; `model` tries all orders of the steps.

use rustix::io::Errno;
use rustix::thread::futex;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// Nothing waits for the vCPU, and it does not sleep.
const IDLE: u32 = 0;
/// A token was left.
const TOKEN: u32 = 1;
/// It sleeps.
const SLEEPS: u32 = 2;

/// One vCPU's bed.
#[derive(Debug, Default)]
pub(super) struct Sleeper(AtomicU32);

impl Sleeper {
    pub(super) const fn new() -> Self {
        Self(AtomicU32::new(IDLE))
    }

    /// Takes the token away; before every run.
    #[inline]
    pub(super) fn before_run(&self) {
        self.0.store(IDLE, SeqCst);
    }

    /// The vCPU has something to do.
    pub(super) fn wake(&self) {
        if self.0.swap(TOKEN, SeqCst) == SLEEPS {
            // Nobody else waits at this word, and waking cannot fail.
            let _ = futex::wake(&self.0, futex::Flags::PRIVATE, 1);
        }
    }

    /// After a run that ended with a halt: sleeps until there is a token, or until `limit`; true when it was that.
    pub(super) fn sleep(&self, limit: Option<Instant>) -> bool {
        if self.0.compare_exchange(IDLE, SLEEPS, SeqCst, SeqCst).is_err() {
            return false;
        }
        while self.0.load(SeqCst) == SLEEPS {
            let left = limit.map(|limit| limit.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return true;
            }
            // Woken, changed meanwhile or interrupted by a signal: looked at again. What the clock says when the
            // time is over is known; asking for it is a hundred instructions of a timer's way to the guest.
            let left = left.and_then(|left| left.try_into().ok());
            let waited = futex::wait(&self.0, futex::Flags::PRIVATE, SLEEPS, left.as_ref());
            if waited == Err(Errno::TIMEDOUT) {
                return true;
            }
        }
        false
    }

    /// Behind a sleep up to its limit: stays awake `while` it is told so and there is no token.
    pub(super) fn linger(&self, mut longer: impl FnMut() -> bool) {
        while longer() && self.0.load(SeqCst) == SLEEPS {
            std::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_token_left_before_the_sleep_ends_it_at_once() {
        let sleeper = Sleeper::default();
        sleeper.wake();
        sleeper.sleep(None);
        sleeper.before_run();
        let before = Instant::now();
        assert!(sleeper.sleep(Some(before + Duration::from_millis(5))));
        assert!(before.elapsed() >= Duration::from_millis(5));
        let mut looks = 0;
        sleeper.linger(|| {
            looks += 1;
            looks < 10
        });
        assert_eq!(looks, 10);
        sleeper.wake();
        sleeper.linger(|| true);
    }

    #[test]
    fn a_sleeper_is_woken_from_another_thread() {
        let sleeper = Arc::new(Sleeper::default());
        for _ in 0..100 {
            let waker = Arc::clone(&sleeper);
            let thread = std::thread::spawn(move || waker.wake());
            sleeper.sleep(None);
            thread.join().unwrap();
            sleeper.before_run();
        }
    }
}

/// All orders in which the steps of one vCPU thread and two device threads can come, with the core's own
/// protocol (`hypervisor/core`, `vcpu::inbox`) as the reference describes it.
#[cfg(test)]
mod model {
    use std::collections::HashSet;

    /// What the vCPU thread does next.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    enum Thread {
        BeforeRun,
        /// In the core: says that it is in the guest.
        Enter,
        /// Looks into the inbox; halts when there is nothing.
        Look,
        /// Says that it is asleep.
        Asleep,
        /// Looks again; takes the sleep back when there is something.
        LookAgain,
        /// Back in the engine, with a halt.
        Sleep,
        Sleeping,
    }

    /// What a device thread does next, for its one message.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    enum Device {
        Leave,
        LookWhere,
        Wake,
        Done,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    enum Place {
        Out,
        Asleep,
        In,
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    struct State {
        thread: Thread,
        devices: [Device; 2],
        place: Place,
        inbox: bool,
        word: u32,
    }

    use super::{IDLE, SLEEPS, TOKEN};

    fn step_thread(mut s: State) -> Option<State> {
        s.thread = match s.thread {
            Thread::BeforeRun => {
                s.word = IDLE;
                Thread::Enter
            }
            Thread::Enter => {
                s.place = Place::In;
                Thread::Look
            }
            // The guest takes what there is and halts again.
            Thread::Look if s.inbox => {
                s.inbox = false;
                Thread::Look
            }
            Thread::Look => Thread::Asleep,
            Thread::Asleep => {
                s.place = Place::Asleep;
                Thread::LookAgain
            }
            Thread::LookAgain if s.inbox && s.place == Place::Asleep => {
                s.place = Place::Out;
                Thread::BeforeRun
            }
            Thread::LookAgain => Thread::Sleep,
            Thread::Sleep if s.word == IDLE => {
                s.word = SLEEPS;
                Thread::Sleeping
            }
            Thread::Sleep => Thread::BeforeRun,
            Thread::Sleeping if s.word == SLEEPS => return None,
            Thread::Sleeping => Thread::BeforeRun,
        };
        Some(s)
    }

    fn step_device(mut s: State, number: usize) -> Option<State> {
        s.devices[number] = match s.devices[number] {
            Device::Leave => {
                s.inbox = true;
                Device::LookWhere
            }
            // In the guest it gets an NMI and looks.
            Device::LookWhere if s.place == Place::Asleep => {
                s.place = Place::Out;
                Device::Wake
            }
            Device::LookWhere => Device::Done,
            Device::Wake => {
                s.word = TOKEN;
                Device::Done
            }
            Device::Done => return None,
        };
        Some(s)
    }

    #[test]
    fn no_order_of_steps_leaves_a_message_with_a_sleeper() {
        let start = State {
            thread: Thread::BeforeRun,
            devices: [Device::Leave; 2],
            place: Place::Out,
            inbox: false,
            word: IDLE,
        };
        let (mut open, mut seen) = (vec![start], HashSet::from([start]));
        let mut ends = 0;
        while let Some(state) = open.pop() {
            let next: Vec<State> = step_thread(state)
                .into_iter()
                .chain((0..2).filter_map(|number| step_device(state, number)))
                .collect();
            if next.is_empty() {
                // Everyone is at rest: the sleeper has taken everything.
                assert!(!state.inbox, "{state:?}");
                ends += 1;
            }
            open.extend(next.into_iter().filter(|state| seen.insert(*state)));
        }
        assert!(ends > 0 && seen.len() > 100, "{} states, {ends} ends", seen.len());
    }
}
