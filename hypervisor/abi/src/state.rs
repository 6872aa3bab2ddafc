//! The state of a virtual CPU as root sees and sets it.

/// General registers. Order as in machine encoding (SDM 2A table 2-2, APM 3 1.4.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GeneralRegisters {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub general: [u64; 16],
    /// RIP.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
}

/// Which segment register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum SegmentName {
    /// Numbers 0 to 5 as in machine encoding.
    Es = 0,
    /// Code.
    Cs = 1,
    /// Stack.
    Ss = 2,
    /// Data.
    Ds = 3,
    /// FS.
    Fs = 4,
    /// GS.
    Gs = 5,
    /// Local descriptor table.
    Ldt = 6,
    /// Task.
    Task = 7,
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Segment {
    /// Base address.
    pub base: u64,
    /// Limit in bytes, granularity applied.
    pub limit: u32,
    /// Selector.
    pub selector: u16,
    /// Bits as in a VMX access-rights field (SDM 3C 25.4.1): type 0-3, S 4, DPL 5-6, P 7, AVL 12,
    /// L 13, D/B 14, G 15. An absent (null) segment has P clear.
    pub attributes: u16,
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DescriptorTable {
    /// Base address.
    pub base: u64,
    /// Limit.
    pub limit: u64,
}

/// Segments, tables and control registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SystemRegisters {
    /// By [`SegmentName`].
    pub segments: [Segment; 8],
    /// Global descriptor table.
    pub gdt: DescriptorTable,
    /// Interrupt descriptor table.
    pub idt: DescriptorTable,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// CR8, the task priority; 0 to 15.
    pub cr8: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// IA32_APIC_BASE.
    pub apic_base: u64,
    /// XCR0.
    pub xcr0: u64,
    /// DR0 to DR3, DR6, DR7.
    pub debug: [u64; 6],
    /// IA32_PAT.
    pub pat: u64,
    /// STAR, LSTAR, CSTAR, SFMASK.
    pub syscall: [u64; 4],
    /// IA32_KERNEL_GS_BASE.
    pub kernel_gs_base: u64,
    /// IA32_SYSENTER_CS, ESP, EIP.
    pub sysenter: [u64; 3],
    /// IA32_TSC_AUX.
    pub tsc_aux: u64,
    /// The guest's time-stamp counter minus the physical one.
    pub tsc_offset: u64,
}

/// [`VcpuState::activity`]: executes instructions.
pub const ACTIVITY_RUNNING: u32 = 0;
/// [`VcpuState::activity`]: executed HLT.
pub const ACTIVITY_HALTED: u32 = 1;
/// [`VcpuState::activity`]: waits for a start-up IPI.
pub const ACTIVITY_WAIT_FOR_SIPI: u32 = 2;

/// All of a virtual CPU but its floating-point state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct VcpuState {
    /// [`ACTIVITY_RUNNING`], [`ACTIVITY_HALTED`] or [`ACTIVITY_WAIT_FOR_SIPI`].
    pub activity: u32,
    /// Zero.
    pub reserved: u32,
    /// General registers.
    pub registers: GeneralRegisters,
    /// Everything else.
    pub system: SystemRegisters,
}

/// The most rows of one CPUID table.
pub const MAX_CPUID_ROWS: usize = 128;

/// What one CPUID leaf answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CpuidRow {
    /// EAX of the question.
    pub leaf: u32,
    /// ECX of the question, where [`Self::indexed`] is 1.
    pub subleaf: u32,
    /// 1 when the subleaf matters, else 0.
    pub indexed: u32,
    /// Zero.
    pub reserved: u32,
    /// EAX, EBX, ECX, EDX of the answer.
    pub answer: [u32; 4],
}

/// Names of the kinds of exits, in the order of [`StatisticsRecord::exits`].
pub const EXIT_KINDS: [&str; 25] = [
    "cpuid",
    "rdmsr",
    "wrmsr",
    "hypercall",
    "hlt",
    "xsetbv",
    "port",
    "memory",
    "interrupt",
    "nmi",
    "interrupt window",
    "nmi window",
    "shutdown",
    "init",
    "sipi",
    "timer",
    "exception",
    "control register write",
    "control register read",
    "cache flush",
    "forbidden instruction",
    "protected instruction",
    "task switch",
    "handled",
    "failure",
];

/// Counters of one vCPU since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct StatisticsRecord {
    /// Exits of the processor by kind, in the order of [`EXIT_KINDS`].
    pub exits: [u64; 32],
    /// Returns to root by [`ExitReason`](crate::ExitReason).
    pub returns: [u64; 16],
    /// Interrupts delivered to the guest.
    pub interrupts: u64,
    /// NMIs the core sent itself for this vCPU.
    pub kicks: u64,
    /// Dangerous register accesses refused.
    pub refused: u64,
    /// Entries into the guest.
    pub entries: u64,
    /// Bytes of second-level tables its partition takes.
    pub table_bytes: u64,
    /// Ticks of the machine's time-stamp counter from the core's first instructions to this vCPU's first
    /// entry; 0 before that.
    pub first_entry: u64,
}

const _: () = assert!(size_of::<GeneralRegisters>() == 144);
const _: () = assert!(size_of::<Segment>() == 16);
const _: () = assert!(size_of::<CpuidRow>() == 32);
const _: () = assert!(MAX_CPUID_ROWS * size_of::<CpuidRow>() <= crate::TRANSFER_SLOT as usize);
