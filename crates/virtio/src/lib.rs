//! Virtio devices (virtio 1.2): back ends that know queues and guest memory, and the transports
//! that bring them to a guest: virtio-pci in this process, vhost-user to another VMM (engine `tcg`).
//!
//! A device is two halves. The *control half* ([`Device`]) lives with the transport: identity,
//! features, configuration space. The *data half* is one or more [`Worker`]s made when the driver
//! says DRIVER_OK, each on a thread of its own with `&mut self`; they are stopped before state is
//! read, so start, stop and save need no locks.
//!
//! Everything in guest memory is hostile and may change under us: read once, check, then use. A
//! guest that breaks the rules gets what virtio says (an error status, DEVICE_NEEDS_RESET), never a
//! panic.
#![deny(unsafe_code)]

pub mod balloon;
pub mod block;
mod config;
pub mod console;
mod device;
pub mod fs;
pub mod gpu;
pub mod input;
pub mod net;
pub mod pci;
pub mod plan9;
mod queue;
pub mod remote;
pub mod rng;
mod running;
pub mod scatter;
#[cfg(any(test, feature = "test-support"))]
pub mod test_support;
pub mod vhost_user;
pub mod vsock;
mod worker;

pub use device::{
    Counter, Device, DeviceId, Interrupts, RestoreError, Session, Source, StartError, Worker,
    WorkerError,
};
pub use queue::{Chain, Mapped, Queue, QueueState, RING_FEATURES};
pub use running::Running;
pub use worker::WorkerThread;

/// Guest memory as devices see it. One type for both transports.
pub type GuestMemory = vm_memory::GuestMemoryAtomic<vm_memory::GuestMemoryMmap>;

/// What [`GuestMemory`] gives out: the memory as it is laid out now, kept alive while held.
pub type MemoryGuard = vm_memory::GuestMemoryLoadGuard<vm_memory::GuestMemoryMmap>;
