//! Architectural processor state in plain types, the same for every engine.

use serde::{Deserialize, Serialize};

/// General-purpose registers (SDM 1 3.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // the fields are the registers' own names
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
}

/// A segment register with its hidden part (SDM 3A 3.4.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Visible selector.
    pub selector: u16,
    /// Base address.
    pub base: u64,
    /// Limit in bytes, granularity already applied.
    pub limit: u32,
    /// Access rights: bits 0-7 are type, S, DPL, P; 8-11 unused; 12-15 are AVL, L, D/B, G
    /// (the layout of descriptor bits 40-47 and 52-55; SDM 3A 3.4.5).
    pub rights: u16,
}

/// GDTR or IDTR (SDM 3A 2.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescriptorTable {
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u16,
}

/// System registers (SDM 3A 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // the fields are the registers' own names
pub struct SystemRegisters {
    pub cs: Segment,
    pub ds: Segment,
    pub es: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub ss: Segment,
    pub tr: Segment,
    pub ldt: Segment,
    pub gdt: DescriptorTable,
    pub idt: DescriptorTable,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub cr8: u64,
    pub efer: u64,
    /// IA32_APIC_BASE (SDM 3A 11.4.4).
    pub apic_base: u64,
}

/// One CPUID leaf and sub-leaf as the guest sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // the fields are the registers' own names
pub struct CpuidEntry {
    /// EAX on input.
    pub leaf: u32,
    /// ECX on input, where it matters.
    pub subleaf: u32,
    /// Whether ECX on input matters for this leaf.
    pub subleaf_matters: bool,
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// A model-specific register and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Msr {
    /// Its number, as in ECX of RDMSR.
    pub index: u32,
    /// Its value.
    pub value: u64,
}

/// Whether a processor executes (SDM 3A 10.4.4.1 for wait-for-SIPI).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunState {
    /// Executes, or is ready to.
    Runnable,
    /// HLT until an interrupt.
    Halted,
    /// Reset, waits for INIT/SIPI.
    WaitForSipi,
}
