//! The tender as the processor's thread meets it.

use super::devices::{self, Cards};
use crate::native::clock::Clock;
use crate::native::events::Events;
use crate::native::gate::Gate;
use crate::native::memory::GuestRam;
use crate::native::motherboard::part;
use crate::native::processors::{Board, Halted};
use crate::native::start_state::StartState;
use crate::{Console, MachineError, Surroundings};
use engine::{CpuidEntry, Processor};
use loader::EntryPoint;
use solo5::abi::{Call, PORT_BASE, PORT_COUNT};
use solo5::{Boot, GuestMemory, Outcome, Start, Tender, Unikernel, Wait};
use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use units::{Bytes, GuestPhysical};
use vm_control::{Counters, Ending, LaunchSpec};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// The longest single wait in a poll; after it the poll is looked at again.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// What a unikernel is told where the engine does not know.
const TSC_UNKNOWN: u64 = 1_000_000_000;

/// What the board is made of.
pub(super) struct Parts {
    pub(super) ram: GuestRam,
    pub(super) supported: Vec<CpuidEntry>,
    pub(super) gate: Arc<Gate>,
    pub(super) halted: Arc<Halted>,
    pub(super) surroundings: Surroundings,
}

/// RAM as the tender sees it.
struct Ram(GuestMemoryMmap);

impl GuestMemory for Ram {
    fn holds(&self, address: GuestPhysical, length: u64) -> bool {
        usize::try_from(length)
            .is_ok_and(|length| self.0.check_range(GuestAddress(address.0), length))
    }

    fn read(&self, address: GuestPhysical, into: &mut [u8]) -> bool {
        self.0.read_slice(into, GuestAddress(address.0)).is_ok()
    }

    fn write(&self, address: GuestPhysical, bytes: &[u8]) -> bool {
        self.0.write_slice(bytes, GuestAddress(address.0)).is_ok()
    }
}

/// What the unikernel prints goes to the console.
struct Screen(Arc<Console>);

impl solo5::Console for Screen {
    fn write(&mut self, bytes: &[u8]) {
        self.0.output(bytes);
    }
}

/// The host's time of day, and the machine's own time.
struct Time(Arc<Clock>);

impl solo5::Clock for Time {
    fn wall(&self) -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }

    fn now(&self) -> u64 {
        self.0.now()
    }
}

pub(super) struct TenderBoard {
    pub(super) gate: Arc<Gate>,
    pub(super) clock: Arc<Clock>,
    halted: Arc<Halted>,
    events: Events,
    memory: Ram,
    size: Bytes,
    /// Opened once: after the sandbox is closed its path is out of reach.
    file: Mutex<File>,
    command_line: String,
    tender: Mutex<Tender>,
    cards: Cards,
    /// The poll the guest stands in.
    wait: Mutex<Option<Wait>>,
    start: StartState,
    introduced: AtomicBool,
    calls: [AtomicU64; PORT_COUNT as usize],
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All of the file, which may not be larger than the memory it is to fit.
fn read(file: &mut File, memory: Bytes) -> Result<Vec<u8>, MachineError> {
    let failed = |e| MachineError::system("cannot read the unikernel", e);
    let mut bytes = Vec::new();
    file.rewind().map_err(failed)?;
    file.take(memory.0).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

impl TenderBoard {
    /// Reads the unikernel of `spec` and opens its devices.
    pub(super) fn new(spec: &LaunchSpec, parts: Parts) -> Result<Self, MachineError> {
        let definition = &spec.definition;
        let path: &Path =
            definition.boot.hvt.as_deref().ok_or(MachineError::Absent("unikernel"))?;
        let refused = |error: &dyn std::fmt::Display| MachineError::Definition {
            field: "boot.hvt".into(),
            value: path.display().to_string(),
            reason: error.to_string(),
        };
        let size = Bytes::mib(definition.memory);
        let mut file =
            File::open(path).map_err(|e| MachineError::file("cannot open unikernel", path, e))?;
        let bytes = read(&mut file, size)?;
        let unikernel = Unikernel::read(&bytes).map_err(|e| refused(&e))?;
        let (devices, cards) =
            devices::open(definition, &unikernel.manifest, &parts.halted, &refused)?;
        let clock = Arc::new(Clock::new());
        let screen = Screen(Arc::clone(&parts.surroundings.console));
        let tender = Tender::new(devices, Box::new(screen), Box::new(Time(Arc::clone(&clock))));
        let board = Self {
            events: Events::new(parts.surroundings, Arc::clone(&parts.gate)),
            gate: parts.gate,
            halted: parts.halted,
            clock,
            memory: Ram(parts.ram.memory().clone()),
            size,
            file: Mutex::new(file),
            command_line: definition.boot.append.clone().unwrap_or_default(),
            tender: Mutex::new(tender),
            cards,
            wait: Mutex::new(None),
            start: StartState { supported: parts.supported, count: 1 },
            introduced: AtomicBool::new(false),
            calls: Default::default(),
        };
        // So that what does not fit is said before anything runs.
        board.place(&unikernel, TSC_UNKNOWN).map_err(|e| refused(&e))?;
        tracing::info!(unikernel = %path.display(), version = unikernel.version, "loaded");
        Ok(board)
    }

    fn place(&self, unikernel: &Unikernel<'_>, hertz: u64) -> Result<Start, solo5::PlaceError> {
        let boot = Boot { memory: self.size, command_line: &self.command_line, tsc_hertz: hertz };
        Start::place(&self.memory, unikernel, lock(&self.tender).devices(), boot)
    }

    /// Ends the threads of network cards, and what is behind them.
    pub(super) fn end_cards(&self) {
        self.cards.end();
    }

    /// How often each call was made.
    pub(super) fn counters(&self) -> Counters {
        let named = self.calls.iter().enumerate().filter_map(|(number, count)| {
            let call = Call::from_number(u16::try_from(number).ok()?)?;
            Some((call.to_string(), count.load(Ordering::Relaxed)))
        });
        named.collect()
    }

    /// The live state of the machine, for a person.
    pub(super) fn inspect(&self) -> serde_json::Value {
        serde_json::json!({
            "memory": self.size.to_string(),
            "time": self.clock.now(),
            "polls-until": lock(&self.wait).as_ref().map(|wait| wait.until),
            "calls": self.counters(),
        })
    }

    /// Something no unikernel may do.
    fn stray(&self, what: &str, address: u64) {
        self.failed(format!(
            "the unikernel made a {what} at {address:#x}, where its interface has nothing"
        ));
    }

    fn call(&self, number: u16, pointer: u32) {
        if let Some(count) = self.calls.get(usize::from(number)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let pointer = GuestPhysical(pointer.into());
        let outcome = lock(&self.tender).call(&self.memory, number, pointer);
        match outcome {
            Ok(Outcome::Done) => {}
            Ok(Outcome::Wait(wait)) => *lock(&self.wait) = Some(wait),
            Ok(Outcome::Halt { status }) => {
                tracing::info!(status, "halted by the unikernel");
                // As a process's exit status: its lowest byte.
                let [code, ..] = status.to_le_bytes();
                self.events.end(Ending::DebugExit { code });
            }
            Err(violation) => self.failed(format!("the unikernel made {violation}")),
        }
    }
}

impl Board for TenderBoard {
    fn read_port(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        self.stray("port read", port.into());
    }

    fn write_port(&self, port: u16, data: &[u8]) {
        let number = port.checked_sub(PORT_BASE).filter(|n| *n < PORT_COUNT);
        match (number, <[u8; 4]>::try_from(data)) {
            (Some(number), Ok(pointer)) => self.call(number, u32::from_le_bytes(pointer)),
            _ => self.stray("port write", port.into()),
        }
    }

    fn read_memory(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        self.stray("read", address);
    }

    fn write_memory(&self, address: u64, _data: &[u8]) {
        self.stray("write", address);
    }

    fn end_of_interrupt(&self, _vector: u8) {}

    fn external_interrupt(&self) -> bool {
        false
    }

    fn acknowledge(&self) -> u8 {
        0
    }

    fn prepare(&self, processor: &mut dyn Processor) -> Result<(), MachineError> {
        let hertz = processor.tsc_frequency().unwrap_or_else(|| {
            tracing::warn!("the engine does not know the time-stamp counter's frequency");
            TSC_UNKNOWN
        });
        let bytes = read(&mut lock(&self.file), self.size)?;
        let unikernel = Unikernel::read(&bytes).map_err(|e| part("unikernel")(&e))?;
        let placed = self.place(&unikernel, hertz);
        let Start { registers, system } = placed.map_err(|e| part("unikernel")(&e))?;
        let entry = EntryPoint::State { registers, system };
        let first = !self.introduced.swap(true, Ordering::Relaxed);
        Ok(self.start.apply(processor, &entry, first)?)
    }

    fn hold(&self) -> bool {
        loop {
            let events = self.halted.seen();
            let mut wait = lock(&self.wait);
            let Some(pending) = &*wait else { return true };
            match lock(&self.tender).poll(&self.memory, pending) {
                Ok(true) => {
                    *wait = None;
                    return true;
                }
                Ok(false) => {}
                Err(violation) => {
                    *wait = None;
                    self.failed(format!("the unikernel made {violation}"));
                    return false;
                }
            }
            let until = self.clock.instant(pending.until);
            drop(wait);
            if self.gate.wants_attention() {
                return false;
            }
            let limit = until.map_or(LONGEST_WAIT, |at| at.duration_since(Instant::now()));
            self.halted.wait_at_most(events, limit.min(LONGEST_WAIT));
        }
    }

    fn reset(&self) {
        tracing::info!("machine reset");
        *lock(&self.wait) = None;
        let zeros = [0; 64 << 10];
        let mut at = 0;
        while at < self.size.0 {
            let count = (self.size.0 - at).min(zeros.len() as u64);
            self.memory.write(GuestPhysical(at), &zeros[..count as usize]);
            at += count;
        }
    }

    fn triple_fault(&self) {
        tracing::info!("triple fault");
        self.events.reset_or(Ending::TripleFault);
    }

    fn failed(&self, message: String) {
        tracing::error!("{message}");
        self.events.end(Ending::Failed { message });
    }
}
