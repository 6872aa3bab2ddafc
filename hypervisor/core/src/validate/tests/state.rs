use hypervisor_abi::{Segment, SegmentName, VcpuState};
use proptest::prelude::*;

use super::features;
use crate::cpuid::Features;
use crate::validate::{Invalid, SegmentError, vcpu_state};

fn segment(selector: u16, base: u64, limit: u32, attributes: u16) -> Segment {
    Segment { base, limit, selector, attributes }
}

/// After power-on (SDM 3A table 10-1).
fn reset() -> VcpuState {
    let mut state = VcpuState::default();
    let system = &mut state.system;
    system.segments = [segment(0, 0, 0xffff, 0x93); 8];
    system.segments[SegmentName::Cs as usize] = segment(0xf000, 0xffff_0000, 0xffff, 0x9b);
    system.segments[SegmentName::Ldt as usize] = segment(0, 0, 0xffff, 0x82);
    system.segments[SegmentName::Task as usize] = segment(0, 0, 0xffff, 0x8b);
    system.gdt.limit = 0xffff;
    system.idt.limit = 0xffff;
    system.cr0 = 0x6000_0010;
    system.apic_base = 0xfee0_0900;
    system.xcr0 = 1;
    system.debug = [0, 0, 0, 0, 0xffff_0ff0, 0x400];
    system.pat = 0x0007_0406_0007_0406;
    state.registers.rip = 0xfff0;
    state.registers.rflags = 2;
    state
}

/// A 64-bit kernel.
fn long() -> VcpuState {
    let mut state = reset();
    let system = &mut state.system;
    system.segments = [segment(0x18, 0, 0xffff_ffff, 0xc093); 8];
    system.segments[SegmentName::Cs as usize] = segment(0x10, 0, 0xffff_ffff, 0xa09b);
    system.segments[SegmentName::Ldt as usize] = Segment::default();
    system.segments[SegmentName::Task as usize] =
        segment(0x40, 0xffff_fe00_0000_3000, 0x206f, 0x8b);
    system.segments[SegmentName::Gs as usize].base = 0xffff_8880_0000_0000;
    system.cr0 = 0x8005_0033;
    system.cr3 = 0x1000;
    system.cr4 = 0x20;
    system.efer = 0xd01;
    system.xcr0 = 7;
    system.syscall[1] = 0xffff_ffff_8100_0000;
    state.registers.rip = 0xffff_ffff_8100_0000;
    state
}

fn after(mut state: VcpuState, change: impl FnOnce(&mut VcpuState)) -> Result<(), Invalid> {
    change(&mut state);
    vcpu_state(&state, &features())
}

#[test]
fn states_of_real_systems_are_accepted() {
    assert_eq!(vcpu_state(&reset(), &features()), Ok(()));
    assert_eq!(vcpu_state(&long(), &features()), Ok(()));
    // User mode of a 64-bit kernel, SS and DS of privilege 3.
    let user = after(long(), |state| {
        state.system.segments[SegmentName::Cs as usize] = segment(0x33, 0, 0xffff_ffff, 0xa0fb);
        state.system.segments[SegmentName::Ss as usize] = segment(0x2b, 0, 0xffff_ffff, 0xc0f3);
        state.registers.rip = 0x40_0000;
    });
    assert_eq!(user, Ok(()));
    // 32-bit protected mode as PVH and Multiboot start (CR0.PE only).
    let flat = after(reset(), |state| {
        state.system.segments[..6].fill(segment(0x10, 0, 0xffff_ffff, 0xc093));
        state.system.segments[SegmentName::Cs as usize] = segment(8, 0, 0xffff_ffff, 0xc09b);
        state.system.cr0 = 0x11;
    });
    assert_eq!(flat, Ok(()));
    // Null data segments and a null SS in 64-bit mode.
    let null = after(long(), |state| {
        for name in [SegmentName::Ds, SegmentName::Es, SegmentName::Ss] {
            state.system.segments[name as usize] = Segment::default();
        }
    });
    assert_eq!(null, Ok(()));
    let virtual8086 = after(reset(), |state| {
        state.system.cr0 = 0x11;
        state.registers.rflags = 1 << 17 | 2;
        state.system.segments[..6].fill(segment(0x1234, 0x12340, 0xffff, 0xf3));
    });
    assert_eq!(virtual8086, Ok(()));
}

#[test]
fn each_impossible_value_is_named() {
    type Change = fn(&mut VcpuState);
    let cases: &[(Change, Invalid)] = &[
        (|s| s.activity = 3, Invalid::Activity(3)),
        (|s| s.reserved = 1, Invalid::Activity(0)),
        (|s| s.registers.rflags = 0, Invalid::Flags(0)),
        (|s| s.registers.rflags = 0x8002, Invalid::Flags(0x8002)),
        (|s| s.registers.rflags = 0x2_0002, Invalid::Flags(0x2_0002)),
        (|s| s.registers.rip = 1 << 50, Invalid::InstructionPointer(1 << 50)),
        (|s| s.system.cr0 = 0x8000_0000, Invalid::PagingWithoutProtection),
        (|s| s.system.cr0 |= 1 << 40, Invalid::Reserved(1 << 40)),
        (|s| s.system.cr4 = 0, Invalid::LongModeWithoutPae),
        (|s| s.system.cr0 |= 1 << 29, Invalid::NotWriteThroughWithoutCacheDisable),
        (|s| s.system.efer = 0xc01, Invalid::LongModeActiveMismatch),
        (|s| s.system.cr0 &= !(1 << 31), Invalid::LongModeActiveMismatch),
        (|s| s.system.cr4 |= 1 << 13, Invalid::Reserved(1 << 13)),
        (|s| s.system.efer = 0x500 & !0x400, Invalid::LongModeActiveMismatch),
        (|s| s.system.efer |= 1 << 12, Invalid::Reserved(1 << 12)),
        (|s| s.system.cr3 = 1 << 41, Invalid::Reserved(1 << 41)),
        (|s| s.system.cr8 = 0x10, Invalid::Reserved(0x10)),
        (|s| s.system.xcr0 = 6, Invalid::Components(6)),
        (|s| s.system.gdt.limit = 0x10000, Invalid::DescriptorTable(0)),
        (|s| s.system.idt.base = 1 << 47, Invalid::DescriptorTable(1 << 47)),
        (|s| s.system.debug[4] = 1 << 32, Invalid::Debug(1 << 32)),
        (|s| s.system.debug[5] = 1 << 33, Invalid::Debug(1 << 33)),
        (|s| s.system.pat = 2, Invalid::Pat(2)),
        (|s| s.system.syscall[1] = 1 << 47, Invalid::Address(1 << 47)),
        (|s| s.system.sysenter[2] = 1 << 48, Invalid::Address(1 << 48)),
        (|s| s.system.kernel_gs_base = 1 << 48, Invalid::Address(1 << 48)),
        (|s| s.system.tsc_aux = 1 << 32, Invalid::Wide(1 << 32)),
        (|s| s.system.apic_base = 0xfee0_0400, Invalid::ApicBase(0xfee0_0400)),
        (|s| s.system.apic_base = 1, Invalid::ApicBase(1)),
    ];
    for (number, (change, error)) in cases.iter().enumerate() {
        assert_eq!(after(long(), change), Err(*error), "case {number}");
    }
}

#[test]
fn control_registers_agree_with_each_other() {
    let all = Features { cr4: features().cr4 | 1 << 23, ..features() };
    let check = |mut state: VcpuState, change: fn(&mut VcpuState)| {
        change(&mut state);
        vcpu_state(&state, &all)
    };
    assert_eq!(check(long(), |s| s.system.cr4 |= 1 << 17), Ok(()));
    assert_eq!(check(reset(), |s| s.system.cr4 = 1 << 17), Err(Invalid::PcidsOutsideLongMode));
    assert_eq!(check(long(), |s| s.system.cr4 |= 1 << 23), Ok(()), "CR0.WP is set");
    let unprotected = check(long(), |s| {
        s.system.cr4 |= 1 << 23;
        s.system.cr0 &= !(1 << 16);
    });
    assert_eq!(unprotected, Err(Invalid::CetWithoutWriteProtect));
}

#[test]
fn segments_must_fit_their_registers() {
    use SegmentName::{Cs, Ds, Fs, Gs, Ldt, Ss, Task};
    let cases = [
        (Cs, segment(0x10, 0, 0xffff_ffff, 0xa01b), SegmentError::Absent),
        (Cs, segment(0x10, 0, 0xffff_ffff, 0xa099 - 1), SegmentError::Type),
        (Cs, segment(0x10, 0, 0xffff_ffff, 0xe09b), SegmentError::LongAndDefault),
        (Cs, segment(0x10, 0, 0xffff_ffff, 0xa0fb), SegmentError::Privilege),
        (Cs, segment(0x10, 0, 0x10_0000, 0xa09b), SegmentError::Limit),
        (Cs, segment(0x10, 0, 0xffff_ffff, 0x209b), SegmentError::Limit),
        (Cs, segment(0x10, 0, 0xffff_ffff, 0xa19b), SegmentError::Reserved),
        (Cs, segment(0x10, 1 << 32, 0xffff_ffff, 0xa09b), SegmentError::Base),
        (Ss, segment(0x18, 0, 0xffff_ffff, 0xc091), SegmentError::Type),
        (Ds, segment(0x18, 0, 0xffff_ffff, 0xc092), SegmentError::Type),
        (Ds, segment(0x18, 0, 0xffff_ffff, 0xc099), SegmentError::Type),
        (Ds, segment(0x18, 0, 0xffff_ffff, 0xc083), SegmentError::Type),
        (Fs, segment(0, 1 << 48, 0, 0), SegmentError::Base),
        (Gs, segment(0, 1 << 63, 0, 0), SegmentError::Base),
        (Task, segment(0x40, 0, 0x67, 0), SegmentError::Absent),
        (Task, segment(0x40, 0, 0x67, 0x89), SegmentError::Type),
        (Task, segment(0x40, 0, 0x67, 0x83), SegmentError::Type),
        (Task, segment(0x44, 0, 0x67, 0x8b), SegmentError::Selector),
        (Ldt, segment(0x40, 0, 0x67, 0x83), SegmentError::Type),
        (Ldt, segment(0x40, 1 << 47, 0x67, 0x82), SegmentError::Base),
    ];
    for (name, bad, error) in cases {
        let found = after(long(), |state| state.system.segments[name as usize] = bad);
        assert_eq!(found, Err(Invalid::Segment(name, error)), "{bad:x?}");
    }
    let found = after(reset(), |state| {
        state.system.segments[Ss as usize].attributes = 0xf3;
    });
    assert!(found.is_err(), "real mode has privilege 0");
}

proptest! {
    #[test]
    fn no_state_makes_the_check_fail_itself(
        words in proptest::collection::vec(any::<u64>(), 40),
        cr0 in any::<u32>(),
    ) {
        let mut state = long();
        let mut words = words.into_iter();
        let mut next = || words.next().unwrap_or(0);
        for segment in &mut state.system.segments {
            segment.base = next();
            segment.limit = next() as u32;
            let word = next();
            segment.selector = word as u16;
            segment.attributes = (word >> 16) as u16;
        }
        state.system.cr0 = cr0.into();
        state.registers.rflags = next();
        state.registers.rip = next();
        let _ = vcpu_state(&state, &features());
    }
}
