//! The core's binary interface: what root and guests say to the core and what comes back.
//!
//! Shared by the core, the monitor and engine `core`; holds layouts and numbers and no code path
//! beyond packing and unpacking them. Everything here is part of a versioned contract: a change of
//! meaning raises the major half of [`VERSION`], an addition the minor one; what a machine may lack has a
//! bit in [`features`].
//!
//! **Calling.** `VMCALL` (Intel) or `VMMCALL` (AMD), from kernel or user mode of root:
//!
//! | register | root-side call | guest-side call |
//! | --- | --- | --- |
//! | RAX | number ([`RootCall`]) | number ([`GuestCall`]) |
//! | RDI, RSI, RDX, R10, RBX | arguments 1 to 5 | arguments 1 to 5 |
//! | R8, R9 | the key of the information page | unused |
//! | RAX on return | [`Status`] | [`Status`] |
//! | RDI, RSI on return | results | results |
//!
//! All other registers are unchanged. Numbers at or above [`ROOT_CALLS`] are root's; a guest that
//! uses one gets [`Fault::Denied`], as root does without the key.
#![no_std]
#![forbid(unsafe_code)]

mod calls;
mod information;
mod run_page;
mod state;
mod status;

pub use calls::{GuestCall, ROOT_CALLS, RootCall};
pub use information::{
    InformationPage, KEY_WORDS, MAX_PARTITIONS, MAX_RUN_PAGES, MAX_VCPUS, POOL_HEAD_SIZE,
    RUN_PAGES_OFFSET, SIGNATURE, TRANSFER_OFFSET, TRANSFER_SIZE, TRANSFER_SLOT, features,
};
pub use run_page::{
    EXIT_DATA, ExitReason, ExitRecord, FailureKind, Outside, PortDirection, RunFlags, RunPage,
    answer,
};
pub use state::{
    ACTIVITY_HALTED, ACTIVITY_RUNNING, ACTIVITY_WAIT_FOR_SIPI, CpuidRow, DescriptorTable,
    EXIT_KINDS, GeneralRegisters, MAX_CPUID_ROWS, Segment, SegmentName, StatisticsRecord,
    SystemRegisters, VcpuState,
};
pub use status::{CorePart, Fault, Status};

/// Version of this interface: major in the upper half, minor in the lower. Another major is another
/// interface; a higher minor adds to it.
pub const VERSION: u32 = 0x0002_0000;

/// CPUID leaf where the core answers on Intel and AMD alike, for root and guests: EBX, ECX, EDX
/// spell [`CPUID_SIGNATURE`], EAX holds [`VERSION`]. Leaves from 0x4000_0000 on belong to
/// hypervisors (SDM 2A CPUID, APM 3 E.3.9); the first block is left to the interface the guest's
/// kernel looks for.
pub const CPUID_LEAF: u32 = 0x4000_0100;

/// What [`CPUID_LEAF`] spells in EBX, ECX, EDX.
pub const CPUID_SIGNATURE: [u8; 12] = *b"MacroHardVM\0";
