//! The calls, one number each.

macro_rules! calls {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])* $call:ident = $number:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum $name {
            $($(#[doc = $doc])* $call = $number,)*
        }

        impl $name {
            /// Every call, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$call,)*];

            /// The call with this number.
            #[must_use]
            pub const fn from_number(number: u64) -> Option<Self> {
                match number {
                    $($number => Some(Self::$call),)*
                    _ => None,
                }
            }

            /// Its name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$call => stringify!($call),)*
                }
            }

            /// What it does, line by line as documented here: the book's chapter is made of it.
            #[must_use]
            pub const fn documentation(self) -> &'static [&'static str] {
                match self {
                    $(Self::$call => &[$($doc),*],)*
                }
            }

            /// Its number.
            #[must_use]
            pub const fn number(self) -> u64 {
                self as u64
            }
        }
    };
}

/// Numbers from here on are root's.
pub const ROOT_CALLS: u64 = 0x1_0000;

calls! {
    /// Calls of root. All carry the key in R8 and R9. "Pool address" is a physical address inside the
    /// pool; "transfer offset" an offset into the transfer area at the pool's head, 8-byte aligned.
    RootCall {
        /// → RDI: [`VERSION`](crate::VERSION).
        Version = 0x1_0000,
        /// → RDI: [`features`](crate::features).
        Features = 0x1_0001,
        /// Makes an empty partition with the owner (1), a number of root's own choice, 0 for none.
        /// → RDI: its number, 1 or more.
        PartitionCreate = 0x1_0010,
        /// Ends partition (1), if its owner is (2); 0 stands for any. Its vCPUs must not run
        /// ([`Busy`](crate::Fault::Busy)); its pages are wiped where they were protected and belong to
        /// root again.
        PartitionDestroy = 0x1_0011,
        /// Puts all vCPUs of partition (1) into the state after power-on; memory stays.
        PartitionReset = 0x1_0012,
        /// → RDI: the owner of partition (1).
        PartitionOwner = 0x1_0013,
        /// Gives partition (1) at guest-physical (2) the pool pages from pool address (3) on, count (4),
        /// with access (5): bit 0 write, bit 1 execute; reading is always allowed. Pages stay readable
        /// and writable for root until [`Self::MemoryProtect`].
        MemoryMap = 0x1_0020,
        /// Takes back pages of partition (1) from guest-physical (2) on, count (3).
        MemoryUnmap = 0x1_0021,
        /// Takes from root the pool pages that partition (1) has at guest-physical (2), count (3).
        MemoryProtect = 0x1_0022,
        /// Gives root access again to protected pages of partition (1) at guest-physical (2), count (3):
        /// for memory the guest itself offers, such as rings and buffers of its devices.
        MemoryShare = 0x1_0023,
        /// Pages of partition (1) from guest-physical (2) on, count (3), written since the last call: a
        /// bitmap to transfer offset (4), one bit a page. The first call turns the log on and answers
        /// "every page".
        MemoryDirtyLog = 0x1_0024,
        /// Keeps (2) pages of the pool in one piece for partition (1), at a multiple of (3) bytes, which is
        /// a power of two. → RDI: their pool address. No other partition can be given them. They can be
        /// mapped when [`Self::MemoryClear`] has left nothing.
        MemoryReserve = 0x1_0025,
        /// Fills a part of the pages kept for partition (1) at pool address (2) with zeros. → RDI: bytes
        /// that are left; to be called until there are none.
        MemoryClear = 0x1_0026,
        /// Gives up the pages kept for partition (1) at pool address (2), none of which may be mapped
        /// ([`Busy`](crate::Fault::Busy)). The end of the partition gives up all.
        MemoryRelease = 0x1_0027,
        /// → RDI: bytes of the pool that are kept for no partition; with (1) 1 those in the largest piece.
        MemoryUnreserved = 0x1_0028,
        /// Makes vCPU (2) of partition (1), with that local APIC id. → RDI: offset of its run page from
        /// the start of the pool. vCPU 0 starts at the reset vector; the others wait for INIT and SIPI.
        VcpuCreate = 0x1_0030,
        /// Runs vCPU (2) of partition (1) on this physical CPU until an exit for root; the exit is in
        /// the run page.
        VcpuRun = 0x1_0031,
        /// Writes the [`VcpuState`](crate::VcpuState) of vCPU (2) of partition (1) to transfer offset (3).
        VcpuGetState = 0x1_0032,
        /// Sets it from transfer offset (3). Refused as a whole when any of it is impossible.
        VcpuSetState = 0x1_0033,
        /// What vCPU (2) of partition (1) sees in CPUID: (4) [`CpuidRow`](crate::CpuidRow)s at transfer
        /// offset (3). Before its first run. Bits the core cannot virtualize are cleared.
        VcpuSetCpuid = 0x1_0034,
        /// Makes a run of vCPU (2) of partition (1) in progress, else its next one, end with
        /// [`Interrupted`](crate::ExitReason::Interrupted) soon.
        VcpuKick = 0x1_0035,
        /// Puts vCPU (2) of partition (1) into the state after power-on.
        VcpuReset = 0x1_0036,
        /// Delivers the message-signalled interrupt with address (2) and data (3) to partition (1).
        /// → RDI: a bit for each vCPU that got it and is halted, to be run again.
        Inject = 0x1_0040,
        /// Delivers a non-maskable interrupt to vCPU (2) of partition (1). → RDI as [`Self::Inject`].
        InjectNmi = 0x1_0041,
        /// The CPUID the core can give guests: rows to transfer offset (1), at most (2). → RDI: how many.
        CpuidSupported = 0x1_0050,
        /// [`StatisticsRecord`](crate::StatisticsRecord) of vCPU (2) of partition (1) to transfer offset
        /// (3). Partition 0 is root itself, its vCPUs are the physical CPUs.
        Statistics = 0x1_0060,
        /// The core's log from position (3) on, counted from the first byte it ever had, to transfer offset
        /// (1), at most (2) bytes: first the position of the oldest byte given, a 64-bit number, then the
        /// text. → RDI: how many bytes of text.
        LogRead = 0x1_0061,
        /// Whether the core's own memory is as it was when root started. → RDI: 0 when it is, else the
        /// [`CorePart`](crate::CorePart) that changed. With [`features::SELF_CHECK`](crate::features::SELF_CHECK).
        SelfCheck = 0x1_0062,
        /// Gives device (2), a PCI segment, bus, device and function, to partition (1).
        DeviceAttach = 0x1_0070,
        /// Takes it back.
        DeviceDetach = 0x1_0071,
    }
}

calls! {
    /// Calls of guests, from kernel mode only. The last three end in root as an exit
    /// ([`ExitReason::Hypercall`](crate::ExitReason::Hypercall)), which sets status and results.
    GuestCall {
        /// → RDI: [`VERSION`](crate::VERSION).
        Version = 0x0001,
        /// → RDI: [`features`](crate::features) of the guest side.
        Features = 0x0002,
        /// The guest's memory by number (1), from 0: → RDI start, RSI bytes; [`NotFound`](crate::Fault::NotFound)
        /// past the last.
        MemoryMap = 0x0010,
        /// → RDI: frequency of the time-stamp counter in hertz, 0 when unknown; RSI: the counter now.
        Timer = 0x0020,
        /// A message to root. Arguments and results are root's business.
        Ipc = 0x0030,
        /// Clipboard. Arguments and results are root's business.
        Clipboard = 0x0040,
        /// Display. Arguments and results are root's business.
        Display = 0x0050,
    }
}

#[cfg(test)]
mod tests {
    use super::{GuestCall, ROOT_CALLS, RootCall};

    #[test]
    fn root_and_guest_calls_never_meet() {
        assert!(RootCall::ALL.iter().all(|call| call.number() >= ROOT_CALLS));
        assert!(GuestCall::ALL.iter().all(|call| call.number() < ROOT_CALLS));
        for call in RootCall::ALL {
            assert_eq!(RootCall::from_number(call.number()), Some(*call));
            assert_eq!(GuestCall::from_number(call.number()), None);
        }
        assert_eq!(RootCall::from_number(1 << 32 | 0x1_0000), None);
    }
}
