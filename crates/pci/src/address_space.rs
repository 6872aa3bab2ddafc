//! What the bus decodes where, and who hears when that changes.

/// The two address spaces of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// I/O ports.
    Port,
    /// Guest-physical memory.
    Memory,
}

/// What a region belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// BAR `index` of the function at `device` on bus 0.
    Bar {
        /// Device number, 0 to 31.
        device: u8,
        /// BAR index, 0 to 5.
        index: u8,
    },
    /// The configuration window (PCIEXBAR). The bus answers it itself.
    Ecam,
    /// The ACPI power management block (PMBASE, 128 ports). The chipset's PM device answers it.
    PowerManagement,
}

/// A range that is decoded now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Region {
    /// In which space.
    pub space: Space,
    /// First address.
    pub base: u64,
    /// Size in bytes, 1 or more; `base + size` never overflows.
    pub size: u64,
    /// Whose.
    pub owner: Owner,
}

impl Region {
    /// True when an access of `length` bytes at `address` lies wholly inside.
    #[must_use]
    pub fn contains(&self, address: u64, length: usize) -> bool {
        address.checked_sub(self.base).is_some_and(|offset| {
            offset < self.size && u64::try_from(length).is_ok_and(|l| l <= self.size - offset)
        })
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.space == other.space
            && self.base < other.base + other.size
            && other.base < self.base + self.size
    }
}

/// Hears where regions come and go: doorbells, shared-memory mappings and the chipset's PM block
/// follow. Calls come one at a time, after the register write that caused them and before that
/// access returns to the guest, with no function's lock held. An implementation must not access
/// configuration space from inside.
pub trait AddressSpace: Send + Sync {
    /// `region` is decoded from now on.
    fn added(&self, region: &Region);
    /// `region` is no longer decoded.
    fn removed(&self, region: &Region);
}

/// Where the host bridge forwards accesses to functions. A BAR outside is not decoded: a guest
/// cannot lay one over RAM, the interrupt controllers or flash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Apertures {
    /// I/O ports, first and last.
    pub ports: (u16, u16),
    /// Memory ranges, first and last address of each.
    pub memory: Vec<(u64, u64)>,
}

impl Apertures {
    pub(crate) fn allow(&self, region: &Region) -> bool {
        let last = region.base + (region.size - 1);
        match region.space {
            Space::Port => {
                region.base >= u64::from(self.ports.0) && last <= u64::from(self.ports.1)
            }
            Space::Memory => {
                self.memory.iter().any(|range| region.base >= range.0 && last <= range.1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_across_the_end_is_outside() {
        let owner = Owner::Ecam;
        let region = Region { space: Space::Memory, base: 0x1000, size: 0x10, owner };
        assert!(region.contains(0x1000, 8) && region.contains(0x1008, 8));
        assert!(!region.contains(0x1009, 8) && !region.contains(0xfff, 1));
        assert!(!region.contains(u64::MAX, 8));
    }
}
