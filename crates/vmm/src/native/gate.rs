//! Where processors are stopped, reset and let go. Each processor thread passes the gate before
//! every entry into the guest; passing an open gate costs one load.
//!
//! A reset needs every processor parked. The last one to park does the work (it may be the one
//! whose guest asked for it), then every thread resets its own processor, and only when all have
//! does any run again: an application processor must not miss the SIPI of a faster bootstrap one.

use engine::Kick;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// How long a processor may take to leave the guest and finish a device access. Only a device
/// thread stuck in the host makes it longer.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// What a processor thread does after the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Enter the guest.
    Run,
    /// Enter the guest, which stood still at the gate.
    RunOn,
    /// Reset the processor, call [`Gate::reset_done`], come back.
    Reset,
    /// End the thread.
    Quit,
}

/// Processors did not stop within [`STOP_LIMIT`].
#[derive(Debug, thiserror::Error)]
#[error("{running} of {total} processors did not stop within {} s", STOP_LIMIT.as_secs())]
pub(super) struct Stuck {
    running: usize,
    total: usize,
}

pub(super) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
    /// False only when every processor may just run.
    attention: AtomicBool,
    kickers: Vec<OnceLock<Arc<dyn Kick>>>,
}

struct State {
    total: usize,
    parked: usize,
    run: bool,
    reset: Reset,
    /// Counts resets; a thread that saw a lower one owes its processor a reset.
    epoch: u64,
    /// Processors that have yet to be reset in this epoch.
    owing: usize,
    quit: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reset {
    None,
    Wanted,
    Underway,
}

impl State {
    fn open(&self) -> bool {
        self.run && self.reset == Reset::None && self.owing == 0 && !self.quit
    }
    fn still(&self) -> bool {
        self.parked == self.total && self.reset == Reset::None && self.owing == 0
    }
}

impl Gate {
    /// A closed gate for `total` processors, each of which owes its first reset.
    pub(super) fn new(total: usize) -> Self {
        Self {
            state: Mutex::new(State {
                total,
                parked: 0,
                run: false,
                reset: Reset::None,
                epoch: 1,
                owing: total,
                quit: false,
            }),
            changed: Condvar::new(),
            attention: AtomicBool::new(true),
            kickers: (0..total).map(|_| OnceLock::new()).collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After every change of state.
    fn publish(&self, state: &State) {
        self.attention.store(!state.open(), Ordering::Release);
        self.changed.notify_all();
    }

    /// Tells the gate how to interrupt processor `index`; before its first [`Self::pass`].
    pub(super) fn register(&self, index: usize, kick: Arc<dyn Kick>) {
        if let Some(slot) = self.kickers.get(index) {
            // Each thread registers once.
            let _ = slot.set(kick);
        }
    }

    /// Interrupts processor `index`.
    pub(super) fn kick(&self, index: usize) {
        if let Some(kick) = self.kickers.get(index).and_then(OnceLock::get) {
            kick.kick();
        }
    }

    fn kick_all(&self) {
        for kick in self.kickers.iter().filter_map(OnceLock::get) {
            kick.kick();
        }
    }

    /// Whether some thread should leave what it waits for and come to the gate.
    pub(super) fn wants_attention(&self) -> bool {
        self.attention.load(Ordering::Acquire)
    }

    /// A processor thread before it enters the guest. `seen` is the thread's own, 0 at first.
    /// `work` is called when this thread is the one to reset the machine.
    #[inline]
    pub(super) fn pass(&self, seen: &mut u64, work: impl Fn()) -> Order {
        if !self.wants_attention() {
            return Order::Run;
        }
        self.park(seen, work)
    }

    #[inline(never)]
    fn park(&self, seen: &mut u64, work: impl Fn()) -> Order {
        let mut state = self.lock();
        state.parked += 1;
        self.changed.notify_all();
        loop {
            if state.quit {
                return Order::Quit;
            }
            if state.reset == Reset::Wanted && state.parked == state.total && state.owing == 0 {
                state.reset = Reset::Underway;
                drop(state);
                work();
                state = self.lock();
                state.reset = Reset::None;
                state.epoch += 1;
                state.owing = state.total;
                self.publish(&state);
            } else if state.reset != Reset::Underway && state.epoch != *seen {
                *seen = state.epoch;
                state.parked -= 1;
                return Order::Reset;
            } else if state.open() {
                state.parked -= 1;
                return Order::RunOn;
            } else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// The thread has done what [`Order::Reset`] said.
    pub(super) fn reset_done(&self) {
        let mut state = self.lock();
        state.owing = state.owing.saturating_sub(1);
        self.publish(&state);
    }

    /// Lets the processors run.
    pub(super) fn open(&self) {
        let mut state = self.lock();
        state.run = true;
        self.publish(&state);
    }

    /// Asks the processors to park; does not wait. May be called from a processor's thread.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.run = false;
        self.publish(&state);
        drop(state);
        self.kick_all();
    }

    /// Asks for a reset; does not wait. May be called from a processor's thread.
    pub(super) fn request_reset(&self) {
        let mut state = self.lock();
        if state.reset == Reset::None {
            state.reset = Reset::Wanted;
        }
        self.publish(&state);
        drop(state);
        self.kick_all();
    }

    /// Waits until every processor is parked and no reset is under way. The gate must have been
    /// closed.
    pub(super) fn wait_still(&self) -> Result<(), Stuck> {
        self.wait(|state| state.still())
    }

    /// Waits until a requested reset has been done.
    pub(super) fn wait_reset(&self) -> Result<(), Stuck> {
        self.wait(|state| state.reset == Reset::None && state.owing == 0)
    }

    fn wait(&self, done: impl Fn(&State) -> bool) -> Result<(), Stuck> {
        let state = self.lock();
        let (state, _) = self
            .changed
            .wait_timeout_while(state, STOP_LIMIT, |state| !done(state))
            .unwrap_or_else(PoisonError::into_inner);
        if done(&state) {
            return Ok(());
        }
        Err(Stuck { running: state.total - state.parked.min(state.total), total: state.total })
    }

    /// Ends all threads; the caller joins them.
    pub(super) fn quit(&self) {
        let mut state = self.lock();
        state.quit = true;
        self.publish(&state);
        drop(state);
        self.kick_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::SeqCst;

    /// Threads that pass the gate in a loop, as processors do.
    struct Crew {
        gate: Arc<Gate>,
        passes: Arc<Vec<AtomicUsize>>,
        resets: Arc<AtomicUsize>,
        works: Arc<AtomicUsize>,
        threads: Vec<std::thread::JoinHandle<()>>,
    }

    fn crew(count: usize) -> Crew {
        let gate = Arc::new(Gate::new(count));
        let passes: Arc<Vec<_>> = Arc::new((0..count).map(|_| AtomicUsize::new(0)).collect());
        let resets = Arc::new(AtomicUsize::new(0));
        let works = Arc::new(AtomicUsize::new(0));
        let threads = (0..count)
            .map(|i| {
                let (gate, passes) = (Arc::clone(&gate), Arc::clone(&passes));
                let (resets, works) = (Arc::clone(&resets), Arc::clone(&works));
                std::thread::spawn(move || {
                    let mut seen = 0;
                    loop {
                        match gate.pass(&mut seen, || {
                            works.fetch_add(1, SeqCst);
                        }) {
                            Order::Run | Order::RunOn => {
                                // All processors are reset before one runs.
                                assert_eq!(resets.load(SeqCst) % passes.len(), 0);
                                passes[i].fetch_add(1, SeqCst);
                                std::thread::yield_now();
                            }
                            Order::Reset => {
                                resets.fetch_add(1, SeqCst);
                                gate.reset_done();
                            }
                            Order::Quit => return,
                        }
                    }
                })
            })
            .collect();
        Crew { gate, passes, resets, works, threads }
    }

    impl Crew {
        fn counts(&self) -> Vec<usize> {
            self.passes.iter().map(|p| p.load(SeqCst)).collect()
        }
        fn wait_progress(&self) {
            let before = self.counts();
            while self.counts().iter().zip(&before).any(|(now, was)| now <= was) {
                std::thread::yield_now();
            }
        }
        fn end(self) {
            self.gate.quit();
            for thread in self.threads {
                thread.join().unwrap();
            }
        }
    }

    #[test]
    fn a_closed_gate_holds_everyone_and_an_open_one_lets_them_run() {
        let crew = crew(3);
        crew.gate.wait_still().unwrap();
        assert_eq!(crew.counts(), [0; 3]);
        crew.gate.open();
        crew.wait_progress();
        crew.gate.close();
        crew.gate.wait_still().unwrap();
        let stood = crew.counts();
        std::thread::yield_now();
        assert_eq!(crew.counts(), stood);
        crew.gate.open();
        crew.wait_progress();
        crew.end();
    }

    #[test]
    fn a_reset_is_done_once_and_every_processor_follows_before_one_runs() {
        let crew = crew(4);
        crew.gate.open();
        crew.wait_progress();
        for round in 1..=5 {
            crew.gate.request_reset();
            crew.gate.request_reset();
            crew.gate.wait_reset().unwrap();
            assert_eq!(crew.works.load(SeqCst), round);
            assert_eq!(crew.resets.load(SeqCst), 4 * (round + 1));
            crew.wait_progress();
        }
        crew.end();
    }

    #[test]
    fn a_reset_while_paused_leaves_the_machine_paused() {
        let crew = crew(2);
        crew.gate.wait_still().unwrap();
        crew.gate.request_reset();
        crew.gate.wait_reset().unwrap();
        crew.gate.wait_still().unwrap();
        assert_eq!(crew.works.load(SeqCst), 1);
        assert_eq!(crew.counts(), [0; 2]);
        crew.end();
    }
}
