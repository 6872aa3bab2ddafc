//! Events on their way to the guest: whole groups, each ended by a `SYN_REPORT`, few of them.

use super::Kind;
use super::codes::{
    ABS_X, ABS_Y, DETENT, EV_ABS, EV_KEY, EV_REL, EV_SYN, REL_HWHEEL, REL_HWHEEL_HI_RES, REL_WHEEL,
    REL_WHEEL_HI_RES, SYN_REPORT,
};
use super::description::codes;
use std::collections::{BTreeSet, VecDeque};

/// `virtio_input_event` (virtio 1.2, 5.8.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) kind: u16,
    pub(super) code: u16,
    pub(super) value: u32,
}

impl Event {
    pub(super) const BYTES: usize = 8;

    fn new(kind: u16, code: u16, value: i32) -> Self {
        Self { kind, code, value: value.cast_unsigned() }
    }

    pub(super) fn encode(self) -> [u8; Self::BYTES] {
        let [a, b] = self.kind.to_le_bytes();
        let [c, d] = self.code.to_le_bytes();
        let [e, f, g, h] = self.value.to_le_bytes();
        [a, b, c, d, e, f, g, h]
    }

    pub(super) fn decode([a, b, c, d, e, f, g, h]: [u8; Self::BYTES]) -> Self {
        Self {
            kind: u16::from_le_bytes([a, b]),
            code: u16::from_le_bytes([c, d]),
            value: u32::from_le_bytes([e, f, g, h]),
        }
    }
}

/// Groups kept for a guest that gives no buffers. Beyond half of it only releases are taken, so
/// that no key the guest saw go down stays down.
pub(super) const MOST_GROUPS: usize = 512;

/// What happened, before it is a group of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Happening {
    /// A key or button.
    Key {
        code: u16,
        pressed: bool,
    },
    Moved {
        x: u16,
        y: u16,
    },
    Wheel {
        vertical: i32,
        horizontal: i32,
    },
}

/// The events not yet given to the guest.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    groups: VecDeque<Vec<Event>>,
    /// Events of the first group that the guest has already.
    given: usize,
    /// Keys and buttons the guest sees, or will see, as held down.
    held: BTreeSet<u16>,
    /// Parts of a detent not told yet.
    vertical: i32,
    horizontal: i32,
}

/// What became of a happening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It goes to the guest.
    Yes,
    /// It changes nothing.
    Nothing,
    /// The device has no such key, or the backlog is full.
    Dropped,
}

impl Backlog {
    /// Takes what happened on a device of this kind.
    pub(super) fn take(&mut self, kind: Kind, happening: Happening) -> Taken {
        match happening {
            Happening::Key { code, pressed } => {
                if !codes(kind, EV_KEY).contains(&code) {
                    return Taken::Dropped;
                }
                // Repeats of the host: the guest makes its own.
                if self.held.contains(&code) == pressed {
                    return Taken::Nothing;
                }
                if pressed {
                    if self.is_half_full() {
                        return Taken::Dropped;
                    }
                    self.held.insert(code);
                } else {
                    self.held.remove(&code);
                }
                self.push(vec![Event::new(EV_KEY, code, pressed.into())])
            }
            Happening::Moved { x, y } if kind == Kind::Pointer => {
                let axes =
                    vec![Event::new(EV_ABS, ABS_X, x.into()), Event::new(EV_ABS, ABS_Y, y.into())];
                // A place the guest has not seen is of no interest once there is a newer one.
                let untouched = self.groups.len() > usize::from(self.given > 0);
                if let Some(last) = self.groups.back_mut().filter(|_| untouched)
                    && last[0].kind == EV_ABS
                {
                    last[..2].copy_from_slice(&axes);
                    return Taken::Yes;
                }
                if self.is_half_full() { Taken::Dropped } else { self.push(axes) }
            }
            Happening::Wheel { vertical, horizontal } if kind == Kind::Pointer => {
                if self.is_half_full() {
                    return Taken::Dropped;
                }
                let mut events = Vec::new();
                wheel(&mut events, REL_WHEEL, REL_WHEEL_HI_RES, vertical, &mut self.vertical);
                let part = &mut self.horizontal;
                wheel(&mut events, REL_HWHEEL, REL_HWHEEL_HI_RES, horizontal, part);
                if events.is_empty() { Taken::Nothing } else { self.push(events) }
            }
            Happening::Moved { .. } | Happening::Wheel { .. } => Taken::Dropped,
        }
    }

    fn is_half_full(&self) -> bool {
        self.groups.len() >= MOST_GROUPS / 2
    }

    fn push(&mut self, mut group: Vec<Event>) -> Taken {
        // Only releases come here beyond half, one for each key held: there are fewer keys than
        // places.
        group.push(Event::new(EV_SYN, SYN_REPORT, 0));
        self.groups.push_back(group);
        Taken::Yes
    }

    /// The next event for the guest.
    pub(super) fn next(&self) -> Option<Event> {
        self.groups.front()?.get(self.given).copied()
    }

    /// The guest has it.
    pub(super) fn advance(&mut self) {
        self.given += 1;
        if self.groups.front().is_some_and(|group| self.given >= group.len()) {
            self.groups.pop_front();
            self.given = 0;
        }
    }

    /// Forgets everything; says how many events the guest never saw.
    pub(super) fn clear(&mut self) -> u64 {
        let events: usize = self.groups.iter().map(Vec::len).sum();
        let lost = events - self.given.min(events);
        *self = Self::default();
        lost as u64
    }

    /// Groups waiting.
    pub(super) fn len(&self) -> usize {
        self.groups.len()
    }
}

/// Fine steps, and whole detents when enough have come together (Linux,
/// Documentation/input/event-codes.rst: devices that send the one send the other too).
fn wheel(events: &mut Vec<Event>, coarse: u16, fine: u16, turned: i32, part: &mut i32) {
    if turned == 0 {
        return;
    }
    events.push(Event::new(EV_REL, fine, turned));
    // A turn the other way begins anew.
    if part.signum() == -turned.signum() {
        *part = 0;
    }
    let total = part.saturating_add(turned);
    *part = total % DETENT;
    if total / DETENT != 0 {
        events.push(Event::new(EV_REL, coarse, total / DETENT));
    }
}
