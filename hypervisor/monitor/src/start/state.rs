//! Processor state and CPUID between the loader's and the VMM's types and those of the core's
//! interface.

use hypervisor_abi::{
    ACTIVITY_RUNNING, CpuidRow, DescriptorTable, GeneralRegisters, Segment, SegmentName, VcpuState,
};
use loader::EntryPoint;
use processor::CpuidEntry;

/// A row of CPUID as the policy knows it.
pub(super) fn entry(row: &CpuidRow) -> CpuidEntry {
    let [eax, ebx, ecx, edx] = row.answer;
    CpuidEntry {
        leaf: row.leaf,
        subleaf: row.subleaf,
        subleaf_matters: row.indexed != 0,
        eax,
        ebx,
        ecx,
        edx,
    }
}

/// And back.
pub(super) fn row(entry: &CpuidEntry) -> CpuidRow {
    CpuidRow {
        leaf: entry.leaf,
        subleaf: entry.subleaf,
        indexed: entry.subleaf_matters.into(),
        reserved: 0,
        answer: [entry.eax, entry.ebx, entry.ecx, entry.edx],
    }
}

/// The state in which a first processor begins: that after power-on, with what the loader says.
pub(super) fn start(now: &VcpuState, entry: &EntryPoint) -> VcpuState {
    let mut state = *now;
    let EntryPoint::State { registers, system } = entry else {
        return state;
    };
    state.activity = ACTIVITY_RUNNING;
    let r = registers;
    state.registers = GeneralRegisters {
        general: [
            r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11,
            r.r12, r.r13, r.r14, r.r15,
        ],
        rip: r.rip,
        rflags: r.rflags,
    };
    for (name, from) in [
        (SegmentName::Es, &system.es),
        (SegmentName::Cs, &system.cs),
        (SegmentName::Ss, &system.ss),
        (SegmentName::Ds, &system.ds),
        (SegmentName::Fs, &system.fs),
        (SegmentName::Gs, &system.gs),
        (SegmentName::Ldt, &system.ldt),
        (SegmentName::Task, &system.tr),
    ] {
        state.system.segments[name as usize] = Segment {
            base: from.base,
            limit: from.limit,
            selector: from.selector,
            attributes: from.rights,
        };
    }
    let table = |from: &processor::DescriptorTable| DescriptorTable {
        base: from.base,
        limit: from.limit.into(),
    };
    state.system.gdt = table(&system.gdt);
    state.system.idt = table(&system.idt);
    state.system.cr0 = system.cr0;
    state.system.cr3 = system.cr3;
    state.system.cr4 = system.cr4;
    state.system.efer = system.efer;
    state
}
