//! Threads for requests that wait for the disk, so that the next ones in the queue need not.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The most threads of one disk: enough to keep a disk with a deep queue busy.
const MOST_THREADS: usize = 16;
/// A thread with nothing to do for so long ends and gives its memory back.
const IDLE: Duration = Duration::from_secs(5);
/// The deepest path is a qcow2 allocation, some KiB.
const STACK_BYTES: usize = 128 * 1024;

type Job = Box<dyn FnOnce() + Send>;

/// Runs jobs, each on some thread, in about the order they came. With the last handle gone, the
/// threads end when there are no more jobs.
#[derive(Clone, Default)]
pub(super) struct Pool(Arc<Owner>);

#[derive(Default)]
struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.work.notify_all();
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    /// Hands over a job. Callers bound how many they have under way.
    ///
    /// # Errors
    /// There is no thread and the kernel gives none; the job is given back.
    pub(super) fn run(&self, job: Job) -> Result<(), Job> {
        let shared = &self.0.0;
        let mut state = shared.lock();
        let more = state.jobs.len() >= state.idle && state.threads < MOST_THREADS;
        if more {
            match spawn(shared.clone()) {
                Ok(()) => state.threads += 1,
                Err(error) if state.threads == 0 => {
                    tracing::warn!(%error, "no thread for disk requests");
                    return Err(job);
                }
                Err(_) => {}
            }
        }
        state.jobs.push_back(job);
        shared.work.notify_one();
        Ok(())
    }
}

fn spawn(shared: Arc<Shared>) -> io::Result<()> {
    std::thread::Builder::new()
        .name("disk".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || work(&shared))
        .map(drop)
}

fn work(shared: &Shared) {
    let mut state = shared.lock();
    loop {
        if let Some(job) = state.jobs.pop_front() {
            drop(state);
            job();
            state = shared.lock();
            continue;
        }
        if state.closed {
            break;
        }
        state.idle += 1;
        let waited = shared.work.wait_timeout(state, IDLE);
        let (again, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        state = again;
        state.idle -= 1;
        if timeout.timed_out() && state.jobs.is_empty() {
            break;
        }
    }
    state.threads -= 1;
}
