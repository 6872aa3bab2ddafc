//! The thread that runs one [`Worker`]: waits for its descriptors, its deadline and a stop signal,
//! and hands the worker back when stopped.

use crate::{Interrupts, QueueState, Source, Worker, WorkerError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Stack of a worker thread. Workers keep buffers on the heap or in guest memory; the deepest call
/// chains (qcow2 allocation, a panic's report) need some tens of KiB.
const STACK_BYTES: usize = 256 * 1024;

/// A running worker.
pub struct WorkerThread {
    stop: EventFd,
    thread: JoinHandle<Box<dyn Worker>>,
    name: String,
}

impl WorkerThread {
    /// Starts a thread for `worker`. When the worker reports a broken driver (or panics), the
    /// driver is told through `interrupts` and the thread only waits to be stopped.
    ///
    /// # Errors
    /// The kernel gives no eventfd or no thread.
    pub fn spawn(worker: Box<dyn Worker>, interrupts: Arc<dyn Interrupts>) -> io::Result<Self> {
        let stop = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
        let stop_in_thread = stop.try_clone()?;
        let name = worker.name().to_owned();
        let thread = std::thread::Builder::new()
            .name(thread_name(&name))
            .stack_size(STACK_BYTES)
            .spawn(move || run(worker, &stop_in_thread, interrupts.as_ref()))?;
        Ok(Self { stop, thread, name })
    }

    /// Tells the worker to stop without waiting for it; [`Self::stop`] must follow.
    pub fn request_stop(&self) {
        // An eventfd write fails only when the counter is full, and then the signal stands anyway.
        let _ = self.stop.write(1);
    }

    /// Has the worker finish what is in flight and takes it back with the places of its queues.
    /// `None` when its thread died, which costs the device its worker's state.
    #[must_use]
    pub fn stop(self) -> Option<(Box<dyn Worker>, Vec<QueueState>)> {
        self.request_stop();
        let mut worker = self.thread.join().ok()?;
        match catch_unwind(AssertUnwindSafe(|| worker.stop())) {
            Ok(states) => Some((worker, states)),
            Err(_) => {
                tracing::error!(worker = self.name, "panicked while stopping");
                None
            }
        }
    }
}

/// The kernel keeps 15 bytes of a thread's name.
fn thread_name(name: &str) -> String {
    name.chars().filter(char::is_ascii).take(15).collect()
}

fn run(
    mut worker: Box<dyn Worker>,
    stop: &EventFd,
    interrupts: &dyn Interrupts,
) -> Box<dyn Worker> {
    match catch_unwind(AssertUnwindSafe(|| serve(worker.as_mut(), stop))) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(worker = worker.name(), %error, "driver broke a rule; device needs reset");
            interrupts.needs_reset();
        }
        Err(_) => {
            tracing::error!(worker = worker.name(), "panicked; device needs reset");
            interrupts.needs_reset();
        }
    }
    worker
}

/// Returns when told to stop, or with the worker's error.
fn serve(worker: &mut dyn Worker, stop: &EventFd) -> Result<(), WorkerError> {
    let mut ready = Vec::new();
    loop {
        let sources = worker.sources();
        let deadline = worker.deadline();
        if wait(stop, &sources, deadline, &mut ready)? {
            return Ok(());
        }
        for &token in &ready {
            worker.ready(token)?;
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            worker.timeout()?;
        }
    }
}

/// Waits; fills `ready` with the tokens of ready sources. True when told to stop.
fn wait(
    stop: &EventFd,
    sources: &[Source],
    deadline: Option<Instant>,
    ready: &mut Vec<u32>,
) -> Result<bool, WorkerError> {
    ready.clear();
    // One nobody waits for would still report a hang-up, over and over.
    let waiting = |source: &&Source| source.readable || source.writable;
    let mut polled = Vec::with_capacity(sources.len() + 1);
    polled.push(poll_entry(stop.as_raw_fd(), PollFlags::IN));
    for source in sources.iter().filter(waiting) {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, source.readable);
        flags.set(PollFlags::OUT, source.writable);
        polled.push(poll_entry(source.descriptor, flags));
    }
    let timeout = deadline.map(|deadline| {
        let left = deadline.saturating_duration_since(Instant::now());
        Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        }
    });
    match poll(&mut polled, timeout.as_ref()) {
        Ok(_) => {}
        Err(rustix::io::Errno::INTR) => return Ok(false),
        Err(error) => {
            return Err(WorkerError {
                what: format!("waiting for {} descriptors failed: {error}", sources.len()),
            });
        }
    }
    if !polled[0].revents().is_empty() {
        return Ok(true);
    }
    for (source, entry) in sources.iter().filter(waiting).zip(&polled[1..]) {
        // A hung-up or failed descriptor is ready too: the next read or write tells its owner.
        if !entry.revents().is_empty() {
            ready.push(source.token);
        }
    }
    Ok(false)
}

#[allow(unsafe_code)]
fn poll_entry<'a>(descriptor: RawFd, flags: PollFlags) -> PollFd<'a> {
    // SAFETY: the stop eventfd outlives the loop, and `Source::descriptor` is open as long as its
    // worker lives, which outlives this poll. A worker that broke this gets POLLNVAL, no more.
    PollFd::from_borrowed_fd(unsafe { BorrowedFd::borrow_raw(descriptor) }, flags)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::TestInterrupts;
    use std::any::Any;
    use std::sync::Mutex;
    use std::time::Duration;

    type Script = fn(&mut Scripted) -> Result<(), WorkerError>;

    /// Notes what is called, and does what it is told.
    struct Scripted {
        event: EventFd,
        deadline: Option<Instant>,
        calls: Arc<Mutex<Vec<String>>>,
        script: Script,
    }

    impl Scripted {
        fn new(script: Script) -> Self {
            let event = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).unwrap();
            Self { event, deadline: None, calls: Arc::default(), script }
        }

        fn note(&self, call: String) {
            self.calls.lock().unwrap().push(call);
        }
    }

    impl Worker for Scripted {
        fn name(&self) -> &str {
            "scripted"
        }

        fn sources(&self) -> Vec<Source> {
            let source = |readable, writable, token| Source {
                descriptor: self.event.as_raw_fd(),
                readable,
                writable,
                token,
            };
            vec![source(false, false, 1), source(true, false, 2)]
        }

        fn deadline(&self) -> Option<Instant> {
            self.deadline
        }

        fn ready(&mut self, token: u32) -> Result<(), WorkerError> {
            self.event.read().unwrap();
            self.note(format!("ready {token}"));
            (self.script)(self)
        }

        fn timeout(&mut self) -> Result<(), WorkerError> {
            self.deadline = None;
            self.note("timeout".to_owned());
            Ok(())
        }

        fn stop(&mut self) -> Vec<QueueState> {
            self.note("stop".to_owned());
            vec![QueueState { index: 7, next_avail: 1, next_used: 1 }]
        }

        fn into_any(self: Box<Self>) -> Box<dyn Any> {
            self
        }
    }

    /// Runs a worker, rings once, waits until `done`, stops it; what was called.
    fn run_until(worker: Scripted, done: &str, interrupts: &Arc<TestInterrupts>) -> Vec<String> {
        let (event, calls) = (worker.event.try_clone().unwrap(), worker.calls.clone());
        let thread = WorkerThread::spawn(Box::new(worker), interrupts.clone()).unwrap();
        event.write(1).unwrap();
        while !calls.lock().unwrap().iter().any(|call| call == done) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let (worker, states) = thread.stop().expect("the worker comes back");
        assert_eq!(states[0].index, 7);
        assert!(worker.into_any().downcast::<Scripted>().is_ok());
        let calls = calls.lock().unwrap();
        calls.clone()
    }

    #[test]
    fn a_worker_hears_of_its_sources_and_its_deadline_and_comes_back() {
        let interrupts = Arc::default();
        let worker = Scripted::new(|worker| {
            worker.deadline = Some(Instant::now() + Duration::from_millis(5));
            Ok(())
        });
        let calls = run_until(worker, "timeout", &interrupts);
        assert_eq!(calls, ["ready 2", "timeout", "stop"]);
        assert!(!interrupts.seen().needs_reset);
    }

    #[test]
    fn a_broken_rule_or_a_panic_asks_for_a_reset_and_the_worker_still_comes_back() {
        let scripts: [Script; 2] =
            [|_| Err(WorkerError { what: "told to".to_owned() }), |_| panic!("told to")];
        for script in scripts {
            let interrupts = Arc::<TestInterrupts>::default();
            let calls = run_until(Scripted::new(script), "ready 2", &interrupts);
            assert_eq!(calls, ["ready 2", "stop"]);
            assert!(interrupts.seen().needs_reset);
        }
    }
}
