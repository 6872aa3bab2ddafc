//! Addresses, sizes and times as types of their own, so that a guest address can never be taken
//! for a host address, nor a count of sectors for a count of bytes. Used by every crate; holds no
//! policy and touches no hardware.
#![no_std]
#![forbid(unsafe_code)]

use core::fmt;

/// Bytes in one page of the smallest size (SDM 3A 4.5, APM 2 5.1).
pub const PAGE_SIZE: u64 = 4096;

macro_rules! quantity {
    ($(#[$meta:meta])* $name:ident, $format:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
        pub struct $name(pub u64);

        impl $name {
            /// Sum, or `None` when it does not fit 64 bits.
            #[must_use]
            pub const fn checked_add(self, other: u64) -> Option<Self> {
                match self.0.checked_add(other) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }

            /// The bare number, for the edge where a manual's layout or a system call wants it.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
    };
}

quantity!(
    /// An address as the guest's page tables produce it (guest-physical address space).
    GuestPhysical, "{:#x}"
);
quantity!(
    /// An address on the memory bus of the real machine.
    HostPhysical, "{:#x}"
);
quantity!(
    /// A count of bytes.
    Bytes, "{} bytes"
);
quantity!(
    /// A count of, or an index by, 512-byte disk sectors (virtio 1.2 5.2: always 512).
    Sector, "sector {}"
);
quantity!(
    /// A duration or instant in nanoseconds; the clock is named where it is used.
    Nanoseconds, "{} ns"
);
quantity!(
    /// A reading of the time-stamp counter.
    Tsc, "{} ticks"
);

impl Bytes {
    /// `n` kibibytes.
    #[must_use]
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }
    /// `n` mebibytes.
    #[must_use]
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }
    /// `n` gibibytes.
    #[must_use]
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }
}

impl Sector {
    /// Bytes in one sector.
    pub const SIZE: u64 = 512;

    /// The byte offset of this sector, or `None` when it does not fit 64 bits.
    #[must_use]
    pub const fn offset(self) -> Option<Bytes> {
        match self.0.checked_mul(Self::SIZE) {
            Some(bytes) => Some(Bytes(bytes)),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sector_past_the_address_space_has_no_offset() {
        assert_eq!(Sector(2).offset(), Some(Bytes(1024)));
        assert_eq!(Sector(u64::MAX).offset(), None);
    }
}
