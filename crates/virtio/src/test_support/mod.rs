//! A driver small enough for tests: lays out rings in guest memory, hands requests to a device
//! running on its worker threads, and waits for the answers. Used by every device's tests, by the
//! tests of the transports and by the fuzz targets. [`attack`] is the same with malice.
//!
//! Memory, all of it RAM: below [`RINGS`] a pattern that no descriptor points to and that must never
//! change, from [`RINGS`] the rings, from [`BUFFERS`] the buffers.

mod attack;
mod attack_pci;
mod random;
mod ring;

pub use attack::{attack, attack_with};
pub use attack_pci::attack_pci;
pub use random::Random;
pub use ring::{Ring, Used};

use crate::{Device, GuestMemory, Interrupts, Queue, QueueState, Running, Session};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::Duration;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestAddressSpace, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Start of the rings, one [`RING_SPACE`] per queue; below it lies the secret.
pub const RINGS: u64 = 0x10_0000;
/// Room for one queue: descriptor table, available ring, used ring.
pub const RING_SPACE: u64 = 0x1_0000;
/// Start of the buffers.
pub const BUFFERS: u64 = 0x80_0000;
/// End of memory.
pub const END: u64 = 0x100_0000;

/// Entries of each ring, if the device allows as many.
const RING_SIZE: u16 = 256;
/// How long an answer may take before the test fails: far more than any device needs.
const PATIENCE: Duration = Duration::from_secs(20);

/// One buffer of a request.
#[derive(Clone, Debug)]
pub enum Buffer<'a> {
    /// Bytes for the device to read.
    Out(&'a [u8]),
    /// Room for so many bytes the device writes.
    In(usize),
}

/// Interrupts as the driver saw them.
#[derive(Debug, Default)]
pub struct TestInterrupts {
    seen: Mutex<Seen>,
    changed: Condvar,
    /// Stands for the interrupts of all queues, when there is one.
    direct: OnceLock<EventFd>,
}

/// What [`TestInterrupts`] counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Interrupts per queue.
    pub queues: Vec<u64>,
    /// Changes of the configuration.
    pub config: u64,
    /// The device asked for a reset.
    pub needs_reset: bool,
}

impl TestInterrupts {
    /// What was seen so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    /// Waits until `done` holds.
    ///
    /// # Panics
    /// When it does not within the test's patience.
    pub fn wait(&self, what: &str, mut done: impl FnMut(&Seen) -> bool) {
        let seen = self.seen.lock().unwrap();
        let (_seen, timeout) =
            self.changed.wait_timeout_while(seen, PATIENCE, |seen| !done(seen)).unwrap();
        assert!(!timeout.timed_out(), "waited too long for {what}");
    }

    fn change(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.lock().unwrap());
        self.changed.notify_all();
    }
}

impl Interrupts for TestInterrupts {
    fn queue(&self, index: u16) {
        self.change(|seen| {
            let index = usize::from(index);
            if seen.queues.len() <= index {
                seen.queues.resize(index + 1, 0);
            }
            seen.queues[index] += 1;
        });
    }

    #[allow(unsafe_code)]
    fn descriptor(&self, _: u16) -> Option<OwnedFd> {
        // SAFETY: open as long as `self.direct` is.
        let event = unsafe { BorrowedFd::borrow_raw(self.direct.get()?.as_raw_fd()) };
        Some(event.try_clone_to_owned().expect("the kernel gives a descriptor"))
    }

    fn config_changed(&self) {
        self.change(|seen| seen.config += 1);
    }

    fn needs_reset(&self) {
        self.change(|seen| seen.needs_reset = true);
    }
}

/// Says, past the capture of a test's output, that a test could not run here and why.
pub fn skipped(why: &dyn std::fmt::Display) {
    use std::io::Write;
    // Nobody to tell is no reason to fail.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// Guest memory laid out for [`TestDriver`], the secret filled in. A memfd, as a VM's memory is, so
/// that another process can map it.
///
/// # Panics
/// When the host has no memory for it.
#[must_use]
pub fn memory() -> GuestMemory {
    let file = rustix::fs::memfd_create("ram", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&file, END).unwrap();
    let place = Some(FileOffset::new(file.into(), 0));
    let ranges = [(GuestAddress(0), usize::try_from(END).unwrap(), place)];
    let memory = GuestMemoryMmap::from_ranges_with_files(ranges).unwrap();
    memory.write_slice(secret(), GuestAddress(0)).unwrap();
    GuestMemory::new(memory)
}

fn secret() -> &'static [u8] {
    static SECRET: OnceLock<Vec<u8>> = OnceLock::new();
    SECRET.get_or_init(|| (0..RINGS).map(|n| (n % 251) as u8).collect())
}

/// Checks that nobody wrote to the secret.
///
/// # Panics
/// When somebody did.
pub fn check_secret(memory: &GuestMemory) {
    let mut now = vec![0; secret().len()];
    memory.memory().read_slice(&mut now, GuestAddress(0)).unwrap();
    assert!(now == secret(), "the device wrote to memory nobody gave it");
}

/// A driver and the device it drives.
pub struct TestDriver {
    device: Box<dyn Device>,
    features: u64,
    memory: GuestMemory,
    interrupts: Arc<TestInterrupts>,
    rings: Vec<Ring>,
    running: Option<Running>,
    buffers: u64,
}

impl TestDriver {
    /// Starts `device` with every feature it offers and all its queues.
    ///
    /// # Panics
    /// When the device does not start.
    #[must_use]
    pub fn start(device: Box<dyn Device>) -> Self {
        let features = device.features();
        Self::start_with(device, features)
    }

    /// Starts `device` with `features`.
    ///
    /// # Panics
    /// When the device does not start.
    #[must_use]
    pub fn start_with(device: Box<dyn Device>, features: u64) -> Self {
        let memory = memory();
        let mut base = RINGS;
        let mut rings = Vec::new();
        for (index, size) in device.queue_sizes().into_iter().enumerate() {
            let index = u16::try_from(index).unwrap();
            rings.push(Ring::new(&memory, index, base, size.min(RING_SIZE), features));
            base += RING_SPACE;
        }
        assert!(base <= BUFFERS, "too many queues for the test driver");
        let mut driver = Self {
            device,
            features,
            memory,
            interrupts: Arc::default(),
            rings,
            running: None,
            buffers: BUFFERS,
        };
        driver.resume();
        driver
    }

    /// As [`Self::start`], with a descriptor through which another process raises interrupts itself.
    ///
    /// # Panics
    /// When the device does not start.
    #[must_use]
    pub fn start_direct(device: Box<dyn Device>) -> (Self, EventFd) {
        let features = device.features();
        let mut driver = Self::start_with(device, features);
        driver.stop();
        let event = eventfd();
        let _ = driver.interrupts.direct.set(event.try_clone().expect("a descriptor"));
        driver.interrupts.change(|seen| *seen = Seen::default());
        driver.resume();
        (driver, event)
    }

    /// Starts the device's workers, going on where the queues stand, and rings every queue.
    ///
    /// # Panics
    /// When the device does not start.
    pub fn resume(&mut self) {
        assert!(self.running.is_none(), "already running");
        let queues = self.rings.iter().map(Ring::queue).collect::<Vec<Queue>>();
        let session = Session {
            memory: self.memory.clone(),
            features: self.features,
            queues,
            interrupts: self.interrupts.clone(),
        };
        let running = Running::start(self.device.as_mut(), session).expect("the device starts");
        self.running = Some(running);
        for ring in &self.rings {
            ring.kick();
        }
    }

    /// Stops the device's workers (as a pause does) and gives where the queues stand.
    ///
    /// # Panics
    /// When a worker died.
    pub fn stop(&mut self) -> Vec<QueueState> {
        let Some(running) = self.running.take() else {
            return Vec::new();
        };
        let mut states = running.finish(self.device.as_mut());
        for state in &states {
            self.rings[usize::from(state.index)].set_state(*state);
        }
        states.sort_by_key(|state| state.index);
        states
    }

    /// Resets the device as a driver does and starts it again with fresh rings.
    ///
    /// # Panics
    /// When the device does not start.
    pub fn reset(&mut self) {
        self.stop();
        self.device.reset();
        for ring in &mut self.rings {
            ring.reset();
        }
        self.buffers = BUFFERS;
        self.interrupts.change(|seen| *seen = Seen::default());
        self.resume();
    }

    /// The control half, also while workers run.
    pub fn device(&mut self) -> &mut dyn Device {
        self.device.as_mut()
    }

    /// Guest memory.
    #[must_use]
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Interrupts so far.
    #[must_use]
    pub fn interrupts(&self) -> &TestInterrupts {
        &self.interrupts
    }

    /// A ring, for tests that put things there by hand.
    pub fn ring(&mut self, queue: u16) -> &mut Ring {
        &mut self.rings[usize::from(queue)]
    }

    /// Makes a request available without ringing; its head. Each buffer becomes one descriptor.
    ///
    /// # Panics
    /// When the ring or the buffer space is full.
    pub fn add(&mut self, queue: u16, buffers: &[Buffer<'_>]) -> u16 {
        let mut parts = Vec::new();
        for buffer in buffers {
            let (length, writable) = match buffer {
                Buffer::Out(bytes) => (bytes.len(), false),
                Buffer::In(length) => (*length, true),
            };
            let address = self.allocate(length);
            if let Buffer::Out(bytes) = buffer {
                self.memory.memory().write_slice(bytes, GuestAddress(address)).unwrap();
            }
            parts.push((address, u32::try_from(length).unwrap(), writable));
        }
        self.ring(queue).add(&parts)
    }

    /// Rings the queue.
    pub fn kick(&mut self, queue: u16) {
        self.ring(queue).kick();
    }

    /// The next request the device gave back, waiting for it.
    ///
    /// # Panics
    /// When none comes within the test's patience.
    pub fn wait_used(&mut self, queue: u16) -> Used {
        let interrupts = self.interrupts.clone();
        let ring = &mut self.rings[usize::from(queue)];
        let mut used = None;
        interrupts.wait("a used buffer", |seen| {
            assert!(!seen.needs_reset, "the device asked for a reset");
            used = ring.take_used();
            used.is_some()
        });
        used.expect("waited for it")
    }

    /// One whole round: add, ring, wait. The bytes the device wrote are in the answer.
    ///
    /// # Panics
    /// As [`Self::add`] and [`Self::wait_used`].
    pub fn request(&mut self, queue: u16, buffers: &[Buffer<'_>]) -> Used {
        self.add(queue, buffers);
        self.kick(queue);
        self.wait_used(queue)
    }

    /// Buffer space, used round and round.
    fn allocate(&mut self, length: usize) -> u64 {
        let length = u64::try_from(length).unwrap().next_multiple_of(64).max(64);
        assert!(length <= END - BUFFERS, "buffer too large for the test driver");
        if self.buffers + length > END {
            self.buffers = BUFFERS;
        }
        let address = self.buffers;
        self.buffers += length;
        address
    }
}

impl Drop for TestDriver {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
            check_secret(&self.memory);
        }
    }
}

/// A doorbell.
pub(crate) fn eventfd() -> EventFd {
    EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).expect("the kernel gives an eventfd")
}
