//! What runs virtual CPUs. An [`Engine`] makes [`Partition`]s (one per VM: memory and interrupts),
//! a partition makes [`Processor`]s (one per virtual CPU: run to exit, registers). Devices and boot
//! code are written against these traits and never learn which engine is behind them.
//!
//! Called by `vmm` and by `doctor`; never knows a device, a file format or a policy.
//! `kvm` holds Linux KVM, `core` our own core beneath this machine. Engine `tcg` plugs in one level
//! higher, at the machine (`vmm`), because QEMU is a whole machine.
//!
//! `unsafe` lives in `kvm` and `core` (memory registration, run pages, hypercalls) and in `memory`
//! (mapping it), and nowhere else.
#![deny(unsafe_code)]

pub mod core;
mod counters;
pub mod discovery;
mod error;
mod exit;
pub mod kvm;
mod memory;

pub use error::EngineError;
pub use exit::{Exit, FailureFacts};
pub use memory::{Access, Allocation, HostMapping, sealed_file};
pub use processor::{
    CpuidEntry, DescriptorTable, Msr, Registers, RunState, Segment, SystemRegisters,
};

pub use discovery::EngineKind;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use units::{Bytes, GuestPhysical};

/// A message-signalled interrupt as a device writes it (SDM 3A 11.11, PCI 3.0 6.8.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Msi {
    /// Message address, 0xfee0_0000 based on x86.
    pub address: u64,
    /// Message data: vector, delivery mode, trigger.
    pub data: u32,
}

/// What a new partition gets and can never change later.
#[derive(Clone, Debug)]
pub struct PartitionConfig {
    /// Virtual CPUs that will be created, 1 or more; may exceed the host's CPUs.
    pub processors: u32,
}

/// What an engine can do beyond the minimum; a caller must work without each of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The most virtual CPUs one partition may have.
    pub max_processors: u32,
    /// [`Partition::interrupt_fd`] works: an outside process can raise an MSI through a descriptor.
    pub interrupt_fd: bool,
    /// [`Partition::doorbell`] works: a write by the guest signals a descriptor, without an exit
    /// that [`Processor::run`] returns.
    pub doorbell: bool,
    /// [`Partition::dirty_pages`] works.
    pub dirty_log: bool,
    /// [`Access::ReadOnly`] memory: reads hit memory, writes exit (flash).
    pub read_only_memory: bool,
    /// A guest may itself run a hypervisor.
    pub nested: bool,
    /// The files that guests' memory lies in have a length. Where they are a device's they have none, and a
    /// process that maps them for one of a guest's devices (vhost-user) must not ask for it.
    pub memory_has_length: bool,
}

/// Opens the engine `kind`.
///
/// # Errors
/// It is not there, not accessible, or not one that makes partitions: `tcg` is a whole machine
/// (`vmm`).
pub fn open(kind: EngineKind) -> Result<Arc<dyn Engine>, EngineError> {
    match kind {
        EngineKind::Kvm => Ok(Arc::new(kvm::KvmEngine::open()?)),
        EngineKind::Core => Ok(Arc::new(core::CoreEngine::open()?)),
        EngineKind::Tcg => Err(EngineError::NotOffered { engine: kind.name(), what: "partitions" }),
    }
}

/// A source of partitions: KVM, our core.
pub trait Engine: Send + Sync {
    /// The name as in `--engine`.
    fn name(&self) -> &'static str;

    /// What this engine offers on this machine.
    fn capabilities(&self) -> Capabilities;

    /// Makes an empty partition with no memory and no processor.
    ///
    /// # Errors
    /// The engine refused: out of resources, or more processors than it supports.
    fn create_partition(&self, config: &PartitionConfig)
    -> Result<Arc<dyn Partition>, EngineError>;
}

/// Where the guest rings a doorbell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DoorbellAddress {
    /// An I/O port.
    Port(u16),
    /// A guest-physical address outside RAM.
    Memory(GuestPhysical),
}

/// A guest write that should signal a descriptor instead of leaving the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doorbell {
    /// Where.
    pub address: DoorbellAddress,
    /// Width of the write in bytes (1, 2, 4, 8), or 0 for any width.
    pub width: u8,
    /// Only writes of this value count, when set.
    pub value: Option<u64>,
}

/// One VM as the engine sees it: guest-physical memory and interrupt delivery. All calls may come
/// from any thread while processors run.
pub trait Partition: Send + Sync {
    /// Memory for the guest, all zero, in one piece of a file. `name` is shown to people; with
    /// `huge_pages`, large pages where they can be had. `size` is a multiple of
    /// [`Self::memory_granule`].
    ///
    /// # Errors
    /// There is not so much.
    fn allocate(
        &self,
        name: &'static str,
        size: Bytes,
        huge_pages: bool,
    ) -> Result<Arc<Allocation>, EngineError> {
        Allocation::anonymous(name, size, huge_pages).map(Arc::new)
    }

    /// Sizes that [`Self::allocate`] can give are multiples of this.
    fn memory_granule(&self) -> Bytes {
        MAPPING_GRANULE
    }

    /// Whether [`Self::map`] takes any memory of this process; else only what lies in an
    /// [`Allocation`] of the partition's.
    fn maps_any_memory(&self) -> bool {
        true
    }

    /// Makes `mapping` appear at `guest`. The partition keeps `mapping` alive until unmapped.
    /// `guest` and the mapping's size are multiples of the page size and overlap nothing mapped.
    ///
    /// # Errors
    /// Misaligned, overlapping or refused by the engine.
    fn map(
        &self,
        guest: GuestPhysical,
        mapping: Arc<dyn HostMapping>,
        access: Access,
    ) -> Result<(), EngineError>;

    /// Takes away the mapping made at exactly `guest`.
    ///
    /// # Errors
    /// Nothing is mapped there.
    fn unmap(&self, guest: GuestPhysical) -> Result<(), EngineError>;

    /// The CPUID leaves this engine can virtualize, before any policy of the caller.
    ///
    /// # Errors
    /// The engine cannot be asked.
    fn supported_cpuid(&self) -> Result<Vec<CpuidEntry>, EngineError>;

    /// Makes the processor with local APIC id `index`; each index at most once. Processor 0 is the
    /// bootstrap processor; the others wait for INIT/SIPI.
    ///
    /// # Errors
    /// Index out of the partition's range, taken, or refused by the engine.
    fn create_processor(&self, index: u32) -> Result<Box<dyn Processor>, EngineError>;

    /// Delivers one MSI to the local APIC it addresses.
    ///
    /// # Errors
    /// The engine refused the message.
    fn inject(&self, msi: Msi) -> Result<(), EngineError>;

    /// Tells the engine what each IOAPIC pin would send, so that the end of a level-triggered
    /// interrupt comes back as [`Exit::EndOfInterrupt`]. `None` is a masked pin.
    ///
    /// # Errors
    /// The engine refused the routes.
    fn set_line_routes(&self, pins: &[Option<Msi>]) -> Result<(), EngineError>;

    /// An event descriptor: whoever signals it delivers an MSI, which is masked at first. `Ok(None)` when
    /// the engine has no such thing (the caller then waits on a descriptor of its own and calls
    /// [`Self::inject`]).
    ///
    /// # Errors
    /// The engine has it but refused.
    fn interrupt_fd(&self) -> Result<Option<Box<dyn InterruptFd>>, EngineError>;

    /// Signals `event` at each matching guest write until the returned guard is dropped.
    /// `Ok(None)` when the engine has no such thing: the write then arrives as an exit.
    ///
    /// # Errors
    /// The engine has it but refused.
    fn doorbell(
        &self,
        doorbell: Doorbell,
        event: BorrowedFd<'_>,
    ) -> Result<Option<Box<dyn Send + Sync>>, EngineError>;

    /// One bit per page of the mapping at `guest`, set where the guest wrote since the last call.
    /// The first call turns the log on and answers "every page".
    ///
    /// # Errors
    /// Not offered, or nothing mapped there.
    fn dirty_pages(&self, guest: GuestPhysical) -> Result<Vec<u64>, EngineError>;

    /// Counters of the whole partition, by the engine's own names; empty where it keeps none.
    fn statistics(&self) -> Vec<(String, u64)>;
}

/// A descriptor that stands for one MSI (see [`Partition::interrupt_fd`]).
pub trait InterruptFd: Send + Sync {
    /// The event descriptor to hand to the outside process.
    ///
    /// # Errors
    /// The descriptor cannot be duplicated.
    fn descriptor(&self) -> Result<OwnedFd, EngineError>;

    /// Changes what is sent (the guest reprogrammed MSI-X); `None` masks: a signal then waits, and is
    /// delivered when something is sent again. When this has returned, nothing is sent as it was before.
    ///
    /// # Errors
    /// The engine refused the route.
    fn set(&self, msi: Option<Msi>) -> Result<(), EngineError>;

    /// A signal waits while it is masked.
    fn waits(&self) -> bool;
}

/// Interrupts a running processor from another thread.
pub trait Kick: Send + Sync {
    /// Makes the current or, if none is under way, the next [`Processor::run`] return
    /// [`Exit::Interrupted`] soon. Kicks may coalesce but are never lost.
    fn kick(&self);
}

/// One virtual CPU. Owned by one thread at a time, which calls [`Self::run`] in a loop.
pub trait Processor: Send {
    /// Its local APIC id.
    fn index(&self) -> u32;

    /// Enters the guest until something needs the caller. Data of a read exit is written into the
    /// exit's buffer before the next `run`.
    ///
    /// After an exit that [`Exit::is_access`] the processor is in the middle of an instruction. To
    /// look at its state, change or reset it, kick it first and run it until it is interrupted:
    /// that ends the instruction and begins no other. (KVM API 5, `KVM_EXIT_MMIO`.)
    ///
    /// # Errors
    /// The engine failed; the processor cannot run on.
    fn run(&mut self) -> Result<Exit<'_>, EngineError>;

    /// A handle with which other threads interrupt `run`. Call on the thread that will run.
    fn kicker(&self) -> Arc<dyn Kick>;

    /// True when an external interrupt (8259 style) would be accepted right now.
    fn accepts_external_interrupt(&mut self) -> bool;

    /// Queues the vector an 8259 gave on acknowledge. Only when
    /// [`Self::accepts_external_interrupt`] says so.
    ///
    /// # Errors
    /// The engine refused.
    fn queue_external_interrupt(&mut self, vector: u8) -> Result<(), EngineError>;

    /// Asks for [`Exit::InterruptWindow`] as soon as the guest could take an external interrupt.
    fn request_interrupt_window(&mut self, wanted: bool);

    /// Delivers a non-maskable interrupt.
    ///
    /// # Errors
    /// The engine refused.
    fn inject_nmi(&mut self) -> Result<(), EngineError>;

    /// Sets what the guest sees in CPUID; before the first `run`.
    ///
    /// # Errors
    /// The engine cannot virtualize an entry.
    fn set_cpuid(&mut self, entries: &[CpuidEntry]) -> Result<(), EngineError>;

    /// General registers, RIP and RFLAGS.
    ///
    /// # Errors
    /// The engine refused.
    fn registers(&self) -> Result<Registers, EngineError>;

    /// Replaces them.
    ///
    /// # Errors
    /// The engine refused, or the values are impossible.
    fn set_registers(&mut self, registers: &Registers) -> Result<(), EngineError>;

    /// Segments, descriptor tables, control registers, EFER, APIC base.
    ///
    /// # Errors
    /// The engine refused.
    fn system_registers(&self) -> Result<SystemRegisters, EngineError>;

    /// Replaces them.
    ///
    /// # Errors
    /// The engine refused, or the values are impossible.
    fn set_system_registers(&mut self, registers: &SystemRegisters) -> Result<(), EngineError>;

    /// Reads model-specific registers; unknown ones are left out of the answer.
    ///
    /// # Errors
    /// The engine refused.
    fn msrs(&self, indexes: &[u32]) -> Result<Vec<Msr>, EngineError>;

    /// Writes model-specific registers in order.
    ///
    /// # Errors
    /// Names the first one refused.
    fn set_msrs(&mut self, msrs: &[Msr]) -> Result<(), EngineError>;

    /// Ticks of the guest's time-stamp counter per second, where the engine knows.
    fn tsc_frequency(&self) -> Option<u64> {
        None
    }

    /// Runnable, halted, waiting for SIPI.
    ///
    /// # Errors
    /// The engine refused.
    fn run_state(&self) -> Result<RunState, EngineError>;

    /// Back to the state after power-on (SDM 3A 10.1.1): the bootstrap processor at the reset
    /// vector, the others waiting for SIPI.
    ///
    /// # Errors
    /// The engine refused.
    fn reset(&mut self) -> Result<(), EngineError>;

    /// Tells a guest that listens that this processor stood still (the VM was paused), so that the
    /// guest's watchdogs forgive the time that went by. Between two [`Self::run`]s; nothing happens
    /// where the guest does not listen.
    ///
    /// # Errors
    /// The engine refused.
    fn stood_still(&mut self) -> Result<(), EngineError>;

    /// A handle with which other threads read this processor's counters while it runs.
    fn statistics(&self) -> Arc<dyn Statistics>;
}

/// The counters of one processor.
pub trait Statistics: Send + Sync {
    /// Exits by [`Exit::reason`], then the engine's own by its own names.
    fn read(&self) -> Vec<(String, u64)>;
}

/// Guest RAM is mapped with this granularity at least.
pub const MAPPING_GRANULE: Bytes = Bytes(units::PAGE_SIZE);
