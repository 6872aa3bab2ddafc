//! Who an APIC is to others, small enough to be looked at while another processor has the APIC.

use super::{Destination, Mode};

/// What decides whether a message is for an APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    pub(super) mode: Mode,
    pub(super) id: u32,
    pub(super) logical: u32,
    pub(super) flat: bool,
}

impl Reach {
    /// In one word: mode in bits 0 and 1, the flat model in bit 2, the id from bit 8, the logical id
    /// from bit 32. Ids are below 2^24.
    pub const fn pack(self) -> u64 {
        let Self { mode, id, logical, flat } = self;
        mode as u64 | (flat as u64) << 2 | (id as u64) << 8 | (logical as u64) << 32
    }

    /// From such a word.
    pub const fn unpack(word: u64) -> Self {
        Self {
            mode: match word & 3 {
                0 => Mode::Disabled,
                1 => Mode::XApic,
                _ => Mode::X2Apic,
            },
            flat: word & 1 << 2 != 0,
            id: (word >> 8) as u32 & 0xff_ffff,
            logical: (word >> 32) as u32,
        }
    }

    /// True when a message for `destination` is for this APIC; shorthands are relative to the sender
    /// and never match here (SDM 3A 11.6.2, 11.12.10).
    pub fn matches(&self, destination: Destination) -> bool {
        let x2apic = self.mode == Mode::X2Apic;
        match destination {
            _ if self.mode == Mode::Disabled => false,
            Destination::Itself | Destination::AllButItself => false,
            Destination::All
            | Destination::Physical(Destination::BROADCAST)
            | Destination::Logical(Destination::BROADCAST) => true,
            Destination::Physical(id) if x2apic => id == self.id,
            Destination::Physical(id) => id == 0xff || id == self.id & 0xff,
            Destination::Logical(id) if x2apic => {
                id >> 16 == self.logical >> 16 && id & self.logical & 0xffff != 0
            }
            Destination::Logical(0x100..) => false,
            Destination::Logical(id) => {
                let own = self.logical >> 24;
                let same_cluster = id >> 4 == own >> 4 || id >> 4 == 0xf;
                if self.flat { id & own != 0 } else { same_cluster && id & own & 0xf != 0 }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Mode, Reach};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_word_holds_all_of_it(mode in 0..3, id in 0_u32..1 << 24, logical: u32, flat: bool) {
            let mode = [Mode::Disabled, Mode::XApic, Mode::X2Apic][mode as usize];
            let reach = Reach { mode, id, logical, flat };
            prop_assert_eq!(Reach::unpack(reach.pack()), reach);
        }
    }
}
