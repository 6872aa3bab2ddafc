//! A folder of the host, shared by 9P2000.L over virtio (the transport of Linux `net/9p/trans_virtio.c`:
//! one queue, the request in the readable buffers, the answer in the writable ones).
//!
//! The protocol is served by crate `plan9`, which judges every request first: nothing
//! outside the folder is reachable, a read-only share stays as it is, and no device or pipe is ever
//! opened. Not offered: making symbolic links or device nodes.

#[cfg(test)]
mod tests;
mod worker;

use crate::device::Counter;
use crate::{Device, DeviceId, RING_FEATURES, Session, StartError, Worker, config};
use plan9::{Guard, Options, most_handles};
use rustix::fs::{Mode, OFlags};
use std::path::{Path, PathBuf};
use worker::Plan9Worker;

/// Entries of the queue: so many pages one request may span (Linux `net/9p/trans_virtio.c`).
const QUEUE_SIZE: u16 = 128;

/// VIRTIO_9P_MOUNT_TAG: there is a tag in the configuration (Linux `virtio_9p.h`).
const F_MOUNT_TAG: u64 = 1 << 0;

/// Bytes a tag may have; guests that keep it in fixed fields hold this much.
const LONGEST_TAG: usize = 31;

/// A folder cannot be shared.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// The tag is empty or too long.
    #[error("share {tag:?}: a tag has 1 to {LONGEST_TAG} bytes")]
    Tag {
        /// The tag given.
        tag: String,
    },
    /// The folder cannot be opened.
    #[error("share {tag}: cannot open the folder {path:?}: {error}")]
    Folder {
        /// The share.
        tag: String,
        /// The folder given.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
}

#[derive(Clone, Default)]
struct Counters {
    requests: Counter,
    from_guest: Counter,
    to_guest: Counter,
    refused: Counter,
    left_out: Counter,
}

/// The device.
pub struct Plan9 {
    name: String,
    tag: String,
    path: PathBuf,
    read_only: bool,
    counters: Counters,
    /// Here while no worker has it.
    guard: Option<Guard>,
}

impl Plan9 {
    /// Shares the folder `path` under `tag`. The folder is opened now: whatever its path comes to
    /// name later, this one is shared.
    ///
    /// # Errors
    /// The tag's length, or the path names no folder that can be opened.
    pub fn new(name: &str, tag: &str, path: &Path, read_only: bool) -> Result<Self, ShareError> {
        if !(1..=LONGEST_TAG).contains(&tag.len()) {
            return Err(ShareError::Tag { tag: tag.to_owned() });
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let guard = rustix::fs::open(path, flags, Mode::empty())
            .map_err(std::io::Error::from)
            .and_then(|root| {
                // The VM needs the rest.
                let max_handles = most_handles(1);
                Guard::new(root, Options { read_only, max_handles, ..Options::default() })
            })
            .map_err(|error| ShareError::Folder {
                tag: tag.to_owned(),
                path: path.to_owned(),
                error,
            })?;
        Ok(Self {
            name: name.to_owned(),
            tag: tag.to_owned(),
            path: path.to_owned(),
            read_only,
            counters: Counters::default(),
            guard: Some(guard),
        })
    }
}

impl Device for Plan9 {
    fn id(&self) -> DeviceId {
        DeviceId::Plan9
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn features(&self) -> u64 {
        RING_FEATURES | F_MOUNT_TAG
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // Not truncated: the tag has at most 31 bytes.
        let length = (self.tag.len() as u16).to_le_bytes();
        let config = [&length, self.tag.as_bytes()].concat();
        config::read(&config, offset, data);
    }

    fn start(&mut self, session: Session) -> Result<Vec<Box<dyn Worker>>, StartError> {
        let fail = |reason: &str| StartError { device: "9p", reason: reason.to_owned() };
        let queue = session.queues.into_iter().find(|queue| queue.index == 0);
        let queue = queue.ok_or_else(|| fail("the driver must enable the queue"))?;
        let guard = self.guard.take();
        let guard = guard.ok_or_else(|| fail("its last worker died with the folder"))?;
        Ok(vec![Box::new(Plan9Worker {
            name: self.name.clone(),
            guard,
            counters: self.counters.clone(),
            memory: session.memory,
            interrupts: session.interrupts,
            queue,
        })])
    }

    fn stop(&mut self, workers: Vec<Box<dyn Worker>>) {
        for worker in workers {
            if let Ok(worker) = worker.into_any().downcast::<Plan9Worker>() {
                self.guard = Some(worker.guard);
            }
        }
    }

    fn reset(&mut self) {
        if let Some(guard) = &mut self.guard {
            guard.reset();
        }
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let c = &self.counters;
        vec![
            ("requests", c.requests.get()),
            ("bytes-read", c.to_guest.get()),
            ("bytes-written", c.from_guest.get()),
            ("refused", c.refused.get()),
            ("names-left-out", c.left_out.get()),
        ]
    }

    fn inspect(&self) -> Vec<(&'static str, String)> {
        vec![
            ("tag", self.tag.clone()),
            ("folder", self.path.display().to_string()),
            ("read-only", self.read_only.to_string()),
        ]
    }
}
