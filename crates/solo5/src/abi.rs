//! Numbers of the interface. Versions 1 and 2 have the same calls, structures and results.

use core::fmt;

/// Interface versions this tender speaks (`hvt_abi.h`, `HVT_ABI_VERSION`).
pub const VERSIONS: core::ops::RangeInclusive<u32> = 1..=2;

/// Port of call 0; call `n` is a 32-bit write of a guest pointer to port `PORT_BASE + n`
/// (`hvt_abi.h`).
pub const PORT_BASE: u16 = 0x500;
/// Ports from [`PORT_BASE`] on, the reserved call 0 included.
pub const PORT_COUNT: u16 = 9;

/// No unikernel is loaded below (`hvt_abi.h`, `HVT_GUEST_MIN_BASE`).
pub const GUEST_BASE: u64 = 0x10_0000;
/// A command line with its final zero (`hvt_abi.h`, `HVT_CMDLINE_SIZE`).
pub const COMMAND_LINE_SIZE: usize = 8192;
/// What a halt cookie points at (`hvt_abi.h`, `HVT_HALT_COOKIE_MAX`).
pub const HALT_COOKIE_SIZE: u64 = 512;

/// Hypercalls by number (`hvt_abi.h`, `enum hvt_hypercall`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Call {
    /// The time of day.
    Walltime = 1,
    /// Prints.
    Puts = 2,
    /// Waits for a network card or a moment.
    Poll = 3,
    /// Writes to a disk.
    BlockWrite = 4,
    /// Reads from a disk.
    BlockRead = 5,
    /// Sends a frame.
    NetWrite = 6,
    /// Receives a frame.
    NetRead = 7,
    /// Ends the guest.
    Halt = 8,
}

impl Call {
    /// The call of this number.
    #[must_use]
    pub const fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Walltime,
            2 => Self::Puts,
            3 => Self::Poll,
            4 => Self::BlockWrite,
            5 => Self::BlockRead,
            6 => Self::NetWrite,
            7 => Self::NetRead,
            8 => Self::Halt,
            _ => return None,
        })
    }

    /// Bytes of the structure its pointer leads to (`hvt_abi.h`; natural alignment, `int` in 4
    /// bytes, the rest in 8).
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::Walltime => 8,
            Self::Puts | Self::Halt => 16,
            Self::Poll => 24,
            Self::BlockWrite | Self::BlockRead => 40,
            Self::NetWrite | Self::NetRead => 32,
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Walltime => "walltime",
            Self::Puts => "puts",
            Self::Poll => "poll",
            Self::BlockWrite => "block write",
            Self::BlockRead => "block read",
            Self::NetWrite => "net write",
            Self::NetRead => "net read",
            Self::Halt => "halt",
        })
    }
}

/// What a call on a device answers (`solo5.h`, `solo5_result_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Answer {
    /// Done.
    Ok = 0,
    /// Nothing to read now.
    Again = 1,
    /// An argument is not allowed.
    Invalid = 2,
    /// The device failed.
    Unspecified = 3,
}

/// Owner of every ELF note of Solo5 (`elf_abi.h`), with its final zero.
pub(crate) const NOTE_OWNER: &[u8; 6] = b"Solo5\0";
/// Type of the note that names the interface: "ABI1" (`elf_abi.h`).
pub(crate) const NOTE_ABI: u32 = 0x3149_4241;
/// Type of the note with the manifest: "MFT1" (`mft_abi.h`).
pub(crate) const NOTE_MANIFEST: u32 = 0x3154_464d;
/// The hvt interface's number in the ABI1 note (`elf_abi.h`, `enum abi_target`).
pub(crate) const TARGET_HVT: u32 = 1;
/// Names of targets by number, for messages (`elf_abi.h`, `enum abi_target`).
pub(crate) const TARGETS: [&str; 7] = ["none", "hvt", "spt", "virtio", "muen", "genode", "xen"];
