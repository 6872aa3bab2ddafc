//! One VMCS: its region, whether this processor has it, and the fields in use most with what is known
//! of them.
//!
//! A VMCS lies in a processor's own memory from the first access until [`Vmcs::leave`] (SDM 3C 25.1);
//! no other processor may touch it meanwhile. Root's stays on its processor for ever, a guest's is left
//! whenever its vCPU stops running.
//!
//! `unsafe` here: the processor's own data at gs:8, VMPTRLD, VMCLEAR.
#![allow(unsafe_code)]

use core::arch::asm;
use core::cell::Cell;

use units::{HostPhysical, PAGE_SIZE};
use x86::vmx::vmcs::guest;

use super::instructions::{vmclear, vmptrld, vmread, vmwrite};
use crate::memory::Object;

/// A VMXON or VMCS region (SDM 3C 25.2, 25.11.5). Beyond the header its content is the processor's.
#[repr(C, align(4096))]
pub(super) struct Region {
    /// Bits 30:0: VMCS revision identifier; bit 31: shadow VMCS, 0 here.
    revision: u32,
    data: [u8; PAGE_SIZE as usize - 4],
}

const _: () = assert!(size_of::<Region>() == PAGE_SIZE as usize);

/// Fields of which the last value is kept: read from the VMCS at most once per exit, written to it at
/// most once per entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Cached {
    Rip,
    Rflags,
    Interruptibility,
    Cr0,
    Cr3,
    Cr4,
    Efer,
    CsAccess,
    SsAccess,
}

/// The fields, by [`Cached`].
const FIELDS: [u32; 9] = [
    guest::RIP,
    guest::RFLAGS,
    guest::INTERRUPTIBILITY_STATE,
    guest::CR0,
    guest::CR3,
    guest::CR4,
    guest::IA32_EFER_FULL,
    guest::CS_ACCESS_RIGHTS,
    guest::SS_ACCESS_RIGHTS,
];

const _: () = assert!(Cached::SsAccess as usize == FIELDS.len() - 1);

/// A VMCS.
pub(super) struct Vmcs {
    region: Object<Region>,
    /// It may be in a processor's memory.
    active: Cell<bool>,
    values: [Cell<u64>; FIELDS.len()],
    known: Cell<u32>,
    changed: Cell<u32>,
}

/// gs:8: the physical address of the VMCS that is current on this processor (`processor::Shared`).
fn current() -> u64 {
    let value;
    // SAFETY: the GS base is the processor's own data while the core runs.
    unsafe { asm!("mov {}, gs:[8]", out(reg) value, options(nostack, readonly, preserves_flags)) };
    value
}

fn set_current(vmcs: u64) {
    // SAFETY: as above; only this module uses the word.
    unsafe { asm!("mov gs:[8], {}", in(reg) vmcs, options(nostack, preserves_flags)) };
}

/// A clear VMXON or VMCS region. `None` when the core is out of memory.
pub(super) fn new_region(revision: u32) -> Option<Object<Region>> {
    // SAFETY: all zeros is a region.
    let mut region = unsafe { Object::<Region>::zeroed() }?;
    region.revision = revision;
    Some(region)
}

/// No VMCS has this address.
const NONE: u64 = 0;

impl Vmcs {
    /// A clear VMCS. `None` when the core is out of memory.
    pub(super) fn new(revision: u32) -> Option<Self> {
        let vmcs = Self {
            region: new_region(revision)?,
            active: Cell::new(true),
            values: [const { Cell::new(0) }; FIELDS.len()],
            known: Cell::new(0),
            changed: Cell::new(0),
        };
        // VMCLEAR also makes a fresh region usable (SDM 3C 25.11.3).
        vmcs.clear();
        Some(vmcs)
    }

    pub(super) fn physical(&self) -> HostPhysical {
        self.region.physical()
    }

    /// Makes it current on this processor.
    #[inline]
    pub(super) fn make_current(&self) {
        let own = self.physical();
        if current() == own.0 {
            return;
        }
        // SAFETY: the region is a VMCS's; it is on no other processor, because whoever had it there
        // left it.
        let loaded = unsafe { vmptrld(own) };
        assert!(loaded.is_ok(), "VMPTRLD of {own:?}: {loaded:?}");
        set_current(own.0);
        self.active.set(true);
    }

    /// A field that is not kept.
    #[inline]
    pub(super) fn read(&self, field: u32) -> u64 {
        self.make_current();
        vmread(field)
    }

    /// Sets a field that is not kept.
    ///
    /// # Safety
    /// As [`vmwrite`].
    pub(super) unsafe fn write(&self, field: u32, value: u64) {
        self.make_current();
        // SAFETY: the VMCS is this one; the caller's promise.
        unsafe { vmwrite(field, value) };
    }

    /// Sets fields that are not kept.
    ///
    /// # Safety
    /// As [`vmwrite`].
    pub(super) unsafe fn write_all(&self, fields: impl IntoIterator<Item = (u32, u64)>) {
        for (field, value) in fields {
            // SAFETY: the caller's promise.
            unsafe { self.write(field, value) };
        }
    }

    /// Sets a field of the guest-state area that is not kept: nothing of the core depends on it, and
    /// the processor checks it at the entry.
    #[inline]
    pub(super) fn write_guest(&self, field: u32, value: u64) {
        // Bits 11:10 of a field's number are its area, 2 the guest's (SDM 3C 25.11.2).
        assert!(field >> 10 & 3 == 2, "VMCS field {field:#x} is no guest's");
        // SAFETY: as said.
        unsafe { self.write(field, value) };
    }

    /// A field that is kept.
    #[inline]
    pub(super) fn get(&self, field: Cached) -> u64 {
        let index = field as usize;
        if self.known.get() & 1 << index == 0 {
            self.values[index].set(self.read(FIELDS[index]));
            self.known.set(self.known.get() | 1 << index);
        }
        self.values[index].get()
    }

    /// Sets it.
    #[inline]
    pub(super) fn set(&self, field: Cached, value: u64) {
        let index = field as usize;
        self.values[index].set(value);
        self.known.set(self.known.get() | 1 << index);
        self.changed.set(self.changed.get() | 1 << index);
    }

    /// Writes what was set to the VMCS, which is current afterwards.
    #[inline]
    pub(super) fn flush(&self) {
        self.make_current();
        let mut changed = self.changed.take();
        while changed != 0 {
            let index = changed.trailing_zeros() as usize;
            changed &= changed - 1;
            // SAFETY: the kept fields are guest-state fields, none of which the core relies on.
            unsafe { vmwrite(FIELDS[index], self.values[index].get()) };
        }
    }

    /// The guest ran: what was known is old.
    #[inline]
    pub(super) fn forget(&self) {
        self.known.set(0);
    }

    /// Takes it off this processor, with all that was set.
    pub(super) fn leave(&self) {
        if self.changed.get() != 0 {
            self.flush();
        }
        self.clear();
    }

    /// Takes it off this processor; the next entry launches it anew.
    pub(super) fn clear(&self) {
        if !self.active.replace(false) {
            return;
        }
        let own = self.physical();
        // SAFETY: the region is a VMCS's and on no other processor.
        let cleared = unsafe { vmclear(own) };
        assert!(cleared.is_ok(), "VMCLEAR of {own:?}: {cleared:?}");
        if current() == own.0 {
            set_current(NONE);
        }
    }
}

impl Drop for Vmcs {
    /// The processor must not write to the region's frames any longer.
    fn drop(&mut self) {
        self.clear();
    }
}
