//! Tables are built from a description of each level; what the walk must answer follows from the
//! description, not from the entries.

use std::collections::HashMap;

use proptest::prelude::*;
use units::GuestPhysical;

use super::{Access, Error, Paging, code, walk};

/// Words at multiples of 8.
#[derive(Default)]
struct Memory(HashMap<u64, u64>);

impl Memory {
    fn insert(&mut self, place: u64, entry: u64) {
        *self.0.entry(place & !7).or_default() |= entry << (place % 8 * 8);
    }

    fn walk(&self, paging: &Paging, linear: u64, access: Access) -> Result<GuestPhysical, Error> {
        let read = |address: GuestPhysical| {
            assert_eq!(address.0 % 8, 0);
            self.0.get(&address.0).copied()
        };
        walk(read, paging, linear, access)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Bits32,
    Pae,
    Four,
    Five,
}

/// One level as the description has it.
#[derive(Clone, Copy, Debug)]
struct Step {
    present: bool,
    writable: bool,
    user: bool,
    no_execute: bool,
    large: bool,
    /// Set this bit, whatever it means.
    extra: Option<u32>,
    frame: u64,
}

#[derive(Clone, Copy, Debug)]
struct Environment {
    mode: Mode,
    write_protect: bool,
    smep: bool,
    smap: bool,
    alignment_check: bool,
    no_execute: bool,
    large_pages: bool,
    linear: u64,
    access: Access,
    user: bool,
}

const PHYSICAL_BITS: u8 = 40;
const PHYSICAL: u64 = (1 << PHYSICAL_BITS) - 1;

impl Environment {
    fn paging(&self) -> Paging {
        let flag = |on: bool, bit: u32| u64::from(on) << bit;
        let long = matches!(self.mode, Mode::Four | Mode::Five);
        Paging {
            cr0: 1 << 31 | 1 | flag(self.write_protect, 16),
            // With a PCID or cache flags in the low bits.
            cr3: 0x7000 | if long { 0xfff } else { 0x18 },
            cr4: flag(self.large_pages, 4)
                | flag(self.mode != Mode::Bits32, 5)
                | flag(self.mode == Mode::Five, 12)
                | flag(self.smep, 20)
                | flag(self.smap, 21),
            efer: flag(long, 8) | flag(long, 10) | flag(self.no_execute, 11),
            rflags: flag(self.alignment_check, 18),
            user: self.user,
            physical_bits: PHYSICAL_BITS,
            gigabyte_pages: self.large_pages,
        }
    }

    /// (shift, index bits, whether entries can map pages), from the root on.
    fn levels(&self) -> Vec<(u32, u32, bool)> {
        let large = self.large_pages;
        match self.mode {
            Mode::Bits32 => vec![(22, 10, large), (12, 10, true)],
            Mode::Pae => vec![(30, 2, false), (21, 9, true), (12, 9, true)],
            Mode::Four => vec![(39, 9, false), (30, 9, large), (21, 9, true), (12, 9, true)],
            Mode::Five => {
                vec![(48, 9, false), (39, 9, false), (30, 9, large), (21, 9, true), (12, 9, true)]
            }
        }
    }

    /// Bits an entry must not have (SDM 3A tables 4-4 to 4-20), listed one by one.
    fn forbidden(&self, shift: u32, leaf: bool, bit: u32) -> bool {
        let no_execute = bit == 63 && !self.no_execute;
        let too_high = bit >= PHYSICAL_BITS.into();
        match (self.mode, shift, leaf) {
            // 40 bits of address: only bit 21 is left.
            (Mode::Bits32, 22, true) => bit == 21,
            (Mode::Bits32, ..) => false,
            (Mode::Pae, 30, _) => too_high || matches!(bit, 1 | 2 | 5..=8),
            (Mode::Pae, 21, true) => no_execute || too_high && bit < 63 || matches!(bit, 13..=20),
            (Mode::Pae, ..) => no_execute || too_high && bit < 63,
            (_, 30, true) => no_execute || too_high && bit < 52 || matches!(bit, 13..=29),
            (_, 21, true) => no_execute || too_high && bit < 52 || matches!(bit, 13..=20),
            (_, 39 | 48, _) => no_execute || too_high && bit < 52 || bit == 7,
            (_, 30, false) => no_execute || too_high && bit < 52 || bit == 7 && !self.large_pages,
            _ => no_execute || too_high && bit < 52,
        }
    }

    /// Writes the tables; returns what the walk must answer.
    fn build(&self, steps: &[Step]) -> (Memory, Result<GuestPhysical, Error>) {
        let mut memory = Memory::default();
        let mut table = 0x7000;
        let (mut user, mut writable, mut no_execute) = (true, true, false);
        for ((shift, bits, can_map), step) in self.levels().into_iter().zip(steps) {
            let pointer = self.mode == Mode::Pae && shift == 30;
            let leaf = shift == 12 || step.large && can_map;
            let size = if self.mode == Mode::Bits32 { 4 } else { 8 };
            let place = table + (self.linear >> shift & ((1 << bits) - 1)) * size;
            let mut entry = if self.mode == Mode::Bits32 && leaf && shift == 22 {
                step.frame & 0xffc0_0000 | (step.frame >> 32 & 0xff) << 13
            } else if self.mode == Mode::Bits32 {
                step.frame & 0xffff_f000
            } else {
                step.frame & PHYSICAL & !((1 << if leaf { shift } else { 12 }) - 1)
            };
            entry |= u64::from(step.present);
            if !pointer {
                entry |= u64::from(step.writable) << 1 | u64::from(step.user) << 2;
            }
            // PS where it means something.
            if leaf && shift > 12 {
                entry |= 1 << 7;
            }
            if self.mode != Mode::Bits32 && !pointer && self.no_execute {
                entry |= u64::from(step.no_execute) << 63;
            }
            let mut reserved = false;
            if let Some(bit) = step.extra {
                reserved = self.forbidden(shift, leaf, bit);
                if reserved {
                    entry |= 1 << bit;
                }
            }
            memory.insert(place, entry);
            if !step.present {
                return (memory, self.fault(0));
            }
            if reserved {
                return (memory, self.fault(code::PRESENT | code::RESERVED));
            }
            if !pointer {
                user &= step.user;
                writable &= step.writable;
                no_execute |= step.no_execute && self.no_execute && self.mode != Mode::Bits32;
            }
            if leaf {
                if !self.allows(user, writable, no_execute) {
                    return (memory, self.fault(code::PRESENT));
                }
                let mut page = step.frame & PHYSICAL;
                if self.mode == Mode::Bits32 && shift == 12 {
                    page &= 0xffff_ffff;
                }
                let offset = (1 << shift) - 1;
                let translation = GuestPhysical(page & !offset | self.linear & offset);
                return (memory, Ok(translation));
            }
            table = step.frame & PHYSICAL & !0xfff;
            if self.mode == Mode::Bits32 {
                table &= 0xffff_ffff;
            }
        }
        unreachable!("the last level maps a page")
    }

    /// The rules of SDM 3A 4.6.1, sentence by sentence.
    fn allows(&self, user: bool, writable: bool, no_execute: bool) -> bool {
        match (self.access, self.user, user) {
            (Access::Read, true, page) => page,
            (Access::Write, true, page) => page && writable,
            (Access::Fetch, true, page) => page && !no_execute,
            (Access::Read, false, false) => true,
            (Access::Read, false, true) => !self.smap || self.alignment_check,
            (Access::Write, false, false) => writable || !self.write_protect,
            (Access::Write, false, true) => {
                (!self.smap || self.alignment_check) && (writable || !self.write_protect)
            }
            (Access::Fetch, false, false) => !no_execute,
            (Access::Fetch, false, true) => !self.smep && !no_execute,
        }
    }

    fn fault(&self, mut code: u32) -> Result<GuestPhysical, Error> {
        let instruction_bit = self.smep || self.no_execute && self.mode != Mode::Bits32;
        match self.access {
            Access::Write => code |= code::WRITE,
            Access::Fetch if instruction_bit => code |= code::FETCH,
            _ => {}
        }
        if self.user {
            code |= code::USER;
        }
        Err(Error::PageFault(code))
    }
}

fn step() -> impl Strategy<Value = Step> {
    (
        prop::bool::weighted(0.95),
        prop::bool::weighted(0.8),
        prop::bool::weighted(0.8),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.3),
        prop::option::weighted(0.1, 1_u32..64),
        any::<u64>(),
    )
        .prop_map(|(present, writable, user, no_execute, large, extra, frame)| Step {
            present,
            writable,
            user,
            no_execute,
            large,
            extra,
            frame,
        })
}

fn environment() -> impl Strategy<Value = Environment> {
    let mode = prop::sample::select(vec![Mode::Bits32, Mode::Pae, Mode::Four, Mode::Five]);
    let access = prop::sample::select(vec![Access::Read, Access::Write, Access::Fetch]);
    let switches = any::<[bool; 7]>();
    (mode, access, switches, any::<u64>()).prop_map(|(mode, access, switches, linear)| {
        Environment {
            mode,
            write_protect: switches[0],
            smep: switches[1],
            smap: switches[2],
            alignment_check: switches[3],
            no_execute: switches[4],
            large_pages: switches[5],
            linear: match mode {
                Mode::Bits32 | Mode::Pae => linear & 0xffff_ffff,
                Mode::Four => ((linear << 16) as i64 >> 16) as u64,
                Mode::Five => ((linear << 7) as i64 >> 7) as u64,
            },
            access,
            user: switches[6],
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6_000))]

    #[test]
    fn a_walk_answers_what_the_tables_say(
        environment in environment(),
        mut steps in proptest::collection::vec(step(), 5),
    ) {
        // Tables must not lie on one another: each level in a place of its own.
        let levels = environment.levels();
        for (number, step) in steps.iter_mut().enumerate() {
            let last = number + 1 == levels.len();
            let maps = last || step.large && levels.get(number).is_some_and(|level| level.2);
            if !maps {
                step.frame = (number as u64 + 1) << 20;
            }
        }
        let (memory, expected) = environment.build(&steps);
        let found = memory.walk(&environment.paging(), environment.linear, environment.access);
        prop_assert_eq!(found, expected);
    }

    /// Memory in which every address reads as something: a walk ends, and at an address that exists.
    #[test]
    fn any_tables_and_registers_are_safe(
        seed in any::<u64>(),
        registers in any::<[u64; 4]>(),
        linear in any::<u64>(),
        physical_bits in any::<u8>(),
        gigabyte_pages in any::<bool>(),
        access in prop::sample::select(vec![Access::Read, Access::Write, Access::Fetch]),
    ) {
        let noise = |address: GuestPhysical| {
            let mixed = (address.0 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (mixed >> 60 != 0).then_some((mixed ^ mixed >> 29) & 0x0000_00ff_ffff_ffff | 7)
        };
        let [cr0, cr3, cr4, efer] = registers;
        let paging = Paging {
            cr0,
            cr3,
            cr4,
            efer,
            rflags: 0,
            user: seed & 1 != 0,
            physical_bits,
            gigabyte_pages,
        };
        if let Ok(found) = walk(noise, &paging, linear, access) {
            prop_assert!(found.0 < 1 << 52);
        }
    }
}

fn off() -> Paging {
    Paging {
        cr0: 0,
        cr3: 0,
        cr4: 0,
        efer: 0,
        rflags: 0,
        user: false,
        physical_bits: PHYSICAL_BITS,
        gigabyte_pages: true,
    }
}

#[test]
fn without_paging_addresses_are_physical() {
    let found = Memory::default().walk(&off(), 0x1_2345_6789, Access::Read);
    assert_eq!(found, Ok(GuestPhysical(0x2345_6789)));
}

#[test]
fn tables_outside_of_memory_are_told() {
    let paging = Paging { cr0: 1 << 31 | 1, cr3: 0x5000, cr4: 1 << 5, efer: 0x500, ..off() };
    let found = Memory::default().walk(&paging, 0x80_0000_0000, Access::Read);
    let entry = GuestPhysical(0x5008);
    assert_eq!(found, Err(Error::OutsideMemory(entry)));
    let found = Memory::default().walk(&paging, 1 << 47, Access::Read);
    assert_eq!(found, Err(Error::NotCanonical));
}
