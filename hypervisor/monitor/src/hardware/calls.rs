//! Calls to the core: VMMCALL on AMD, VMCALL on Intel (SDM 3C 31.3, APM 3 VMMCALL).

use super::control;
use crate::Gate;
use core::arch::asm;
use hypervisor_abi::{CPUID_LEAF, CPUID_SIGNATURE, KEY_WORDS, RootCall, Status};

/// The way into the core.
#[derive(Debug)]
pub struct Vmcall {
    key: [u64; KEY_WORDS],
    amd: bool,
}

impl Vmcall {
    /// Whether a core answers on this processor, by the CPUID leaf it claims.
    #[must_use]
    pub fn core_is_here() -> bool {
        let [_, ebx, ecx, edx] = control::cpuid(CPUID_LEAF, 0);
        let words = [ebx, ecx, edx].map(u32::to_le_bytes);
        words.as_flattened() == CPUID_SIGNATURE
    }

    /// The version of the interface that the CPUID leaf tells.
    #[must_use]
    pub fn version() -> u32 {
        control::cpuid(CPUID_LEAF, 0)[0]
    }

    /// The way with this key.
    ///
    /// # Safety
    /// A core is here.
    #[must_use]
    pub unsafe fn new(key: [u64; KEY_WORDS], amd: bool) -> Self {
        Self { key, amd }
    }
}

macro_rules! call {
    ($instruction:literal, $self:ident, $number:ident, $arguments:ident) => {{
        let [mut first, mut second, third, fourth, fifth] = $arguments;
        let mut status = u64::from($number as u32);
        // SAFETY: the core checks every argument; what a call changes beyond its registers is guest
        // memory, the run page or the transfer area, none of which Rust code holds a reference to
        // across the call. RBX is LLVM's own and so is swapped in and out.
        unsafe {
            asm!(
                "xchg rbx, {fifth}",
                $instruction,
                "xchg rbx, {fifth}",
                fifth = inout(reg) fifth => _,
                inout("rax") status,
                inout("rdi") first,
                inout("rsi") second,
                in("rdx") third,
                in("r10") fourth,
                in("r8") $self.key[0],
                in("r9") $self.key[1],
                options(nostack),
            );
        }
        (Status(status), [first, second])
    }};
}

impl Gate for Vmcall {
    fn call(&self, number: RootCall, arguments: [u64; 5]) -> (Status, [u64; 2]) {
        if self.amd {
            call!("vmmcall", self, number, arguments)
        } else {
            call!("vmcall", self, number, arguments)
        }
    }
}
