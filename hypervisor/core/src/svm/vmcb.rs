//! The virtual machine control block (APM 2 appendix B, tables B-1 and B-2).

/// A segment register (APM 2 table B-2). Attributes: descriptor bits 40 to 47 and 52 to 55, joined.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct VmcbSegment {
    /// Selector.
    pub selector: u16,
    /// Type 0-3, S 4, DPL 5-6, P 7, AVL 8, L 9, D/B 10, G 11.
    pub attributes: u16,
    /// Limit in bytes.
    pub limit: u32,
    /// Base.
    pub base: u64,
}

/// The control block. One page.
#[derive(Debug)]
#[repr(C, align(4096))]
pub(crate) struct Vmcb {
    // Control area.
    /// CR and DR accesses.
    intercept_registers: [u32; 2],
    /// Exceptions by vector.
    pub intercept_exceptions: u32,
    /// [`intercept1`].
    pub intercept1: u32,
    /// [`intercept2`].
    pub intercept2: u32,
    reserved014: [u8; 0x40 - 0x14],
    /// I/O permission map, 12 KiB.
    pub iopm_base: u64,
    /// MSR permission map, 8 KiB.
    pub msrpm_base: u64,
    /// Added to the time-stamp counter.
    pub tsc_offset: u64,
    /// Address space identifier, not 0.
    pub asid: u32,
    /// [`tlb`].
    pub tlb_control: u8,
    reserved05d: [u8; 3],
    /// [`vintr`].
    pub virtual_interrupt: u64,
    /// Bit 0: the guest is in an interrupt shadow.
    pub interrupt_shadow: u64,
    /// [`code`].
    pub exit_code: u64,
    /// By exit code.
    pub exit_info1: u64,
    /// By exit code.
    pub exit_info2: u64,
    /// An event whose delivery the exit interrupted ([`event`](crate::event)).
    pub exit_interrupt_info: u64,
    /// Bit 0: nested paging.
    pub nested_control: u64,
    reserved098: [u8; 0x10],
    /// Event to take at entry ([`event`](crate::event)).
    pub event_injection: u64,
    /// Root of the nested page tables.
    pub nested_cr3: u64,
    reserved0b8: u64,
    /// Parts the processor may take from its cache ([`clean`]).
    pub clean: u32,
    reserved0c4: u32,
    /// RIP of the next instruction, where the processor saves it.
    pub next_rip: u64,
    /// Bytes fetched, where the processor has decode assists.
    pub fetched: u8,
    /// The instruction's bytes, ditto.
    pub instruction: [u8; 15],
    reserved0e0: [u8; 0x400 - 0xe0],
    // State save area.
    /// ES, CS, SS, DS, FS, GS, GDTR, LDTR, IDTR, TR.
    pub segments: [VmcbSegment; 10],
    reserved4a0: [u8; 0x2b],
    /// Current privilege level.
    pub cpl: u8,
    reserved4cc: u32,
    /// IA32_EFER; SVME must be set.
    pub efer: u64,
    reserved4d8: [u8; 0x70],
    /// CR4.
    pub cr4: u64,
    /// CR3.
    pub cr3: u64,
    /// CR0.
    pub cr0: u64,
    /// DR7.
    pub dr7: u64,
    /// DR6.
    pub dr6: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// RIP.
    pub rip: u64,
    reserved580: [u8; 0x58],
    /// RSP.
    pub rsp: u64,
    reserved5e0: [u8; 0x18],
    /// RAX.
    pub rax: u64,
    /// STAR, LSTAR, CSTAR, SFMASK.
    pub syscall: [u64; 4],
    /// IA32_KERNEL_GS_BASE.
    pub kernel_gs_base: u64,
    /// IA32_SYSENTER_CS, ESP, EIP.
    pub sysenter: [u64; 3],
    /// CR2.
    pub cr2: u64,
    reserved648: [u8; 0x20],
    /// Guest PAT, with nested paging.
    pub pat: u64,
    /// IA32_DEBUGCTL.
    pub debug_control: u64,
    reserved678: [u8; 0x1000 - 0x678],
}

const _: () = assert!(size_of::<Vmcb>() == 0x1000);
const _: () = assert!(core::mem::offset_of!(Vmcb, iopm_base) == 0x40);
const _: () = assert!(core::mem::offset_of!(Vmcb, exit_code) == 0x70);
const _: () = assert!(core::mem::offset_of!(Vmcb, event_injection) == 0xa8);
const _: () = assert!(core::mem::offset_of!(Vmcb, next_rip) == 0xc8);
const _: () = assert!(core::mem::offset_of!(Vmcb, segments) == 0x400);
const _: () = assert!(core::mem::offset_of!(Vmcb, cpl) == 0x4cb);
const _: () = assert!(core::mem::offset_of!(Vmcb, efer) == 0x4d0);
const _: () = assert!(core::mem::offset_of!(Vmcb, cr4) == 0x548);
const _: () = assert!(core::mem::offset_of!(Vmcb, rip) == 0x578);
const _: () = assert!(core::mem::offset_of!(Vmcb, rsp) == 0x5d8);
const _: () = assert!(core::mem::offset_of!(Vmcb, rax) == 0x5f8);
const _: () = assert!(core::mem::offset_of!(Vmcb, cr2) == 0x640);
const _: () = assert!(core::mem::offset_of!(Vmcb, pat) == 0x668);

/// Bits of [`Vmcb::intercept1`] (APM 2 table B-1, offset 0x00c).
pub(crate) mod intercept1 {
    /// Physical interrupts.
    pub(crate) const INTR: u32 = 1 << 0;
    /// NMI.
    pub(crate) const NMI: u32 = 1 << 1;
    /// INIT.
    pub(crate) const INIT: u32 = 1 << 3;
    /// The guest can take a virtual interrupt.
    pub(crate) const VINTR: u32 = 1 << 4;
    /// RDPMC.
    pub(crate) const RDPMC: u32 = 1 << 15;
    /// CPUID.
    pub(crate) const CPUID: u32 = 1 << 18;
    /// IRET: ends the blocking of NMIs.
    pub(crate) const IRET: u32 = 1 << 20;
    /// INVD.
    pub(crate) const INVD: u32 = 1 << 22;
    /// HLT.
    pub(crate) const HLT: u32 = 1 << 24;
    /// INVLPGA.
    pub(crate) const INVLPGA: u32 = 1 << 26;
    /// Ports, by the I/O permission map.
    pub(crate) const PORTS: u32 = 1 << 27;
    /// MSRs, by the MSR permission map.
    pub(crate) const MSRS: u32 = 1 << 28;
    /// Task switches.
    pub(crate) const TASK_SWITCH: u32 = 1 << 29;
    /// Triple fault.
    pub(crate) const SHUTDOWN: u32 = 1 << 31;
}

/// Bits of [`Vmcb::intercept2`] (offset 0x010).
pub(crate) mod intercept2 {
    /// VMRUN: must be intercepted.
    pub(crate) const VMRUN: u32 = 1 << 0;
    /// VMMCALL.
    pub(crate) const VMMCALL: u32 = 1 << 1;
    /// VMLOAD, VMSAVE, STGI, CLGI, SKINIT.
    pub(crate) const SVM_INSTRUCTIONS: u32 = 0b111_1100;
    /// WBINVD.
    pub(crate) const WBINVD: u32 = 1 << 9;
    /// MONITOR, MWAIT in both forms.
    pub(crate) const MONITOR: u32 = 0b111 << 10;
    /// XSETBV.
    pub(crate) const XSETBV: u32 = 1 << 13;
    /// RDPRU.
    pub(crate) const RDPRU: u32 = 1 << 14;
}

/// Fields of [`Vmcb::virtual_interrupt`] (offset 0x060).
pub(crate) mod vintr {
    /// Virtual task priority.
    pub(crate) const TPR: u64 = 0xff;
    /// A virtual interrupt waits.
    pub(crate) const PENDING: u64 = 1 << 8;
    /// Its priority.
    pub(crate) const PRIORITY: u64 = 0xf << 16;
    /// It ignores the virtual task priority.
    pub(crate) const IGNORE_TPR: u64 = 1 << 20;
    /// RFLAGS.IF and CR8 of the guest do not concern physical interrupts.
    pub(crate) const MASKING: u64 = 1 << 24;
}

/// Values of [`Vmcb::tlb_control`] (offset 0x05c, APM 2 15.16.2).
pub(crate) mod tlb {
    /// Nothing.
    pub(crate) const KEEP: u8 = 0;
    /// Everything of every guest.
    pub(crate) const FLUSH_ALL: u8 = 1;
    /// This guest's, where the processor can tell guests apart.
    pub(crate) const FLUSH_GUEST: u8 = 3;
}

/// Bits of [`Vmcb::clean`] (APM 2 15.15.3).
pub(crate) mod clean {
    /// Intercepts, TSC offset.
    pub(crate) const INTERCEPTS: u32 = 1 << 0;
    /// Virtual interrupt word.
    pub(crate) const INTERRUPT: u32 = 1 << 3;
    /// Nested paging.
    pub(crate) const NESTED: u32 = 1 << 4;
    /// CR0, CR3, CR4, EFER.
    pub(crate) const CONTROL: u32 = 1 << 5;
    /// DR6, DR7.
    pub(crate) const DEBUG: u32 = 1 << 6;
    /// CR2.
    pub(crate) const CR2: u32 = 1 << 9;
    /// All of these.
    pub(crate) const ALL: u32 = 0x3ff;
}

/// Exit codes (APM 2 appendix C).
pub(crate) mod code {
    /// First of the exceptions.
    pub(crate) const EXCEPTION: u64 = 0x40;
    /// Last of the exceptions.
    pub(crate) const EXCEPTION_LAST: u64 = 0x5f;
    /// Physical interrupt.
    pub(crate) const INTR: u64 = 0x60;
    /// NMI.
    pub(crate) const NMI: u64 = 0x61;
    /// SMI.
    pub(crate) const SMI: u64 = 0x62;
    /// INIT.
    pub(crate) const INIT: u64 = 0x63;
    /// Virtual interrupt.
    pub(crate) const VINTR: u64 = 0x64;
    /// RDPMC.
    pub(crate) const RDPMC: u64 = 0x6f;
    /// CPUID.
    pub(crate) const CPUID: u64 = 0x72;
    /// IRET.
    pub(crate) const IRET: u64 = 0x74;
    /// INVD.
    pub(crate) const INVD: u64 = 0x76;
    /// HLT.
    pub(crate) const HLT: u64 = 0x78;
    /// INVLPGA.
    pub(crate) const INVLPGA: u64 = 0x7a;
    /// IN, OUT.
    pub(crate) const PORT: u64 = 0x7b;
    /// RDMSR, WRMSR.
    pub(crate) const MSR: u64 = 0x7c;
    /// Task switch.
    pub(crate) const TASK_SWITCH: u64 = 0x7d;
    /// Triple fault.
    pub(crate) const SHUTDOWN: u64 = 0x7f;
    /// VMRUN.
    pub(crate) const VMRUN: u64 = 0x80;
    /// VMMCALL.
    pub(crate) const VMMCALL: u64 = 0x81;
    /// VMLOAD.
    pub(crate) const VMLOAD: u64 = 0x82;
    /// SKINIT.
    pub(crate) const SKINIT: u64 = 0x86;
    /// WBINVD.
    pub(crate) const WBINVD: u64 = 0x89;
    /// MONITOR.
    pub(crate) const MONITOR: u64 = 0x8a;
    /// MWAIT, armed.
    pub(crate) const MWAIT_ARMED: u64 = 0x8c;
    /// XSETBV.
    pub(crate) const XSETBV: u64 = 0x8d;
    /// RDPRU.
    pub(crate) const RDPRU: u64 = 0x8e;
    /// Nested page fault.
    pub(crate) const NESTED_FAULT: u64 = 0x400;
    /// The guest's state is impossible. QEMU's processor clears the upper half.
    pub(crate) const INVALID: u32 = u32::MAX;
}
