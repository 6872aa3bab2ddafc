//! A device at work: its workers on their threads, from DRIVER_OK until they are stopped. The same
//! for every transport.

use crate::{Device, QueueState, Session, StartError, Worker, WorkerThread};

/// The worker threads of one device.
#[derive(Default)]
pub struct Running {
    threads: Vec<WorkerThread>,
}

impl Running {
    /// Starts `device` and a thread for each of its workers.
    ///
    /// # Errors
    /// The device cannot start, or the kernel gives no thread; the device is stopped again then.
    pub fn start(device: &mut dyn Device, session: Session) -> Result<Self, StartError> {
        let interrupts = session.interrupts.clone();
        let mut workers = device.start(session)?.into_iter();
        let mut running = Self::default();
        for worker in workers.by_ref() {
            match WorkerThread::spawn(worker, interrupts.clone()) {
                Ok(thread) => running.threads.push(thread),
                Err(error) => {
                    running.stop(device, workers.collect());
                    return Err(StartError {
                        device: "worker thread",
                        reason: format!("{}: {error}", device.name()),
                    });
                }
            }
        }
        Ok(running)
    }

    /// Stops every worker, hands them back to `device`, and says where the queues stand. Queues of
    /// a worker that died are missing.
    pub fn finish(self, device: &mut dyn Device) -> Vec<QueueState> {
        self.stop(device, Vec::new())
    }

    fn stop(self, device: &mut dyn Device, idle: Vec<Box<dyn Worker>>) -> Vec<QueueState> {
        let mut workers = Vec::new();
        let mut states = Vec::new();
        // All are told first, so that they finish side by side.
        for thread in &self.threads {
            thread.request_stop();
        }
        for (worker, stopped) in self.threads.into_iter().filter_map(WorkerThread::stop) {
            workers.push(worker);
            states.extend(stopped);
        }
        workers.extend(idle);
        device.stop(workers);
        states
    }
}
