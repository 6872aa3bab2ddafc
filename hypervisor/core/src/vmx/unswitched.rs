//! The registers VMX does not switch and the core does not use: STAR, LSTAR, CSTAR, FMASK,
//! IA32_KERNEL_GS_BASE and DR6. They stay a guest's or root's until another context is entered.
//!
//! `unsafe` here: those registers.
#![allow(unsafe_code)]

use core::arch::asm;

use super::controls::Kind;
use crate::cpu::{exceptions, msr};

/// A context's registers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unswitched {
    /// STAR, LSTAR, CSTAR, FMASK: their writes exit, so this is always what they are.
    pub(super) syscall: [u64; 4],
    /// The others, as they were when the processor became another's.
    pub(super) changing: Changing,
}

/// Registers that change without an exit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changing {
    /// SWAPGS changes it.
    pub(super) kernel_gs_base: u64,
    /// Debug exceptions change it.
    pub(super) dr6: u64,
}

impl Changing {
    fn read() -> Self {
        Self { kernel_gs_base: msr::read(msr::KERNEL_GS_BASE), dr6: dr6() }
    }
}

/// DR6 of the context this processor ran last.
pub(super) fn dr6() -> u64 {
    let value;
    // SAFETY: reading a debug register has no effect while DR7.GD is clear, as every exit leaves it.
    unsafe { asm!("mov {}, dr6", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Sets it.
pub(super) fn set_dr6(value: u64) {
    // SAFETY: the core uses no breakpoints; every caller's value is of a register or checked.
    unsafe { asm!("mov dr6, {}", in(reg) value, options(nomem, nostack, preserves_flags)) };
}

/// What a processor has of them.
pub(super) struct Loaded {
    /// Whose it has: the address of the VMCS. Root or the guest may have changed them.
    resident: Option<(u64, Kind)>,
    /// What it has while they are nobody's.
    nobodys: Changing,
    syscall: [u64; 4],
    /// Root's, while the processor has a guest's or nobody's.
    root: Option<Changing>,
}

impl Loaded {
    /// This processor, before any context.
    pub(super) fn read() -> Self {
        Self {
            resident: None,
            nobodys: Changing::read(),
            syscall: [0, 1, 2, 3].map(|index| msr::read(msr::STAR + index)),
            root: None,
        }
    }

    /// Whether the processor is that context's.
    #[inline]
    pub(super) fn is_of(&self, vmcs: u64) -> bool {
        matches!(self.resident, Some((owner, _)) if owner == vmcs)
    }

    /// Loads a context's registers, those that differ from what is there.
    pub(super) fn change(&mut self, vmcs: u64, kind: Kind, own: &Unswitched) {
        let there = match self.resident {
            None => self.nobodys,
            Some((_, Kind::Guest)) => Changing::read(),
            Some((_, Kind::Root)) => *self.root.insert(Changing::read()),
        };
        let wanted = match kind {
            Kind::Root => self.root.take().unwrap_or(own.changing),
            Kind::Guest => own.changing,
        };
        self.resident = Some((vmcs, kind));
        // SAFETY: the core executes no SYSCALL and no SWAPGS; the values were read from the registers
        // or checked by `validate`.
        unsafe {
            for (index, (there, wanted)) in (0..).zip(self.syscall.iter_mut().zip(own.syscall)) {
                if *there != wanted {
                    *there = wanted;
                    msr::write(msr::STAR + index, wanted);
                }
            }
            if wanted.kernel_gs_base != there.kernel_gs_base {
                msr::write(msr::KERNEL_GS_BASE, wanted.kernel_gs_base);
            }
        }
        if wanted.dr6 != there.dr6 {
            set_dr6(wanted.dr6);
        }
    }

    /// The changing registers, when they are this context's; nobody's from now on.
    pub(super) fn take(&mut self, vmcs: u64) -> Option<Changing> {
        self.is_of(vmcs).then(|| {
            self.resident = None;
            self.nobodys = Changing::read();
            self.nobodys
        })
    }

    /// Forgets what the processor has or keeps of this context: its own values count.
    pub(super) fn forget(&mut self, vmcs: u64, kind: Kind) {
        if kind == Kind::Root {
            self.root = None;
        }
        let _ = self.take(vmcs);
    }

    /// Writes STAR, LSTAR, CSTAR or FMASK of the context the processor has, whose `own` are; false when
    /// it refuses.
    pub(super) fn write_syscall(&mut self, own: &mut Unswitched, index: u32, value: u64) -> bool {
        let place = index.wrapping_sub(msr::STAR) as usize;
        // SAFETY: as in `change`; the processor checks the value.
        let written = place < 4 && unsafe { exceptions::try_write_msr(index, value) };
        if written {
            own.syscall[place] = value;
            self.syscall[place] = value;
        }
        written
    }
}
