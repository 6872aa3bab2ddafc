//! One guest: its partition, memory and board, and how it ends.

use crate::board::{Board, External, Happenings};
use crate::calls::{Core, PartitionId};
use crate::console::{Console, Source};
use crate::hvt::Hvt;
use crate::wake::Wakes;
use alloc::string::String;
use alloc::sync::Arc;
use chipset::{ByteSink, MachineEvent};
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use hypervisor_abi::ExitReason;
use spin::Mutex;

/// The console as everyone shares it.
pub type SharedConsole = Arc<Mutex<Console>>;

/// A guest's part of the console.
#[derive(Clone)]
pub struct Screen {
    console: SharedConsole,
    source: Source,
    now: fn() -> u64,
}

impl Screen {
    /// The part of `source`; `now` gives nanoseconds of any clock.
    #[must_use]
    pub const fn new(console: SharedConsole, source: Source, now: fn() -> u64) -> Self {
        Self { console, source, now }
    }
}

impl ByteSink for Screen {
    fn write(&mut self, bytes: &[u8]) {
        let now = (self.now)();
        self.console.lock().write(self.source, bytes, now);
    }
}

/// How a guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It ended itself with a status (debug exit, hypercall port).
    Exit(u8),
    /// It turned its machine off.
    PowerOff,
    /// It reset its machine, which is not started again.
    Reset,
    /// All its vCPUs halted for good: with interrupts off, or waiting for one that is.
    Halted,
    /// A triple fault.
    Shutdown,
    /// The core or the monitor cannot go on with it.
    Failed(String),
}

impl Ending {
    /// Its status: 0 for a machine that was turned off or reset, 1 for one that broke.
    #[must_use]
    pub const fn status(&self) -> u8 {
        match self {
            Self::Exit(status) => *status,
            Self::PowerOff | Self::Reset | Self::Halted => 0,
            Self::Shutdown | Self::Failed(_) => 1,
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}", self.status())?;
        match self {
            Self::Exit(_) => Ok(()),
            Self::PowerOff => write!(f, " (power off)"),
            Self::Reset => write!(f, " (reset)"),
            Self::Halted => write!(f, " (halted for good)"),
            Self::Shutdown => write!(f, " (triple fault)"),
            Self::Failed(why) => write!(f, " ({why})"),
        }
    }
}

impl From<MachineEvent> for Ending {
    fn from(event: MachineEvent) -> Self {
        match event {
            MachineEvent::PowerOff => Self::PowerOff,
            MachineEvent::Reset => Self::Reset,
            MachineEvent::Exit(status) => Self::Exit(status),
        }
    }
}

/// Names of [`ExitReason`]s by number, for statistics.
pub const EXIT_NAMES: [&str; 15] = [
    "",
    "port read",
    "port write",
    "memory read",
    "memory write",
    "end of interrupt",
    "halt",
    "interrupt window",
    "interrupted",
    "shutdown",
    "hypercall",
    "deadline",
    "wait for SIPI",
    "failure",
    "wake",
];

/// One guest.
pub struct Guest {
    /// Its name.
    pub name: String,
    /// The core.
    pub core: Arc<Core>,
    /// Its partition.
    pub partition: PartitionId,
    /// Its devices.
    pub board: Mutex<Board>,
    /// The tender of a Solo5 unikernel, which has nothing but that.
    pub hvt: Option<Mutex<Hvt>>,
    /// The output of its 8259 pair.
    pub external: Arc<External>,
    /// What its devices asked of the whole machine.
    pub happenings: Arc<Happenings>,
    /// How its vCPUs are woken.
    pub wakes: Arc<Wakes>,
    /// Its console.
    pub source: Source,
    /// The counter value at which its board has something to do.
    pub due: Arc<AtomicU64>,
    /// A bit for each vCPU that only another one can wake.
    still: AtomicU64,
    /// How many guests have not ended, this one among them.
    pub running: Arc<AtomicU64>,
    ended: AtomicBool,
    ending: Mutex<Option<Ending>>,
    exits: [AtomicU64; EXIT_NAMES.len()],
}

/// What a guest is made of.
pub struct Made {
    /// Its name.
    pub name: String,
    /// The core.
    pub core: Arc<Core>,
    /// Its partition.
    pub partition: PartitionId,
    /// Its devices.
    pub board: Board,
    /// The tender of a Solo5 unikernel.
    pub hvt: Option<Hvt>,
    /// The output of its 8259 pair.
    pub external: Arc<External>,
    /// What its devices ask of the whole machine.
    pub happenings: Arc<Happenings>,
    /// How its vCPUs are woken.
    pub wakes: Arc<Wakes>,
    /// Its console.
    pub source: Source,
    /// The counter value at which its board has something to do.
    pub due: Arc<AtomicU64>,
    /// How many guests there are that have not ended.
    pub running: Arc<AtomicU64>,
}

impl Guest {
    /// A guest that has not run.
    #[must_use]
    pub fn new(made: Made) -> Self {
        made.running.fetch_add(1, Ordering::AcqRel);
        Self {
            name: made.name,
            core: made.core,
            partition: made.partition,
            board: Mutex::new(made.board),
            hvt: made.hvt.map(Mutex::new),
            external: made.external,
            happenings: made.happenings,
            wakes: made.wakes,
            source: made.source,
            due: made.due,
            still: AtomicU64::new(0),
            running: made.running,
            ended: AtomicBool::new(false),
            ending: Mutex::new(None),
            exits: [const { AtomicU64::new(0) }; EXIT_NAMES.len()],
        }
    }

    /// vCPU `index` does nothing until another one wakes it. True when none is left to do that.
    pub fn stands_still(&self, index: usize) -> bool {
        let bit = 1 << index;
        let all = u64::MAX >> (64 - self.wakes.processors().len().clamp(1, 64));
        (self.still.fetch_or(bit, Ordering::AcqRel) | bit) & all == all
    }

    /// These vCPUs were woken, a bit for each.
    pub fn moves(&self, woken: u64) {
        self.still.fetch_and(!woken, Ordering::AcqRel);
    }

    /// Ends it. True when it had not ended before.
    pub fn end(&self, ending: Ending) -> bool {
        let mut slot = self.ending.lock();
        if slot.is_some() {
            return false;
        }
        *slot = Some(ending);
        self.running.fetch_sub(1, Ordering::AcqRel);
        self.ended.store(true, Ordering::Release);
        true
    }

    /// Whether it has ended.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn ending(&self) -> Option<Ending> {
        self.ending.lock().clone()
    }

    /// Counts an exit.
    pub fn count(&self, reason: ExitReason) {
        if let Some(counter) = self.exits.get(reason as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Exits by reason, those there were.
    pub fn exits(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        EXIT_NAMES
            .iter()
            .zip(&self.exits)
            .map(|(name, counter)| (*name, counter.load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
    }

    /// Lets its board act on the time `tsc` when that is due. Gives when it is due next.
    pub fn advance(&self, tsc: u64) -> u64 {
        let due = self.due.load(Ordering::Acquire);
        if tsc < due {
            return due;
        }
        let mut board = self.board.lock();
        board.advance(tsc);
        let due = board.deadline();
        self.due.store(due, Ordering::Release);
        due
    }
}
