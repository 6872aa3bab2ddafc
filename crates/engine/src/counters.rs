//! Counts of one processor's exits by reason, and what the engine counts beside them.

use crate::{Exit, Statistics};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters an engine keeps of its own.
pub(crate) trait More: Send + Sync {
    /// Their names and values.
    fn read(&self) -> Vec<(String, u64)>;
}

/// In the order of [`crate::Exit`].
const REASONS: [&str; 10] = [
    "port_read",
    "port_write",
    "memory_read",
    "memory_write",
    "halt",
    "interrupt_window",
    "end_of_interrupt",
    "interrupted",
    "shutdown",
    "failure",
];

/// The counters of one processor; read by other threads while it runs.
pub(crate) struct ProcessorCounters {
    exits: [AtomicU64; REASONS.len()],
    more: Option<Box<dyn More>>,
}

impl ProcessorCounters {
    pub(crate) fn new(more: Option<Box<dyn More>>) -> Self {
        Self { exits: Default::default(), more }
    }

    pub(crate) fn count(&self, exit: &Exit<'_>) {
        let slot = match exit {
            Exit::PortRead { .. } => 0,
            Exit::PortWrite { .. } => 1,
            Exit::MemoryRead { .. } => 2,
            Exit::MemoryWrite { .. } => 3,
            Exit::Halt => 4,
            Exit::InterruptWindow => 5,
            Exit::EndOfInterrupt { .. } => 6,
            Exit::Interrupted => 7,
            Exit::Shutdown => 8,
            Exit::Failure(_) => 9,
        };
        self.exits[slot].fetch_add(1, Relaxed);
    }
}

impl Statistics for ProcessorCounters {
    fn read(&self) -> Vec<(String, u64)> {
        let own = REASONS.iter().zip(&self.exits);
        own.map(|(name, count)| ((*name).to_owned(), count.load(Relaxed)))
            .chain(self.more.iter().flat_map(|more| more.read()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_each_exit_is_the_one_it_is_counted_under() {
        let counters = ProcessorCounters::new(None);
        counters.count(&Exit::Halt);
        counters.count(&Exit::Interrupted);
        counters.count(&Exit::EndOfInterrupt { vector: 1 });
        for exit in [Exit::Halt, Exit::Interrupted, Exit::EndOfInterrupt { vector: 1 }] {
            assert!(counters.read().contains(&(exit.reason().to_owned(), 1)));
        }
        assert!(counters.read().contains(&("shutdown".to_owned(), 0)));
    }
}
