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
