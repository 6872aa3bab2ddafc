use std::collections::BTreeMap;
use std::string::ToString;

use x86::vmx::vmcs::{control as field, guest};

use super::{CS, FailedCheck, LDT, SS, TASK, UNUSABLE, find, segment_field};
use crate::event::word;
use crate::exit::Event;
use crate::vmx::fixtures::{HASWELL, processor};

/// Fields that are not 0.
type State = BTreeMap<u32, u64>;

/// Sets selector, base, limit and access rights.
fn segment(state: &mut State, index: usize, values: [u64; 4]) {
    let first = [guest::ES_SELECTOR, guest::ES_BASE, guest::ES_LIMIT, guest::ES_ACCESS_RIGHTS];
    for (first, value) in first.into_iter().zip(values) {
        state.insert(segment_field(first, index), value);
    }
}

fn failed(state: &State) -> Option<FailedCheck> {
    let read = |field| state.get(&field).copied().unwrap_or(0);
    // 39 bits of physical, 48 of linear addresses.
    find(&read, &processor(HASWELL, &[]), 48 << 8 | 39)
}

/// After power-on (SDM 3A 10.1.1).
fn reset() -> State {
    let mut state = State::from([
        (guest::CR0, 0x30),
        (guest::CR4, 0x2000),
        (guest::DR7, 0x400),
        (guest::IA32_PAT_FULL, 0x0007_0406_0007_0406),
        (guest::RIP, 0xfff0),
        (guest::RFLAGS, 2),
        (guest::LINK_PTR_FULL, u64::MAX),
    ]);
    for index in 0..8 {
        segment(&mut state, index, [0, 0, 0xffff, 0x93]);
    }
    segment(&mut state, CS, [0xf000, 0xffff_0000, 0xffff, 0x9b]);
    segment(&mut state, LDT, [0, 0, 0xffff, 0x82]);
    segment(&mut state, TASK, [0, 0, 0xffff, 0x8b]);
    state
}

/// A 64-bit kernel.
fn long_mode() -> State {
    let mut state = reset();
    state.extend([
        (guest::CR0, 0x8000_0033),
        (guest::CR4, 0x2020),
        (guest::IA32_EFER_FULL, 0xd01),
        (field::VMENTRY_CONTROLS, 1 << 9),
        (guest::RIP, 0xffff_ffff_8100_0000),
        (guest::RFLAGS, 0x202),
    ]);
    for index in [0, 3, 4, 5, 6] {
        segment(&mut state, index, [0, 0, 0xffff, u64::from(UNUSABLE)]);
    }
    segment(&mut state, CS, [0x10, 0, 0xffff_ffff, 0xa09b]);
    segment(&mut state, SS, [0x18, 0, 0xffff_ffff, 0xc093]);
    segment(&mut state, TASK, [0x40, 0xffff_fe00_0000_3000, 0xffff, 0x8b]);
    state
}

fn inject(state: &mut State, event: Event) {
    state.insert(field::VMENTRY_INTERRUPTION_INFO_FIELD, word(event));
}

#[test]
fn states_of_real_guests_pass() {
    assert_eq!(failed(&reset()), None);
    assert_eq!(failed(&long_mode()), None);
    // Halted, woken by an interrupt.
    let mut state = long_mode();
    state.insert(guest::ACTIVITY_STATE, 1);
    inject(&mut state, Event::Interrupt(0x30));
    assert_eq!(failed(&state), None);
    // Virtual-8086 mode.
    let mut state = reset();
    state.extend([(guest::CR0, 0x31), (guest::RFLAGS, 0x2_0202)]);
    for index in 0..6 {
        segment(&mut state, index, [0x1234, 0x1_2340, 0xffff, 0xf3]);
    }
    assert_eq!(failed(&state), None);
    segment(&mut state, SS, [0x1234, 0x1_2340, 0xffff, 0x93]);
    assert_eq!(failed(&state).unwrap().field, "SS");
}

#[test]
fn each_broken_rule_is_named() {
    let cases = [
        (guest::CR0, 0x8000_0032, "CR0", "PG needs PE"),
        (guest::CR4, 0x20, "CR4", "FIXED0"),
        (guest::CR4, 0x2000, "CR4", "PAE"),
        (guest::CR3, 1 << 39, "CR3", "physical-address width"),
        (guest::DR7, 1 << 32, "DR7", "63:32"),
        (guest::IA32_PAT_FULL, 2, "IA32_PAT", "memory type"),
        (guest::IA32_EFER_FULL, 0x101, "IA32_EFER", "LMA"),
        (guest::IA32_EFER_FULL, 0x401, "IA32_EFER", "LME"),
        (guest::IA32_EFER_FULL, 0x1d01, "IA32_EFER", "reserved"),
        (guest::IA32_DEBUGCTL_FULL, 1 << 3, "IA32_DEBUGCTL", "reserved"),
        (guest::IA32_SYSENTER_EIP, 1 << 62, "IA32_SYSENTER_EIP", "canonical"),
        (guest::TR_SELECTOR, 4, "TR selector", "TI"),
        (guest::TR_ACCESS_RIGHTS, 0x89, "TR", "busy"),
        (guest::TR_ACCESS_RIGHTS, 0x83, "TR", "busy"),
        (guest::TR_ACCESS_RIGHTS, 0x1_008b, "TR", "usable"),
        (guest::TR_ACCESS_RIGHTS, 0x9b, "TR", "S must"),
        (guest::LDTR_ACCESS_RIGHTS, 0x83, "LDTR", "LDT"),
        (guest::FS_BASE, 1 << 48, "FS", "canonical"),
        (guest::CS_BASE, 1 << 32, "CS", "63:32"),
        (guest::CS_ACCESS_RIGHTS, 0xe09b, "CS", "L and D"),
        (guest::CS_ACCESS_RIGHTS, 0xa0fb, "CS", "DPL"),
        (guest::CS_ACCESS_RIGHTS, 0xa01b, "CS", "P must"),
        (guest::SS_LIMIT, 0xf_0000, "SS", "limit"),
        (guest::SS_ACCESS_RIGHTS, 0xc09b, "SS", "writable"),
        (guest::SS_ACCESS_RIGHTS, 0xc193, "SS", "reserved"),
        (guest::ES_ACCESS_RIGHTS, 0x92, "ES", "accessed"),
        (guest::GDTR_LIMIT, 0x1_0000, "GDTR", "31:16"),
        (guest::IDTR_BASE, 1 << 63, "IDTR", "canonical"),
        (guest::RIP, 1 << 50, "RIP", "canonical"),
        (guest::RFLAGS, 0, "RFLAGS", "bit 1"),
        (guest::ACTIVITY_STATE, 4, "activity state", "0 to 3"),
        (guest::INTERRUPTIBILITY_STATE, 3, "interruptibility state", "both"),
        (guest::INTERRUPTIBILITY_STATE, 0x20, "interruptibility state", "31:5"),
        (guest::INTERRUPTIBILITY_STATE, 4, "interruptibility state", "SMM"),
        (guest::PENDING_DBG_EXCEPTIONS, 1 << 13, "pending debug exceptions", "reserved"),
        (guest::LINK_PTR_FULL, 0, "VMCS link pointer", "ones"),
    ];
    for (number, value, field, rule) in cases {
        let mut state = long_mode();
        state.insert(number, value);
        let found = failed(&state).unwrap_or_else(|| panic!("{field}: {rule}"));
        assert_eq!(found.field, field, "{rule}: {found}");
        assert!(found.rule.contains(rule), "{rule}: {found}");
    }
}

#[test]
fn an_event_that_cannot_be_taken_is_named() {
    let mut state = long_mode();
    state.insert(guest::RFLAGS, 2);
    inject(&mut state, Event::Interrupt(0x30));
    assert_eq!(
        failed(&state).unwrap().to_string(),
        "RFLAGS is 0x2: IF must be 1 to inject an external interrupt (SDM 3C 27.3.1.4)"
    );
    state.insert(guest::RFLAGS, 0x202);
    state.insert(guest::INTERRUPTIBILITY_STATE, 1);
    assert_eq!(failed(&state).unwrap().field, "interruptibility state");
    state.insert(guest::INTERRUPTIBILITY_STATE, 8);
    assert_eq!(failed(&state), None);
    inject(&mut state, Event::Nmi);
    assert!(failed(&state).unwrap().rule.contains("virtual NMI"));
    state.insert(guest::INTERRUPTIBILITY_STATE, 0);
    state.insert(guest::ACTIVITY_STATE, 3);
    assert_eq!(failed(&state).unwrap().field, "activity state");
    state.insert(guest::ACTIVITY_STATE, 2);
    assert_eq!(failed(&state), None);
}
