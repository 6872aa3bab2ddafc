//! The heap: one piece of the machine's memory, given once at the start.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use hypervisor_boot::memory_map::Span;
use linked_list_allocator::Heap;
use spin::Mutex;

struct Global(Mutex<Heap>);

#[global_allocator]
static GLOBAL: Global = Global(Mutex::new(Heap::empty()));

// SAFETY: the heap hands out pieces that do not overlap, under a lock; no interrupt handler
// allocates.
unsafe impl GlobalAlloc for Global {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let piece = self.0.lock().allocate_first_fit(layout);
        piece.map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if let Some(pointer) = NonNull::new(pointer) {
            // SAFETY: the caller got it from `alloc` with this layout.
            unsafe { self.0.lock().deallocate(pointer, layout) };
        }
    }
}

/// Gives the heap its memory.
///
/// # Safety
/// The span is RAM, mapped one to one, used by nothing else from now on. Once.
pub(super) unsafe fn give(span: Span) {
    let size = usize::try_from(span.size().0).unwrap_or(0);
    // SAFETY: the caller's promise.
    unsafe { GLOBAL.0.lock().init(span.start.0 as *mut u8, size) };
}

/// Bytes in use and bytes free.
#[must_use]
pub fn usage() -> (usize, usize) {
    let heap = GLOBAL.0.lock();
    (heap.used(), heap.free())
}
