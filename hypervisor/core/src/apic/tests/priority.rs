//! Priorities and vectors against sets of bits that are searched one by one.

use proptest::prelude::*;

use super::{NOW, accept, set, x2apic, xapic};
use crate::apic::{Effect, VectorSet};

#[test]
fn a_set_finds_its_highest_vector() {
    assert_eq!(VectorSet::EMPTY.highest(), None);
    for high in 0..=255u8 {
        for low in 0..=high {
            let mut set = VectorSet::EMPTY;
            set.insert(low);
            set.insert(high);
            assert_eq!(set.highest(), Some(high));
            assert!(set.contains(low) && set.contains(high));
            assert_eq!(set.register(u32::from(high / 32)) >> (high % 32) & 1, 1);
            set.remove(high);
            assert_eq!(set.highest(), (low != high).then_some(low));
        }
    }
}

#[test]
fn every_task_priority_against_every_vector() {
    for priority in 0..=255u8 {
        for vector in 0..=255u8 {
            let mut apic = x2apic(1);
            let _ = apic.write_msr(0x808, priority.into(), NOW).unwrap();
            assert_eq!(apic.cr8(), priority >> 4);
            accept(&mut apic, vector, false);
            let takes = vector >= 16 && vector >> 4 > priority >> 4;
            assert_eq!(apic.highest_pending(), takes.then_some(vector));
        }
    }
}

#[test]
fn the_end_of_a_level_interrupt_is_told_and_of_an_edge_one_is_not() {
    let mut apic = x2apic(1);
    accept(&mut apic, 0x50, true);
    accept(&mut apic, 0x60, false);
    assert_eq!(apic.acknowledge(), Some(0x60));
    assert_eq!(apic.acknowledge(), None, "0x50 waits for 0x60's end");
    assert_eq!(apic.write_msr(0x80b, 0, NOW), Ok(Effect::None));
    assert_eq!(apic.acknowledge(), Some(0x50));
    assert_eq!(apic.write_msr(0x80b, 0, NOW), Ok(Effect::EndOfInterrupt(0x50)));
    assert_eq!(apic.write_msr(0x80b, 0, NOW), Ok(Effect::None), "an end of nothing");
}

#[test]
fn collected_edges_arrive_together() {
    let mut apic = xapic(1);
    accept(&mut apic, 0x80, true);
    let edges = set(&[3, 0x80, 0xf0]);
    apic.accept(edges, set(&[4, 0x90]));
    assert_eq!(apic.acknowledge(), Some(0xf0));
    assert_eq!(apic.write_page(0xb0, 7, NOW), Effect::None);
    assert_eq!(apic.acknowledge(), Some(0x90));
    assert_eq!(apic.write_page(0xb0, 7, NOW), Effect::EndOfInterrupt(0x90));
    assert_eq!(apic.acknowledge(), Some(0x80));
    assert_eq!(apic.write_page(0xb0, 7, NOW), Effect::None, "the last one was an edge");
    assert_eq!(apic.highest_pending(), None);
    let mut off = xapic(2);
    let _ = off.write_page(0xf0, 0xff, NOW);
    off.accept(edges, edges);
    assert_eq!(off.highest_pending(), None);
}

#[test]
fn an_error_interrupts_once_until_its_status_is_written() {
    let mut apic = xapic(1);
    let _ = apic.write_page(0x370, 0x44, NOW);
    let _ = apic.write_page(0x300, 0x0c_0005, NOW);
    assert_eq!(apic.acknowledge(), Some(0x44));
    let _ = apic.write_page(0xb0, 0, NOW);
    let _ = apic.read_page(0x3f0, NOW);
    assert_eq!(apic.highest_pending(), None);
    assert_eq!(apic.read_page(0x280, NOW), 0, "shown only after a write");
    let _ = apic.write_page(0x280, 0, NOW);
    assert_eq!(apic.read_page(0x280, NOW), 0xa0);
    let _ = apic.write_page(0x280, 0, NOW);
    assert_eq!(apic.read_page(0x280, NOW), 0);
    let _ = apic.read_page(0x3f0, NOW);
    assert_eq!(apic.highest_pending(), Some(0x44));
    let _ = apic.write_page(0x280, 0, NOW);
    assert_eq!(apic.read_page(0x280, NOW), 0x80);
}

#[test]
fn an_error_entry_with_an_illegal_vector_is_one_more_error() {
    let mut apic = xapic(1);
    let _ = apic.write_page(0x370, 0x04, NOW);
    let _ = apic.write_page(0x300, 0x0c_0005, NOW);
    assert_eq!(apic.highest_pending(), None);
    let _ = apic.write_page(0x280, 0, NOW);
    assert_eq!(apic.read_page(0x280, NOW), 0x60);
}

#[test]
fn an_8259_comes_through_lint0() {
    let mut apic = xapic(1);
    assert!(!apic.takes_external());
    let _ = apic.write_page(0x350, 0x700, NOW);
    assert!(apic.takes_external());
    let _ = apic.write_page(0xf0, 0xff, NOW);
    assert!(!apic.takes_external(), "software-disabled masks all");
    let _ = apic.write_page(0x350, 0x700, NOW);
    assert_eq!(apic.read_page(0x350, NOW), 0x1_0700);
}

/// The same in the obvious way.
struct Model {
    requested: [bool; 256],
    in_service: Vec<u8>,
    level: [bool; 256],
    task: u8,
}

impl Model {
    fn new() -> Self {
        Self { requested: [false; 256], in_service: Vec::new(), level: [false; 256], task: 0 }
    }
    fn priority(&self) -> u8 {
        let service = self.in_service.iter().max().copied().unwrap_or(0);
        if self.task >> 4 >= service >> 4 { self.task } else { service & 0xf0 }
    }
    fn pending(&self) -> Option<u8> {
        (0..=255u8)
            .rev()
            .find(|vector| self.requested[usize::from(*vector)])
            .filter(|vector| vector >> 4 > self.priority() >> 4)
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Accept(u8, bool),
    Acknowledge,
    End,
    TaskPriority(u8),
    SelfIpi(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any::<u8>(), any::<bool>()).prop_map(|(vector, level)| Step::Accept(vector, level)),
        3 => Just(Step::Acknowledge),
        2 => Just(Step::End),
        1 => any::<u8>().prop_map(Step::TaskPriority),
        1 => any::<u8>().prop_map(Step::SelfIpi),
    ]
}

proptest! {
    #[test]
    fn an_apic_agrees_with_searched_bits(steps in prop::collection::vec(step(), 1..200)) {
        let mut apic = x2apic(9);
        let mut model = Model::new();
        for step in steps {
            match step {
                Step::Accept(vector, level) => {
                    accept(&mut apic, vector, level);
                    if vector >= 16 {
                        model.requested[usize::from(vector)] = true;
                        model.level[usize::from(vector)] = level;
                    }
                }
                Step::SelfIpi(vector) => {
                    prop_assert_eq!(apic.write_msr(0x83f, vector.into(), NOW), Ok(Effect::None));
                    if vector >= 16 {
                        model.requested[usize::from(vector)] = true;
                        model.level[usize::from(vector)] = false;
                    }
                }
                Step::Acknowledge => {
                    let expected = model.pending();
                    prop_assert_eq!(apic.acknowledge(), expected);
                    if let Some(vector) = expected {
                        model.requested[usize::from(vector)] = false;
                        model.in_service.push(vector);
                    }
                }
                Step::End => {
                    model.in_service.sort_unstable();
                    let expected = match model.in_service.pop() {
                        Some(vector) if model.level[usize::from(vector)] => Effect::EndOfInterrupt(vector),
                        _ => Effect::None,
                    };
                    prop_assert_eq!(apic.write_msr(0x80b, 0, NOW), Ok(expected));
                }
                Step::TaskPriority(value) => {
                    prop_assert_eq!(apic.write_msr(0x808, value.into(), NOW), Ok(Effect::None));
                    model.task = value;
                }
            }
            prop_assert_eq!(apic.priority(), model.priority());
            prop_assert_eq!(apic.highest_pending(), model.pending());
            for index in 0..8u32 {
                let bits = |set: &[bool; 256]| (0..32).fold(0, |word, bit| {
                    word | u64::from(set[(index * 32 + bit) as usize]) << bit
                });
                prop_assert_eq!(apic.read_msr(0x820 + index, NOW), Ok(bits(&model.requested)));
                prop_assert_eq!(apic.read_msr(0x818 + index, NOW), Ok(bits(&model.level)));
            }
        }
    }
}
