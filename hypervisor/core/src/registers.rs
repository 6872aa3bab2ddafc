//! Bits of the processor's registers that more than one module speaks of, by the names the manuals give them.

/// CR0 (SDM 3A 2.5): protection.
pub const CR0_PE: u64 = 1 << 0;
/// The x87 is a 387; always 1.
pub const CR0_ET: u64 = 1 << 4;
/// X87 errors are exceptions, not interrupts.
pub const CR0_NE: u64 = 1 << 5;
/// The supervisor cannot write read-only pages either.
pub const CR0_WP: u64 = 1 << 16;
/// Not write-through.
pub const CR0_NW: u64 = 1 << 29;
/// Cache disable.
pub const CR0_CD: u64 = 1 << 30;
/// Paging.
pub const CR0_PG: u64 = 1 << 31;

/// CR4 (SDM 3A 2.5): 32-bit paging has 4 MiB pages.
pub const CR4_PSE: u64 = 1 << 4;
/// Entries of page tables have 64 bits.
pub const CR4_PAE: u64 = 1 << 5;
/// FXSAVE and SSE are used.
pub const CR4_OSFXSR: u64 = 1 << 9;
/// SSE exceptions are handled.
pub const CR4_OSXMMEXCPT: u64 = 1 << 10;
/// 57-bit linear addresses.
pub const CR4_LA57: u64 = 1 << 12;
/// VMX.
pub const CR4_VMXE: u64 = 1 << 13;
/// Process-context identifiers.
pub const CR4_PCIDE: u64 = 1 << 17;
/// XSAVE and XCR0 are used.
pub const CR4_OSXSAVE: u64 = 1 << 18;
/// The supervisor cannot execute user pages.
pub const CR4_SMEP: u64 = 1 << 20;
/// The supervisor cannot access user pages.
pub const CR4_SMAP: u64 = 1 << 21;
/// Protection keys of user pages.
pub const CR4_PKE: u64 = 1 << 22;
/// Control-flow enforcement.
pub const CR4_CET: u64 = 1 << 23;

/// DR6 (SDM 3B 18.2.3): a single step; VMX's pending debug exceptions and exit qualifications have it there too.
pub const DR6_BS: u64 = 1 << 14;

/// IA32_EFER (SDM 3A 2.2.1, APM 2 3.1.7): SYSCALL.
pub const EFER_SCE: u64 = 1 << 0;
/// Long mode enable.
pub const EFER_LME: u64 = 1 << 8;
/// Long mode active.
pub const EFER_LMA: u64 = 1 << 10;
/// Execute disable.
pub const EFER_NXE: u64 = 1 << 11;
/// AMD: SVM is on.
pub const EFER_SVME: u64 = 1 << 12;
/// AMD: fast FXSAVE.
pub const EFER_FFXSR: u64 = 1 << 14;
/// AMD: translation cache extension.
pub const EFER_TCE: u64 = 1 << 15;

/// RFLAGS (SDM 1 3.4.3): carry.
pub const RFLAGS_CF: u64 = 1 << 0;
/// Always 1.
pub const RFLAGS_ONE: u64 = 1 << 1;
/// Even parity of the low byte.
pub const RFLAGS_PF: u64 = 1 << 2;
/// Carry out of bit 3.
pub const RFLAGS_AF: u64 = 1 << 4;
/// Zero.
pub const RFLAGS_ZF: u64 = 1 << 6;
/// Sign.
pub const RFLAGS_SF: u64 = 1 << 7;
/// Each instruction ends in a debug exception.
pub const RFLAGS_TF: u64 = 1 << 8;
/// External interrupts are taken.
pub const RFLAGS_IF: u64 = 1 << 9;
/// String instructions count down.
pub const RFLAGS_DF: u64 = 1 << 10;
/// Signed overflow.
pub const RFLAGS_OF: u64 = 1 << 11;
/// No instruction breakpoint for the next instruction.
pub const RFLAGS_RF: u64 = 1 << 16;
/// Virtual-8086 mode.
pub const RFLAGS_VM: u64 = 1 << 17;
/// Alignment check, and access to user pages with SMAP.
pub const RFLAGS_AC: u64 = 1 << 18;
/// The bits that are zero: 3, 5, 15 and from 22 on (SDM 3C 27.3.1.4).
pub const RFLAGS_ZERO: u64 = !0x3f_ffff | 1 << 3 | 1 << 5 | 1 << 15;

/// IA32_APIC_BASE (SDM 3A 11.4.4, 11.12.1): the bootstrap processor's.
pub const APIC_BASE_BOOTSTRAP: u64 = 1 << 8;
/// X2APIC mode.
pub const APIC_BASE_X2APIC: u64 = 1 << 10;
/// The APIC is on.
pub const APIC_BASE_ENABLE: u64 = 1 << 11;

/// Numbers of general registers in machine encoding and in
/// [`GeneralRegisters`](hypervisor_abi::GeneralRegisters): RAX.
pub const RAX: usize = 0;
/// RCX.
pub const RCX: usize = 1;
/// RDX.
pub const RDX: usize = 2;
/// RBX.
pub const RBX: usize = 3;
/// RSI.
pub const RSI: usize = 6;
/// RDI.
pub const RDI: usize = 7;
/// R10.
pub const R10: usize = 10;
