//! Why a processor came back to its caller. Every engine gives the same values.

/// Facts of an exit the engine could not go on from, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureFacts {
    /// The engine's word for it, e.g. `KVM_EXIT_INTERNAL_ERROR/emulation`.
    pub what: String,
    /// Engine- or hardware-specific codes, most telling first.
    pub codes: Vec<u64>,
}

/// Why the guest was left.
#[derive(Debug)]
pub enum Exit<'a> {
    /// The guest reads a port. `data` holds `data.len() / width` items to fill, in order.
    PortRead {
        /// Port number.
        port: u16,
        /// Bytes per item: 1, 2 or 4.
        width: u8,
        /// To be filled before the next run.
        data: &'a mut [u8],
    },
    /// The guest writes a port; several items for string instructions.
    PortWrite {
        /// Port number.
        port: u16,
        /// Bytes per item: 1, 2 or 4.
        width: u8,
        /// What was written.
        data: &'a [u8],
    },
    /// The guest reads guest-physical memory where nothing is mapped.
    MemoryRead {
        /// Where.
        address: u64,
        /// To be filled before the next run; 1 to 8 bytes.
        data: &'a mut [u8],
    },
    /// The guest writes guest-physical memory where nothing, or read-only memory, is mapped.
    MemoryWrite {
        /// Where.
        address: u64,
        /// What was written; 1 to 8 bytes.
        data: &'a [u8],
    },
    /// HLT with nothing pending, where the engine does not wait itself.
    Halt,
    /// The guest can take an external interrupt now.
    InterruptWindow,
    /// The guest ended a level-triggered interrupt with this vector (IOAPIC EOI broadcast).
    EndOfInterrupt {
        /// The vector.
        vector: u8,
    },
    /// A kick or a signal ended the run; nothing to do for the guest.
    Interrupted,
    /// Triple fault or shutdown of the processor.
    Shutdown,
    /// The engine cannot go on; the VM is to be stopped and these facts logged.
    Failure(FailureFacts),
}

impl Exit<'_> {
    /// True for reads and writes: the instruction that makes one ends at the next
    /// [`crate::Processor::run`], so that its result can still be given.
    #[must_use]
    pub fn is_access(&self) -> bool {
        matches!(
            self,
            Self::PortRead { .. }
                | Self::PortWrite { .. }
                | Self::MemoryRead { .. }
                | Self::MemoryWrite { .. }
        )
    }

    /// The name under which `stats` counts this exit.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::PortRead { .. } => "port_read",
            Self::PortWrite { .. } => "port_write",
            Self::MemoryRead { .. } => "memory_read",
            Self::MemoryWrite { .. } => "memory_write",
            Self::Halt => "halt",
            Self::InterruptWindow => "interrupt_window",
            Self::EndOfInterrupt { .. } => "end_of_interrupt",
            Self::Interrupted => "interrupted",
            Self::Shutdown => "shutdown",
            Self::Failure(_) => "failure",
        }
    }
}
