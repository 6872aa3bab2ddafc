//! The head of the pool: what root maps to talk to the core.
//!
//! | offset | bytes | what |
//! | --- | --- | --- |
//! | 0 | 4 KiB | [`InformationPage`] |
//! | 4 KiB | 1020 KiB | run pages, one per vCPU |
//! | 1 MiB | 1 MiB | transfer area: 16 KiB for each physical CPU's calls, by convention |
//!
//! Whoever can map it can read the key, and whoever has the key may make root's calls.

/// The first eight bytes of the information page.
pub const SIGNATURE: [u8; 8] = *b"MHVCORE1";
/// Bytes at the start of the pool that hold no guest memory.
pub const POOL_HEAD_SIZE: u64 = 2 << 20;
/// Where the run pages start.
pub const RUN_PAGES_OFFSET: u64 = 0x1000;
/// The most run pages, and so vCPUs of all guests together.
pub const MAX_RUN_PAGES: usize = 255;
/// Where the transfer area starts.
pub const TRANSFER_OFFSET: u64 = 1 << 20;
/// Its size in bytes.
pub const TRANSFER_SIZE: u64 = 1 << 20;
/// Each physical CPU's part of it, by convention of the callers.
pub const TRANSFER_SLOT: u64 = 16 << 10;
/// The most partitions, root included.
pub const MAX_PARTITIONS: usize = 64;
/// The most vCPUs of one partition; their local APIC ids are 0 to 63.
pub const MAX_VCPUS: usize = 64;
/// 64-bit words of the key.
pub const KEY_WORDS: usize = 2;

/// Bits of [`RootCall::Features`](crate::RootCall::Features) and
/// [`GuestCall::Features`](crate::GuestCall::Features).
pub mod features {
    /// The core runs on Intel VMX.
    pub const VMX: u64 = 1 << 0;
    /// The core runs on AMD SVM.
    pub const SVM: u64 = 1 << 1;
    /// The core ends a guest's run by itself when the guest's timer is due; without it root arms a
    /// timer of its own ([`RunPage::armed`](crate::RunPage::armed)).
    pub const OWN_TIMER: u64 = 1 << 2;
    /// An IOMMU keeps devices off the core's and the guests' memory.
    pub const IOMMU: u64 = 1 << 3;
    /// The dirty log works.
    pub const DIRTY_LOG: u64 = 1 << 4;
    /// [`RootCall::SelfCheck`](crate::RootCall::SelfCheck) is there.
    pub const SELF_CHECK: u64 = 1 << 5;
}

/// The first page of the pool. Written by the core once, before root starts.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct InformationPage {
    /// [`SIGNATURE`].
    pub signature: [u8; 8],
    /// [`VERSION`](crate::VERSION).
    pub version: u32,
    /// Physical CPUs that run the core.
    pub processors: u32,
    /// The key for R8 and R9 of every call.
    pub key: [u64; KEY_WORDS],
    /// Physical address of the pool, a multiple of 2 MiB.
    pub pool_start: u64,
    /// Its size in bytes, a multiple of 2 MiB, head included.
    pub pool_size: u64,
    /// [`features`].
    pub features: u64,
    /// Frequency of the time-stamp counter in hertz, 0 when the core does not know it.
    pub tsc_frequency: u64,
}

const _: () = assert!(size_of::<InformationPage>() == 64);
const _: () = assert!(RUN_PAGES_OFFSET + MAX_RUN_PAGES as u64 * 0x1000 == TRANSFER_OFFSET);
const _: () = assert!(TRANSFER_OFFSET + TRANSFER_SIZE == POOL_HEAD_SIZE);
