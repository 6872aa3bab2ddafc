//! The state after power-on, INIT and start-up IPIs, and as root sets it.

use super::{Activity, Held, Inner, Progress};
use crate::apic::{GeneralProtection, LocalApic};
use crate::cpu::control;
use crate::cpuid::{CpuidTable, Features};
use crate::msr::{MsrState, PAT_RESET};
use crate::registers::{CR0_PG, CR4_PAE, EFER_LMA};
use hypervisor_abi::{
    ACTIVITY_HALTED, ACTIVITY_RUNNING, ACTIVITY_WAIT_FOR_SIPI, GeneralRegisters, Segment,
    SegmentName, SystemRegisters, VcpuState,
};
use units::GuestPhysical;

/// Values after power-on or INIT (SDM 3A table 10-1, APM 2 table 14-1), with code at `selector`,
/// `base` and `rip`.
fn initial(
    selector: u16,
    base: u64,
    rip: u64,
    signature: u32,
) -> (SystemRegisters, GeneralRegisters) {
    let data = Segment { base: 0, limit: 0xffff, selector: 0, attributes: 0x93 };
    let mut system = SystemRegisters { segments: [data; 8], ..SystemRegisters::default() };
    system.segments[SegmentName::Cs as usize] =
        Segment { base, selector, attributes: 0x9b, ..data };
    system.segments[SegmentName::Ldt as usize].attributes = 0x82;
    system.segments[SegmentName::Task as usize].attributes = 0x8b;
    (system.gdt.limit, system.idt.limit) = (0xffff, 0xffff);
    (system.cr0, system.pat, system.xcr0) = (0x6000_0010, PAT_RESET, 1);
    system.debug = [0, 0, 0, 0, 0xffff_0ff0, 0x400];
    let mut general = GeneralRegisters { rip, rflags: 2, ..GeneralRegisters::default() };
    // EDX holds the processor's signature (SDM 3A 10.1.2).
    general.general[2] = u64::from(signature);
    (system, general)
}

/// The state after power-on or INIT.
pub fn reset_state(signature: u32) -> (SystemRegisters, GeneralRegisters) {
    initial(0xf000, 0xffff_0000, 0xfff0, signature)
}

/// The state after a start-up IPI for `page` (SDM 3A 9.4.3).
pub fn startup_state(page: u8, signature: u32) -> (SystemRegisters, GeneralRegisters) {
    initial(u16::from(page) << 8, u64::from(page) << 12, 0, signature)
}

/// The state in which a firmware goes on at its waking vector: real mode, in the segment that begins at most 15 bytes before
/// it (ACPI 6.5 5.2.10), or 63 bytes: its selector's lowest bits are a privilege level, which Bochs compares with the segment's
/// when it enters a guest in real mode, too. Kernels load another segment first, or lie at the start of a page.
pub fn waking_state(vector: u32, signature: u32) -> (SystemRegisters, GeneralRegisters) {
    let (base, offset) = (vector & 0xf_ffc0, vector & 0x3f);
    initial((base >> 4) as u16, u64::from(base), u64::from(offset), signature)
}

/// Where the four page-directory pointers lie that a processor with PAE paging loads with CR3
/// (SDM 3A 4.4.1); `None` without it.
pub fn directory_pointers(system: &SystemRegisters) -> Option<GuestPhysical> {
    let pae = system.cr0 & CR0_PG != 0 && system.cr4 & CR4_PAE != 0 && system.efer & EFER_LMA == 0;
    pae.then_some(GuestPhysical(system.cr3 & 0xffff_ffe0))
}

impl Inner {
    /// What CPUID leaf 1 says in EAX.
    fn signature(&self) -> u32 {
        self.cpuid.lookup(1, 0)[0]
    }

    fn set(&mut self, (system, general): (SystemRegisters, GeneralRegisters)) {
        let tsc_offset = self.msrs.tsc_offset;
        self.context.write_system(&SystemRegisters { tsc_offset, ..system });
        self.context.set_registers(&general);
        self.msrs.debug_control = 0;
        self.context.set_debug_control(0);
        self.nmi = false;
        self.progress = Progress::None;
    }

    /// INIT: general state as after power-on; the FPU, IA32_PAT, the MSRs of the core and the APIC's ids
    /// stay (SDM 3A 9.4.1). Those of SYSCALL and SYSENTER are as after power-on: whoever starts a
    /// processor again sets them.
    pub(super) fn init(&mut self) {
        self.apic.init();
        self.restart();
    }

    /// vCPU 0 is at the reset vector, the others wait for SIPI.
    fn restart(&mut self) {
        self.begin(reset_state(self.signature()));
        let bootstrap = self.apic.config().bootstrap;
        self.activity = if bootstrap { Activity::Running } else { Activity::WaitForSipi };
    }

    /// A start-up IPI for a virtual CPU that waits for it.
    pub(super) fn startup(&mut self, page: u8) {
        self.begin(startup_state(page, self.signature()));
        self.activity = Activity::Running;
    }

    fn begin(&mut self, (system, general): (SystemRegisters, GeneralRegisters)) {
        self.extended.debug = [0; 4];
        self.set((SystemRegisters { pat: self.msrs.pat, ..system }, general));
    }

    /// Whether a dangerous access is `legal`; counts those that are not.
    pub(super) fn permit(&mut self, legal: bool) -> bool {
        self.statistics.refused += u64::from(!legal);
        legal
    }
}

impl Held<'_> {
    /// Power-on.
    pub fn reset(&mut self) {
        let inner = &mut **self;
        inner.extended.reset();
        let MsrState { features, microcode_revision, tsc_offset, .. } = inner.msrs;
        inner.msrs = MsrState::new(features, microcode_revision);
        inner.msrs.tsc_offset = tsc_offset;
        inner.apic = LocalApic::new(*inner.apic.config());
        inner.restart();
        let _ = self.vcpu.inbox.take_signals();
        let _ = self.vcpu.inbox.take_vectors();
        self.publish();
    }

    /// Sets what CPUID answers, and all that follows from it.
    pub fn set_cpuid(&mut self, table: CpuidTable) {
        self.msrs.features = Features::of(&table);
        self.cpuid = table;
    }

    /// The state as root reads it.
    pub fn state(&self) -> VcpuState {
        let mut state = VcpuState { registers: self.context.registers(), ..VcpuState::default() };
        let system = &mut state.system;
        self.context.read_system(system);
        (system.apic_base, system.cr8) = (self.apic.apic_base(), self.apic.cr8().into());
        (system.xcr0, system.tsc_aux) = (self.extended.xcr0(), self.extended.tsc_aux);
        system.debug[..4].copy_from_slice(&self.extended.debug);
        state.activity = match self.activity {
            Activity::Halted => ACTIVITY_HALTED,
            Activity::WaitForSipi => ACTIVITY_WAIT_FOR_SIPI,
            Activity::Running | Activity::Shutdown => ACTIVITY_RUNNING,
        };
        state
    }

    /// Sets the state. The caller has checked it; only what the APIC itself refuses is left.
    ///
    /// # Errors
    /// IA32_APIC_BASE is not one the APIC can change to; nothing has changed.
    pub fn set_state(&mut self, state: &VcpuState) -> Result<(), GeneralProtection> {
        if state.system.apic_base != 0 && state.system.apic_base != self.apic.apic_base() {
            self.apic.set_apic_base(state.system.apic_base)?;
        }
        let SystemRegisters { tsc_offset, pat, tsc_aux, cr8, xcr0, debug, .. } = state.system;
        self.msrs.tsc_offset = tsc_offset;
        self.msrs.pat = pat;
        self.msrs.tsc_aux = tsc_aux as u32;
        self.set((state.system, state.registers));
        self.apic.set_cr8(cr8 as u8);
        self.extended.note_xcr0(xcr0);
        self.extended.tsc_aux = tsc_aux;
        self.extended.debug.copy_from_slice(&debug[..4]);
        self.activity = match state.activity {
            ACTIVITY_HALTED => Activity::Halted,
            ACTIVITY_WAIT_FOR_SIPI => Activity::WaitForSipi,
            _ => Activity::Running,
        };
        self.publish();
        Ok(())
    }
}

/// This machine's own signature, for root.
pub fn own_signature() -> u32 {
    control::cpuid(1, 0)[0]
}

#[cfg(test)]
mod tests {
    use super::{
        CR0_PG, CR4_PAE, EFER_LMA, GuestPhysical, SegmentName, SystemRegisters, directory_pointers,
        waking_state,
    };

    #[test]
    fn only_pae_paging_outside_long_mode_has_directory_pointers() {
        let (cr0, cr3, cr4) = (CR0_PG | 1, 0x1234_5678_9abc_def3, CR4_PAE);
        let pae = SystemRegisters { cr0, cr3, cr4, ..SystemRegisters::default() };
        assert_eq!(directory_pointers(&pae), Some(GuestPhysical(0x9abc_dee0)));
        assert_eq!(directory_pointers(&SystemRegisters { efer: EFER_LMA, ..pae }), None);
        assert_eq!(directory_pointers(&SystemRegisters { cr0: 1, ..pae }), None);
        assert_eq!(directory_pointers(&SystemRegisters { cr4: 0, ..pae }), None);
    }

    #[test]
    fn a_processor_wakes_at_the_vector() {
        for vector in [0x0, 0x8000, 0x9_91f0, 0x9_9234, 0xf_ffff] {
            let (system, general) = waking_state(vector, 0);
            let code = system.segments[SegmentName::Cs as usize];
            assert_eq!(code.base + general.rip, u64::from(vector));
            assert_eq!(code.base, u64::from(code.selector) << 4);
            assert_eq!(code.selector & 3, 0);
            assert_eq!(system.cr0 & 1, 0);
        }
    }
}
