//! What belongs to whom: the core's frames, the pool for guests, the rest for root. Pure.

use core::fmt;
use hypervisor_abi::POOL_HEAD_SIZE;
use hypervisor_boot::memory_map::{Kind, MemoryMap, Span};
use units::{Bytes, HostPhysical};

/// Sizes and places that the pool and the core's frames keep to.
const ALIGNMENT: u64 = 2 << 20;
/// The core's frames: a fixed part, and one for each byte of pool (ownership, page tables).
const FRAMES_FIXED: u64 = 8 << 20;
const POOL_BYTES_PER_FRAME_BYTE: u64 = 256;
/// The least pool that makes sense: its head and one small guest.
const LEAST_POOL: u64 = POOL_HEAD_SIZE + (6 << 20);
/// What root keeps of the range the pool comes from, or an eighth of it if that is more.
const ROOT_SHARE: u64 = 96 << 20;
const FOUR_GIB: u64 = 1 << 32;

/// The outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The core's own frames. Below 4 GiB, because the first page tables end there.
    pub frames: Span,
    /// The pool.
    pub pool: Span,
}

/// There is no such plan: no free range is large enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLittle {
    /// What for.
    purpose: &'static str,
    /// Bytes wanted in one piece.
    wanted: u64,
    /// The largest free piece.
    found: u64,
}

impl fmt::Display for TooLittle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "too little memory for {}: {} MiB in one piece wanted, the largest free piece has {} MiB; give the machine more memory or the core a smaller pool (pool=MIB)",
            self.purpose,
            self.wanted >> 20,
            self.found >> 20
        )
    }
}

/// Divides `free`: what is usable and neither the image, nor a boot module, nor root's. The command
/// line may wish for a pool of some size; else it has as much as is sensible.
///
/// # Errors
/// Too little memory.
pub fn plan<const N: usize>(free: &MemoryMap<N>, wish: Option<Bytes>) -> Result<Plan, TooLittle> {
    // The end of the largest free piece in `within`; `wanted` says of its size how much.
    let take = |free: &MemoryMap<N>, purpose, within, wanted: &dyn Fn(u64) -> u64| {
        let nothing = Span::of(HostPhysical(0), Bytes(0));
        let piece = free.largest_usable(within, ALIGNMENT).unwrap_or(nothing);
        let found = piece.size().0;
        let wanted = wanted(found);
        if wanted > found {
            return Err(TooLittle { purpose, wanted, found });
        }
        Ok(Span { start: HostPhysical(piece.end.0 - wanted), end: piece.end })
    };
    let pool_at_most = wish.unwrap_or(free.total(Kind::Usable)).0;
    let frames = FRAMES_FIXED + pool_at_most / POOL_BYTES_PER_FRAME_BYTE;
    let low = Span { start: HostPhysical(1 << 20), end: HostPhysical(FOUR_GIB) };
    let frames = take(free, "the core", low, &|_| frames.next_multiple_of(ALIGNMENT))?;
    let mut rest = *free;
    // Taking the end of a range makes no new one, so the map cannot overflow.
    let _ = rest.subtract(frames);
    let pool = take(&rest, "the pool of guest memory", Span::ALL, &|found| {
        let sensible = found.saturating_sub(ROOT_SHARE.max(found / 8)) & !(ALIGNMENT - 1);
        wish.map_or(sensible, |pool| pool.0.next_multiple_of(ALIGNMENT)).max(LEAST_POOL)
    })?;
    Ok(Plan { frames, pool })
}

#[cfg(test)]
mod tests {
    use super::plan;
    use hypervisor_boot::memory_map::{Kind, MemoryMap, Span};
    use proptest::prelude::*;
    use units::{Bytes, HostPhysical};

    fn map(ranges: &[(u64, u64)]) -> MemoryMap<16> {
        let mut map = MemoryMap::new();
        for (start, size) in ranges {
            map.insert(Span::of(HostPhysical(*start), Bytes(*size)), Kind::Usable)
                .expect("few ranges");
        }
        map
    }

    #[test]
    fn a_small_machine_keeps_root_its_share() {
        let map = map(&[(1 << 20, 511 << 20)]);
        let plan = plan(&map, None).expect("enough");
        assert!(!plan.frames.overlaps(&plan.pool));
        assert!(plan.pool.size().0 >= 256 << 20);
        assert!(plan.pool.start.0 >= 97 << 20, "{}", plan.pool);
    }

    #[test]
    fn too_little_memory_is_an_error_with_numbers() {
        let map = map(&[(1 << 20, 4 << 20)]);
        let error = plan(&map, None).expect_err("too little");
        assert_eq!(error.purpose, "the core");
        assert!(
            std::format!("{error}").contains("3 MiB") || std::format!("{error}").contains("2 MiB")
        );
    }

    proptest! {
        #[test]
        fn what_is_taken_was_free_and_is_taken_once(
            ranges in prop::collection::vec((0_u64..1 << 33, 1_u64..1 << 32), 1..6),
            pool in prop::option::of(0_u64..1 << 34),
        ) {
            let map = map(&ranges);
            if let Ok(plan) = plan(&map, pool.map(Bytes)) {
                prop_assert!(map.is_all(plan.frames, Kind::Usable));
                prop_assert!(map.is_all(plan.pool, Kind::Usable));
                prop_assert!(!plan.frames.overlaps(&plan.pool));
                prop_assert!(plan.frames.end.0 <= 1 << 32);
                prop_assert_eq!(plan.pool.start.0 % (2 << 20), 0);
                prop_assert_eq!(plan.pool.size().0 % (2 << 20), 0);
            }
        }
    }
}
