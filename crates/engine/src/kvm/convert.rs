//! Between this crate's register types and KVM's.

use crate::{CpuidEntry, DescriptorTable, Registers, Segment, SystemRegisters};
use kvm_bindings::{
    KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2, kvm_dtable, kvm_regs, kvm_segment, kvm_sregs,
};

pub(super) fn registers_from(regs: &kvm_regs) -> Registers {
    Registers {
        rax: regs.rax,
        rbx: regs.rbx,
        rcx: regs.rcx,
        rdx: regs.rdx,
        rsi: regs.rsi,
        rdi: regs.rdi,
        rsp: regs.rsp,
        rbp: regs.rbp,
        r8: regs.r8,
        r9: regs.r9,
        r10: regs.r10,
        r11: regs.r11,
        r12: regs.r12,
        r13: regs.r13,
        r14: regs.r14,
        r15: regs.r15,
        rip: regs.rip,
        rflags: regs.rflags,
    }
}

/// Bit 1 of RFLAGS is always set (SDM 1 3.4.3).
const RFLAGS_FIXED: u64 = 1 << 1;

pub(super) fn registers_to(registers: &Registers) -> kvm_regs {
    kvm_regs {
        rax: registers.rax,
        rbx: registers.rbx,
        rcx: registers.rcx,
        rdx: registers.rdx,
        rsi: registers.rsi,
        rdi: registers.rdi,
        rsp: registers.rsp,
        rbp: registers.rbp,
        r8: registers.r8,
        r9: registers.r9,
        r10: registers.r10,
        r11: registers.r11,
        r12: registers.r12,
        r13: registers.r13,
        r14: registers.r14,
        r15: registers.r15,
        rip: registers.rip,
        rflags: registers.rflags | RFLAGS_FIXED,
    }
}

fn segment_from(segment: &kvm_segment) -> Segment {
    Segment {
        selector: segment.selector,
        base: segment.base,
        limit: segment.limit,
        rights: u16::from(segment.type_ & 0xf)
            | u16::from(segment.s & 1) << 4
            | u16::from(segment.dpl & 3) << 5
            | u16::from(segment.present & 1) << 7
            | u16::from(segment.avl & 1) << 12
            | u16::from(segment.l & 1) << 13
            | u16::from(segment.db & 1) << 14
            | u16::from(segment.g & 1) << 15,
    }
}

fn segment_to(segment: &Segment) -> kvm_segment {
    let bit = |n: u16| (segment.rights >> n & 1) as u8;
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: (segment.rights & 0xf) as u8,
        s: bit(4),
        dpl: (segment.rights >> 5 & 3) as u8,
        present: bit(7),
        avl: bit(12),
        l: bit(13),
        db: bit(14),
        g: bit(15),
        // A segment that is not present cannot be used (SDM 3C 25.4.1: "unusable").
        unusable: 1 - bit(7),
        padding: 0,
    }
}

fn table_from(table: &kvm_dtable) -> DescriptorTable {
    DescriptorTable { base: table.base, limit: table.limit }
}

fn table_to(table: &DescriptorTable) -> kvm_dtable {
    kvm_dtable { base: table.base, limit: table.limit, padding: [0; 3] }
}

pub(super) fn system_registers_from(sregs: &kvm_sregs) -> SystemRegisters {
    SystemRegisters {
        cs: segment_from(&sregs.cs),
        ds: segment_from(&sregs.ds),
        es: segment_from(&sregs.es),
        fs: segment_from(&sregs.fs),
        gs: segment_from(&sregs.gs),
        ss: segment_from(&sregs.ss),
        tr: segment_from(&sregs.tr),
        ldt: segment_from(&sregs.ldt),
        gdt: table_from(&sregs.gdt),
        idt: table_from(&sregs.idt),
        cr0: sregs.cr0,
        cr2: sregs.cr2,
        cr3: sregs.cr3,
        cr4: sregs.cr4,
        cr8: sregs.cr8,
        efer: sregs.efer,
        apic_base: sregs.apic_base,
    }
}

pub(super) fn system_registers_to(registers: &SystemRegisters) -> kvm_sregs {
    kvm_sregs {
        cs: segment_to(&registers.cs),
        ds: segment_to(&registers.ds),
        es: segment_to(&registers.es),
        fs: segment_to(&registers.fs),
        gs: segment_to(&registers.gs),
        ss: segment_to(&registers.ss),
        tr: segment_to(&registers.tr),
        ldt: segment_to(&registers.ldt),
        gdt: table_to(&registers.gdt),
        idt: table_to(&registers.idt),
        cr0: registers.cr0,
        cr2: registers.cr2,
        cr3: registers.cr3,
        cr4: registers.cr4,
        cr8: registers.cr8,
        efer: registers.efer,
        apic_base: registers.apic_base,
        interrupt_bitmap: [0; 4],
    }
}

pub(super) fn cpuid_from(entry: &kvm_cpuid_entry2) -> CpuidEntry {
    CpuidEntry {
        leaf: entry.function,
        subleaf: entry.index,
        subleaf_matters: entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0,
        eax: entry.eax,
        ebx: entry.ebx,
        ecx: entry.ecx,
        edx: entry.edx,
    }
}

pub(super) fn cpuid_to(entry: &CpuidEntry) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function: entry.leaf,
        index: entry.subleaf,
        flags: if entry.subleaf_matters { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 },
        eax: entry.eax,
        ebx: entry.ebx,
        ecx: entry.ecx,
        edx: entry.edx,
        padding: [0; 3],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_keeps_every_right_on_the_way_to_kvm_and_back() {
        for rights in [0x9b, 0x93, 0x8b, 0xa09b, 0xc093, 0xf0ff, 0x0010, 0] {
            let segment = Segment { selector: 0x18, base: 0xffff_0000, limit: 0xfffff, rights };
            assert_eq!(segment_from(&segment_to(&segment)), segment, "{rights:#x}");
        }
    }

    #[test]
    fn a_segment_that_is_not_present_is_unusable() {
        assert_eq!(segment_to(&Segment::default()).unusable, 1);
    }

    #[test]
    fn the_fixed_flag_is_always_set() {
        assert_eq!(registers_to(&Registers::default()).rflags, 2);
    }
}
