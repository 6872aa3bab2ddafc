//! Between this crate's register types and the core's.

use crate::{CpuidEntry, DescriptorTable, Registers, Segment, SystemRegisters};
use hypervisor_abi::{self as abi, CpuidRow, GeneralRegisters, SegmentName, VcpuState};

/// Bit 1 of RFLAGS is always set (SDM 1 3.4.3).
const RFLAGS_FIXED: u64 = 1 << 1;

pub(super) fn registers_from(registers: &GeneralRegisters) -> Registers {
    let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] =
        registers.general;
    let GeneralRegisters { rip, rflags, .. } = *registers;
    #[rustfmt::skip]
    let registers = Registers {
        rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags,
    };
    registers
}

pub(super) fn registers_to(registers: &Registers) -> GeneralRegisters {
    #[rustfmt::skip]
    let Registers {
        rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags,
    } = *registers;
    GeneralRegisters {
        general: [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15],
        rip,
        rflags: rflags | RFLAGS_FIXED,
    }
}

/// Both have the rights of a VMX access-rights field.
fn segment_from(segment: &abi::Segment) -> Segment {
    let abi::Segment { base, limit, selector, attributes } = *segment;
    Segment { selector, base, limit, rights: attributes }
}

fn segment_to(segment: &Segment) -> abi::Segment {
    let Segment { selector, base, limit, rights } = *segment;
    abi::Segment { base, limit, selector, attributes: rights }
}

fn table_from(table: &abi::DescriptorTable) -> DescriptorTable {
    // A limit has 16 bits (SDM 3A 2.4.1).
    DescriptorTable { base: table.base, limit: table.limit as u16 }
}

fn table_to(table: &DescriptorTable) -> abi::DescriptorTable {
    abi::DescriptorTable { base: table.base, limit: table.limit.into() }
}

pub(super) fn system_registers_from(state: &VcpuState) -> SystemRegisters {
    let system = &state.system;
    let segment = |name: SegmentName| segment_from(&system.segments[name as usize]);
    SystemRegisters {
        cs: segment(SegmentName::Cs),
        ds: segment(SegmentName::Ds),
        es: segment(SegmentName::Es),
        fs: segment(SegmentName::Fs),
        gs: segment(SegmentName::Gs),
        ss: segment(SegmentName::Ss),
        tr: segment(SegmentName::Task),
        ldt: segment(SegmentName::Ldt),
        gdt: table_from(&system.gdt),
        idt: table_from(&system.idt),
        cr0: system.cr0,
        cr2: system.cr2,
        cr3: system.cr3,
        cr4: system.cr4,
        cr8: system.cr8,
        efer: system.efer,
        apic_base: system.apic_base,
    }
}

/// Puts `registers` into `state`; what they do not name stays.
pub(super) fn set_system_registers(state: &mut VcpuState, registers: &SystemRegisters) {
    let system = &mut state.system;
    for (name, segment) in [
        (SegmentName::Cs, &registers.cs),
        (SegmentName::Ds, &registers.ds),
        (SegmentName::Es, &registers.es),
        (SegmentName::Fs, &registers.fs),
        (SegmentName::Gs, &registers.gs),
        (SegmentName::Ss, &registers.ss),
        (SegmentName::Task, &registers.tr),
        (SegmentName::Ldt, &registers.ldt),
    ] {
        system.segments[name as usize] = segment_to(segment);
    }
    (system.gdt, system.idt) = (table_to(&registers.gdt), table_to(&registers.idt));
    (system.cr0, system.cr2, system.cr3) = (registers.cr0, registers.cr2, registers.cr3);
    (system.cr4, system.cr8) = (registers.cr4, registers.cr8);
    (system.efer, system.apic_base) = (registers.efer, registers.apic_base);
}

pub(super) fn cpuid_from(row: &CpuidRow) -> CpuidEntry {
    let [eax, ebx, ecx, edx] = row.answer;
    let (leaf, subleaf, subleaf_matters) = (row.leaf, row.subleaf, row.indexed != 0);
    CpuidEntry { leaf, subleaf, subleaf_matters, eax, ebx, ecx, edx }
}

pub(super) fn cpuid_to(entry: &CpuidEntry) -> CpuidRow {
    let CpuidEntry { leaf, subleaf, subleaf_matters, eax, ebx, ecx, edx } = *entry;
    let indexed = subleaf_matters.into();
    CpuidRow { leaf, subleaf, indexed, reserved: 0, answer: [eax, ebx, ecx, edx] }
}

/// MSRs that are part of the state (SDM 4 table 2-2).
pub(super) fn msr(state: &mut VcpuState, index: u32) -> Option<&mut u64> {
    let system = &mut state.system;
    Some(match index {
        0x1b => &mut system.apic_base,
        0x174..=0x176 => &mut system.sysenter[index as usize - 0x174],
        0x277 => &mut system.pat,
        0xc000_0080 => &mut system.efer,
        0xc000_0081..=0xc000_0084 => &mut system.syscall[index as usize - 0xc000_0081],
        0xc000_0100 => &mut system.segments[SegmentName::Fs as usize].base,
        0xc000_0101 => &mut system.segments[SegmentName::Gs as usize].base,
        0xc000_0102 => &mut system.kernel_gs_base,
        0xc000_0103 => &mut system.tsc_aux,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn general_registers_keep_their_places() {
        let mut core = GeneralRegisters { rip: 100, rflags: 0x202, ..GeneralRegisters::default() };
        for (number, register) in core.general.iter_mut().enumerate() {
            *register = number as u64;
        }
        let ours = registers_from(&core);
        // The encoding's order (SDM 2A table 2-2).
        assert_eq!((ours.rax, ours.rcx, ours.rdx, ours.rbx), (0, 1, 2, 3));
        assert_eq!((ours.rsp, ours.rbp, ours.rsi, ours.rdi, ours.r15), (4, 5, 6, 7, 15));
        assert_eq!(registers_to(&ours), core);
        assert_eq!(registers_to(&Registers::default()).rflags, 2);
    }

    #[test]
    fn system_registers_come_back_and_the_rest_stays() {
        let mut state = VcpuState::default();
        for (number, segment) in (0_u16..).zip(&mut state.system.segments) {
            let base = u64::from(number) << 32;
            let limit = number.into();
            *segment = abi::Segment { base, limit, selector: 8 * number, attributes: 0xa09b };
        }
        state.system.gdt = abi::DescriptorTable { base: 1, limit: 2 };
        state.system.idt = abi::DescriptorTable { base: 3, limit: 4 };
        (state.system.cr0, state.system.cr3, state.system.efer) = (5, 6, 7);
        (state.system.pat, state.registers.rip, state.activity) = (8, 9, 1);
        let ours = system_registers_from(&state);
        assert_eq!((ours.cs.selector, ours.tr.selector, ours.ldt.base), (8, 56, 6 << 32));
        let mut again = VcpuState { activity: 1, ..VcpuState::default() };
        (again.system.pat, again.registers.rip) = (8, 9);
        set_system_registers(&mut again, &ours);
        assert_eq!(again, state);
    }

    #[test]
    fn cpuid_rows_come_back() {
        for (subleaf, indexed) in [(0, 0), (3, 1)] {
            let row = CpuidRow { leaf: 0xd, subleaf, indexed, reserved: 0, answer: [1, 2, 3, 4] };
            assert_eq!(cpuid_to(&cpuid_from(&row)), row);
        }
    }

    #[test]
    fn msrs_of_the_state_are_found_by_their_numbers() {
        let mut state = VcpuState::default();
        for (value, index) in (1..).zip([0x174, 0x176, 0xc000_0081, 0xc000_0084, 0xc000_0102]) {
            *msr(&mut state, index).unwrap() = value;
        }
        let system = &state.system;
        assert_eq!((system.sysenter, system.syscall), ([1, 0, 2], [3, 0, 0, 4]));
        assert_eq!(system.kernel_gs_base, 5);
        assert!(msr(&mut state, 0x10).is_none());
    }
}
