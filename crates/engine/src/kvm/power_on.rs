//! The state of a processor after power-on, as values (SDM 3A table 10-1 and 11.4.7.1).

use crate::{DescriptorTable, Registers, Segment, SystemRegisters};
use kvm_bindings::{kvm_debugregs, kvm_fpu, kvm_lapic_state, kvm_vcpu_events};

/// `signature` is CPUID.1:EAX, which EDX holds after power-on.
pub(super) fn registers(signature: u32) -> Registers {
    Registers { rdx: signature.into(), rip: 0xfff0, rflags: 0x2, ..Registers::default() }
}

pub(super) fn system_registers(bootstrap: bool) -> SystemRegisters {
    // Present, data, read/write, accessed.
    let data = segment(0x93);
    let empty_table = DescriptorTable { base: 0, limit: 0xffff };
    SystemRegisters {
        // The first instruction is at 0xffff_fff0 (SDM 3A 10.1.4).
        cs: Segment { selector: 0xf000, base: 0xffff_0000, limit: 0xffff, rights: 0x9b },
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        // Present, busy 32-bit TSS; present LDT (the types VM entry accepts, SDM 3C 27.3.1.2).
        tr: segment(0x8b),
        ldt: segment(0x82),
        gdt: empty_table,
        idt: empty_table,
        // CD, NW and ET.
        cr0: 0x6000_0010,
        // Global enable at the default place; bit 8 marks the bootstrap processor (SDM 3A 11.4.4).
        apic_base: 0xfee0_0800 | u64::from(bootstrap) << 8,
        ..SystemRegisters::default()
    }
}

fn segment(rights: u16) -> Segment {
    Segment { selector: 0, base: 0, limit: 0xffff, rights }
}

pub(super) fn fpu() -> kvm_fpu {
    kvm_fpu {
        fcw: 0x0040,
        // The tag word 5555H ("zero" in every register) in FXSAVE's abridged form.
        ftwx: 0xff,
        mxcsr: 0x1f80,
        ..Default::default()
    }
}

pub(super) fn debug_registers() -> kvm_debugregs {
    kvm_debugregs { dr6: 0xffff_0ff0, dr7: 0x400, ..Default::default() }
}

/// Nothing pending, nothing in flight; the flags say that NMI state, SIPI vector and interrupt
/// shadow are to be taken too.
pub(super) fn events() -> kvm_vcpu_events {
    kvm_vcpu_events {
        flags: kvm_bindings::KVM_VCPUEVENT_VALID_NMI_PENDING
            | kvm_bindings::KVM_VCPUEVENT_VALID_SIPI_VECTOR
            | kvm_bindings::KVM_VCPUEVENT_VALID_SHADOW,
        ..Default::default()
    }
}

/// The local APIC's registers after power-on in xAPIC mode, with the version `old` has
/// (SDM 3A 11.4.7.1). The id is `index`, not what `old` has: KVM leaves a processor that comes out of
/// x2APIC mode with its id in that mode's place, where xAPIC mode reads id 0.
/// The bootstrap processor's LINT0 passes the 8259's interrupts on, as KVM has it in a new
/// processor and firmware sets it on a PC ("virtual wire mode", MP 1.4 3.6.2.2).
pub(super) fn local_apic(old: &kvm_lapic_state, index: u32) -> kvm_lapic_state {
    const ID: usize = 0x20;
    const VERSION: usize = 0x30;
    const DESTINATION_FORMAT: usize = 0xe0;
    const SPURIOUS_VECTOR: usize = 0xf0;
    /// CMCI; timer, thermal, performance, LINT0, LINT1, error: each masked.
    const LOCAL_VECTORS: [usize; 7] = [0x2f0, 0x320, 0x330, 0x340, 0x350, 0x360, 0x370];
    const LINT0: usize = 0x350;
    const MASKED: u32 = 1 << 16;
    const EXTERNAL: u32 = 7 << 8;

    let mut new = kvm_lapic_state { regs: [0; 1024] };
    new.regs[VERSION..VERSION + 4].copy_from_slice(&old.regs[VERSION..VERSION + 4]);
    let mut set = |at: usize, value: u32| {
        for (byte, place) in value.to_le_bytes().iter().zip(&mut new.regs[at..at + 4]) {
            *place = byte.cast_signed();
        }
    };
    // Eight bits in the register's top byte (SDM 3A 11.4.6).
    set(ID, index << 24);
    set(DESTINATION_FORMAT, u32::MAX);
    set(SPURIOUS_VECTOR, 0xff);
    for at in LOCAL_VECTORS {
        set(at, MASKED);
    }
    if index == 0 {
        set(LINT0, EXTERNAL);
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_instruction_is_sixteen_bytes_below_four_gigabytes() {
        let system = system_registers(true);
        assert_eq!(system.cs.base + registers(0).rip, 0xffff_fff0);
        assert_eq!(system.apic_base, 0xfee0_0900);
        assert_eq!(system_registers(false).apic_base, 0xfee0_0800);
    }

    #[test]
    fn the_local_apic_has_its_id_and_forgets_the_rest() {
        // Id 3 as x2APIC mode keeps it: in the low byte.
        let mut old = kvm_lapic_state { regs: [0x55; 1024] };
        old.regs[0x20..0x24].copy_from_slice(&[3, 0, 0, 0]);
        let new = local_apic(&old, 3);
        assert_eq!(new.regs[0x20..0x24], [0, 0, 0, 3]);
        assert_eq!(new.regs[0x30..0x34], old.regs[0x30..0x34]);
        assert_eq!(new.regs[0xf0..0xf4], [-1, 0, 0, 0]);
        assert_eq!(new.regs[0x350..0x354], [0, 0, 1, 0]);
        assert_eq!(new.regs[0x80..0x84], [0; 4]);
        assert_eq!(local_apic(&old, 0).regs[0x350..0x354], [0, 7, 0, 0]);
    }
}
