//! The disk (virtio 1.2, 5.2): one worker per queue over a shared [`disk::Image`].
//!
//! Data move straight between the file and guest memory. Every request is checked whole before it
//! changes anything; one that breaks the rules is answered with an error status and counted.

mod limit;
mod pool;
mod request;
#[cfg(test)]
mod tests;
mod worker;

pub use limit::RateLimit;

use crate::{Device, DeviceId, RING_FEATURES, RestoreError, Session, StartError, Worker, config};
use disk::{Image, SECTOR};
use limit::Limiter;
use pool::Pool;
use request::{
    Counters, Disk, MOST_DISCARD_SECTORS, MOST_SEGMENTS, MOST_ZEROES_SECTORS, SERIAL_BYTES,
};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH,
    VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY,
    VIRTIO_BLK_F_WRITE_ZEROES,
};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use worker::{BlockWorker, Finished};

/// Entries per queue: a transfer of 1 MiB in single pages, which is what a guest makes of a read ahead,
/// is one request.
const QUEUE_SIZE: u16 = 512;
/// Data buffers in one request: the queue's entries less header and status.
const SEGMENTS: u32 = QUEUE_SIZE as u32 - 2;
/// More queues than this bring nothing but threads.
const MOST_QUEUES: u16 = 16;
/// Guests should write whole pages: 2^3 logical blocks are one of 4096 bytes.
const PHYSICAL_BLOCK_EXPONENT: u8 = 3;

/// Length of `struct virtio_blk_config` up to the fields used (virtio 1.2, 5.2.4).
const CONFIG_BYTES: usize = 60;
/// Offset of the field `writeback`.
const WRITEBACK: u64 = 32;

const STATE_VERSION: u64 = 1;

/// What a disk is made of.
#[derive(Clone, Debug)]
pub struct BlockOptions {
    /// Name in the VM, e.g. `block0`.
    pub name: String,
    /// The open image; read-only if the guest must not write.
    pub image: Arc<Image>,
    /// What the guest reads as serial number: the first 20 bytes count.
    pub serial: String,
    /// Queues: as many as virtual processors; 1 to 16, clamped.
    pub queues: u16,
    /// Upper bounds on the guest's use.
    pub limit: RateLimit,
}

/// The control half.
pub struct Block {
    options: BlockOptions,
    writeback: Arc<AtomicBool>,
    counters: Counters,
    /// Outlives the workers: a driver that resets the device owes what it owed.
    limiter: Arc<Mutex<Limiter>>,
}

impl Block {
    /// A disk.
    #[must_use]
    pub fn new(mut options: BlockOptions) -> Self {
        options.queues = options.queues.clamp(1, MOST_QUEUES);
        let writeback = Arc::new(AtomicBool::new(true));
        let limiter = Limiter::new(options.limit, Instant::now());
        Self {
            options,
            writeback,
            counters: Counters::default(),
            limiter: Arc::new(Mutex::new(limiter)),
        }
    }

    fn config(&self) -> [u8; CONFIG_BYTES] {
        let image = &self.options.image;
        let mut bytes = [0; CONFIG_BYTES];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &(image.size() / SECTOR).to_le_bytes());
        put(12, &SEGMENTS.to_le_bytes());
        put(20, &(SECTOR as u32).to_le_bytes());
        put(24, &[PHYSICAL_BLOCK_EXPONENT]);
        put(26, &(1_u16 << PHYSICAL_BLOCK_EXPONENT).to_le_bytes());
        put(32, &[self.writeback.load(Ordering::Relaxed).into()]);
        put(34, &self.options.queues.to_le_bytes());
        // Clusters have at most 2 MiB.
        let granularity = u32::try_from(image.discard_granularity() / SECTOR).unwrap_or(1);
        put(36, &MOST_DISCARD_SECTORS.to_le_bytes());
        put(40, &MOST_SEGMENTS.to_le_bytes());
        put(44, &granularity.to_le_bytes());
        put(48, &MOST_ZEROES_SECTORS.to_le_bytes());
        put(52, &MOST_SEGMENTS.to_le_bytes());
        put(56, &[1]);
        bytes
    }
}

impl Device for Block {
    fn id(&self) -> DeviceId {
        DeviceId::Block
    }

    fn name(&self) -> &str {
        &self.options.name
    }

    fn features(&self) -> u64 {
        let mut bits = vec![
            VIRTIO_BLK_F_SEG_MAX,
            VIRTIO_BLK_F_BLK_SIZE,
            VIRTIO_BLK_F_TOPOLOGY,
            VIRTIO_BLK_F_MQ,
        ];
        if self.options.image.read_only() {
            bits.push(VIRTIO_BLK_F_RO);
        } else {
            bits.extend([
                VIRTIO_BLK_F_FLUSH,
                VIRTIO_BLK_F_CONFIG_WCE,
                VIRTIO_BLK_F_DISCARD,
                VIRTIO_BLK_F_WRITE_ZEROES,
            ]);
        }
        bits.into_iter().fold(RING_FEATURES, |features, bit| features | 1 << bit)
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; self.options.queues.into()]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config::read(&self.config(), offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (WRITEBACK, &[value @ (0 | 1)], false) =
            (offset, data, self.options.image.read_only())
        {
            self.writeback.store(value == 1, Ordering::Relaxed);
        }
    }

    fn start(&mut self, session: Session) -> Result<Vec<Box<dyn Worker>>, StartError> {
        // Without FLUSH the driver counts on every write being safe (virtio 1.2, 5.2.5.2).
        if session.features & 1 << VIRTIO_BLK_F_FLUSH == 0 {
            self.writeback.store(false, Ordering::Relaxed);
        }
        let mut serial = [0; SERIAL_BYTES];
        for (to, from) in serial.iter_mut().zip(self.options.serial.bytes()) {
            *to = from;
        }
        let disk = Arc::new(Disk {
            image: self.options.image.clone(),
            serial,
            features: session.features,
            writeback: self.writeback.clone(),
            counters: self.counters.clone(),
        });
        let pool = Pool::default();
        let mut workers: Vec<Box<dyn Worker>> = Vec::new();
        for queue in session.queues {
            let event = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(|error| StartError {
                device: "block",
                reason: format!("eventfd for finished requests: {error}"),
            })?;
            workers.push(Box::new(BlockWorker {
                name: format!("{}.{}", self.options.name, queue.index),
                queue,
                memory: session.memory.clone(),
                interrupts: session.interrupts.clone(),
                disk: disk.clone(),
                limiter: self.limiter.clone(),
                pool: pool.clone(),
                finished: Arc::new(Finished::new(event)),
                in_flight: 0,
                held_until: None,
            }));
        }
        Ok(workers)
    }

    fn stop(&mut self, workers: Vec<Box<dyn Worker>>) {
        drop(workers);
        // What the guest wrote is safe when the VM is paused, saved or shut down.
        if let Err(error) = self.options.image.flush() {
            tracing::warn!(disk = self.options.name, %error, "cannot flush");
        }
    }

    fn reset(&mut self) {
        self.writeback.store(true, Ordering::Relaxed);
    }

    fn save(&self) -> serde_json::Value {
        let writeback = self.writeback.load(Ordering::Relaxed);
        serde_json::json!({ "version": STATE_VERSION, "writeback": writeback })
    }

    fn restore(&mut self, state: &serde_json::Value) -> Result<(), RestoreError> {
        let version = state["version"].as_u64();
        match (version, state["writeback"].as_bool()) {
            (Some(STATE_VERSION), Some(writeback)) => {
                self.writeback.store(writeback, Ordering::Relaxed);
                Ok(())
            }
            _ => Err(RestoreError {
                device: self.options.name.clone(),
                reason: format!(
                    "expected version {STATE_VERSION} with a writeback flag, found {state}"
                ),
            }),
        }
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let counters = &self.counters;
        vec![
            ("requests", counters.requests.get()),
            ("bytes-read", counters.bytes_read.get()),
            ("bytes-written", counters.bytes_written.get()),
            ("flushes", counters.flushes.get()),
            ("errors", counters.errors.get()),
            ("refused", counters.refused.get()),
        ]
    }

    fn inspect(&self) -> Vec<(&'static str, String)> {
        let image = &self.options.image;
        vec![
            ("image", image.path().display().to_string()),
            ("format", image.format().to_string()),
            ("size", image.size().to_string()),
            ("read-only", image.read_only().to_string()),
            ("writeback", self.writeback.load(Ordering::Relaxed).to_string()),
        ]
    }
}
