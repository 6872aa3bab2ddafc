//! Behaviour of the virtual local APIC.

mod access;
mod messages;
mod priority;
mod timer;

use units::Tsc;

use super::{Config, Destination, LocalApic, Mode, VectorSet};

const NOW: Tsc = Tsc(1_000_000);
const BASE: u64 = 0xfee0_0000;
const ENABLE: u64 = 0x800;
const X2APIC: u64 = 0x400;

fn config(id: u32) -> Config {
    Config { id, bootstrap: id == 0, physical_bits: 40, shortest_period: 0 }
}

/// In xAPIC mode, software-enabled.
fn xapic(id: u32) -> LocalApic {
    let mut apic = LocalApic::new(config(id));
    let _ = apic.write_page(0xf0, 0x1ff, NOW);
    apic
}

/// In x2APIC mode, software-enabled.
fn x2apic(id: u32) -> LocalApic {
    let mut apic = xapic(id);
    apic.set_apic_base(apic.apic_base() | X2APIC).expect("xAPIC to x2APIC is allowed");
    apic
}

fn set(vectors: &[u8]) -> VectorSet {
    let mut set = VectorSet::EMPTY;
    for vector in vectors {
        set.insert(*vector);
    }
    set
}

/// Another's interrupt arrives.
fn accept(apic: &mut LocalApic, vector: u8, level: bool) {
    match level {
        true => apic.accept(VectorSet::EMPTY, set(&[vector])),
        false => apic.accept(set(&[vector]), VectorSet::EMPTY),
    }
}

#[test]
fn modes_change_only_as_the_manual_allows() {
    let values = [0, ENABLE, ENABLE | X2APIC, X2APIC];
    let modes = [Mode::Disabled, Mode::XApic, Mode::X2Apic];
    // SDM 3A figure 11-27: rows are the modes, columns the values.
    let allowed =
        [[true, true, false, false], [true, true, true, false], [true, false, true, false]];
    for (from, mode) in modes.into_iter().enumerate() {
        for (to, value) in values.into_iter().enumerate() {
            let mut apic = match mode {
                Mode::X2Apic => x2apic(1),
                _ => xapic(1),
            };
            if mode == Mode::Disabled {
                apic.set_apic_base(BASE).unwrap();
            }
            assert_eq!(apic.mode(), mode);
            let before = apic;
            let result = apic.set_apic_base(BASE | value);
            assert_eq!(result.is_ok(), allowed[from][to], "{mode:?} to {value:#x}");
            if result.is_ok() {
                assert_eq!(apic.mode(), modes[to]);
                assert_eq!(apic.apic_base(), BASE | value);
            } else {
                assert_eq!(apic, before);
            }
        }
    }
}

#[test]
fn reserved_bits_of_the_base_are_refused() {
    for bit in 0..64 {
        let mut apic = xapic(0);
        let result = apic.set_apic_base(BASE | ENABLE | 0x100 | 1 << bit);
        let fine = bit == 8 || (10..40).contains(&bit);
        assert_eq!(result.is_ok(), fine, "bit {bit}");
    }
    let mut other = xapic(1);
    other.set_apic_base(0x1_2345_6000 | ENABLE | 0x100).unwrap();
    assert_eq!(other.window().map(units::GuestPhysical::get), Some(0x1_2345_6000));
    assert_eq!(other.apic_base() & 0x100, 0, "no one else becomes the bootstrap processor");
}

#[test]
fn init_keeps_mode_and_ids() {
    let mut apic = x2apic(0x123);
    accept(&mut apic, 0x40, true);
    apic.set_cr8(5);
    apic.init();
    assert_eq!(apic.mode(), Mode::X2Apic);
    assert_eq!(apic.read_msr(0x802, NOW), Ok(0x123));
    assert_eq!(apic.read_msr(0x80d, NOW), Ok(0x0012_0008));
    assert_eq!(apic.read_msr(0x80f, NOW), Ok(0xff));
    assert_eq!(apic.read_msr(0x832, NOW), Ok(0x1_0000));
    assert_eq!((apic.cr8(), apic.highest_pending()), (0, None));
}

#[test]
fn disabled_it_forgets_everything_and_takes_nothing() {
    let mut apic = xapic(1);
    accept(&mut apic, 0x40, false);
    apic.set_apic_base(BASE).unwrap();
    assert_eq!(apic.window(), None);
    assert!(!apic.reach().matches(Destination::All));
    accept(&mut apic, 0x41, false);
    accept(&mut apic, 0x42, true);
    assert_eq!(apic.highest_pending(), None);
    assert!(apic.takes_external(), "an 8259 goes past it");
    assert_eq!(apic.read_page(0x20, NOW), u32::MAX);
    apic.set_apic_base(BASE | ENABLE).unwrap();
    assert_eq!(apic.highest_pending(), None);
    assert_eq!(apic.read_page(0xf0, NOW), 0xff);
    assert!(!apic.takes_external());
}
