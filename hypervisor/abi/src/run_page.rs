//! The run page: what root and core hand each other at every run of a vCPU.
//!
//! Root writes the upper part before [`VcpuRun`](crate::RootCall::VcpuRun), the core the exit before
//! it returns. The core reads every field of root's exactly once per run and believes none unchecked.

/// Bytes of data an exit can carry.
pub const EXIT_DATA: usize = 1024;

/// Bits of [`RunPage::request`].
pub struct RunFlags;

impl RunFlags {
    /// End the run as soon as the guest could take an external interrupt.
    pub const INTERRUPT_WINDOW: u32 = 1 << 0;
    /// An 8259 gave the vector in [`RunPage::external_vector`]: the guest takes it first. Only when
    /// [`RunPage::accepts_external`] was set.
    pub const EXTERNAL_INTERRUPT: u32 = 1 << 1;
    /// End the run at once, after whatever instruction is half done is finished.
    pub const RETURN_AT_ONCE: u32 = 1 << 2;
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ExitReason {
    /// IN or INS: root fills [`ExitRecord::data`] before the next run.
    PortRead = 1,
    /// OUT or OUTS.
    PortWrite = 2,
    /// A read outside memory: root fills [`ExitRecord::data`] before the next run.
    MemoryRead = 3,
    /// A write outside memory, or to memory mapped without write access.
    MemoryWrite = 4,
    /// A level-triggered interrupt ended: [`ExitRecord::detail`] is its vector.
    EndOfInterrupt = 5,
    /// HLT with nothing pending: run again when there is something to deliver, or when
    /// [`RunPage::deadline`] has come.
    Halt = 6,
    /// The guest can take an external interrupt now.
    InterruptWindow = 7,
    /// A physical interrupt or a kick.
    Interrupted = 8,
    /// Triple fault.
    Shutdown = 9,
    /// A call of the guest's that ends in root: [`ExitRecord::arguments`]; root sets
    /// [`ExitRecord::results`].
    Hypercall = 10,
    /// The guest's timer is set to come before [`RunPage::armed`]: arm one for
    /// [`RunPage::deadline`] and run again.
    Deadline = 11,
    /// The vCPU waits for SIPI: run again after another vCPU ran.
    WaitForSipi = 12,
    /// The vCPU cannot go on: [`ExitRecord::detail`] is the [`FailureKind`].
    Failure = 13,
    /// This vCPU sent interrupts to others of its partition that are halted or wait for SIPI:
    /// [`ExitRecord::arguments`] 0 has a bit for each. Run them, then this one again.
    Wake = 14,
}

impl ExitReason {
    /// The reason with this number.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::PortRead,
            2 => Self::PortWrite,
            3 => Self::MemoryRead,
            4 => Self::MemoryWrite,
            5 => Self::EndOfInterrupt,
            6 => Self::Halt,
            7 => Self::InterruptWindow,
            8 => Self::Interrupted,
            9 => Self::Shutdown,
            10 => Self::Hypercall,
            11 => Self::Deadline,
            12 => Self::WaitForSipi,
            13 => Self::Failure,
            14 => Self::Wake,
            _ => return None,
        })
    }

    /// True for exits in the middle of an instruction, which the next run ends.
    #[must_use]
    pub const fn is_access(self) -> bool {
        matches!(
            self,
            Self::PortRead
                | Self::PortWrite
                | Self::MemoryRead
                | Self::MemoryWrite
                | Self::Hypercall
        )
    }
}

/// Why a vCPU cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum FailureKind {
    /// The processor refused the guest's state, or exited for a reason the core had not asked for:
    /// what it was in words, [`ExitRecord::count`] bytes of [`ExitRecord::data`], and the processor's
    /// codes in arguments 0 to 3.
    Processor = 1,
    /// The processor wants something of the guest's where it has no memory: argument 0 is the address,
    /// argument 1 what ([`Outside`]).
    OutsideMemory = 2,
    /// An instruction that the core does not emulate, on memory that is not there: its bytes in
    /// arguments 0 and 1, first byte lowest.
    Instruction = 3,
}

impl FailureKind {
    /// The kind with this number.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Processor,
            2 => Self::OutsideMemory,
            3 => Self::Instruction,
            _ => return None,
        })
    }
}

/// What of a guest lies outside its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Outside {
    /// Its page tables.
    PageTables = 0,
    /// Its code.
    Code = 1,
    /// The stack or a table that an exception or interrupt needs on the way to its handler.
    Delivery = 2,
}

impl Outside {
    /// What has this number.
    #[must_use]
    pub const fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            0 => Self::PageTables,
            1 => Self::Code,
            2 => Self::Delivery,
            _ => return None,
        })
    }
}

/// Which way a port access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortDirection {
    /// IN, INS.
    In,
    /// OUT, OUTS.
    Out,
}

/// Places in [`ExitRecord::results`] of a guest's call.
pub mod answer {
    /// The status word, for RAX.
    pub const STATUS: usize = 0;
    /// The first result, for RDI.
    pub const FIRST: usize = 1;
    /// The second result, for RSI.
    pub const SECOND: usize = 2;
}

/// One exit.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ExitRecord {
    /// [`ExitReason`].
    pub reason: u32,
    /// Bytes of one item: 1, 2, 4 or 8.
    pub width: u32,
    /// Items in `data`, 1 or more; more than one only for string instructions.
    pub count: u32,
    /// Vector, or the [`FailureKind`].
    pub detail: u32,
    /// Port, or guest-physical address.
    pub address: u64,
    /// The call's number and arguments 1 to 5; for a failure see [`FailureKind`].
    pub arguments: [u64; 6],
    /// Root's answer to a call: see [`answer`].
    pub results: [u64; 3],
    /// What was written, or root's answer to a read: `count` items of `width` bytes.
    pub data: [u8; EXIT_DATA],
}

/// One page per vCPU, in the pool's head.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(4096))]
pub struct RunPage {
    /// Root: [`RunFlags`].
    pub request: u32,
    /// Root: with [`RunFlags::EXTERNAL_INTERRUPT`], 0 to 255.
    pub external_vector: u32,
    /// Core: 1 when an external interrupt would be taken at once.
    pub accepts_external: u32,
    /// Root: 1 more than the local APIC id of the physical CPU to which the interrupt comes that
    /// [`Self::armed`] promises; on another one nothing is promised. 0 for whichever the vCPU runs on.
    pub armed_on: u32,
    /// Root: the physical time-stamp counter by which a physical interrupt comes to this CPU for
    /// certain; `u64::MAX` for never. The core ends a run with [`ExitReason::Deadline`] when the guest
    /// needs an earlier one and the core has no timer of its own.
    pub armed: u64,
    /// Core: the physical time-stamp counter at which the guest's timer is due, `u64::MAX` for never.
    pub deadline: u64,
    /// Core: the guest's RIP at the exit; its other registers are in its state
    /// ([`VcpuGetState`](crate::RootCall::VcpuGetState)).
    pub rip: u64,
    /// Core: its RFLAGS.
    pub rflags: u64,
    /// Core: why the run ended.
    pub exit: ExitRecord,
}

const _: () = assert!(size_of::<RunPage>() == 4096);
