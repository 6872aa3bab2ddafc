//! The way into the core: VMMCALL on AMD, VMCALL on Intel (SDM 3C 31.3, APM 3 VMMCALL), from user space.

use hypervisor_abi::{CPUID_LEAF, CPUID_SIGNATURE, Fault, KEY_WORDS, RootCall, Status};
use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::fmt;

/// Where calls go: the core, or a test's idea of one.
pub(super) trait Gate: Send + Sync {
    /// Makes call `number`; gives status and results.
    fn call(&self, number: RootCall, arguments: [u64; 5]) -> (Status, [u64; 2]);
}

/// The core refused a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallError {
    /// Which.
    pub call: RootCall,
    /// Why.
    pub status: Status,
}

impl CallError {
    /// What was wrong.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.status.unpack().map(|(fault, _)| fault)
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the core refused {}: ", self.call.name())?;
        match self.status.unpack() {
            Some((fault, 0)) => write!(f, "{}", fault.text()),
            Some((fault, argument)) => write!(f, "{} (argument {argument})", fault.text()),
            None => write!(f, "status {:#x}", self.status.0),
        }
    }
}

impl std::error::Error for CallError {}

/// The version of the core's interface that CPUID tells; `None` where no core answers.
pub(super) fn version() -> Option<u32> {
    let answer = __cpuid_count(CPUID_LEAF, 0);
    let words = [answer.ebx, answer.ecx, answer.edx].map(u32::to_le_bytes);
    (words.as_flattened() == CPUID_SIGNATURE).then_some(answer.eax)
}

/// The core beneath this machine.
pub(super) struct Hardware {
    key: [u64; KEY_WORDS],
    amd: bool,
}

impl Hardware {
    /// The core that takes this key. `None` where none answers: the instruction would be #UD.
    pub(super) fn new(key: [u64; KEY_WORDS]) -> Option<Self> {
        version()?;
        let vendor = __cpuid_count(0, 0).ebx.to_le_bytes();
        // CPUID.0: AMD and Hygon have VMMCALL.
        Some(Self { key, amd: [*b"Auth", *b"Hygo"].contains(&vendor) })
    }
}

macro_rules! call {
    ($instruction:literal, $self:ident, $number:ident, $arguments:ident) => {{
        let [mut first, mut second, third, fourth, fifth] = $arguments;
        let mut status = $number.number();
        // SAFETY: a core answers on every processor of this machine (`new`), and it checks every
        // argument. What a call changes beyond its registers is guest memory, the run page or the
        // transfer area, to which nobody holds a Rust reference across the call. RBX is LLVM's own
        // and so is swapped in and out.
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

impl Gate for Hardware {
    fn call(&self, number: RootCall, arguments: [u64; 5]) -> (Status, [u64; 2]) {
        if self.amd {
            call!("vmmcall", self, number, arguments)
        } else {
            call!("vmcall", self, number, arguments)
        }
    }
}
