//! The core's own page tables: its image with the least access each part needs, its frames, the head of
//! the pool, and for each processor stacks between unmapped pages and windows.
#![allow(unsafe_code)]

use super::pool::Frames;
use super::tables::CoreTables;
use super::window::WINDOWS;
use crate::integrity::{self, CANARY};
use crate::memory_type::MemoryType;
use crate::second_level::{Access, Format, SecondLevel};
use hypervisor_abi::CorePart;
use hypervisor_boot::memory_map::Span;
use units::{Bytes, GuestPhysical, HostPhysical, PAGE_SIZE};

/// Where the processors' stacks lie: past all physical addresses.
const STACKS: u64 = 0x7f00_0000_0000;
/// Room for one processor: stacks and the unmapped pages between them.
const STACK_ROOM: u64 = 128 << 10;
const STACK_PAGES: u64 = 16;
/// Where the windows lie: one page table per processor.
const WINDOW_BASE: u64 = 0x7f80_0000_0000;
const WINDOW_ROOM: u64 = 2 << 20;

/// How a part is mapped.
pub(super) type MapAs = (Access, MemoryType);

/// Code.
pub const CODE: MapAs = (Access { write: false, execute: true }, MemoryType::WriteBack);
/// Data nobody writes.
pub const CONSTANT: MapAs = (Access { write: false, execute: false }, MemoryType::WriteBack);
/// Data.
pub const DATA: MapAs = (Access::WRITE, MemoryType::WriteBack);
/// Registers of a device.
pub const DEVICE: MapAs = (Access::WRITE, MemoryType::Uncacheable);

/// The tables. They stay for good: the function that holds them never returns.
pub struct HostTables(SecondLevel);

/// What a processor finds at its own place.
#[derive(Clone, Copy)]
pub struct CpuSpace {
    /// Top of its stack.
    pub stack: u64,
    /// Tops of the stacks for NMI, double fault and machine check.
    pub exception_stacks: [u64; 3],
    /// Virtual address of its first window.
    pub windows: u64,
    /// Address of the page-table entries of its windows.
    pub window_entries: u64,
}

impl HostTables {
    /// Tables that map nothing. `None` when the core is out of frames.
    pub fn new() -> Option<Self> {
        SecondLevel::new(Format::Host, CoreTables).map(Self)
    }

    /// Physical address of the first table, for CR3.
    pub const fn root(&self) -> HostPhysical {
        HostPhysical(self.0.root_pointer())
    }

    /// Maps `pages` to `address`. `None` when the core is out of frames.
    fn map(&mut self, address: u64, pages: Span, (access, memory_type): MapAs) -> Option<()> {
        let address = GuestPhysical(address);
        self.0.map(address, pages.start, pages.size(), access, memory_type).ok()
    }

    /// Maps to the same address.
    pub fn map_same(&mut self, pages: Span, how: MapAs) -> Option<()> {
        self.map(pages.start.0, pages, how)
    }

    /// Makes stacks and windows of processor `index`.
    pub fn add_processor(&mut self, index: u32) -> Option<CpuSpace> {
        let base = STACKS + u64::from(index) * STACK_ROOM;
        // One unmapped page below each stack catches an overflow.
        let mut bottom = base + PAGE_SIZE;
        let mut stack = |pages: u64, tables: &mut Self| -> Option<u64> {
            let frames = Frames::allocate(pages)?.into_raw();
            let size = pages * PAGE_SIZE;
            tables.map(bottom, Span::of(frames, Bytes(size)), DATA)?;
            for canary in [frames.0, frames.0 + size - CANARY] {
                // SAFETY: the stack lies between them.
                unsafe { integrity::guard(CorePart::Stacks, HostPhysical(canary)) };
            }
            let top = bottom + size - CANARY;
            bottom += size + PAGE_SIZE;
            Some(top)
        };
        let main = stack(STACK_PAGES, self)?;
        let exception_stacks = [stack(1, self)?, stack(1, self)?, stack(1, self)?];
        let windows = WINDOW_BASE + u64::from(index) * WINDOW_ROOM;
        const { assert!(WINDOWS as u64 <= 512) };
        // The first page makes the table; the windows show nothing yet.
        self.map(windows, Span::of(self.root(), Bytes(PAGE_SIZE)), CONSTANT)?;
        let window_entries = self.0.entry_of(GuestPhysical(windows))?.0;
        // SAFETY: an entry of these tables, which no processor uses yet.
        unsafe { (window_entries as *mut u64).write(0) };
        Some(CpuSpace { stack: main, exception_stacks, windows, window_entries })
    }
}
