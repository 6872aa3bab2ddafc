//! The word in which a processor says which event it was about to deliver, and is told which to deliver
//! at an entry. The low half is the same on both: VMX's interruption information (SDM 3C 25.8.3, 25.9.2,
//! 25.9.3) and SVM's EVENTINJ and EXITINTINFO (APM 2 15.20, figure 15-4). The high half is the error code:
//! SVM has it there, for VMX the core keeps it there.

use crate::exit::Event;

/// The vector.
pub const VECTOR: u64 = 0xff;
/// What kind of event, bits 8 to 10: of them 4 and more are instructions' on purpose.
pub const TYPE: u64 = 7 << 8;
/// An external interrupt.
pub const INTERRUPT: u64 = 0 << 8;
/// An NMI.
pub const NMI: u64 = 2 << 8;
/// A fault or trap.
pub const EXCEPTION: u64 = 3 << 8;
/// INT n.
pub const SOFTWARE: u64 = 4 << 8;
/// There is an error code.
pub const HAS_ERROR: u64 = 1 << 11;
/// There is an event.
pub const VALID: u64 = 1 << 31;

/// The word for `event`.
#[inline]
pub const fn word(event: Event) -> u64 {
    VALID
        | match event {
            Event::Interrupt(vector) => INTERRUPT | vector as u64,
            Event::Nmi => NMI | 2,
            Event::Exception { vector, error: None } => EXCEPTION | vector as u64,
            Event::Exception { vector, error: Some(error) } => {
                EXCEPTION | HAS_ERROR | vector as u64 | (error as u64) << 32
            }
        }
}

/// The vector of the exception in `word`, if that holds one.
pub const fn exception(word: u64) -> Option<u8> {
    let valid = word & (VALID | TYPE) == VALID | EXCEPTION;
    if valid { Some((word & VECTOR) as u8) } else { None }
}

#[cfg(test)]
mod tests {
    use super::{exception, word};
    use crate::exit::{Event, GENERAL_PROTECTION};

    #[test]
    fn events_have_their_words() {
        assert_eq!(word(Event::Interrupt(0x30)), 0x8000_0030);
        assert_eq!(word(Event::Nmi), 0x8000_0202);
        assert_eq!(word(Event::Exception { vector: 6, error: None }), 0x8000_0306);
        assert_eq!(word(Event::Exception { vector: 14, error: Some(6) }), 0x0000_0006_8000_0b0e);
    }

    #[test]
    fn only_an_exception_is_one() {
        assert_eq!(exception(word(GENERAL_PROTECTION)), Some(13));
        for other in [0, 0x30d, word(Event::Nmi), word(Event::Interrupt(13)), 0x8000_0480] {
            assert_eq!(exception(other), None);
        }
    }
}
