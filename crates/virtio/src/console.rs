//! The console (virtio 1.2, 5.3): one port whose bytes go to and come from a [`ConsoleEnd`] of the
//! host, and a size that follows the host's terminal.

use crate::scatter::Buffers;
use crate::{
    Chain, Counter, Device, DeviceId, GuestMemory, Interrupts, MemoryGuard, Queue, QueueState,
    RING_FEATURES, RestoreError, Session, Source, StartError, Worker, WorkerError, config,
};
use std::any::Any;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vm_memory::GuestAddressSpace;

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
        self.0
            .interrupts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
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
        config::read(
            &self.size.0.cells.load(Ordering::SeqCst).to_le_bytes(),
            offset,
            data,
        );
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
        Ok(vec![Box::new(ConsoleWorker {
            name: self.name.clone(),
            receive,
            transmit,
            starved: true,
            pending: None,
            written: std::mem::take(&mut self.written),
            end: self.end.take(),
            ended: false,
            memory: session.memory,
            interrupts: session.interrupts,
            counters: self.counters.clone(),
        })])
    }

    fn stop(&mut self, workers: Vec<Box<dyn Worker>>) {
        *self.size.interrupts() = None;
        for worker in workers {
            if let Ok(worker) = worker.into_any().downcast::<ConsoleWorker>() {
                self.end = worker.end;
                self.written = worker.written;
            }
        }
    }

    fn reset(&mut self) {
        self.written = 0;
    }

    fn save(&self) -> serde_json::Value {
        serde_json::json!({ "version": STATE_VERSION, "written": self.written })
    }

    fn restore(&mut self, state: &serde_json::Value) -> Result<(), RestoreError> {
        let written = state["written"]
            .as_u64()
            .and_then(|n| usize::try_from(n).ok());
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

struct ConsoleWorker {
    name: String,
    receive: Option<Queue>,
    transmit: Option<Queue>,
    /// The driver has given no buffers for input; the end is not read until it does.
    starved: bool,
    /// Output the end has not taken all of: [`Self::written`] bytes are gone.
    pending: Option<Chain>,
    written: usize,
    /// `None` when the worker that had it died: the guest talks to nobody.
    end: Option<Box<dyn ConsoleEnd>>,
    /// The end gives nothing any more.
    ended: bool,
    memory: GuestMemory,
    interrupts: Arc<dyn Interrupts>,
    counters: Counters,
}

impl ConsoleWorker {
    /// Moves input to the guest.
    fn feed(&mut self) -> Result<(), WorkerError> {
        let (Some(queue), Some(end)) = (&mut self.receive, &mut self.end) else {
            return Ok(());
        };
        if self.ended {
            return Ok(());
        }
        let memory = self.memory.memory();
        let mut moved = false;
        for _ in 0..MOST_CHUNKS {
            let Some(chain) = queue.pop(&memory)? else {
                // Until the driver rings with new buffers, input waits in the end.
                self.starved = !queue.enable_kicks(&memory)?;
                if self.starved {
                    break;
                }
                continue;
            };
            self.starved = false;
            let head = chain.head_index();
            let Ok(buffers) = Buffers::of(chain, &memory) else {
                self.counters.requests.add(1);
                self.counters.refused.add(1);
                queue.add_used(&memory, head, 0)?;
                moved = true;
                continue;
            };
            let mut bytes = [0; CHUNK];
            let room = buffers.writable.len().min(CHUNK);
            let count = match end.receive(&mut bytes[..room]) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    queue.put_back();
                    break;
                }
                Err(_) => 0,
            };
            if count == 0 && room > 0 {
                self.ended = true;
                queue.put_back();
                break;
            }
            // `count` is at most CHUNK.
            buffers.writable.copy_from(&bytes[..count]);
            queue.add_used(&memory, head, count as u32)?;
            self.counters.requests.add(1);
            self.counters.to_guest.add(count as u64);
            moved = true;
        }
        if moved {
            queue.notify(&memory, self.interrupts.as_ref())
        } else {
            Ok(())
        }
    }

    /// Moves the guest's output to the end.
    fn drain(&mut self) -> Result<(), WorkerError> {
        let Some(mut queue) = self.transmit.take() else {
            return Ok(());
        };
        let memory = self.memory.memory();
        let result = self.drain_queue(&mut queue, &memory);
        self.transmit = Some(queue);
        result
    }

    fn drain_queue(&mut self, queue: &mut Queue, memory: &MemoryGuard) -> Result<(), WorkerError> {
        let mut moved = false;
        for _ in 0..MOST_CHUNKS {
            let chain = match self.pending.take() {
                Some(chain) => chain,
                None => match queue.pop(memory)? {
                    Some(chain) => chain,
                    None if queue.enable_kicks(memory)? => continue,
                    None => break,
                },
            };
            let head = chain.head_index();
            match self.say(chain.clone(), memory) {
                Said::All => {
                    self.written = 0;
                    self.counters.requests.add(1);
                    queue.add_used(memory, head, 0)?;
                    moved = true;
                }
                Said::Some => self.pending = Some(chain),
                Said::None => {
                    self.pending = Some(chain);
                    break;
                }
            }
        }
        if moved {
            queue.notify(memory, self.interrupts.as_ref())?;
        }
        // With output pending, the end wakes us when it takes more.
        if self.pending.is_none() && queue.more(memory)? {
            queue.ring_again();
        }
        Ok(())
    }

    /// One chunk of a request.
    fn say(&mut self, chain: Chain, memory: &MemoryGuard) -> Said {
        let Ok(mut buffers) = Buffers::of(chain, memory) else {
            self.counters.refused.add(1);
            return Said::All;
        };
        buffers.readable.skip(self.written);
        let mut bytes = [0; CHUNK];
        let count = buffers.readable.copy_to(&mut bytes);
        if count == 0 {
            return Said::All;
        }
        let taken = match self.end.as_mut().map(|end| end.send(&bytes[..count])) {
            Some(Ok(taken)) => taken,
            Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => return Said::None,
            // Nobody listens: the guest must not hang on it.
            Some(Err(_)) | None => count,
        };
        self.written += taken;
        self.counters.from_guest.add(taken as u64);
        if taken == buffers.readable.len() {
            Said::All
        } else {
            Said::Some
        }
    }
}

/// How much of a request's rest was taken.
enum Said {
    All,
    Some,
    None,
}

impl Worker for ConsoleWorker {
    fn name(&self) -> &str {
        &self.name
    }

    fn sources(&self) -> Vec<Source> {
        let kick = |queue: &Option<Queue>, token| {
            queue.as_ref().map(|queue| Source {
                descriptor: queue.kick.as_raw_fd(),
                readable: true,
                writable: false,
                token,
            })
        };
        let end = self.end.as_ref().map(|end| Source {
            descriptor: end.descriptor().as_raw_fd(),
            readable: !self.starved && !self.ended,
            writable: self.pending.is_some(),
            token: TOKEN_END,
        });
        [
            kick(&self.receive, TOKEN_RECEIVE),
            kick(&self.transmit, TOKEN_TRANSMIT),
            end,
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn ready(&mut self, token: u32) -> Result<(), WorkerError> {
        let queue = match token {
            TOKEN_RECEIVE => &self.receive,
            TOKEN_TRANSMIT => &self.transmit,
            _ => &None,
        };
        if let Some(queue) = queue {
            queue.take_kick();
        }
        match token {
            TOKEN_RECEIVE => self.feed(),
            TOKEN_TRANSMIT => self.drain(),
            _ => {
                self.feed()?;
                if self.pending.is_some() {
                    self.drain()
                } else {
                    Ok(())
                }
            }
        }
    }

    fn stop(&mut self) -> Vec<QueueState> {
        if let (Some(queue), true) = (&mut self.transmit, self.pending.take().is_some()) {
            // The next worker takes it again and goes on after `written` bytes.
            queue.put_back();
        }
        [&self.receive, &self.transmit]
            .into_iter()
            .flatten()
            .map(Queue::state)
            .collect()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{Buffer, TestDriver, attack};

    fn pair() -> (UnixStream, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        far.set_nonblocking(true).unwrap();
        (near, far)
    }

    fn console(end: UnixStream) -> Box<Console> {
        Box::new(Console::new("console0", Box::new(end)))
    }

    #[test]
    fn what_the_guest_says_comes_out_in_order() {
        let (mut host, end) = pair();
        let mut driver = TestDriver::start(console(end));
        driver.add(TRANSMIT, &[Buffer::Out(b"Hello, "), Buffer::Out(b"world")]);
        driver.add(TRANSMIT, &[Buffer::Out(b"!\n")]);
        driver.kick(TRANSMIT);
        driver.wait_used(TRANSMIT);
        driver.wait_used(TRANSMIT);
        let mut said = [0; 14];
        host.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"Hello, world!\n");
    }

    #[test]
    fn input_waits_until_the_guest_has_room() {
        let (mut host, end) = pair();
        let mut driver = TestDriver::start(console(end));
        host.write_all(b"typed before").unwrap();
        let used = driver.request(RECEIVE, &[Buffer::In(5)]);
        assert_eq!((used.length, &used.data[..]), (5, &b"typed"[..]));
        let used = driver.request(RECEIVE, &[Buffer::In(3), Buffer::In(100)]);
        assert_eq!((used.length, &used.data[..7]), (7, &b" before"[..]));
        driver.add(RECEIVE, &[Buffer::In(100)]);
        driver.kick(RECEIVE);
        host.write_all(b"and after").unwrap();
        assert_eq!(driver.wait_used(RECEIVE).length, 9);
        assert_eq!(driver.device().counters()[1], ("bytes-read", 21));
    }

    #[test]
    fn a_slow_reader_gets_every_byte_once_across_a_pause() {
        let (mut host, end) = pair();
        let mut driver = TestDriver::start(console(end));
        let text: Vec<u8> = (0..1 << 20).map(|n: u32| (n / 7) as u8).collect();
        for part in text.chunks(1 << 18) {
            driver.add(TRANSMIT, &[Buffer::Out(part)]);
        }
        driver.kick(TRANSMIT);
        let mut said = Vec::new();
        let mut bytes = vec![0; 50_000];
        while said.len() < text.len() {
            let count = host.read(&mut bytes).unwrap();
            said.extend_from_slice(&bytes[..count]);
            driver.stop();
            driver.resume();
        }
        assert!(said == text);
        for _ in 0..4 {
            driver.wait_used(TRANSMIT);
        }
    }

    #[test]
    fn what_is_half_said_when_saved_is_said_to_the_end_by_another_console() {
        let (mut host, end) = pair();
        let mut driver = TestDriver::start(console(end));
        let text: Vec<u8> = (0..1 << 20).map(|n: u32| (n / 7) as u8).collect();
        driver.add(TRANSMIT, &[Buffer::Out(&text)]);
        driver.kick(TRANSMIT);
        let mut said = vec![0; 1000];
        host.read_exact(&mut said).unwrap();
        driver.stop();
        let state = driver.device().save();
        host.set_nonblocking(true).unwrap();
        let mut bytes = vec![0; 1 << 20];
        while let Ok(count) = host.read(&mut bytes) {
            said.extend_from_slice(&bytes[..count]);
        }
        let mut fresh = console(pair().1);
        fresh.restore(&state).unwrap();
        assert_eq!(fresh.written, said.len());
        assert!(
            fresh
                .restore(&serde_json::json!({ "version": 2, "written": 0 }))
                .is_err()
        );
        assert!(text.starts_with(&said) && said.len() < text.len());
    }

    #[test]
    fn nobody_at_the_other_end_does_not_hold_the_guest_up() {
        let (host, end) = pair();
        let mut driver = TestDriver::start(console(end));
        driver.add(RECEIVE, &[Buffer::In(100)]);
        driver.kick(RECEIVE);
        drop(host);
        for _ in 0..3 {
            driver.request(TRANSMIT, &[Buffer::Out(&[b'x'; 10_000])]);
        }
        assert_eq!(driver.ring(RECEIVE).take_used(), None);
    }

    #[test]
    fn a_new_size_is_in_the_configuration_and_the_driver_hears_of_it() {
        let (_host, end) = pair();
        let console = console(end);
        let size = console.size();
        size.set(80, 25);
        let mut driver = TestDriver::start(console);
        size.set(132, 50);
        size.set(132, 50);
        assert_eq!(driver.interrupts().seen().config, 1);
        let mut config = [0xff; 8];
        driver.device().read_config(0, &mut config);
        assert_eq!(config, [132, 0, 50, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_hostile_driver_harms_only_itself() {
        for seed in 0..4 {
            let (mut host, end) = pair();
            host.write_all(&[b'i'; 5000]).unwrap();
            host.set_nonblocking(true).unwrap();
            let reader = std::thread::spawn(move || {
                let mut bytes = vec![0; 1 << 16];
                while !matches!(host.read(&mut bytes), Ok(0)) {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            });
            attack(console(end), seed, |_, random| {
                vec![b'o'; random.below(100) as usize]
            });
            reader.join().unwrap();
        }
    }
}
