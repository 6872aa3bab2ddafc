//! virtio-balloon (virtio 1.2, 5.5): the host asks the guest for memory, the guest names pages it
//! does without, and they go back to the host. Free page reporting does the same for pages that
//! happen to be free, without anybody asking.
//!
//! Only whole pages inside RAM are ever given back ([`MemoryReclaim`] checks); a page named by
//! mistake or malice costs the guest its contents and nobody else anything.

mod reclaim;
#[cfg(test)]
mod tests;
mod worker;

pub use reclaim::{MappedMemory, MemoryReclaim, ReclaimError};

use crate::device::Counter;
use crate::{Device, DeviceId, Queue, RING_FEATURES, Session, StartError, Worker, config};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use units::{Bytes, PAGE_SIZE};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use worker::{BalloonWorker, Named};

/// Feature bits (virtio 1.2, 5.5.3).
const F_STATS_VQ: u64 = 1 << 1;
const F_DEFLATE_ON_OOM: u64 = 1 << 2;
const F_PAGE_POISON: u64 = 1 << 4;
const F_PAGE_REPORTING: u64 = 1 << 5;

/// Entries of each queue.
const QUEUE_SIZE: u16 = 128;

/// What the guest tells about its memory (virtio 1.2, 5.5.6.3), by tag.
const STATISTICS: [&str; 16] = [
    "swapped-in-bytes",
    "swapped-out-bytes",
    "major-faults",
    "minor-faults",
    "free-bytes",
    "total-bytes",
    "available-bytes",
    "cache-bytes",
    "huge-page-allocations",
    "huge-page-failures",
    "out-of-memory-kills",
    "allocation-stalls",
    "asynchronous-scans",
    "direct-scans",
    "asynchronous-reclaims",
    "direct-reclaims",
];

/// The balloon cannot be told that.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BalloonError {
    /// More than the guest has.
    #[error("balloon of {asked}: the guest has only {memory} of memory")]
    TooLarge {
        /// What was asked for.
        asked: Bytes,
        /// The guest's memory.
        memory: Bytes,
    },
    /// The guest has no driver, or one that keeps no statistics.
    #[error("the guest's balloon driver gives no statistics")]
    NoStatistics,
}

#[derive(Clone, Default)]
struct Counters {
    inflated: Counter,
    deflated: Counter,
    reported: Counter,
    refused: Counter,
}

/// What control half, worker and [`BalloonControl`] share.
struct Shared {
    memory: Bytes,
    /// Pages the host wants (`num_pages`) and pages the guest has given (`actual`).
    wanted: AtomicU32,
    given: AtomicU32,
    /// What the guest fills free pages with (`poison_val`).
    poison: AtomicU32,
    statistics: Mutex<BTreeMap<&'static str, u64>>,
    /// Rung when the host wants something else.
    target_changed: EventFd,
    statistics_wanted: EventFd,
}

/// Steers a balloon while the device is in the machine's hands.
#[derive(Clone)]
pub struct BalloonControl(Arc<Shared>);

impl BalloonControl {
    /// Asks the guest to give up `size` of its memory, rounded down to whole pages.
    ///
    /// # Errors
    /// The guest has less memory than that.
    pub fn set_size(&self, size: Bytes) -> Result<(), BalloonError> {
        let too_large = BalloonError::TooLarge { asked: size, memory: self.0.memory };
        if size > self.0.memory {
            return Err(too_large);
        }
        let pages = u32::try_from(size.0 / PAGE_SIZE).map_err(|_| too_large)?;
        self.0.wanted.store(pages, Ordering::Relaxed);
        // An eventfd write fails only when the counter is full, and then the signal stands anyway.
        let _ = self.0.target_changed.write(1);
        Ok(())
    }

    /// What the guest was asked for.
    #[must_use]
    pub fn wanted(&self) -> Bytes {
        bytes(self.0.wanted.load(Ordering::Relaxed))
    }

    /// What the guest says it has given up.
    #[must_use]
    pub fn given(&self) -> Bytes {
        bytes(self.0.given.load(Ordering::Relaxed))
    }

    /// Asks the guest for new [`Self::statistics`]; they come when it gets to it.
    pub fn refresh_statistics(&self) {
        // As in `set_size`.
        let _ = self.0.statistics_wanted.write(1);
    }

    /// The last statistics the guest gave, by name.
    ///
    /// # Errors
    /// It never gave any.
    pub fn statistics(&self) -> Result<BTreeMap<&'static str, u64>, BalloonError> {
        let statistics = self.0.statistics.lock();
        let statistics = statistics.unwrap_or_else(PoisonError::into_inner);
        if statistics.is_empty() {
            return Err(BalloonError::NoStatistics);
        }
        Ok(statistics.clone())
    }
}

fn bytes(pages: u32) -> Bytes {
    Bytes(u64::from(pages) * PAGE_SIZE)
}

/// The device.
pub struct Balloon {
    name: String,
    shared: Arc<Shared>,
    counters: Counters,
    /// Here while no worker has it.
    reclaim: Option<Box<dyn MemoryReclaim>>,
}

impl Balloon {
    /// A balloon for a guest with `memory`, which gives pages back through `reclaim`.
    ///
    /// # Errors
    /// The kernel gives no eventfd.
    pub fn new(
        name: &str,
        memory: Bytes,
        reclaim: Box<dyn MemoryReclaim>,
    ) -> std::io::Result<(Self, BalloonControl)> {
        let shared = Arc::new(Shared {
            memory,
            wanted: AtomicU32::new(0),
            given: AtomicU32::new(0),
            poison: AtomicU32::new(0),
            statistics: Mutex::default(),
            target_changed: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?,
            statistics_wanted: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?,
        });
        let balloon = Self {
            name: name.to_owned(),
            shared: shared.clone(),
            counters: Counters::default(),
            reclaim: Some(reclaim),
        };
        Ok((balloon, BalloonControl(shared)))
    }

    /// The writable fields by their offset (virtio 1.2, 5.5.4).
    fn field(&self, offset: u64) -> Option<&AtomicU32> {
        match offset {
            4 => Some(&self.shared.given),
            12 => Some(&self.shared.poison),
            _ => None,
        }
    }
}

impl Device for Balloon {
    fn id(&self) -> DeviceId {
        DeviceId::Balloon
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn features(&self) -> u64 {
        RING_FEATURES | F_STATS_VQ | F_DEFLATE_ON_OOM | F_PAGE_POISON | F_PAGE_REPORTING
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 4]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = [0; 16];
        let fields = [(0, &self.shared.wanted), (4, &self.shared.given), (12, &self.shared.poison)];
        for (at, field) in fields {
            let value: u32 = field.load(Ordering::Relaxed);
            config[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        config::read(&config, offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        // Drivers access fields whole (virtio 1.2, 4.1.3.1).
        if let (Some(field), Ok(value)) = (self.field(offset), data.try_into()) {
            field.store(u32::from_le_bytes(value), Ordering::Relaxed);
        }
    }

    fn start(&mut self, session: Session) -> Result<Vec<Box<dyn Worker>>, StartError> {
        // Queues a driver did not agree to take no number (as Linux and Windows count them).
        let mut expected = vec![Named::Inflate, Named::Deflate];
        if session.features & F_STATS_VQ != 0 {
            expected.push(Named::Statistics);
        }
        if session.features & F_PAGE_REPORTING != 0 {
            expected.push(Named::Reporting);
        }
        let queues: Vec<(Named, Queue)> = session
            .queues
            .into_iter()
            .filter_map(|queue| {
                let named = expected.get(usize::from(queue.index))?;
                Some((*named, queue))
            })
            .collect();
        let reclaim = self.reclaim.take().ok_or_else(|| StartError {
            device: "balloon",
            reason: "its last worker died with the way back to the host".to_owned(),
        })?;
        Ok(vec![Box::new(BalloonWorker {
            name: self.name.clone(),
            shared: self.shared.clone(),
            counters: self.counters.clone(),
            reclaim,
            poisons: session.features & F_PAGE_POISON != 0,
            memory: session.memory,
            interrupts: session.interrupts,
            queues,
            statistics_buffer: None,
        })])
    }

    fn stop(&mut self, workers: Vec<Box<dyn Worker>>) {
        for worker in workers {
            if let Ok(worker) = worker.into_any().downcast::<BalloonWorker>() {
                self.reclaim = Some(worker.reclaim);
            }
        }
    }

    fn reset(&mut self) {
        self.shared.given.store(0, Ordering::Relaxed);
        self.shared.poison.store(0, Ordering::Relaxed);
        let statistics = self.shared.statistics.lock();
        statistics.unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn save(&self) -> serde_json::Value {
        serde_json::json!({
            "wanted": self.shared.wanted.load(Ordering::Relaxed),
            "given": self.shared.given.load(Ordering::Relaxed),
            "poison": self.shared.poison.load(Ordering::Relaxed),
        })
    }

    fn restore(&mut self, state: &serde_json::Value) -> Result<(), crate::RestoreError> {
        let number = |name: &str| {
            state
                .get(name)
                .and_then(serde_json::Value::as_u64)
                .and_then(|value| u32::try_from(value).ok())
                .ok_or_else(|| crate::RestoreError {
                    device: self.name.clone(),
                    reason: format!("found no 32-bit number {name}"),
                })
        };
        let (wanted, given, poison) = (number("wanted")?, number("given")?, number("poison")?);
        self.shared.wanted.store(wanted, Ordering::Relaxed);
        self.shared.given.store(given, Ordering::Relaxed);
        self.shared.poison.store(poison, Ordering::Relaxed);
        Ok(())
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let c = &self.counters;
        vec![
            ("bytes-inflated", c.inflated.get()),
            ("bytes-deflated", c.deflated.get()),
            ("bytes-reported", c.reported.get()),
            ("refused", c.refused.get()),
        ]
    }

    fn inspect(&self) -> Vec<(&'static str, String)> {
        let shared = &self.shared;
        vec![
            ("wanted", bytes(shared.wanted.load(Ordering::Relaxed)).to_string()),
            ("given", bytes(shared.given.load(Ordering::Relaxed)).to_string()),
        ]
    }
}
