//! Which part of the pool is whose: guests get memory in one piece each, in pages of 2 MiB.

use alloc::vec::Vec;
use hypervisor_boot::memory_map::Span;
use units::{Bytes, HostPhysical};

/// The pages guest memory is mapped with.
const PAGE: u64 = 2 << 20;

/// The pool cannot give what is asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// No piece is large enough.
    #[error(
        "{wanted} MiB of memory; the largest free piece of the pool has {largest} MiB of its {all} MiB"
    )]
    TooMuch {
        /// MiB asked for.
        wanted: u64,
        /// MiB of the largest free piece.
        largest: u64,
        /// MiB of the pool.
        all: u64,
    },
    /// The place is beyond the pool or taken.
    #[error(
        "{wanted} MiB of memory at {at} MiB of the pool, which is taken or beyond its {all} MiB"
    )]
    Place {
        /// MiB asked for.
        wanted: u64,
        /// Where.
        at: u64,
        /// MiB of the pool.
        all: u64,
    },
}

/// The guests' part of the pool.
#[derive(Debug)]
pub struct PoolMemory {
    all: Span,
    free: Vec<Span>,
}

const fn mib(bytes: Bytes) -> u64 {
    bytes.0 >> 20
}

impl PoolMemory {
    /// All of `span` is free.
    #[must_use]
    pub fn new(span: Span) -> Self {
        let all = span.aligned(PAGE);
        Self { all, free: [all].into() }
    }

    /// Takes `size` bytes, at offset `place` of the pool or wherever there is room.
    ///
    /// # Errors
    /// There is no room, or it is taken.
    pub fn take(&mut self, size: Bytes, place: Option<Bytes>) -> Result<HostPhysical, PoolError> {
        let size = Bytes(size.0.next_multiple_of(PAGE));
        let all = mib(self.all.size());
        let found = match place {
            Some(offset) => {
                let span = Span::of(HostPhysical(self.all.start.0 + offset.0), size);
                let holds = |free: &Span| free.contains(&span);
                let at = self.free.iter().position(holds);
                at.map(|at| (at, span)).ok_or(PoolError::Place {
                    wanted: mib(size),
                    at: mib(offset),
                    all,
                })
            }
            None => {
                let fits = |free: &Span| free.size() >= size;
                let at = self.free.iter().position(fits);
                at.map(|at| (at, Span::of(self.free[at].start, size))).ok_or_else(|| {
                    PoolError::TooMuch {
                        wanted: mib(size),
                        largest: self.free.iter().map(Span::size).max().map_or(0, mib),
                        all,
                    }
                })
            }
        };
        let (at, span) = found?;
        let free = self.free.swap_remove(at);
        let rest =
            [Span { start: free.start, end: span.start }, Span { start: span.end, end: free.end }];
        self.free.extend(rest.into_iter().filter(|rest| !rest.is_empty()));
        self.free.sort_by_key(|free| free.start);
        Ok(span.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0x1_0020_0000;

    fn pool() -> PoolMemory {
        PoolMemory::new(Span::of(HostPhysical(BASE), Bytes::mib(64)))
    }

    #[test]
    fn pieces_do_not_overlap() {
        let mut pool = pool();
        let at = |mib: u64| HostPhysical(BASE + (mib << 20));
        assert_eq!(pool.take(Bytes::mib(8), Some(Bytes::mib(16))), Ok(at(16)));
        assert_eq!(pool.take(Bytes::mib(16), None), Ok(at(0)));
        assert_eq!(pool.take(Bytes::mib(15), None), Ok(at(24)));
        assert_eq!(pool.take(Bytes::mib(24), None), Ok(at(40)));
        assert!(pool.take(Bytes::mib(2), None).is_err());
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_there_is() {
        let mut pool = pool();
        let error = pool.take(Bytes::mib(66), None).unwrap_err();
        let (wanted, largest, all) = (66, 64, 64);
        assert_eq!(error, PoolError::TooMuch { wanted, largest, all });
        assert!(pool.take(Bytes::mib(2), Some(Bytes::mib(64))).is_err());
        pool.take(Bytes::mib(4), Some(Bytes::mib(10))).unwrap();
        let error = pool.take(Bytes::mib(4), Some(Bytes::mib(12))).unwrap_err();
        assert!(matches!(error, PoolError::Place { at: 12, .. }));
    }
}
