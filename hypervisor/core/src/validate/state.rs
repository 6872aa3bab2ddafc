//! The whole state of a vCPU, as root sets it.

use hypervisor_abi::{
    ACTIVITY_HALTED, ACTIVITY_RUNNING, ACTIVITY_WAIT_FOR_SIPI, SegmentName, VcpuState,
};

use super::control::{control, xcr0};
use super::segment::{LONG, segment};
use super::{Invalid, apic_base, canonical, cr8, ensure, pat};
use crate::cpuid::Features;
use crate::registers::{CR0_PE, CR4_LA57, EFER_LMA, RFLAGS_ONE, RFLAGS_VM, RFLAGS_ZERO};

/// A state that both vendors' entry checks accept for a guest with `features` (SDM 3C 27.3.1, APM 2
/// 15.5.1), and whose MSR values WRMSR would have accepted.
///
/// # Errors
///
/// The first thing that is wrong; then nothing of the state may be used.
pub fn vcpu_state(state: &VcpuState, features: &Features) -> Result<(), Invalid> {
    use SegmentName::{Cs, Ds, Es, Fs, Gs, Ldt, Ss, Task};
    let VcpuState { activity, reserved, registers, system } = state;
    let known = [ACTIVITY_RUNNING, ACTIVITY_HALTED, ACTIVITY_WAIT_FOR_SIPI].contains(activity);
    ensure(known && *reserved == 0, Invalid::Activity(*activity))?;

    control(system, features)?;
    cr8(system.cr8)?;
    if features.xcr0 == 0 {
        // Without XSAVE the register does not exist; 1 is its value after reset.
        ensure(system.xcr0 <= 1, Invalid::Wide(system.xcr0))?;
    } else {
        xcr0(system.xcr0, features)?;
    }

    let long_mode = system.efer & EFER_LMA != 0;
    let long_code = long_mode && system.segments[Cs as usize].attributes & LONG != 0;
    let five_levels = system.cr4 & CR4_LA57 != 0;
    let (rip, rflags) = (registers.rip, registers.rflags);
    let flags = rflags & (RFLAGS_ZERO | RFLAGS_ONE) == RFLAGS_ONE
        && (rflags & RFLAGS_VM == 0 || !long_mode && system.cr0 & CR0_PE != 0);
    ensure(flags, Invalid::Flags(rflags))?;
    let reachable = if long_code { canonical(rip, five_levels) } else { rip >> 32 == 0 };
    ensure(reachable, Invalid::InstructionPointer(rip))?;

    for name in [Cs, Ss, Ds, Es, Fs, Gs, Task, Ldt] {
        segment(name, system, rflags).map_err(|error| Invalid::Segment(name, error))?;
    }
    for table in [system.gdt, system.idt] {
        let fits = table.limit <= 0xffff && canonical(table.base, five_levels);
        ensure(fits, Invalid::DescriptorTable(table.base))?;
    }
    let [.., dr6, dr7] = system.debug;
    for register in [dr6, dr7] {
        ensure(register >> 32 == 0, Invalid::Debug(register))?;
    }
    ensure(pat(system.pat), Invalid::Pat(system.pat))?;

    // WRMSR judges these by the widest addresses the processor has (SDM 3A 4.5.2 "canonicality").
    let [_, lstar, cstar, sfmask] = system.syscall;
    let [sysenter_cs, sysenter_esp, sysenter_eip] = system.sysenter;
    for address in [lstar, cstar, sysenter_esp, sysenter_eip, system.kernel_gs_base] {
        ensure(canonical(address, features.five_levels), Invalid::Address(address))?;
    }
    for value in [sfmask, sysenter_cs, system.tsc_aux] {
        ensure(value >> 32 == 0, Invalid::Wide(value))?;
    }
    let fits = apic_base(system.apic_base, features.physical_bits);
    ensure(fits, Invalid::ApicBase(system.apic_base))
}
