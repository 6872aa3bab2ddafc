//! Which device is at which port.

use alloc::vec::Vec;
use chipset::PortRange;

/// Port that shows the BIOS's progress; guests write it to wait a microsecond.
const POST_PORT: u16 = 0x80;

/// Whose port it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Pic,
    Uart,
    Hypercalls,
    DebugExit,
    Pit,
    Rtc,
    Keyboard,
    Power,
    Post,
    Nobody,
}

impl Owner {
    /// Those that are devices of their own.
    pub(super) const DEVICES: [Self; 7] = [
        Self::Uart,
        Self::Hypercalls,
        Self::DebugExit,
        Self::Pit,
        Self::Rtc,
        Self::Keyboard,
        Self::Power,
    ];

    /// Whether it has a timer.
    pub(super) const fn is_timed(self) -> bool {
        matches!(self, Self::Pit | Self::Rtc | Self::Keyboard | Self::Power)
    }
}

/// All ports, by owner.
#[derive(Default)]
pub(super) struct Ports {
    /// First and last port, sorted.
    ranges: Vec<(u16, u16, Owner)>,
}

impl Ports {
    pub(super) fn new(claims: Vec<(PortRange, Owner)>) -> Self {
        let post = (PortRange::new(POST_PORT, 1), Owner::Post);
        let mut ranges: Vec<_> = claims
            .into_iter()
            .chain([post])
            .map(|(range, owner)| {
                let last = range.first.saturating_add(range.count.max(1) - 1);
                (range.first, last, owner)
            })
            .collect();
        ranges.sort_by_key(|(first, last, _)| (*first, *last));
        Self { ranges }
    }

    pub(super) fn owner(&self, port: u16) -> Owner {
        let after = self.ranges.partition_point(|(first, _, _)| *first <= port);
        match after.checked_sub(1).and_then(|index| self.ranges.get(index)) {
            Some((_, last, owner)) if port <= *last => *owner,
            _ => Owner::Nobody,
        }
    }
}
