//! The two halves of a device.

use crate::{GuestMemory, Queue, QueueState};
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Device types (virtio 1.2, 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum DeviceId {
    /// 5.1
    Net = 1,
    /// 5.2
    Block = 2,
    /// 5.3
    Console = 3,
    /// 5.4
    Rng = 4,
    /// 5.5
    Balloon = 5,
    /// 9P over virtio (assigned number, no section of its own)
    Plan9 = 9,
    /// 5.7
    Gpu = 16,
    /// 5.8
    Input = 18,
    /// 5.10
    Vsock = 19,
    /// 5.11
    FileSystem = 26,
}

/// How a device tells the driver that something happened.
pub trait Interrupts: Send + Sync {
    /// Used buffers in queue `index` (the worker has checked that the driver wants to know).
    fn queue(&self, index: u16);
    /// An eventfd whose signal is an interrupt of queue `index`, past this process: for another one that works on the
    /// queue. None where there is no such way; it goes through [`Self::queue`] then.
    fn descriptor(&self, index: u16) -> Option<OwnedFd> {
        let _ = index;
        None
    }
    /// The configuration space changed; bumps the generation.
    fn config_changed(&self);
    /// The device found the driver broken: sets DEVICE_NEEDS_RESET and tells it.
    fn needs_reset(&self);
}

/// What a device gets when the driver says DRIVER_OK.
pub struct Session {
    /// Guest memory.
    pub memory: GuestMemory,
    /// The features both sides agreed on.
    pub features: u64,
    /// The queues the driver enabled, by index; absent ones were left off.
    pub queues: Vec<Queue>,
    /// The way back to the driver.
    pub interrupts: Arc<dyn Interrupts>,
}

/// Why a device could not start its workers; the transport answers with DEVICE_NEEDS_RESET.
#[derive(Debug, thiserror::Error)]
#[error("{device}: cannot start: {reason}")]
pub struct StartError {
    /// Which device.
    pub device: &'static str,
    /// Why.
    pub reason: String,
}

/// The driver broke a rule the device cannot answer in the request itself.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct WorkerError {
    /// What was found and what is allowed.
    pub what: String,
}

/// A number that only grows: counted by a worker, read by the control half without locks.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Counts `n` more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The count so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A saved device state does not fit this device.
#[derive(Debug, thiserror::Error)]
#[error("{device}: cannot restore its saved state: {reason}")]
pub struct RestoreError {
    /// Which device.
    pub device: String,
    /// What was found and what is allowed.
    pub reason: String,
}

/// The control half.
pub trait Device: Send {
    /// Its type.
    fn id(&self) -> DeviceId;

    /// Name for logs, `inspect` and saved state, unique in the VM, e.g. `block0`.
    fn name(&self) -> &str;

    /// Device feature bits offered, ring features included; the transport adds VERSION_1.
    fn features(&self) -> u64;

    /// The greatest size of each queue.
    fn queue_sizes(&self) -> Vec<u16>;

    /// Reads configuration space; bytes past its end read as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes configuration space; writes to read-only fields are ignored.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }

    /// DRIVER_OK: makes the workers. Called again only after [`Self::stop`].
    ///
    /// # Errors
    /// The device cannot work with what the driver set up, or a resource failed.
    fn start(&mut self, session: Session) -> Result<Vec<Box<dyn Worker>>, StartError>;

    /// All workers have stopped and are handed back (driver reset, pause, shutdown); the device
    /// takes out of them what it needs for the next start.
    fn stop(&mut self, workers: Vec<Box<dyn Worker>>) {
        drop(workers);
    }

    /// The driver reset the device (after [`Self::stop`]): forget the conversation with it, such
    /// as open connections. What the host set stays.
    fn reset(&mut self) {}

    /// The driver reset one queue (after [`Self::stop`]): forget what belongs to a request of it.
    fn reset_queue(&mut self, _index: u16) {}

    /// The device's own state for a snapshot, while stopped; `Null` when it has none.
    fn save(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    /// Takes back what [`Self::save`] gave, while stopped.
    ///
    /// # Errors
    /// The state is not one this device could have saved.
    fn restore(&mut self, state: &serde_json::Value) -> Result<(), RestoreError> {
        if state.is_null() {
            return Ok(());
        }
        Err(RestoreError {
            device: self.name().to_owned(),
            reason: "found a state, but this device has none".to_owned(),
        })
    }

    /// What it did so far, by name: `requests`, `bytes-read`, `bytes-written`, `refused` (requests
    /// that broke a rule) and what else is worth a number. Read while workers run.
    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// Settings and state in words, for a person.
    fn inspect(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

/// A descriptor a worker waits on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The descriptor; owned by the worker and open as long as the worker lives.
    pub descriptor: RawFd,
    /// Wait until readable.
    pub readable: bool,
    /// Wait until writable.
    pub writable: bool,
    /// Given back to [`Worker::ready`].
    pub token: u32,
}

/// The data half: runs on one thread, driven by its descriptors.
pub trait Worker: Send {
    /// For the thread's name.
    fn name(&self) -> &str;

    /// What to wait for now. Asked again after every [`Self::ready`], so a worker may come to wait
    /// for other things. A worker with hundreds of descriptors keeps an epoll of its own and gives
    /// that one.
    fn sources(&self) -> Vec<Source>;

    /// The next instant (`CLOCK_MONOTONIC`) at which [`Self::timeout`] wants to be called.
    fn deadline(&self) -> Option<std::time::Instant> {
        None
    }

    /// One source is ready. Must take the event off queue kicks itself.
    ///
    /// # Errors
    /// The driver broke a rule: the device goes to DEVICE_NEEDS_RESET and the worker stops.
    fn ready(&mut self, token: u32) -> Result<(), WorkerError>;

    /// The deadline passed.
    ///
    /// # Errors
    /// As for [`Self::ready`].
    fn timeout(&mut self) -> Result<(), WorkerError> {
        Ok(())
    }

    /// Finishes requests in flight and says where the queues stand.
    fn stop(&mut self) -> Vec<QueueState>;

    /// For the device to get at its own type in [`Device::stop`].
    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any>;
}
