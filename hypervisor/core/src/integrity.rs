//! Whether the core's own memory is as it was: a checksum of the parts of the image that nobody
//! writes, and canaries at both ends of every stack and of the core's frames. Root asks for it
//! (`RootCall::SelfCheck`); tests do after every hostile guest.
//!
//! `unsafe` here: reading the image and the canaries by address.
#![allow(unsafe_code)]

use crate::sync::Lock;
use hypervisor_abi::CorePart;
use hypervisor_boot::memory_map::Span;
use units::{Bytes, HostPhysical};

/// Bytes of a canary.
pub const CANARY: u64 = 64;
/// Both ends of four stacks of each processor and of the frames, code and constants.
const PARTS: usize = 8 * crate::processor::MAX_CPUS + 4;
/// Odd, so that multiplying loses nothing (2^64 divided by the golden ratio).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

struct Known {
    /// Memory that nobody writes, each with its sum.
    parts: [(CorePart, Span, u64); PARTS],
    count: usize,
    seed: u64,
}

const NOTHING: Span = Span { start: HostPhysical(0), end: HostPhysical(0) };
static KNOWN: Lock<Known> =
    Lock::new(Known { parts: [(CorePart::Stacks, NOTHING, 0); PARTS], count: 0, seed: SPREAD });

impl Known {
    /// Notes what a part is.
    fn add(&mut self, part: CorePart, span: Span) {
        self.parts[self.count] = (part, span, checksum(span));
        self.count += 1;
    }
}

/// A sum that changes with every single word: each step can be undone.
fn checksum(span: Span) -> u64 {
    let (start, length) = (span.start.0 as *const u64, span.size().0 as usize / size_of::<u64>());
    // SAFETY: parts are aligned, mapped for good, and nobody writes them.
    let words = unsafe { core::slice::from_raw_parts(start, length) };
    words.iter().fold(SPREAD, |sum, word| (sum ^ word).wrapping_mul(SPREAD).rotate_left(29))
}

/// From now on canaries depend on `seed`. Before the first is put down.
pub fn seed(seed: u64) {
    KNOWN.lock().seed = seed;
}

/// Puts a canary at `address`, [`CANARY`] bytes.
///
/// # Safety
/// The memory is the core's, mapped one to one, aligned to 8, and nobody else uses it any more.
pub unsafe fn guard(part: CorePart, address: HostPhysical) {
    let mut known = KNOWN.lock();
    let mut word = known.seed ^ address.0;
    for place in 0..CANARY as usize / size_of::<u64>() {
        word = word.wrapping_mul(SPREAD).rotate_left(29);
        // SAFETY: the caller's promise.
        unsafe { (address.0 as *mut u64).add(place).write_volatile(word) };
    }
    known.add(part, Span::of(address, Bytes(CANARY)));
}

/// Notes what code and constants of the image are.
pub fn remember(code: Span, constants: Span) {
    let mut known = KNOWN.lock();
    known.add(CorePart::Code, code);
    known.add(CorePart::Constants, constants);
}

/// The first part that is not as it was.
pub fn changed() -> Option<CorePart> {
    let known = KNOWN.lock();
    let mut parts = known.parts[..known.count].iter();
    parts.find(|(_, span, sum)| checksum(*span) != *sum).map(|(part, ..)| *part)
}

#[cfg(test)]
mod tests {
    use super::{CANARY, changed, checksum, guard, remember};
    use hypervisor_abi::CorePart;
    use hypervisor_boot::memory_map::Span;
    use proptest::prelude::*;
    use units::{Bytes, HostPhysical};

    proptest! {
        #[test]
        fn a_checksum_notices_every_changed_bit(
            words in prop::collection::vec(any::<u64>(), 1..64),
            place in any::<prop::sample::Index>(),
            bit in 0..64,
        ) {
            let sum = |words: &[u64]| {
                let start = HostPhysical(words.as_ptr() as u64);
                checksum(Span::of(start, Bytes(words.len() as u64 * 8)))
            };
            let mut changed = words.clone();
            changed[place.index(words.len())] ^= 1_u64 << bit;
            prop_assert_ne!(sum(&changed), sum(&words));
        }
    }

    #[test]
    fn a_changed_part_is_named_until_it_is_as_it_was() {
        let mut memory = std::vec![0x55_u64; 1024];
        let start = memory.as_mut_ptr();
        let span = |from: usize, count: u64| {
            let at = HostPhysical(start as u64 + from as u64 * 8);
            Span::of(at, Bytes(count * 8))
        };
        // SAFETY: the vector's own memory, used through this pointer only.
        let flip = |at: usize| unsafe { *start.add(at) ^= 1 << 17 };
        remember(span(0, 256), span(256, 256));
        // SAFETY: as above, and the canary fits.
        unsafe { guard(CorePart::Frames, span(1024 - CANARY as usize / 8, 0).start) };
        assert_eq!(changed(), None);
        for (place, part) in
            [(255, CorePart::Code), (256, CorePart::Constants), (1023, CorePart::Frames)]
        {
            flip(place);
            assert_eq!(changed(), Some(part));
            flip(place);
        }
        flip(600);
        assert_eq!(changed(), None);
    }
}
