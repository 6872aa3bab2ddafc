//! The console (virtio 1.2, 5.3): one port whose bytes go to and come from a [`ConsoleEnd`] of the
//! host, and a size that follows the host's terminal.

mod lane;
pub mod port;
#[cfg(test)]
mod tests;
mod worker;

use crate::{
    Counter, Device, DeviceId, Interrupts, RING_FEATURES, RestoreError, Session, StartError,
    Worker, config,
};
use lane::Lane;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use worker::ConsoleWorker;

/// The size is in the configuration (virtio 1.2, 5.3.3).
const F_SIZE: u32 = 0;
/// Entries per queue; a console moves few bytes at a time.
const QUEUE_SIZE: u16 = 64;
/// Receive and transmit queue of port 0 (virtio 1.2, 5.3.2).
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
/// Bytes moved by one system call.
const CHUNK: usize = 4096;
/// Chunks moved before other events get their turn.
const MOST_CHUNKS: usize = 16;

const STATE_VERSION: u64 = 1;

const TOKEN_RECEIVE: u32 = 0;
const TOKEN_TRANSMIT: u32 = 1;
const TOKEN_END: u32 = 2;

/// The host's end of a console. Neither direction ever waits; receiving 0 bytes means that nothing
/// will ever come again.
pub trait ConsoleEnd: Send {
    /// Takes bytes for the guest.
    ///
    /// # Errors
    /// `WouldBlock` when there are none now; anything else means that none will come.
    fn receive(&mut self, bytes: &mut [u8]) -> io::Result<usize>;

    /// Gives bytes from the guest.
    ///
    /// # Errors
    /// `WouldBlock` when none can be taken now; anything else means never again: what the guest
    /// says is dropped from then on.
    fn send(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Readable when bytes can be received, writable when they can be sent.
    fn descriptor(&self) -> BorrowedFd<'_>;
}

/// One end of a socket pair; must be in non-blocking mode.
impl ConsoleEnd for UnixStream {
    fn receive(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.read(bytes)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write(bytes)
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }
}

/// Changes the size of a console, from any thread.
#[derive(Clone, Default)]
pub struct ConsoleSize(Arc<Size>);

#[derive(Default)]
struct Size {
    /// Columns in the low half, rows in the high one, as in configuration space.
    cells: AtomicU32,
    interrupts: Mutex<Option<Arc<dyn Interrupts>>>,
}

impl ConsoleSize {
    /// The terminal has so many columns and rows now; the driver is told.
    pub fn set(&self, columns: u16, rows: u16) {
        let cells = u32::from(rows) << 16 | u32::from(columns);
        if self.0.cells.swap(cells, Ordering::SeqCst) != cells
            && let Some(interrupts) = self.interrupts().as_ref()
        {
            interrupts.config_changed();
        }
    }

    fn interrupts(&self) -> MutexGuard<'_, Option<Arc<dyn Interrupts>>> {
        self.0.interrupts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Debug, Default)]
struct Counters {
    requests: Counter,
    to_guest: Counter,
    from_guest: Counter,
    refused: Counter,
}

/// The control half.
pub struct Console {
    name: String,
    size: ConsoleSize,
    counters: Counters,
    /// With the worker while one runs.
    end: Option<Box<dyn ConsoleEnd>>,
    /// Bytes already written of the request that was under way when the worker stopped.
    written: usize,
}

impl Console {
    /// A console called `name` that talks to `end`.
    #[must_use]
    pub fn new(name: &str, end: Box<dyn ConsoleEnd>) -> Self {
        Self {
            name: name.to_owned(),
            size: ConsoleSize::default(),
            counters: Counters::default(),
            end: Some(end),
            written: 0,
        }
    }

    /// What sets its size.
    #[must_use]
    pub fn size(&self) -> ConsoleSize {
        self.size.clone()
    }
}

impl Device for Console {
    fn id(&self) -> DeviceId {
        DeviceId::Console
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn features(&self) -> u64 {
        RING_FEATURES | 1 << F_SIZE
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 2]
    }

    /// Columns, rows, greatest number of ports, emergency write (virtio 1.2, 5.3.4); the last two
    /// belong to features that are not offered.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config::read(&self.size.0.cells.load(Ordering::SeqCst).to_le_bytes(), offset, data);
    }

    fn start(&mut self, session: Session) -> Result<Vec<Box<dyn Worker>>, StartError> {
        let (mut receive, mut transmit) = (None, None);
        for queue in session.queues {
            match queue.index {
                RECEIVE => receive = Some(queue),
                TRANSMIT => transmit = Some(queue),
                _ => {}
            }
        }
        *self.size.interrupts() = Some(session.interrupts.clone());
        let written = std::mem::take(&mut self.written);
        let lane = Lane::new([receive, transmit], self.end.take(), written, self.counters.clone());
        Ok(vec![Box::new(ConsoleWorker {
            name: self.name.clone(),
            lane,
            memory: session.memory,
            interrupts: session.interrupts,
        })])
    }

    fn stop(&mut self, workers: Vec<Box<dyn Worker>>) {
        *self.size.interrupts() = None;
        for worker in workers {
            if let Ok(worker) = worker.into_any().downcast::<ConsoleWorker>() {
                self.end = worker.lane.end;
                self.written = worker.lane.written;
            }
        }
    }

    fn reset(&mut self) {
        self.written = 0;
    }

    fn reset_queue(&mut self, index: u16) {
        if index == TRANSMIT {
            self.written = 0;
        }
    }

    fn save(&self) -> serde_json::Value {
        serde_json::json!({ "version": STATE_VERSION, "written": self.written })
    }

    fn restore(&mut self, state: &serde_json::Value) -> Result<(), RestoreError> {
        let written = state["written"].as_u64().and_then(|n| usize::try_from(n).ok());
        match (state["version"].as_u64(), written) {
            (Some(STATE_VERSION), Some(written)) => {
                self.written = written;
                Ok(())
            }
            _ => Err(RestoreError {
                device: self.name.clone(),
                reason: format!(
                    "expected version {STATE_VERSION} with a count of bytes, found {state}"
                ),
            }),
        }
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("requests", self.counters.requests.get()),
            ("bytes-read", self.counters.to_guest.get()),
            ("bytes-written", self.counters.from_guest.get()),
            ("refused", self.counters.refused.get()),
        ]
    }

    fn inspect(&self) -> Vec<(&'static str, String)> {
        let cells = self.size.0.cells.load(Ordering::SeqCst);
        vec![("size", format!("{}x{}", cells & 0xffff, cells >> 16))]
    }
}
