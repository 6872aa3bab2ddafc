//! What other CPUs want of a virtual CPU: interrupts and signals, left in atomics and taken by whoever
//! runs it. Together with [`Place`] it loses no wake-up: the sender first leaves its message and then
//! looks where the vCPU is; the runner first says where it is and then looks for messages.

use crate::apic::VectorSet;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Bits of [`Inbox::take_signals`].
pub mod signal {
    /// Bits 0 to 7: the page of a start-up IPI.
    pub const STARTUP_PAGE: u32 = 0xff;
    /// A start-up IPI.
    pub const STARTUP: u32 = 1 << 8;
    /// INIT.
    pub const INIT: u32 = 1 << 9;
    /// NMI.
    pub const NMI: u32 = 1 << 10;
    /// Root wants the run to end.
    pub const KICK: u32 = 1 << 11;
    /// Vectors wait.
    pub const VECTORS: u32 = 1 << 12;
    /// The second-level tables changed.
    pub const FLUSH: u32 = 1 << 13;
}

/// Messages for one virtual CPU.
#[derive(Debug, Default)]
pub struct Inbox {
    signals: AtomicU32,
    edges: [AtomicU64; 4],
    levels: [AtomicU64; 4],
}

impl Inbox {
    /// Leaves an interrupt.
    pub fn vector(&self, vector: u8, level: bool) {
        let set = if level { &self.levels } else { &self.edges };
        set[usize::from(vector / 64)].fetch_or(1 << (vector % 64), Ordering::SeqCst);
        self.signals.fetch_or(signal::VECTORS, Ordering::SeqCst);
    }

    /// Leaves a signal.
    pub fn signal(&self, bits: u32) {
        self.signals.fetch_or(bits, Ordering::SeqCst);
    }

    /// Leaves a start-up IPI. One that came before and was not looked at is replaced.
    pub fn startup(&self, page: u8) {
        let _ = self.signals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |bits| {
            Some(bits & !signal::STARTUP_PAGE | signal::STARTUP | u32::from(page))
        });
    }

    /// Whether there is nothing.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.signals.load(Ordering::SeqCst) == 0
    }

    /// Takes the signals.
    #[must_use]
    pub fn take_signals(&self) -> u32 {
        self.signals.swap(0, Ordering::SeqCst)
    }

    /// Takes the vectors, after [`signal::VECTORS`] was seen: edge-triggered, level-triggered.
    #[must_use]
    pub fn take_vectors(&self) -> (VectorSet, VectorSet) {
        let take = |from: &[AtomicU64; 4]| {
            let mut set = VectorSet::EMPTY;
            for (word, from) in set.words.iter_mut().zip(from) {
                if from.load(Ordering::Relaxed) != 0 {
                    *word = from.swap(0, Ordering::SeqCst);
                }
            }
            set
        };
        (take(&self.edges), take(&self.levels))
    }
}

/// Where a virtual CPU is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// With root, which will run it again.
    Out,
    /// With root, which runs it again when it is told to.
    Asleep,
    /// In the guest, or on the way there, on the physical CPU of this number.
    In(u32),
}

/// A [`Place`] others can look at.
#[derive(Debug, Default)]
pub struct PlaceCell(AtomicU32);

const ASLEEP: u32 = 1;
const IN: u32 = 2;

impl PlaceCell {
    /// Moves there.
    #[inline]
    pub fn set(&self, place: Place) {
        let word = match place {
            Place::Out => 0,
            Place::Asleep => ASLEEP,
            Place::In(cpu) => IN + cpu,
        };
        self.0.store(word, Ordering::SeqCst);
    }

    /// Where it is.
    pub fn get(&self) -> Place {
        match self.0.load(Ordering::SeqCst) {
            0 => Place::Out,
            ASLEEP => Place::Asleep,
            cpu => Place::In(cpu - IN),
        }
    }

    /// Someone has something for a sleeper: true for the one who finds it asleep first.
    #[must_use]
    pub fn wake(&self) -> bool {
        self.0.compare_exchange(ASLEEP, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::{Inbox, Place, PlaceCell, signal};

    #[test]
    fn a_later_startup_replaces_an_earlier_one_and_other_signals_stay() {
        let inbox = Inbox::default();
        inbox.signal(signal::NMI);
        inbox.startup(0x9f);
        inbox.startup(0x10);
        assert_eq!(inbox.take_signals(), signal::NMI | signal::STARTUP | 0x10);
        assert!(inbox.is_empty());
    }

    #[test]
    fn vectors_arrive_once_and_as_what_they_were_sent() {
        let inbox = Inbox::default();
        inbox.vector(0x31, false);
        inbox.vector(0xfe, true);
        assert_eq!(inbox.take_signals(), signal::VECTORS);
        let (edges, levels) = inbox.take_vectors();
        assert!(edges.contains(0x31) && !edges.contains(0xfe));
        assert!(levels.contains(0xfe) && !levels.contains(0x31));
        assert_eq!(inbox.take_vectors().0.highest(), None);
    }

    #[test]
    fn a_sleeper_is_woken_by_one_only() {
        let place = PlaceCell::default();
        assert!(!place.wake());
        place.set(Place::Asleep);
        assert!(place.wake() && !place.wake());
        assert_eq!(place.get(), Place::Out);
        place.set(Place::In(3));
        assert_eq!(place.get(), Place::In(3));
        assert!(!place.wake());
    }
}
