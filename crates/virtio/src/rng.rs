//! Entropy for the guest (virtio 1.2, 5.4): each request is filled from the kernel's generator.

use crate::scatter::Buffers;
use crate::{
    Counter, Device, DeviceId, GuestMemory, Interrupts, Queue, QueueState, RING_FEATURES, Session,
    Source, StartError, Worker, WorkerError,
};
use rustix::rand::{GetRandomFlags, getrandom};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use vm_memory::GuestAddressSpace;

/// Entries of the one queue. Drivers keep one or two requests in it.
const QUEUE_SIZE: u16 = 64;
/// The most bytes for one request; the device may give fewer than asked for (virtio 1.2, 5.4.6).
/// Bounds the time a guest can keep the kernel's generator busy at a stretch.
const MOST_BYTES: usize = 4096;

/// The control half.
#[derive(Debug, Default)]
pub struct Rng {
    name: String,
    requests: Counter,
    bytes: Counter,
    refused: Counter,
}

impl Rng {
    /// A device called `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }
}

impl Device for Rng {
    fn id(&self) -> DeviceId {
        DeviceId::Rng
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn features(&self) -> u64 {
        RING_FEATURES
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn start(&mut self, session: Session) -> Result<Vec<Box<dyn Worker>>, StartError> {
        let Some(queue) = session.queues.into_iter().next() else {
            return Ok(Vec::new());
        };
        Ok(vec![Box::new(RngWorker {
            name: self.name.clone(),
            queue,
            memory: session.memory,
            interrupts: session.interrupts,
            requests: self.requests.clone(),
            bytes: self.bytes.clone(),
            refused: self.refused.clone(),
        })])
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("requests", self.requests.get()),
            ("bytes-read", self.bytes.get()),
            ("refused", self.refused.get()),
        ]
    }
}

struct RngWorker {
    name: String,
    queue: Queue,
    memory: GuestMemory,
    interrupts: Arc<dyn Interrupts>,
    requests: Counter,
    bytes: Counter,
    refused: Counter,
}

impl Worker for RngWorker {
    fn name(&self) -> &str {
        &self.name
    }

    fn sources(&self) -> Vec<Source> {
        vec![Source {
            descriptor: self.queue.kick.as_raw_fd(),
            readable: true,
            writable: false,
            token: 0,
        }]
    }

    fn ready(&mut self, _token: u32) -> Result<(), WorkerError> {
        let memory = self.memory.memory();
        let (requests, bytes, refused) = (&self.requests, &self.bytes, &self.refused);
        self.queue.serve(&memory, self.interrupts.as_ref(), |chain| {
            requests.add(1);
            // Nothing in a request can carry an error, so a malformed one just gets no bytes.
            let Ok(buffers) = Buffers::of(chain, &memory) else {
                refused.add(1);
                return Ok(0);
            };
            let mut random = [0; MOST_BYTES];
            let wanted = buffers.writable.len().min(MOST_BYTES);
            let filled = getrandom(&mut random[..wanted], GetRandomFlags::empty())
                .map_err(|error| WorkerError { what: format!("getrandom: {error}") })?;
            let written = buffers.writable.copy_from(&random[..filled]);
            bytes.add(written as u64);
            Ok(written as u32)
        })
    }

    fn stop(&mut self) -> Vec<QueueState> {
        vec![self.queue.state()]
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{Buffer, TestDriver, attack};

    #[test]
    fn two_requests_get_different_bytes_and_no_more_than_asked_for() {
        let mut driver = TestDriver::start(Box::new(Rng::new("rng0")));
        let one = driver.request(0, &[Buffer::In(64)]);
        let two = driver.request(0, &[Buffer::In(32), Buffer::In(32)]);
        assert_eq!((one.length, two.length), (64, 64));
        assert_ne!(one.data, two.data);
        assert_eq!(driver.device().counters()[1], ("bytes-read", 128));
    }

    #[test]
    fn a_huge_request_gets_a_bounded_answer() {
        let mut driver = TestDriver::start(Box::new(Rng::new("rng0")));
        let used = driver.request(0, &[Buffer::In(1 << 20)]);
        assert_eq!(used.length as usize, MOST_BYTES);
        assert!(used.data[MOST_BYTES..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_request_with_nothing_to_write_to_is_given_back_empty() {
        let mut driver = TestDriver::start(Box::new(Rng::new("rng0")));
        assert_eq!(driver.request(0, &[Buffer::Out(b"?")]).length, 0);
    }

    #[test]
    fn a_hostile_driver_harms_only_itself() {
        for seed in 0..4 {
            attack(Box::new(Rng::new("rng0")), seed, |_, _| vec![0; 16]);
        }
    }
}
