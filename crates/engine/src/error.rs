//! What can go wrong in an engine, with the facts.

use std::io;
use units::{Bytes, GuestPhysical};

/// A failure of an engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A system call or hypercall of the engine failed.
    #[error("{operation} failed: {source}")]
    Call {
        /// What was tried, e.g. `KVM_CREATE_VM`.
        operation: &'static str,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// The engine's device cannot be opened.
    #[error("cannot open {path}: {source}. {advice}")]
    Open {
        /// The device file.
        path: &'static str,
        /// What the system answered.
        #[source]
        source: io::Error,
        /// What the user can do, e.g. which group to join.
        advice: String,
    },
    /// The engine lacks something without which nothing runs.
    #[error("engine {engine} lacks {what}")]
    Missing {
        /// The engine.
        engine: &'static str,
        /// The capability.
        what: &'static str,
    },
    /// More processors than the engine can give one partition, or none.
    #[error("a partition of {asked} processors: the engine allows 1 to {limit}")]
    ProcessorCount {
        /// How many were asked for.
        asked: u32,
        /// The most there can be.
        limit: u32,
    },
    /// A processor index outside the partition, or used twice.
    #[error("processor {index} is not free in a partition of {limit} processors")]
    ProcessorIndex {
        /// The index asked for.
        index: u32,
        /// How many the partition has.
        limit: u32,
    },
    /// A mapping that is misaligned or overlaps another.
    #[error("guest memory at {guest} cannot be mapped: {reason}")]
    Mapping {
        /// Where.
        guest: GuestPhysical,
        /// Why not.
        reason: &'static str,
    },
    /// More memory than there is.
    #[error("{} MiB of memory: {whose} has {} MiB", asked.0 >> 20, there.0 >> 20)]
    TooMuchMemory {
        /// How much was asked for.
        asked: Bytes,
        /// How much there is.
        there: Bytes,
        /// Where: `this host`.
        whose: &'static str,
    },
    /// Engine `core` failed.
    #[error(transparent)]
    Core(#[from] crate::core::CoreError),
    /// The engine does not offer an optional capability.
    #[error("engine {engine} does not offer {what}")]
    NotOffered {
        /// The engine.
        engine: &'static str,
        /// The capability.
        what: &'static str,
    },
    /// A model-specific register was refused.
    #[error("MSR {index:#x} = {value:#x} was refused")]
    Msr {
        /// Its number.
        index: u32,
        /// The value offered.
        value: u64,
    },
}

impl EngineError {
    /// The last system error as a failure of `operation`.
    #[must_use]
    pub fn call(operation: &'static str, source: io::Error) -> Self {
        Self::Call { operation, source }
    }
}
