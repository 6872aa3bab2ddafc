//! Who has which part of the memory: first fit over the free spans, whole pages.

use std::collections::BTreeMap;

/// Bytes to which spans are aligned and rounded: pages, so that no two buffers share one.
const PAGE: u64 = 4096;

/// A part of window memory that is in use.
#[derive(Debug, PartialEq, Eq)]
pub struct Span {
    offset: u64,
    length: u64,
}

impl Span {
    /// Where it begins, bytes from the memory's start.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes, at least those asked for.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a span is never empty")]
    pub fn len(&self) -> u64 {
        self.length
    }
}

/// The free parts of window memory. A [`Span`] is given back to the allocator it came from.
#[derive(Debug)]
pub struct Allocator {
    /// Length by offset; none touches the next.
    free: BTreeMap<u64, u64>,
}

impl Allocator {
    /// Of a memory of `length` bytes, all free. What is left of a last page is not used.
    #[must_use]
    pub fn new(length: u64) -> Self {
        let length = length / PAGE * PAGE;
        Self { free: (length > 0).then_some((0, length)).into_iter().collect() }
    }

    /// A part of at least `bytes`, `None` when there is none so long or `bytes` is 0.
    pub fn allocate(&mut self, bytes: u64) -> Option<Span> {
        let length = bytes.checked_next_multiple_of(PAGE).filter(|length| *length > 0)?;
        let (offset, free) = self.free.iter().find(|(_, free)| **free >= length)?;
        let (offset, free) = (*offset, *free);
        self.free.remove(&offset);
        if free > length {
            self.free.insert(offset + length, free - length);
        }
        Some(Span { offset, length })
    }

    /// Takes a part back.
    pub fn free(&mut self, span: Span) {
        let Span { mut offset, mut length } = span;
        if let Some(after) = self.free.remove(&(offset + length)) {
            length += after;
        }
        if let Some((before, size)) = self.free.range(..offset).next_back()
            && before + size == offset
        {
            offset = *before;
            length += size;
        }
        self.free.insert(offset, length);
    }
}

#[cfg(test)]
mod tests {
    use super::{Allocator, PAGE, Span};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn spans_never_overlap_and_all_of_it_comes_back(
            pages in 0_u64..40,
            steps in proptest::collection::vec((any::<bool>(), 0_u64..5 * PAGE, any::<usize>()), 0..120),
        ) {
            let mut allocator = Allocator::new(pages * PAGE + 17);
            let mut held: Vec<Span> = Vec::new();
            for (take, bytes, which) in steps {
                if take {
                    let used: u64 = held.iter().map(Span::len).sum();
                    match allocator.allocate(bytes) {
                        Some(span) => {
                            prop_assert!(bytes > 0 && span.len() >= bytes);
                            prop_assert_eq!(span.offset() % PAGE, 0);
                            prop_assert!(span.offset() + span.len() <= pages * PAGE);
                            for other in &held {
                                prop_assert!(
                                    span.offset() + span.len() <= other.offset()
                                        || other.offset() + other.len() <= span.offset()
                                );
                            }
                            held.push(span);
                        }
                        // It may be in pieces, but with nothing in use it is in one.
                        None => prop_assert!(bytes == 0 || used > 0 || bytes > pages * PAGE),
                    }
                } else if !held.is_empty() {
                    allocator.free(held.swap_remove(which % held.len()));
                }
            }
            for span in held {
                allocator.free(span);
            }
            prop_assert_eq!(allocator.allocate(pages * PAGE).map(|span| span.len()), (pages > 0).then_some(pages * PAGE));
        }
    }

    #[test]
    fn a_length_that_cannot_be_rounded_up_is_not_given() {
        assert_eq!(Allocator::new(u64::MAX).allocate(u64::MAX), None);
    }
}
