//! One interface over both vendors' virtual CPUs: an enum, because the vendor is chosen once, when the
//! core starts, and every machine has one. `svm` and `vmx` give the same [`Exit`] values; a difference
//! between them is a bug.

use crate::exit::{Event, Exit};
use crate::processor::Vendor;
use crate::registers::{RAX, RDX};
use crate::svm::SvmContext;
use crate::vmx::VmxContext;
use hypervisor_abi::{GeneralRegisters, Segment, SegmentName, SystemRegisters};
use units::HostPhysical;

/// What a new virtual CPU is made with.
#[derive(Clone, Copy)]
pub struct Setup {
    /// It is root's: physical interrupts, ports and most MSRs are its own.
    pub root: bool,
    /// Root of the second-level tables, as the processor wants it.
    pub second_level: u64,
    /// MSR permission map or bitmap.
    pub msr_map: HostPhysical,
    /// Port permission map or bitmaps.
    pub port_map: HostPhysical,
    /// Tag of its translations: ASID or VPID, not 0.
    pub tag: u32,
    /// Added to the time-stamp counter.
    pub tsc_offset: u64,
}

/// A virtual CPU of either vendor.
#[expect(clippy::large_enum_variant, reason = "a machine has one vendor")]
#[repr(C)]
pub enum Context {
    /// AMD.
    Svm(SvmContext),
    /// Intel.
    Vmx(VmxContext),
}

// Inlined always: each is one comparison and, on AMD, one access to a field. Every exit asks many of them.
macro_rules! delegate {
    ($($(#[$meta:meta])* fn $name:ident($self:ident: $receiver:ty $(, $argument:ident: $type:ty)?) $(-> $result:ty)?;)*) => {
        $($(#[$meta])*
        #[inline(always)]
        pub fn $name($self: $receiver $(, $argument: $type)?) $(-> $result)? {
            match $self {
                Self::Svm(context) => context.$name($($argument)?),
                Self::Vmx(context) => context.$name($($argument)?),
            }
        })*
    };
}

impl Context {
    /// A virtual CPU on the vendor of this machine. `None` when the core is out of memory.
    pub fn new(vendor: &Vendor, setup: &Setup) -> Option<Self> {
        match vendor {
            Vendor::Svm(_) => SvmContext::new(setup).map(Self::Svm),
            Vendor::Vmx(cpu) => VmxContext::new(setup, cpu).map(Self::Vmx),
        }
    }

    /// Runs the guest on this processor until it exits. With `deadline`, a physical time-stamp counter,
    /// a core that has a timer of its own ends the run by then.
    #[inline(always)]
    pub fn enter(&mut self, vendor: &mut Vendor, deadline: Option<u64>) -> Exit {
        match (self, vendor) {
            (Self::Svm(context), Vendor::Svm(cpu)) => context.enter(cpu),
            (Self::Vmx(context), Vendor::Vmx(cpu)) => context.enter(cpu, deadline),
            _ => unreachable!("the vendor is chosen once"),
        }
    }

    /// Takes back the registers this processor still has of the virtual CPU it ran.
    pub fn leave(&mut self, vendor: &mut Vendor) {
        if let (Self::Vmx(context), Vendor::Vmx(cpu)) = (self, vendor) {
            context.leave(cpu);
        }
    }

    /// Writes one of [`KEPT_ON_VMX`](crate::msr::KEPT_ON_VMX), right after an exit; false when the
    /// processor refuses the value. On AMD their writes do not exit.
    pub fn write_kept_register(&mut self, vendor: &mut Vendor, index: u32, value: u64) -> bool {
        match (self, vendor) {
            (Self::Vmx(vcpu), Vendor::Vmx(cpu)) => vcpu.write_syscall_register(cpu, index, value),
            _ => false,
        }
    }

    /// Another processor than the last runs the virtual CPU next.
    pub fn arrive(&mut self) {
        // On Intel the VMCS was left by the last processor and is loaded whole.
        if let Self::Svm(context) = self {
            context.arrive();
        }
    }

    /// Lets go of what this processor keeps of the virtual CPU: the next to touch it may be another.
    pub fn release(&mut self) {
        if let Self::Vmx(context) = self {
            context.release();
        }
    }

    /// Makes root's HLT exit, or not. Only on AMD: Intel's processors tell of INIT and start-up IPIs.
    pub fn watch_halt(&mut self, wanted: bool) {
        if let Self::Svm(context) = self {
            context.watch_halt(wanted);
        }
    }

    /// Length of the instruction that exited, where the processor knows it.
    #[inline(always)]
    pub fn instruction_length(&self, vendor: &Vendor) -> Option<u64> {
        match (self, vendor) {
            (Self::Svm(context), Vendor::Svm(cpu)) => context.instruction_length(cpu),
            (Self::Vmx(context), _) => context.instruction_length(),
            _ => unreachable!("the vendor is chosen once"),
        }
    }

    /// Bytes of the instruction that exited, where the processor has fetched them.
    pub fn instruction_bytes(&self, vendor: &Vendor) -> Option<([u8; 15], usize)> {
        match (self, vendor) {
            (Self::Svm(context), Vendor::Svm(cpu)) => context.instruction_bytes(cpu),
            _ => None,
        }
    }

    /// Makes the next entry forget all translations of this guest.
    pub fn flush_tlb(&mut self, vendor: &Vendor) {
        match (self, vendor) {
            (Self::Svm(context), Vendor::Svm(cpu)) => context.flush_tlb(cpu),
            (Self::Vmx(context), _) => context.flush_tlb(),
            _ => unreachable!("the vendor is chosen once"),
        }
    }

    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    #[inline(always)]
    pub fn general(&self) -> &[u64; 16] {
        match self {
            Self::Svm(context) => &context.general,
            Self::Vmx(context) => &context.registers.general,
        }
    }

    /// The same, to change.
    #[inline(always)]
    pub fn general_mut(&mut self) -> &mut [u64; 16] {
        match self {
            Self::Svm(context) => &mut context.general,
            Self::Vmx(context) => &mut context.registers.general,
        }
    }

    delegate! {
        /// RIP.
        fn rip(self: &Self) -> u64;
        /// RFLAGS.
        fn rflags(self: &Self) -> u64;
        /// CR0 as the guest sees it.
        fn cr0(self: &Self) -> u64;
        /// CR3.
        fn cr3(self: &Self) -> u64;
        /// CR4 as the guest sees it.
        fn cr4(self: &Self) -> u64;
        /// EFER as the guest sees it.
        fn efer(self: &Self) -> u64;
        /// Privilege level.
        fn cpl(self: &Self) -> u8;
        /// CR8, where the processor keeps it.
        fn task_priority(self: &Self) -> u8;
        /// Whether an external interrupt would be taken now.
        fn accepts_interrupt(self: &Self) -> bool;
        /// Whether an NMI would be taken now.
        fn accepts_nmi(self: &Self) -> bool;
        /// Whether an event waits for the next entry.
        fn event_waits(self: &Self) -> bool;
        /// The vector of the exception that waits for the next entry.
        fn exception_waits(self: &Self) -> Option<u8>;
        /// A segment register.
        fn segment(self: &Self, name: SegmentName) -> Segment;
        /// What of the system state the processor's structure holds; the rest is left as it is.
        fn read_system(self: &Self, into: &mut SystemRegisters);
        /// Sets RIP.
        fn set_rip(self: &mut Self, rip: u64);
        /// Sets RFLAGS, checked by the caller.
        fn set_rflags(self: &mut Self, rflags: u64);
        /// Goes on behind the instruction of `length` bytes that exited.
        fn advance(self: &mut Self, length: u64);
        /// The guest, which single-steps, has made a step: it takes #DB next.
        fn step(self: &mut Self);
        /// Sets IA32_DEBUGCTL of the guest.
        fn set_debug_control(self: &mut Self, value: u64);
        /// Sets the four page-directory pointers of PAE paging, where the processor keeps them.
        fn set_directory_pointers(self: &mut Self, pointers: &[[u8; 8]]);
        /// Sets CR2.
        fn set_cr2(self: &mut Self, value: u64);
        /// Sets EFER, checked by the caller.
        fn set_efer(self: &mut Self, value: u64);
        /// Sets IA32_PAT, checked by the caller.
        fn set_pat(self: &mut Self, value: u64);
        /// Sets CR8.
        fn set_task_priority(self: &mut Self, value: u8);
        /// Makes the guest take an event at its next entry.
        fn inject(self: &mut Self, event: Event);
        /// Asks for [`Exit::InterruptWindow`] as soon as the guest can take an external interrupt.
        fn request_window(self: &mut Self, wanted: bool);
        /// An NMI waits: asks for [`Exit::NmiWindow`] as soon as the guest can take it, or says true
        /// where a window for interrupts is to be asked for.
        #[must_use]
        fn await_nmi(self: &mut Self) -> bool;
        /// Sets the offset of the guest's time-stamp counter.
        fn set_tsc_offset(self: &mut Self, offset: u64);
        /// Sets what of the system state the processor's structure holds. Checked by the caller.
        /// Pending events and interrupt shadows end.
        fn write_system(self: &mut Self, from: &SystemRegisters);
    }

    /// General registers, RIP and RFLAGS.
    pub fn registers(&self) -> GeneralRegisters {
        GeneralRegisters { general: *self.general(), rip: self.rip(), rflags: self.rflags() }
    }

    /// Sets them; of RFLAGS what a guest may set.
    pub fn set_registers(&mut self, registers: &GeneralRegisters) {
        *self.general_mut() = registers.general;
        self.set_rip(registers.rip);
        self.set_rflags(registers.rflags);
    }

    /// EDX:EAX.
    pub fn edx_eax(&self) -> u64 {
        self.general()[RDX] << 32 | self.general()[RAX] & 0xffff_ffff
    }

    /// Sets EAX and EDX, and clears the upper halves, as RDMSR does.
    pub fn set_edx_eax(&mut self, value: u64) {
        let general = self.general_mut();
        general[RAX] = value & 0xffff_ffff;
        general[RDX] = value >> 32;
    }
}
