//! Engine `core`: virtual CPUs on our own core beneath this system, by hypercalls from user space. No
//! kernel module: the kernel shows the core's pool of memory as a device (`dax`), whose first page holds
//! the key of the calls.
//!
//! `gate` makes the calls, `calls` gives them types; `find` and `pool` are the shared memory; `owner` says
//! whose a partition is and ends those of the dead; `partition` and `processor` are the traits of this
//! crate; `sleep`, `timer` and `clock` what a virtual CPU's thread waits with.
//!
//! All processes that use the core trust each other: whoever can open the device can read and write all
//! guests' memory ([`GROUP`]).
#![allow(unsafe_code)]

mod calls;
mod clock;
mod convert;
mod doorbell;
mod early;
mod error;
mod exit;
mod find;
mod gate;
mod memory;
mod observe;
mod owner;
mod partition;
mod pool;
mod processor;
mod sleep;
mod statistics;
#[cfg(test)]
mod test_core;
mod timer;

pub use error::CoreError;
pub use gate::CallError;
pub use observe::RootExits;

use crate::{Capabilities, Engine, EngineError, Partition, PartitionConfig};
use calls::Calls;
use clock::Clock;
use gate::Hardware;
use hypervisor_abi::{Fault, MAX_VCPUS, features};
use owner::Owner;
use pool::Pool;
use std::sync::{Arc, OnceLock};
use timer::ApicIds;
use units::Bytes;

/// Who may open the pool.
pub const GROUP: &str = "macrohard";

/// What all partitions of this process share.
struct Shared {
    calls: Calls,
    pool: Pool,
    owner: u64,
    clock: OnceLock<Clock>,
    /// The counter's pace does not change.
    steady: bool,
    ids: Arc<ApicIds>,
}

impl Shared {
    /// The pace of time, found when it is first asked for.
    fn clock(&self) -> Clock {
        *self.clock.get_or_init(|| Clock::new(self.pool.information().tsc_frequency))
    }

    /// Whether the core itself ends a run when the guest's timer is due.
    fn has_own_timer(&self) -> bool {
        self.pool.information().features & features::OWN_TIMER != 0
    }
}

/// The core beneath this system.
pub struct CoreEngine(Arc<Shared>);

/// What there is, for a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreFacts {
    /// Version of the interface: major in the upper half, minor in the lower.
    pub version: u32,
    /// The whole pool.
    pub pool: Bytes,
    /// What of it no VM has.
    pub free: Bytes,
    /// Physical CPUs that run the core.
    pub processors: u32,
}

impl CoreEngine {
    /// Finds the core and its pool, and ends partitions of processes that have died.
    ///
    /// # Errors
    /// There is no core, or it cannot be used; the error says what to do.
    pub fn open() -> Result<Self, EngineError> {
        let pool = find::pool()?;
        let gate = Hardware::new(pool.information().key).ok_or(CoreError::NotBeneath)?;
        let engine = Self::with(pool, Calls::new(Arc::new(gate)))?;
        owner::reap(&engine.0.calls);
        Ok(engine)
    }

    fn with(pool: Pool, calls: Calls) -> Result<Self, EngineError> {
        calls.version().map_err(CoreError::from)?;
        let owner = Owner::this_process().map_or(0, Owner::number);
        if owner == 0 {
            tracing::warn!("who this process is cannot be told: if it dies, its VM stays");
        }
        let ids = Arc::new(ApicIds::of_this_machine());
        let steady = clock::is_steady();
        Ok(Self(Arc::new(Shared { calls, pool, owner, clock: OnceLock::new(), steady, ids })))
    }

    /// What there is.
    ///
    /// # Errors
    /// The core does not answer.
    pub fn facts(&self) -> Result<CoreFacts, EngineError> {
        let information = self.0.pool.information();
        Ok(CoreFacts {
            version: self.0.calls.version().map_err(CoreError::from)?,
            pool: Bytes(information.pool_size),
            free: self.0.calls.unreserved().map_err(CoreError::from)?.0,
            processors: information.processors,
        })
    }
}

/// Whether a core says that it is beneath this system. Cheap.
#[must_use]
pub fn is_beneath() -> bool {
    gate::version().is_some()
}

/// Ends partitions of processes that have died, where there is a core. For whoever saw one die.
pub fn reap() {
    if is_beneath()
        && let Err(error) = CoreEngine::open()
    {
        tracing::debug!(%error, "partitions of dead processes are left");
    }
}

impl Engine for CoreEngine {
    fn name(&self) -> &'static str {
        "core"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            max_processors: MAX_VCPUS as u32,
            interrupt_fd: false,
            doorbell: true,
            dirty_log: true,
            read_only_memory: true,
            nested: false,
            memory_has_length: false,
        }
    }

    fn create_partition(
        &self,
        config: &PartitionConfig,
    ) -> Result<Arc<dyn Partition>, EngineError> {
        let limit = MAX_VCPUS as u32;
        if config.processors == 0 || config.processors > limit {
            return Err(EngineError::ProcessorCount { asked: config.processors, limit });
        }
        let shared = &self.0;
        let mut made = shared.calls.create_partition(shared.owner);
        if matches!(&made, Err(error) if error.fault() == Some(Fault::OutOfMemory)) {
            // Perhaps only the dead are in the way.
            owner::reap(&shared.calls);
            made = shared.calls.create_partition(shared.owner);
        }
        let number = made.map_err(CoreError::from)?;
        Ok(Arc::new(partition::CorePartition::new(Arc::clone(shared), number, config.processors)?))
    }
}

#[cfg(test)]
mod tests;
