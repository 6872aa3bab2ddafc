//! The core's answers to root's exits.

use super::{Presence, RootCpu, apic, memory_types, microcode, sleep};
use crate::cpu::{control, msr, physical_apic, port};
use crate::cpuid::spell;
use crate::exit::{Event, Exit, Failure, GENERAL_PROTECTION, INVALID_OPCODE, MemoryFault};
use crate::machine::machine;
use crate::memory_type::MemoryType;
use crate::msr::{KEPT_ON_VMX, set_exits};
use crate::processor::{self, Cpu, wake};
use crate::registers::{
    CR4_OSXSAVE, EFER_FFXSR, EFER_LMA, EFER_LME, EFER_NXE, EFER_SCE, EFER_TCE, RFLAGS_IF,
};
use crate::second_level::{Access, FaultCause};
use crate::{instruction, validate};
use core::sync::atomic::Ordering;
use hypervisor_abi::{CPUID_LEAF, CPUID_SIGNATURE, VERSION};
use hypervisor_boot::memory_map::Span;
use units::{Bytes, GuestPhysical, HostPhysical, PAGE_SIZE};

/// MSRs of root's that the core answers on AMD; all others are root's own.
const WATCHED_SVM: [u32; 4] = [msr::APIC_BASE, msr::EFER, msr::VM_CR, msr::VM_HSAVE_PA];
/// On Intel, besides IA32_VMX_*: EFER is switched with the VMCS.
const WATCHED_VMX: [u32; 2] = [msr::APIC_BASE, msr::FEATURE_CONTROL];
/// IA32_VMX_BASIC to IA32_VMX_EXIT_CTLS2 (SDM 4 table 2-2).
const VMX_CAPABILITIES: core::ops::RangeInclusive<u32> = 0x480..=0x493;

/// Fills root's MSR bitmap, in which nothing exits yet.
pub(super) fn fill_msr_map(map: &mut [u8]) {
    let vmx = processor::has_vmx();
    set_exits(map, vmx, microcode::register(), false, true);
    if !vmx {
        WATCHED_SVM.into_iter().for_each(|index| set_exits(map, vmx, index, true, true));
        return;
    }
    let watched = WATCHED_VMX.into_iter().chain(VMX_CAPABILITIES);
    watched.for_each(|index| set_exits(map, vmx, index, true, true));
    let written = KEPT_ON_VMX.chain(memory_types::MTRRS);
    let written = written.chain([memory_types::DEFAULT_TYPE]);
    written.for_each(|index| set_exits(map, vmx, index, false, true));
}

impl RootCpu {
    /// Goes on behind the instruction that caused `exit`.
    #[inline(always)]
    pub(super) fn advance(&mut self, cpu: &Cpu, exit: &Exit) {
        let length = instruction::length_of_root(&self.context, &cpu.vendor, exit);
        self.context.advance(length);
    }

    /// Ends an access to an MSR, which is done or faults.
    fn end_access(&mut self, cpu: &Cpu, exit: &Exit, done: bool) {
        if done {
            self.advance(cpu, exit);
        } else {
            self.context.inject(GENERAL_PROTECTION);
        }
    }
}

pub(super) fn answer(root: &mut RootCpu, cpu: &mut Cpu, exit: Exit) {
    match exit {
        Exit::Hypercall => {
            root.advance(cpu, &exit);
            crate::hypercall::of_root(&mut root.context, cpu, &mut root.extended);
        }
        Exit::Cpuid => cpuid(root, cpu),
        Exit::ReadMsr => read_msr(root, cpu),
        Exit::WriteMsr => write_msr(root, cpu),
        Exit::Nmi => root.nmi |= cpu.nmi_is_foreign(),
        Exit::NmiWindow | Exit::Handled | Exit::InterruptWindow | Exit::Interrupt | Exit::Timer => {
        }
        Exit::Memory(fault) => memory(root, cpu, &fault),
        Exit::Port(access) => sleep::access(root, cpu, &access),
        Exit::SetExtendedControl => {
            let value = root.context.edx_eax();
            let index = root.context.general()[1] as u32;
            let (cpl, cr4) = (root.context.cpl(), root.context.cr4());
            match validate::xsetbv_of_root(index, value, cpl, cr4, machine().extended.supported) {
                Ok(value) => {
                    root.extended.set_xcr0(value);
                    root.advance(cpu, &exit);
                }
                Err(validate::Invalid::Undefined) => root.context.inject(INVALID_OPCODE),
                Err(_) => root.context.inject(GENERAL_PROTECTION),
            }
        }
        // INVD would also lose what the core has in the caches (Intel: it always exits).
        Exit::CacheFlush => {
            control::flush_caches();
            root.advance(cpu, &exit);
            // The last thing a kernel does on a processor it takes off line is to write back its caches
            // and halt without interrupts.
            let alone = root.context.rflags() & RFLAGS_IF == 0;
            root.context.watch_halt(alone);
        }
        Exit::Halt => {
            root.context.watch_halt(false);
            if root.context.rflags() & RFLAGS_IF == 0 {
                root.advance(cpu, &exit);
                root.set_presence(Presence::Parked);
            }
        }
        Exit::Init => {
            let _ = cpu.shared.wake.fetch_or(wake::INIT, Ordering::SeqCst);
        }
        Exit::Startup(vector) => {
            let bits = wake::STARTUP | u32::from(vector);
            let _ = cpu.shared.wake.fetch_or(bits, Ordering::SeqCst);
        }
        Exit::Exception { vector, error } => {
            let error = has_error(vector).then_some(error);
            root.context.inject(Event::Exception { vector, error });
        }
        Exit::Forbidden => root.context.inject(INVALID_OPCODE),
        Exit::Protected => root.context.inject(GENERAL_PROTECTION),
        Exit::Shutdown => {
            let (rip, cr3) = (root.context.rip(), root.context.cr3());
            let (cr0, cr4) = (root.context.cr0(), root.context.cr4());
            // On a machine of its own that resets it: some kernels do so on purpose, to reboot.
            crate::log::last_words(format_args!(
                "root met a triple fault at {rip:#x} (cr0 {cr0:#x}, cr3 {cr3:#x}, cr4 {cr4:#x}): the machine is reset"
            ));
            processor::stop_others();
            port::reset_machine()
        }
        Exit::Failure(Failure { what, codes }) => {
            panic!("root cannot go on at {:#x}: {what} {codes:#x?}", root.context.rip())
        }
        other => panic!("root's exit is not one the core asked for: {other:?}"),
    }
}

/// Exceptions with an error code (SDM 3A table 6-1).
pub(crate) const fn has_error(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30)
}

fn cpuid(root: &mut RootCpu, cpu: &Cpu) {
    let general = root.context.general();
    let (leaf, subleaf) = (general[0] as u32, general[1] as u32);
    let mut answer = control::cpuid(leaf, subleaf);
    match leaf {
        // VMX is taken; OSXSAVE follows root's own CR4; a kernel that sees a hypervisor behaves as
        // a guest, with less of its power management, and loads no microcode.
        1 => {
            let osxsave = u32::from(root.context.cr4() & CR4_OSXSAVE != 0);
            let hidden = if machine().shows_hypervisor { 0 } else { 1 << 31 };
            answer[2] = answer[2] & !(1 << 5 | 1 << 27 | hidden) | osxsave << 27;
        }
        0x8000_0001 => answer[2] &= !(1 << 2),
        0x8000_000a => answer = [0; 4],
        CPUID_LEAF => answer = spell(VERSION, CPUID_SIGNATURE),
        _ => {}
    }
    let general = root.context.general_mut();
    for (register, value) in [0, 3, 1, 2].into_iter().zip(answer) {
        general[register] = u64::from(value);
    }
    root.advance(cpu, &Exit::Cpuid);
}

fn read_msr(root: &mut RootCpu, cpu: &Cpu) {
    let index = root.context.general()[1] as u32;
    let value = match index {
        msr::EFER => Some(root.context.efer()),
        // VMX is taken: "locked and off" (SDM 3C 24.7).
        msr::FEATURE_CONTROL if processor::has_vmx() => Some(1),
        // SVM is taken: "disabled and locked" (APM 2 15.30.1).
        msr::VM_CR if !processor::has_vmx() => Some(1 << 4 | 1 << 3),
        msr::APIC_BASE => Some(msr::read(msr::APIC_BASE)),
        _ => None,
    };
    if let Some(value) = value {
        root.context.set_edx_eax(value);
    }
    root.end_access(cpu, &Exit::ReadMsr, value.is_some());
}

/// What root may set in EFER (APM 2 3.1.7).
const EFER_ALLOWED: u64 = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE | EFER_FFXSR | EFER_TCE;

fn write_msr(root: &mut RootCpu, cpu: &mut Cpu) {
    let index = root.context.general()[1] as u32;
    let value = root.context.edx_eax();
    let taken = match index {
        msr::EFER if value & !EFER_ALLOWED == 0 => {
            // LMA is the processor's (APM 2 14.6.1).
            let active = root.context.efer() & EFER_LMA;
            root.context.set_efer(value & !EFER_LMA | active);
            true
        }
        msr::APIC_BASE => physical_apic::set_base(value),
        msr::X2APIC_ICR => {
            if !apic::starts_processors(value) {
                physical_apic::send((value >> 32) as u32, value as u32);
            }
            true
        }
        _ if index == microcode::register() => microcode::load(root, cpu, value),
        _ if KEPT_ON_VMX.contains(&index) => {
            root.context.write_kept_register(&mut cpu.vendor, index, value)
        }
        _ if processor::has_vmx()
            && (memory_types::MTRRS.contains(&index) || index == memory_types::DEFAULT_TYPE) =>
        {
            root.root.write_mtrr(index, value)
        }
        _ => false,
    };
    root.end_access(cpu, &Exit::WriteMsr, taken);
}

fn memory(root: &mut RootCpu, cpu: &mut Cpu, fault: &MemoryFault) {
    let page = HostPhysical(fault.address.0 & !(PAGE_SIZE - 1));
    let mut tables = root.root.tables.lock();
    let wanted = Access { write: fault.write, execute: fault.fetch };
    match tables.explain(fault.address, wanted).0 {
        FaultCause::Stale => {
            drop(tables);
            root.context.flush_tlb(&cpu.vendor);
            return;
        }
        FaultCause::Denied if physical_apic::page() == page => {
            drop(tables);
            if apic::access(root, cpu) {
                return;
            }
            crate::log!(
                "root's access to its local APIC at {:#x} is none the core knows",
                root.context.rip()
            );
            root.context.inject(GENERAL_PROTECTION);
            return;
        }
        FaultCause::NotMapped if page.0 >= root.root.mapped && page.0 < root.root.end => {
            // Past the memory that was mapped at boot: a device's registers. AMD takes the memory type
            // from the MTRRs, Intel from the entry.
            let span = Span::of(page, Bytes(PAGE_SIZE));
            if super::map(&mut tables, span, memory_types::of_page(page)).is_some() {
                return;
            }
        }
        FaultCause::NotMapped
            if !fault.write
                && !fault.fetch
                && root.root.core.iter().any(|span| span.contains(&Span::of(page, Bytes(1)))) =>
        {
            crate::log!("root was kept from {} (at {:#x})", fault.address, root.context.rip());
            let (at, none) = (GuestPhysical(page.0), Access { write: false, execute: false });
            let size = Bytes(PAGE_SIZE);
            if tables.map(at, root.root.empty, size, none, MemoryType::WriteBack).is_ok() {
                return;
            }
        }
        _ => crate::log!("root was kept from {} (at {:#x})", fault.address, root.context.rip()),
    }
    drop(tables);
    root.context.inject(GENERAL_PROTECTION);
}
