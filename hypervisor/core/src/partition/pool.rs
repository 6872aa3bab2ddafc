//! The pool: who owns its pages, and the run pages at its head.
//!
//! `unsafe` here: the list of owners, in frames of the core's.
#![allow(unsafe_code)]

use super::run_page::RunPageSlot;
use crate::memory::{Frames, Window};
use crate::ownership::{Ownership, Page};
use crate::root;
use crate::sync::Lock;
use hypervisor_abi::{Fault, MAX_RUN_PAGES, POOL_HEAD_SIZE};
use hypervisor_boot::memory_map::Span;
use units::{Bytes, HostPhysical, PAGE_SIZE};

/// Run pages in use.
static RUN_PAGES: Lock<[bool; MAX_RUN_PAGES]> = Lock::new([false; MAX_RUN_PAGES]);

/// Who holds each page.
static OWNERSHIP: Lock<Option<Ownership<'static>>> = Lock::new(None);

/// Takes over the pool. Once, at boot. `None` when the core is out of memory.
pub fn initialize(pool: Span) -> Option<()> {
    let pages = (pool.size().0 / PAGE_SIZE) as usize;
    let frames = Frames::allocate(((pages * size_of::<Page>()) as u64).div_ceil(PAGE_SIZE))?;
    let list = frames.into_raw().0 as *mut Page;
    // SAFETY: the frames are large enough, aligned, filled with pages first, and given up for good.
    let pages = unsafe {
        (0..pages).for_each(|index| list.add(index).write(Page::Root));
        core::slice::from_raw_parts_mut(list, pages)
    };
    let head = (POOL_HEAD_SIZE / PAGE_SIZE) as usize;
    *OWNERSHIP.lock() = Some(Ownership::new(pool.start, pages, head));
    Some(())
}

/// Takes a run page, all zero.
pub(super) fn take_run_page() -> Option<RunPageSlot> {
    let mut used = RUN_PAGES.lock();
    let number = used.iter().position(|used| !used)?;
    used[number] = true;
    Some(RunPageSlot::new(number))
}

pub(super) fn free_run_page(number: usize) {
    RUN_PAGES.lock()[number] = false;
}

/// Looks at who holds pages, or changes it.
pub(super) fn with<T>(
    change: impl FnOnce(&mut Ownership<'static>) -> Result<T, Fault>,
) -> Result<T, Fault> {
    change(OWNERSHIP.lock().as_mut().ok_or(Fault::NotSupported)?)
}

/// Gives root back pages that are in no guest's tables any longer, wiped where root had no access.
pub(super) fn take_back(partition: u8, window: &mut Window, span: Span) {
    if !with(|pages| pages.unmap(span, partition)).unwrap_or(false) {
        return;
    }
    while let Ok(Some(dirty)) = with(|pages| pages.next_to_wipe(span)) {
        window.wipe(dirty);
        window.forget();
        root::set_access(dirty, true);
        let wiped = with(|pages| pages.wiped(dirty));
        debug_assert!(wiped.is_ok());
    }
}

/// How much of kept pages is filled with zeros at a time: root's interrupts wait for it.
const CLEARED_AT_ONCE: Bytes = Bytes(1 << 20);

/// Fills a part of the pages kept for `partition` from `start` on with zeros; says how much is left.
pub(super) fn clear(
    partition: u8,
    window: &mut Window,
    start: HostPhysical,
) -> Result<Bytes, Fault> {
    let begin = |pages: &mut Ownership<'_>| pages.begin_clear(partition, start, CLEARED_AT_ONCE);
    // Nobody takes the pages away between the two: those that are being cleared cannot be released.
    if let Some(span) = with(begin)? {
        window.wipe(span);
        window.forget();
    }
    with(|pages| pages.end_clear(partition, start, CLEARED_AT_ONCE))
}

/// Bytes of the pool kept for no partition: all, and those in the largest piece.
pub fn unreserved() -> (Bytes, Bytes) {
    with(|pages| Ok(pages.unreserved())).unwrap_or_default()
}

/// Takes a guest's pages from root, or shares them with it again.
pub(super) fn set_root_access(partition: u8, span: Span, allowed: bool) -> Result<(), Fault> {
    let change = |allowed: bool| {
        with(|pages| match allowed {
            true => pages.share(span, partition),
            false => pages.protect(span, partition),
        })
    };
    if change(allowed)? && !root::set_access(span, allowed) {
        // Root's tables could not be changed: nothing is.
        let _ = change(!allowed);
        return Err(Fault::OutOfMemory);
    }
    Ok(())
}
