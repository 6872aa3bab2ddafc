//! The page tables: the machine one to one. `entry.s` maps the first 4 GiB; this adds the rest and
//! the memory type of the interrupt controllers.

use super::control;
use alloc::boxed::Box;

const PRESENT_WRITABLE: u64 = 0b11;
/// PWT and PCD: uncacheable with the PAT of power-on (SDM 3A 13.12.4).
const UNCACHED: u64 = 0b11 << 3;
const LARGE: u64 = 1 << 7;
const GIB: u64 = 1 << 30;

#[repr(C, align(4096))]
struct Table([u64; 512]);

unsafe extern "C" {
    static mut page_pdpt: Table;
    static mut page_directories: [Table; 4];
}

/// Maps everything below `end`, up to 512 GiB, and keeps caches off the APICs. Before any other
/// processor runs.
pub fn extend(end: u64) {
    // CPUID.8000_0001:EDX bit 26: 1 GiB pages.
    let giant = control::cpuid(0x8000_0001, 0)[3] & 1 << 26 != 0;
    for gib in 4..end.div_ceil(GIB).min(512) {
        let base = gib * GIB;
        let entry = if giant {
            base | PRESENT_WRITABLE | LARGE
        } else {
            let pages =
                core::array::from_fn(|n| base | (n as u64) << 21 | PRESENT_WRITABLE | LARGE);
            Box::leak(Box::new(Table(pages))).0.as_ptr() as u64 | PRESENT_WRITABLE
        };
        // SAFETY: one processor runs; the entry maps addresses that were not mapped before, one to
        // one, to themselves.
        unsafe { (&raw mut page_pdpt.0[gib as usize]).write_volatile(entry) };
    }
    // I/O APIC and local APIC lie in these two pages of 2 MiB.
    for page in [0xfec0_0000u64, 0xfee0_0000] {
        let entry = page | PRESENT_WRITABLE | LARGE | UNCACHED;
        let slot = (page >> 21 & 511) as usize;
        // SAFETY: the address mapped stays the same.
        unsafe { (&raw mut page_directories[3].0[slot]).write_volatile(entry) };
    }
    control::flush_translations();
}
