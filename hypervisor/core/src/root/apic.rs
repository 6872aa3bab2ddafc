//! Root's local APICs. They are the machine's own and root uses them without an exit, but for one thing:
//! a processor that root starts by INIT and start-up IPI must come up beneath the core. AMD's processors
//! never tell of a start-up IPI (APM 2 15.28), so the core watches the commands that send one: writes to
//! the MSR in x2APIC mode, writes to the page in xAPIC mode. It does so only while a processor is
//! absent from root: from boot until root has started all, and while one is off line.

use super::{Root, RootCpu, forget_everywhere};
use crate::cpu::{msr, physical_apic};
use crate::decode::{Execution, Step, Width};
use crate::instruction::{address_space, decode_with};
use crate::memory::Window;
use crate::msr::set_exits;
use crate::processor::{self, Cpu, has_vmx, wake};
use crate::second_level::Access;
use crate::walk::{self, Paging, walk};
use core::sync::atomic::Ordering;
use units::{Bytes, GuestPhysical, HostPhysical, PAGE_SIZE};

/// Destination shorthand, delivery mode and level of a command (SDM 3A figure 11-12).
const INIT: u64 = 5;
const STARTUP: u64 = 6;
const ASSERT: u64 = 1 << 14;

impl Root {
    /// Root will start all but one of so many processors. `None` when the core is out of memory.
    pub fn expect_processors(&self, count: usize) -> Option<()> {
        self.absent.store(count.saturating_sub(1), Ordering::SeqCst);
        self.watch()
    }

    /// One processor more is absent from root, or one less.
    pub(super) fn set_absent(&self, absent: bool) {
        let before = if absent {
            self.absent.fetch_add(1, Ordering::SeqCst)
        } else {
            self.absent.fetch_sub(1, Ordering::SeqCst)
        };
        // Splitting the page's tables once was what could fail.
        if matches!((absent, before), (true, 0) | (false, 1)) {
            let _ = self.watch();
        }
    }

    /// Watches commands of root's local APICs on all CPUs while a processor is absent, or lets them through.
    fn watch(&self) -> Option<()> {
        let mut tables = self.tables.lock();
        // Counted again with the lock: whoever comes last sets what holds.
        let wanted = self.absent.load(Ordering::SeqCst) > 0;
        set_exits(self.msr_map.lock().bytes_mut(), has_vmx(), msr::X2APIC_ICR, false, wanted);
        let page = GuestPhysical(physical_apic::page().0);
        let access = Access { write: !wanted, execute: false };
        let changed = tables.set_access(page, Bytes(PAGE_SIZE), access);
        drop(tables);
        forget_everywhere();
        changed.is_ok().then_some(())
    }
}

/// Root sends an interprocessor interrupt (SDM 3A 11.12.9), in the layout of x2APIC mode. INIT and start-up
/// IPIs go to root's virtual CPUs, which the core keeps: true then. All others are the machine's own.
pub(super) fn starts_processors(command: u64) -> bool {
    let mode = command >> 8 & 7;
    if mode != INIT && mode != STARTUP {
        return false;
    }
    // An INIT level de-assert does nothing on these processors (SDM 3A 11.6.1).
    if mode == INIT && command & ASSERT == 0 {
        return true;
    }
    let bits = if mode == INIT { wake::INIT } else { wake::STARTUP | command as u32 & 0xff };
    let own = physical_apic::id();
    for cpu in processor::all() {
        let addressed = match command >> 18 & 3 {
            0 => cpu.apic_id == (command >> 32) as u32,
            3 => cpu.apic_id != own,
            _ => false,
        };
        if addressed {
            cpu.notify(bits);
        }
    }
    true
}

/// Root's instruction at RIP has written to the page of the xAPIC while it was watched: carries it out.
/// False when it cannot be.
pub(super) fn access(root: &mut RootCpu, cpu: &mut Cpu) -> bool {
    let memory = Memory::of(root);
    let window = &mut cpu.window;
    let fetch = |linear: u64, into: &mut [u8]| {
        let end = linear.checked_add(into.len() as u64 - 1)?;
        let from = memory.translate(window, linear, walk::Access::Fetch)?;
        // The caller asks page by page.
        debug_assert!(linear / PAGE_SIZE == end / PAGE_SIZE);
        window.read(memory.host(from)?, into);
        Some(())
    };
    let Some(decoded) = decode_with(&root.context, &cpu.vendor, fetch) else { return false };
    let mut registers = root.context.registers();
    let space = address_space(&root.context);
    let Some(mut execution) = Execution::begin(&decoded, &registers, &space) else { return false };
    while let Some(Step { address, width, write }) = execution.step(&registers) {
        let kind = if write.is_some() { walk::Access::Write } else { walk::Access::Read };
        let Some(physical) = memory.translate(&mut cpu.window, address, kind) else { return false };
        let offset = physical.0.wrapping_sub(physical_apic::page().0);
        // Registers are 32 bits wide (SDM 3A 11.4.1).
        if offset >= PAGE_SIZE || offset % 4 != 0 || width != Width::Dword {
            return false;
        }
        match write {
            None => execution.advance(physical_apic::read_register(offset).into()),
            Some(value) => {
                write_register(offset, value as u32);
                execution.advance(0);
            }
        }
    }
    execution.complete(&mut registers);
    root.context.set_registers(&registers);
    true
}

fn write_register(offset: u64, value: u32) {
    if offset == physical_apic::ICR_LOW {
        let destination = u64::from(physical_apic::read_register(physical_apic::ICR_HIGH) >> 24);
        if starts_processors(destination << 32 | u64::from(value)) {
            return;
        }
    }
    physical_apic::write_register(offset, value);
}

/// How root's addresses are translated.
pub(super) struct Memory {
    root: &'static Root,
    paging: Paging,
}

impl Memory {
    pub(super) fn of(root: &RootCpu) -> Self {
        let context = &root.context;
        let paging = Paging {
            cr0: context.cr0(),
            cr3: context.cr3(),
            cr4: context.cr4(),
            efer: context.efer(),
            rflags: context.rflags(),
            user: context.cpl() == 3,
            physical_bits: 52,
            gigabyte_pages: true,
        };
        Self { root: root.root, paging }
    }

    /// Where a linear address leads; `None` when nowhere root may reach.
    pub(super) fn translate(
        &self,
        window: &mut Window,
        linear: u64,
        access: walk::Access,
    ) -> Option<GuestPhysical> {
        let read = |at| {
            let host = self.root.tables.lock().translate(at)?.host;
            Some(window.read_u64(host))
        };
        walk(read, &self.paging, linear, access).ok()
    }

    /// Where an address of root's lies in the machine, which is there; `None` where root has nothing.
    pub(super) fn host(&self, physical: GuestPhysical) -> Option<HostPhysical> {
        Some(self.root.tables.lock().translate(physical)?.host)
    }
}
