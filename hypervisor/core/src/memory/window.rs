//! Looking at a page of a guest's or root's memory: a few virtual pages of each processor whose entries
//! it points where it needs to. They are empty between uses but for what they showed last.
#![allow(unsafe_code)]

use super::host_tables::CpuSpace;
use crate::cpu::control;
use hypervisor_boot::memory_map::Span;
use units::{HostPhysical, PAGE_SIZE};

/// Windows of one processor: enough for a walk of four tables and the page it leads to.
pub(super) const WINDOWS: usize = 8;

/// One processor's windows.
pub struct Window {
    base: u64,
    entries: *mut u64,
    shows: [u64; WINDOWS],
    next: usize,
}

/// No page.
const NOTHING: u64 = u64::MAX;
/// A window's entry: present, writable, not executable (SDM 3A 4.5).
const DATA: u64 = 1 << 0 | 1 << 1 | 1 << 63;

impl Window {
    /// The windows at a processor's own place.
    pub const fn new(space: &CpuSpace) -> Self {
        Self {
            base: space.windows,
            entries: space.window_entries as *mut u64,
            shows: [NOTHING; WINDOWS],
            next: 0,
        }
    }

    /// Points a window at `page`, or at nothing.
    fn point(&mut self, slot: usize, page: Option<HostPhysical>) {
        self.shows[slot] = page.map_or(NOTHING, HostPhysical::get);
        // SAFETY: the entry is this processor's own; nobody holds a pointer into the window, because
        // `read` and `write` copy.
        unsafe { self.entries.add(slot).write_volatile(page.map_or(0, |page| page.0 | DATA)) };
        control::invalidate_page(self.base + slot as u64 * PAGE_SIZE);
    }

    /// Where the page at `page` is visible until seven more were looked at.
    fn show(&mut self, page: u64) -> *mut u8 {
        let shown = self.shows.iter().position(|shown| *shown == page);
        let slot = shown.unwrap_or_else(|| {
            let slot = self.next;
            self.next = (slot + 1) % WINDOWS;
            self.point(slot, Some(HostPhysical(page)));
            slot
        });
        (self.base + slot as u64 * PAGE_SIZE) as *mut u8
    }

    fn each(
        &mut self,
        from: HostPhysical,
        length: usize,
        mut part: impl FnMut(*mut u8, core::ops::Range<usize>),
    ) {
        let mut done = 0;
        while done < length {
            let address = from.0 + done as u64;
            let offset = (address % PAGE_SIZE) as usize;
            let count = (length - done).min(PAGE_SIZE as usize - offset);
            let page = self.show(address - offset as u64);
            part(page.wrapping_add(offset), done..done + count);
            done += count;
        }
    }

    /// Copies memory from `from` on. The caller has checked that it is memory and whose.
    pub fn read(&mut self, from: HostPhysical, into: &mut [u8]) {
        self.each(from, into.len(), |address, range| {
            for (byte, at) in into[range].iter_mut().zip(0..) {
                // SAFETY: within the window's page. A guest may write it meanwhile, hence volatile.
                *byte = unsafe { address.add(at).read_volatile() };
            }
        });
    }

    /// Reads a table entry, 8-byte aligned, in one piece.
    pub fn read_u64(&mut self, from: HostPhysical) -> u64 {
        let offset = (from.0 % PAGE_SIZE) & !7;
        let page = self.show(from.0 & !(PAGE_SIZE - 1));
        // SAFETY: aligned and within the window's page; volatile as above.
        unsafe { page.add(offset as usize).cast::<u64>().read_volatile() }
    }

    /// Copies `bytes` to memory from `to` on. The caller has checked as for [`Self::read`].
    pub fn write(&mut self, to: HostPhysical, bytes: &[u8]) {
        self.each(to, bytes.len(), |address, range| {
            for (byte, at) in bytes[range].iter().zip(0..) {
                // SAFETY: within the window's page.
                unsafe { address.add(at).write_volatile(*byte) };
            }
        });
    }

    /// Fills whole pages with zeros.
    pub fn wipe(&mut self, pages: Span) {
        for page in (pages.start.0..pages.end.0).step_by(PAGE_SIZE as usize) {
            // SAFETY: the window's page.
            unsafe { core::ptr::write_bytes(self.show(page), 0, PAGE_SIZE as usize) };
        }
    }

    /// Shows nothing any longer.
    pub fn forget(&mut self) {
        (0..WINDOWS).for_each(|slot| self.point(slot, None));
    }
}
