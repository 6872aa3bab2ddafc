//! Virtual CPUs of guests. A [`Vcpu`] has two halves: what others may touch while it runs (inbox, place,
//! reach), and [`Inner`], which belongs to whoever runs it or holds it still.
//!
//! `run` is the loop of one run, `answer` what the core answers itself, `access` ports and memory that
//! root answers, `registers` the state as root sets it. Vendor code is behind [`Context`].
//!
//! `unsafe` here: in `extended`, and two MSRs in `msrs`.

mod access;
mod answer;
mod context;
mod extended;
mod inbox;
mod msrs;
mod registers;
mod run;

pub use access::Progress;
pub use context::{Context, Setup};
pub use extended::{Extended, ExtendedFeatures};
pub use inbox::{Inbox, Place, PlaceCell, signal};
pub use registers::{directory_pointers, own_signature, reset_state, startup_state, waking_state};
pub use run::{Run, run};

use crate::apic::{Config, LocalApic, Reach};
use crate::cpuid::{self, CpuidTable, Features};
use crate::machine::machine;
use crate::msr::MsrState;
use crate::partition::{Partition, RunPageSlot};
use crate::processor::{self, Vendor};
use crate::sync::{Guard, Lock};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use hypervisor_abi::StatisticsRecord;

/// What a virtual CPU does between runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Executes instructions.
    Running,
    /// Executed HLT: an interrupt wakes it.
    Halted,
    /// Waits for a start-up IPI.
    WaitForSipi,
    /// Met a triple fault: only a reset helps.
    Shutdown,
}

/// A virtual CPU.
pub struct Vcpu {
    /// Its number in the partition and its local APIC id.
    pub index: u32,
    /// Messages for it.
    pub inbox: Inbox,
    /// Where it is.
    pub place: PlaceCell,
    /// It is in the guest, or on the way there.
    inside: AtomicBool,
    /// Its number among all there ever were.
    pub serial: u64,
    reach: AtomicU64,
    inner: Lock<Inner>,
}

/// What belongs to whoever runs the virtual CPU.
pub struct Inner {
    /// The vendor's part.
    pub context: Context,
    /// The local APIC.
    pub apic: LocalApic,
    /// MSRs the core keeps.
    pub msrs: MsrState,
    /// What CPUID answers.
    pub cpuid: CpuidTable,
    /// Floating point and kin.
    pub extended: Extended,
    /// What it does.
    pub activity: Activity,
    /// An instruction that waits for root.
    pub progress: Progress,
    /// An NMI waits.
    pub nmi: bool,
    /// The run page.
    pub page: RunPageSlot,
    /// Counters.
    pub statistics: StatisticsRecord,
    /// It has run: CPUID is settled.
    pub started: bool,
    /// The physical CPU it ran on last.
    processor: Option<u32>,
    /// How often it has changed its physical CPU.
    pub moves: u64,
    /// Lengths of instructions that exited before: RIP, what else the length depends on, the length. A
    /// guest that changes its code under the core's eyes gets the length of the old instruction, which
    /// harms nobody but it.
    pub lengths: [(u64, u64, u64); 32],
}

static SERIAL: AtomicU64 = AtomicU64::new(1);

impl Vcpu {
    /// A virtual CPU after power-on. `None` when the core is out of memory.
    pub fn new(on: &Vendor, partition: &Partition, index: u32, page: RunPageSlot) -> Option<Self> {
        let machine = machine();
        let setup = Setup {
            root: false,
            second_level: partition.pointer,
            msr_map: machine.guest_msr_map,
            port_map: machine.guest_port_map,
            tag: partition.tag,
            tsc_offset: partition.tsc_offset(),
        };
        let apic = LocalApic::new(Config {
            id: index,
            bootstrap: index == 0,
            physical_bits: machine.address_bits as u8,
            shortest_period: SHORTEST_PERIOD,
        });
        // Until root says what the guest sees: all the core can give, as the only processor.
        let mut cpuid = machine.supported.clone();
        cpuid::arrange(&mut cpuid, index, 1);
        let mut msrs = MsrState::new(Features::of(&cpuid), machine.microcode_revision);
        msrs.tsc_offset = setup.tsc_offset;
        let vcpu = Self {
            index,
            inbox: Inbox::default(),
            place: PlaceCell::default(),
            inside: AtomicBool::new(false),
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            reach: AtomicU64::new(apic.reach().pack()),
            inner: Lock::new(Inner {
                context: Context::new(on, &setup)?,
                apic,
                msrs,
                cpuid,
                extended: Extended::new(&machine.extended)?,
                activity: Activity::Running,
                progress: Progress::None,
                nmi: false,
                page,
                statistics: StatisticsRecord::default(),
                started: false,
                processor: None,
                moves: 0,
                lengths: [(0, 0, 0); 32],
            }),
        };
        vcpu.hold()?.reset();
        Some(vcpu)
    }

    /// Takes the virtual CPU for oneself; `None` while another has it.
    #[must_use]
    pub fn hold(&self) -> Option<Held<'_>> {
        self.inner.try_lock().map(|inner| Held { vcpu: self, inner })
    }

    /// Moves its time-stamp counter, while it does not run: nobody has it.
    pub fn move_clock(&self, by: u64) {
        if let Some(mut held) = self.hold() {
            held.msrs.tsc_offset = held.msrs.tsc_offset.wrapping_add(by);
            let offset = held.msrs.tsc_offset;
            held.context.set_tsc_offset(offset);
            // What a processor has kept of it may be gone.
            held.processor = None;
        }
    }

    /// Who its APIC is to others.
    pub fn reach(&self) -> Reach {
        Reach::unpack(self.reach.load(Ordering::Relaxed))
    }

    /// Whether it is in the guest and has not looked at its inbox.
    pub fn is_unheeding(&self) -> bool {
        self.inside.load(Ordering::SeqCst) && !self.inbox.is_empty()
    }

    /// Makes a run in progress look at the inbox. True when it sleeps with root and root must be told.
    #[must_use]
    pub fn prod(&self) -> bool {
        match self.place.get() {
            Place::Out => false,
            Place::Asleep => self.place.wake(),
            Place::In(cpu) => {
                if let Some(cpu) = processor::by_index(cpu as usize) {
                    cpu.kick();
                }
                false
            }
        }
    }
}

/// Ends what the processor predicts of branches (IBPB).
pub fn barrier() {
    msrs::command(crate::cpu::msr::PRED_CMD);
}

/// No periodic timer is faster: one that is keeps its processor in the core. In TSC ticks, some
/// microseconds on any machine.
const SHORTEST_PERIOD: u64 = 50_000;

/// A virtual CPU one has for oneself.
pub struct Held<'a> {
    vcpu: &'a Vcpu,
    inner: Guard<'a, Inner>,
}

impl Held<'_> {
    /// Physical CPU `processor` runs it next.
    pub fn arrive(&mut self, processor: u32) {
        if self.processor.replace(processor) != Some(processor) {
            self.moves += 1;
            self.context.arrive();
        }
    }

    /// Tells others what has become of its APIC's ids.
    pub fn publish(&self) {
        self.vcpu.reach.store(self.apic.reach().pack(), Ordering::Relaxed);
    }
}

impl core::ops::Deref for Held<'_> {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.inner
    }
}

impl core::ops::DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut Inner {
        &mut self.inner
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.context.release();
    }
}
