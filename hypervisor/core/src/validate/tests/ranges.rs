use hypervisor_abi::POOL_HEAD_SIZE;
use hypervisor_boot::memory_map::Span;
use proptest::prelude::*;
use units::{Bytes, HostPhysical};

use crate::second_level::Access;
use crate::validate::{RangeError, guest_pages, memory_access, pool_pages};

const POOL: HostPhysical = HostPhysical(0x1_0000_0000);
const POOL_SIZE: u64 = 0x4000_0000;

#[test]
fn pool_pages_lie_past_the_head_and_inside() {
    let pool = |start, pages| pool_pages(start, pages, Span::of(POOL, Bytes(POOL_SIZE)));
    let first = POOL.0 + POOL_HEAD_SIZE;
    let all = (POOL_SIZE - POOL_HEAD_SIZE) / 4096;
    assert!(pool(first, all).is_ok());
    assert!(pool(first, all + 1).is_err());
    assert!(pool(first - 4096, 1).is_err(), "run pages and the key");
    assert!(pool(POOL.0 + POOL_SIZE, 1).is_err());
    assert_eq!(pool(first, 0), Err(RangeError::Outside));
    assert_eq!(pool(first + 8, 1), Err(RangeError::Misaligned));
    assert!(pool(first, u64::MAX).is_err());
    assert!(pool(first, 1 << 52).is_err());
    assert!(pool(!0xfff, 1).is_err());
}

#[test]
fn guest_pages_end_where_addresses_do() {
    assert!(guest_pages(0, 1 << 28, 40).is_ok());
    assert!(guest_pages(0, (1 << 28) + 1, 40).is_err());
    assert!(guest_pages(0xff_ffff_f000, 1, 40).is_ok());
    assert!(guest_pages(0x100_0000_0000, 1, 40).is_err());
    assert!(guest_pages(0, 1, 255).is_ok());
}

#[test]
fn access_has_two_bits() {
    assert_eq!(memory_access(0b10), Some(Access { write: false, execute: true }));
    assert_eq!(memory_access(0b01), Some(Access { write: true, execute: false }));
    assert_eq!(memory_access(4), None);
}

proptest! {
    #[test]
    fn accepted_ranges_never_overflow(start in any::<u64>(), count in any::<u64>(), shift in 0_u32..64) {
        let (start, count) = (start >> shift & !0xfff, count >> shift);
        if let Ok(range) = pool_pages(start, count, Span::of(POOL, Bytes(POOL_SIZE))) {
            prop_assert!(range.start.0 >= POOL.0 + POOL_HEAD_SIZE);
            prop_assert!(range.end.0 <= POOL.0 + POOL_SIZE && !range.is_empty());
        }
        if let Ok((start, bytes)) = guest_pages(start, count, 39) {
            prop_assert!(start.0 + bytes.0 <= 1 << 39 && bytes.0 == count * 4096);
        }
    }
}
