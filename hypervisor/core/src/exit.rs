//! Why the processor left a guest, in words both vendors share. `svm` and `vmx` make these values,
//! everything else only knows them.

use units::GuestPhysical;

/// [`Exit`], and the number and the name of each kind.
macro_rules! exits {
    ($(
        $(#[$meta:meta])*
        $name:literal => $exit:ident $(($value:ty))? $({ $($(#[$about:meta])* $field:ident: $type:ty,)* })?,
    )*) => {
        /// One exit.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Exit {
            $($(#[$meta])* $exit $(($value))? $({ $($(#[$about])* $field: $type,)* })?,)*
        }

        enum Kind { $($exit),* }

        /// Kinds of exits for statistics: the order of `StatisticsRecord::exits`.
        pub const KINDS: [&str; [$(Kind::$exit),*].len()] = [$($name),*];

        impl Exit {
            /// Its place in [`KINDS`].
            pub const fn kind(&self) -> usize {
                match self { $(Self::$exit { .. } => Kind::$exit as usize),* }
            }
        }
    };
}

exits! {
    /// CPUID.
    "cpuid" => Cpuid,
    /// RDMSR; the index is in ECX.
    "rdmsr" => ReadMsr,
    /// WRMSR; the index is in ECX, the value in EDX:EAX.
    "wrmsr" => WriteMsr,
    /// VMCALL or VMMCALL.
    "hypercall" => Hypercall,
    /// HLT.
    "hlt" => Halt,
    /// XSETBV.
    "xsetbv" => SetExtendedControl,
    /// IN, OUT, INS, OUTS.
    "port" => Port(PortAccess),
    /// The nested page tables do not allow an access.
    "memory" => Memory(MemoryFault),
    /// A physical interrupt waits for root.
    "interrupt" => Interrupt,
    /// A physical NMI.
    "nmi" => Nmi,
    /// The guest can take an external interrupt now.
    "interrupt window" => InterruptWindow,
    /// The guest can take an NMI now.
    "nmi window" => NmiWindow,
    /// Triple fault.
    "shutdown" => Shutdown,
    /// An INIT signal reached this physical CPU.
    "init" => Init,
    /// A start-up IPI with this vector reached this physical CPU.
    "sipi" => Startup(u8),
    /// The core's own timer ran out.
    "timer" => Timer,
    /// An exception the core asked to see.
    "exception" => Exception {
        /// Its vector.
        vector: u8,
        /// Its error code, 0 where it has none.
        error: u32,
    },
    /// MOV to CR0, CR3, CR4 or CR8, CLTS or LMSW.
    "control register write" => ControlWrite {
        /// Which control register.
        register: u8,
        /// The value the guest wants there.
        value: u64,
    },
    /// MOV from a control register the core watches, into this general register.
    "control register read" => ControlRead {
        /// Which control register.
        register: u8,
        /// Number of the general register.
        general: u8,
    },
    /// INVD or WBINVD.
    "cache flush" => CacheFlush,
    /// An instruction no guest has: VMX, SVM, monitors, performance counters. Ends in #UD.
    "forbidden instruction" => Forbidden,
    /// RDPMC, or another instruction that ends in #GP.
    "protected instruction" => Protected,
    /// A task switch through a task gate or task segment.
    "task switch" => TaskSwitch,
    /// The vendor's code answered the exit itself: enter again.
    "handled" => Handled,
    /// The processor refused the guest's state or did what the core did not ask for.
    "failure" => Failure(Failure),
}

/// An access to an I/O port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortAccess {
    /// The port.
    pub port: u16,
    /// Bytes of one item: 1, 2 or 4.
    pub width: u8,
    /// IN or INS, else OUT or OUTS.
    pub input: bool,
    /// INS or OUTS.
    pub string: bool,
    /// With a repeat prefix.
    pub repeat: bool,
}

/// An access the nested page tables did not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryFault {
    /// Where.
    pub address: GuestPhysical,
    /// It was a write.
    pub write: bool,
    /// It was an instruction fetch.
    pub fetch: bool,
    /// The tables map the page, with less access than was wanted.
    pub present: bool,
    /// The processor was reading or marking the guest's own page tables.
    pub page_walk: bool,
}

/// What the processor said when it could not go on: the exit code and three more words of the
/// vendor's, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What happened, in words.
    pub what: &'static str,
    /// Exit code, then what belongs to it.
    pub codes: [u64; 4],
}

/// An event the guest takes at its next entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An external interrupt.
    Interrupt(u8),
    /// An NMI.
    Nmi,
    /// A fault or trap.
    Exception {
        /// Its vector.
        vector: u8,
        /// Its error code, if this exception has one.
        error: Option<u32>,
    },
}

/// #UD.
pub const INVALID_OPCODE: Event = Event::Exception { vector: 6, error: None };
/// #GP(0).
pub const GENERAL_PROTECTION: Event = Event::Exception { vector: 13, error: Some(0) };

/// What #GP(0) becomes while the exception with vector `delivered` is delivered (SDM 3A 6.15, table
/// 6-5): itself, a double fault, or `None` for a shutdown.
pub const fn escalate(delivered: Option<u8>) -> Option<Event> {
    const DOUBLE_FAULT: u8 = 8;
    match delivered {
        Some(DOUBLE_FAULT) => None,
        // Divide error, the faults of segments and descriptors, page fault, #CP, #VC.
        Some(0 | 10..=14 | 21 | 29) => {
            Some(Event::Exception { vector: DOUBLE_FAULT, error: Some(0) })
        }
        _ => Some(GENERAL_PROTECTION),
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, GENERAL_PROTECTION, escalate};

    #[test]
    fn faults_on_the_way_to_a_handler_end_in_a_shutdown() {
        let mut delivered = None;
        let mut seen = std::vec::Vec::new();
        while let Some(Event::Exception { vector, .. }) = escalate(delivered) {
            seen.push(vector);
            delivered = Some(vector);
        }
        assert_eq!(seen, [13, 8]);
        assert_eq!(escalate(Some(6)), Some(GENERAL_PROTECTION));
    }

    #[test]
    fn the_interface_names_the_same_kinds() {
        assert_eq!(super::KINDS, hypervisor_abi::EXIT_KINDS);
    }
}
