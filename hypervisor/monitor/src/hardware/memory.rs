//! Memory of the machine as safe slices and handles: what the boot loader left, the heap, the pool.

use super::heap;
use crate::GuestRam;
use alloc::vec::Vec;
use core::slice;
use hypervisor_abi::{
    InformationPage, POOL_HEAD_SIZE, RUN_PAGES_OFFSET, RunPage, TRANSFER_OFFSET, TRANSFER_SLOT,
};
use hypervisor_boot::memory_map::{Full, Kind, MemoryMap, Span};
use hypervisor_boot::pvh::{self, MemoryEntry, Module, StartInfo};
use layout::Range;
use units::{Bytes, HostPhysical};

/// The most entries of a boot loader's memory map that are looked at.
const MAP: usize = 128;
/// The longest command line that is looked at.
const COMMAND_LINE: usize = 4096;
/// The least memory the heap is useful with.
const HEAP_LEAST: u64 = 4 << 20;

unsafe extern "C" {
    static image_start: u8;
    static image_end: u8;
}

/// What the boot loader left.
#[derive(Debug)]
pub struct Boot {
    /// The memory map.
    pub map: MemoryMap<MAP>,
    /// The boot archive; empty when there is none.
    pub archive: &'static [u8],
    /// Where the ACPI root pointer is, when the loader knows.
    pub rsdp: HostPhysical,
    /// End of the highest range of the map.
    pub end: u64,
}

/// Why the monitor cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// EBX names no start information.
    #[error("no PVH start information at {at:#x}: {error:?}")]
    StartInfo {
        /// What EBX was.
        at: u64,
        /// What is wrong with it.
        error: pvh::Error,
    },
    /// The memory map has too many entries.
    #[error("the memory map has more than {} ranges", .0.capacity)]
    Map(Full),
    /// No range is large enough for the heap.
    #[error("the largest free range of memory has {largest} bytes; {HEAP_LEAST} are needed")]
    NoHeap {
        /// Its size.
        largest: u64,
    },
}

impl From<Full> for BootError {
    fn from(full: Full) -> Self {
        Self::Map(full)
    }
}

/// Bytes the boot loader left.
///
/// # Safety
/// They are RAM below 4 GiB, mapped one to one, and nobody writes to them from now on.
unsafe fn left(at: HostPhysical, size: usize) -> &'static [u8] {
    if at.0 == 0 || size == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { slice::from_raw_parts(at.0 as *const u8, size) }
}

fn image() -> Span {
    let (start, end) = (&raw const image_start, &raw const image_end);
    Span { start: HostPhysical(start as u64), end: HostPhysical(end as u64) }
}

/// Reads what the boot loader left at `start_info` and gives the largest free range to the heap.
///
/// # Errors
/// There is none, or too little memory.
///
/// # Safety
/// Once, before anything is allocated; `start_info` is what EBX was at entry.
pub unsafe fn read_boot(start_info: u64) -> Result<Boot, BootError> {
    let at = HostPhysical(start_info);
    // SAFETY: a PVH loader leaves its structures in RAM below 4 GiB; they are kept out of the heap.
    let bytes = |at, size| unsafe { left(at, size) };
    let error = |error| BootError::StartInfo { at: start_info, error };
    let info = StartInfo::parse(bytes(at, StartInfo::SIZE)).map_err(error)?;
    let entries = (info.memory_entries as usize).min(MAP) * MemoryEntry::SIZE;
    let modules = (info.modules as usize).min(MAP) * Module::SIZE;
    let mut map = MemoryMap::new();
    for entry in pvh::memory_map(bytes(info.memory_map, entries)) {
        map.insert(entry.span(), entry.kind)?;
    }
    let module = pvh::modules(bytes(info.module_list, modules)).next();
    let mut free = map;
    let of = |at: HostPhysical, size: usize| Span::of(at, Bytes(size as u64));
    let mut used = [
        // Conventional memory: the trampoline, and whatever firmware left there.
        Span { start: HostPhysical(0), end: HostPhysical(1 << 20) },
        image(),
        of(at, StartInfo::SIZE),
        of(info.memory_map, entries),
        of(info.module_list, modules),
        of(info.command_line, COMMAND_LINE),
        Span::of(HostPhysical(0), Bytes(0)),
    ];
    if let Some(module) = module {
        used[6] = Span::of(module.address, module.size);
    }
    for span in used {
        if !span.is_empty() {
            free.carve(span, Kind::Reserved)?;
        }
    }
    let largest = free
        .of_kind(Kind::Usable)
        // The boot tables map 4 GiB.
        .map(|span| {
            let limit = Span::of(HostPhysical(0), Bytes(4 << 30));
            span.intersection(&limit).aligned(4096)
        })
        .max_by_key(Span::size);
    match largest {
        Some(span) if span.size().0 >= HEAP_LEAST => {
            // SAFETY: RAM by the map, and everything that lies in RAM was taken out of it.
            unsafe { heap::give(span) };
        }
        other => {
            let largest = other.map_or(0, |span| span.size().0);
            return Err(BootError::NoHeap { largest });
        }
    }
    let archive = module.map_or(&[][..], |module| {
        bytes(module.address, usize::try_from(module.size.0).unwrap_or(0))
    });
    let end = map.ranges().last().map_or(0, |range| range.span.end.0);
    Ok(Boot { map, archive, rsdp: info.rsdp, end })
}

/// Bytes of the machine's tables (ACPI), which lie in memory the map does not call usable.
///
/// # Safety
/// The range is mapped and nobody writes to it.
pub(super) unsafe fn table(at: u64, size: usize) -> &'static [u8] {
    // SAFETY: the caller's promise.
    unsafe { left(HostPhysical(at), size) }
}

/// The core's pool.
#[derive(Clone, Copy, Debug)]
pub struct Pool {
    span: Span,
}

impl Pool {
    /// The pool in a soft-reserved range of the memory map.
    ///
    /// # Safety
    /// A core runs beneath and made the range its pool, and it is mapped one to one.
    #[must_use]
    pub const unsafe fn new(span: Span) -> Self {
        Self { span }
    }

    /// Its first page.
    #[must_use]
    pub fn information(&self) -> InformationPage {
        // SAFETY: the first page of the pool is readable, and any bytes are an information page.
        unsafe { (self.span.start.0 as *const InformationPage).read_volatile() }
    }

    /// What guests may get of it, by the information page.
    #[must_use]
    pub fn guest_memory(information: &InformationPage) -> Span {
        Span {
            start: HostPhysical(information.pool_start + POOL_HEAD_SIZE),
            end: HostPhysical(information.pool_start + information.pool_size),
        }
    }

    /// The run page at this offset of the pool, as `VcpuCreate` gave it. Once per offset.
    ///
    /// # Panics
    /// The offset is none of a run page.
    #[must_use]
    pub fn run_page(&self, offset: u64) -> RunPageHandle {
        assert!(
            (RUN_PAGES_OFFSET..TRANSFER_OFFSET).contains(&offset) && offset.is_multiple_of(4096),
            "the core gave {offset:#x} as the offset of a run page",
        );
        RunPageHandle((self.span.start.0 + offset) as *mut RunPage)
    }

    /// Physical CPU `processor`'s part of the transfer area.
    #[must_use]
    pub fn transfer(&self, processor: usize) -> TransferSlot {
        let offset = (processor as u64 * TRANSFER_SLOT) % hypervisor_abi::TRANSFER_SIZE;
        TransferSlot { at: (self.span.start.0 + TRANSFER_OFFSET + offset) as *mut u8, offset }
    }

    /// `ranges` of a guest's memory that lie one after the other from `base` on.
    ///
    /// # Panics
    /// They do not lie in the pool.
    #[must_use]
    pub fn guest_ram(&self, base: HostPhysical, ranges: &[Range]) -> GuestRam {
        let mut at = base.0;
        let mut parts = Vec::with_capacity(ranges.len());
        for range in ranges {
            let span = Span::of(HostPhysical(at), range.size);
            assert!(
                self.span.contains(&span),
                "guest memory {span} lies outside the pool {}",
                self.span,
            );
            parts.push((*range, at as *mut u8));
            at += range.size.0;
        }
        // SAFETY: the range is in the pool and mapped one to one; only guests and `GuestRam` use it.
        unsafe { GuestRam::new(parts) }
    }
}

/// The run page of one vCPU.
#[derive(Debug)]
pub struct RunPageHandle(*mut RunPage);

// SAFETY: the handle is the only one of its page; the core writes to it only while its owner waits
// for a call to end.
unsafe impl Send for RunPageHandle {}

impl crate::RunPageAccess for RunPageHandle {
    fn page(&mut self) -> &mut RunPage {
        // SAFETY: see `Send`; any bytes are a run page.
        unsafe { &mut *self.0 }
    }
}

/// One physical CPU's part of the transfer area.
#[derive(Debug)]
pub struct TransferSlot {
    at: *mut u8,
    offset: u64,
}

// SAFETY: by convention only its processor uses the slot.
unsafe impl Send for TransferSlot {}

impl crate::Transfer for TransferSlot {
    fn offset(&self) -> u64 {
        self.offset
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the slot lies in the pool's head; the core touches it only during calls.
        unsafe { slice::from_raw_parts_mut(self.at, TRANSFER_SLOT as usize) }
    }
}
