//! The processor threads: one per virtual CPU, each a loop of "pass the gate, enter the guest,
//! answer the exit".

use super::gate::{Gate, Order};
use crate::MachineError;
use engine::{Exit, FailureFacts, Kick, Partition, Processor};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What the machine is to its processors. Calls come from every processor thread at once.
pub(super) trait Board: Send + Sync {
    /// One item of an IN instruction.
    fn read_port(&self, port: u16, data: &mut [u8]);
    /// One item of an OUT instruction.
    fn write_port(&self, port: u16, data: &[u8]);
    /// A read outside RAM.
    fn read_memory(&self, address: u64, data: &mut [u8]);
    /// A write outside RAM.
    fn write_memory(&self, address: u64, data: &[u8]);
    /// A level-triggered interrupt of this vector ended.
    fn end_of_interrupt(&self, vector: u8);
    /// The 8259 pair asks for the bootstrap processor's attention.
    fn external_interrupt(&self) -> bool;
    /// The bootstrap processor acknowledges: the vector to take.
    fn acknowledge(&self) -> u8;
    /// Puts a processor into the state in which the machine starts it.
    fn prepare(&self, processor: &mut dyn Processor) -> Result<(), MachineError>;
    /// Before each entry into the guest: waits as long as the guest is to stand still. False when the
    /// gate wants the processor's attention first.
    fn hold(&self) -> bool {
        true
    }
    /// All processors are parked: reset everything else.
    fn reset(&self);
    /// A processor met a triple fault.
    fn triple_fault(&self);
    /// A processor cannot go on.
    fn failed(&self, message: String);
}

/// Where processors that halted wait, for an engine that does not wait itself. Every interrupt of a
/// device comes by, so an event nobody waits for costs no lock and no system call.
#[derive(Default)]
pub(super) struct Halted {
    /// Counts events that may end a halt.
    events: AtomicU64,
    /// Processors in [`Self::wait`]. Set before `events` is read there, and read after `events` is
    /// counted up in [`Self::notify`]: one of the two sees the other.
    waiting: AtomicUsize,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Halted {
    /// Something happened that may end a halt.
    pub(super) fn notify(&self) {
        self.events.fetch_add(1, SeqCst);
        if self.waiting.load(SeqCst) > 0 {
            // Taken so that nobody is between looking and waiting.
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.changed.notify_all();
        }
    }

    pub(super) fn seen(&self) -> u64 {
        self.events.load(SeqCst)
    }

    /// Waits for an event after `seen`, at most as long as `limit`.
    pub(super) fn wait_at_most(&self, seen: u64, limit: Duration) {
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_add(1, SeqCst);
        drop(
            self.changed
                .wait_timeout_while(lock, limit, |()| self.events.load(SeqCst) == seen)
                .unwrap_or_else(PoisonError::into_inner),
        );
        self.waiting.fetch_sub(1, SeqCst);
    }

    /// Waits for an event after `seen`.
    fn wait(&self, seen: u64) {
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_add(1, SeqCst);
        drop(
            self.changed
                .wait_while(lock, |()| self.events.load(SeqCst) == seen)
                .unwrap_or_else(PoisonError::into_inner),
        );
        self.waiting.fetch_sub(1, SeqCst);
    }
}

/// Brings a processor to the gate from wherever it is: the guest, or a halt.
struct Recall {
    kick: Arc<dyn Kick>,
    halted: Arc<Halted>,
}

impl Kick for Recall {
    fn kick(&self) {
        self.kick.kick();
        self.halted.notify();
    }
}

/// The threads of all processors.
pub(super) struct Processors {
    pub(super) gate: Arc<Gate>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    statistics: Vec<Arc<dyn engine::Statistics>>,
}

impl Processors {
    /// Makes `count` processors and their threads, which wait at the (closed) gate.
    pub(super) fn new(
        partition: &dyn Partition,
        count: u32,
        gate: Arc<Gate>,
        halted: &Arc<Halted>,
        board: &Arc<dyn Board>,
    ) -> Result<Self, MachineError> {
        let made: Vec<_> =
            (0..count).map(|index| partition.create_processor(index)).collect::<Result<_, _>>()?;
        let statistics = made.iter().map(|p| p.statistics()).collect();
        let mut threads = Vec::with_capacity(made.len());
        for (index, processor) in made.into_iter().enumerate() {
            let runner = Runner {
                index,
                gate: Arc::clone(&gate),
                halted: Arc::clone(halted),
                board: Arc::clone(board),
            };
            let spawned = std::thread::Builder::new()
                .name(format!("vcpu{index}"))
                .stack_size(256 << 10)
                .spawn(move || runner.run(processor));
            match spawned {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    gate.quit();
                    for thread in threads {
                        let _: std::thread::Result<()> = thread.join();
                    }
                    return Err(MachineError::system("cannot start a processor thread", error));
                }
            }
        }
        Ok(Self { gate, threads: Mutex::new(threads), statistics })
    }

    /// Counters of each processor.
    pub(super) fn statistics(&self) -> Vec<vm_control::Counters> {
        self.statistics.iter().map(|s| s.read().into_iter().collect()).collect()
    }

    /// Ends the threads and waits for them until `deadline`; whether all have ended.
    pub(super) fn quit(&self, deadline: Instant) -> bool {
        self.gate.quit();
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let mut all = true;
        for thread in threads {
            // A panic has been reported by the thread itself.
            all &= ended_by(thread, deadline);
        }
        all
    }
}

/// Joins `thread` if it ends by `deadline`.
pub(super) fn ended_by(thread: JoinHandle<()>, deadline: Instant) -> bool {
    /// A thread that ends takes well below this; one that is stuck, for ever.
    const LOOK: Duration = Duration::from_millis(1);
    while !thread.is_finished() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(LOOK);
    }
    let _ = thread.join();
    true
}

struct Runner {
    index: usize,
    gate: Arc<Gate>,
    halted: Arc<Halted>,
    board: Arc<dyn Board>,
}

impl Runner {
    fn run(self, mut processor: Box<dyn Processor>) {
        let recall = Recall { kick: processor.kicker(), halted: Arc::clone(&self.halted) };
        self.gate.register(self.index, Arc::new(recall));
        let mut seen = 0;
        let outcome = catch_unwind(AssertUnwindSafe(|| self.work(&mut *processor, &mut seen)));
        let message = match outcome {
            Ok(Ok(())) => return,
            Ok(Err(error)) => format!("processor {}: {error}", self.index),
            Err(_) => format!("processor {}: its thread panicked", self.index),
        };
        self.board.failed(message);
        // Stay at the gate, so that the others can still be stopped in order.
        loop {
            match self.gate.pass(&mut seen, || self.board.reset()) {
                Order::Quit => return,
                Order::Reset => self.gate.reset_done(),
                Order::Run | Order::RunOn => self.gate.close(),
            }
        }
    }

    fn work(&self, processor: &mut dyn Processor, seen: &mut u64) -> Result<(), MachineError> {
        let mut half_done = false;
        loop {
            // An instruction whose access was just answered ends at the next entry. A processor
            // that parked before would carry its rest over a reset, into the wrong registers.
            while half_done && self.gate.wants_attention() {
                self.gate.kick(self.index);
                half_done = self.enter(processor)?;
            }
            match self.gate.pass(seen, || self.board.reset()) {
                Order::Quit => return Ok(()),
                Order::Reset => {
                    let prepared = self.board.prepare(processor);
                    self.gate.reset_done();
                    prepared?;
                }
                order @ (Order::Run | Order::RunOn) => {
                    if order == Order::RunOn {
                        processor.stood_still()?;
                    }
                    if !self.board.hold() {
                        continue;
                    }
                    self.deliver_external_interrupt(processor)?;
                    half_done = self.enter(processor)?;
                }
            }
        }
    }

    /// One stay in the guest. True when it ended in the middle of an instruction.
    fn enter(&self, processor: &mut dyn Processor) -> Result<bool, MachineError> {
        let events = self.halted.seen();
        let exit = processor.run()?;
        let half_done = exit.is_access();
        match exit {
            Exit::PortRead { port, width, data } => {
                for item in data.chunks_mut(usize::from(width.max(1))) {
                    self.board.read_port(port, item);
                }
            }
            Exit::PortWrite { port, width, data } => {
                for item in data.chunks(usize::from(width.max(1))) {
                    self.board.write_port(port, item);
                }
            }
            Exit::MemoryRead { address, data } => self.board.read_memory(address, data),
            Exit::MemoryWrite { address, data } => self.board.write_memory(address, data),
            Exit::EndOfInterrupt { vector } => self.board.end_of_interrupt(vector),
            Exit::Halt => {
                if !self.gate.wants_attention() {
                    self.halted.wait(events);
                }
            }
            Exit::InterruptWindow | Exit::Interrupted => {}
            Exit::Shutdown => self.board.triple_fault(),
            Exit::Failure(facts) => return Err(failure(&facts, processor)),
        }
        Ok(half_done)
    }

    /// Virtual-wire mode: the 8259's output goes to the bootstrap processor (SDM 3A 11.1).
    fn deliver_external_interrupt(
        &self,
        processor: &mut dyn Processor,
    ) -> Result<(), MachineError> {
        if self.index != 0 || !self.board.external_interrupt() {
            return Ok(());
        }
        if processor.accepts_external_interrupt() {
            processor.queue_external_interrupt(self.board.acknowledge())?;
        }
        processor.request_interrupt_window(self.board.external_interrupt());
        Ok(())
    }
}

fn failure(facts: &FailureFacts, processor: &dyn Processor) -> MachineError {
    let codes: Vec<String> = facts.codes.iter().map(|c| format!("{c:#x}")).collect();
    let place = match (processor.registers(), processor.system_registers()) {
        (Ok(general), Ok(system)) => format!(
            "at cs {:#x}:{:#x}, cr0 {:#x}, cr3 {:#x}, efer {:#x}",
            system.cs.base, general.rip, system.cr0, system.cr3, system.efer
        ),
        _ => "at an unknown place".to_owned(),
    };
    MachineError::Part {
        part: "engine",
        reason: format!("{} ({}) {place}", facts.what, codes.join(", ")),
    }
}
