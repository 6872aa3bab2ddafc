//! From memory operand to linear address (SDM 1 3.3.7, 3.7.5; SDM 3A 3.4), and what string instructions
//! move along (SDM 1 7.3.9, SDM 2B REP).

use super::fetch::{RDI, RSI};
use super::instruction::{Base, Instruction, Memory, Mode, Register, Repeat, Width};
use crate::registers::RFLAGS_DF;
use crate::validate::canonical;
use hypervisor_abi::{GeneralRegisters, SegmentName};

/// What addresses need beside the registers.
#[derive(Clone, Copy, Debug)]
pub struct AddressSpace {
    /// How the processor reads code.
    pub mode: Mode,
    /// Bases of segments: ES, CS, SS, DS, FS, GS.
    pub bases: [u64; 6],
    /// CR4.LA57 in long mode: linear addresses have 57 bits, not 48.
    pub five_levels: bool,
}

impl AddressSpace {
    /// The linear address of `offset` in a segment. `None` when it is not canonical in 64-bit mode, where
    /// only FS and GS have bases.
    pub fn linear(&self, segment: SegmentName, offset: u64) -> Option<u64> {
        let linear = self.bases[segment as usize].wrapping_add(offset);
        match (self.mode, segment) {
            (Mode::Bits64, SegmentName::Fs | SegmentName::Gs) => self.canonical(linear),
            (Mode::Bits64, _) => self.canonical(offset),
            _ => Some(linear & Width::Dword.mask()),
        }
    }

    fn canonical(&self, linear: u64) -> Option<u64> {
        canonical(linear, self.five_levels).then_some(linear)
    }

    /// The linear address of `memory`, plus `offset` bytes. `None` when it, or that of the last byte, is
    /// not canonical in 64-bit mode.
    ///
    /// Limits and rights of segments are not checked: an access that reached a device has passed the
    /// processor's own checks. INS and OUTS are intercepted before those; `instruction` makes them.
    pub(super) fn address(
        &self,
        instruction: &Instruction,
        memory: &Memory,
        offset: u64,
        registers: &GeneralRegisters,
    ) -> Option<u64> {
        let general = |number: u8| registers.general[usize::from(number & 15)];
        let base = match memory.base {
            Base::None => 0,
            Base::Register(number) => general(number),
            Base::NextInstruction => registers.rip.wrapping_add(u64::from(instruction.length)),
        };
        let index =
            memory.index.map_or(0, |(number, scale)| general(number).wrapping_mul(scale.into()));
        let effective =
            base.wrapping_add(index).wrapping_add(memory.displacement).wrapping_add(offset);
        let effective = effective & instruction.address_size.mask();
        let linear = self.linear(memory.segment, effective)?;
        let last = linear.wrapping_add(instruction.memory_width.bytes() - 1);
        (self.mode != Mode::Bits64 || self.canonical(last).is_some()).then_some(linear)
    }
}

const COUNTER: Register = Register::low(1);

/// What a string instruction moves along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringPointers {
    /// Bytes of an element.
    pub bytes: u64,
    /// Of pointers and counter.
    pub address_size: Width,
    /// rSI points to the source.
    pub source: bool,
    /// rDI points to the destination.
    pub destination: bool,
    /// rCX counts.
    pub repeat: Option<Repeat>,
}

impl StringPointers {
    /// Repetition is wanted and the counter is at zero.
    pub fn is_done(&self, registers: &GeneralRegisters) -> bool {
        self.repeat.is_some() && COUNTER.read(registers, self.address_size) == 0
    }

    /// Takes note that one element is done. True when others follow.
    pub fn advance(&self, registers: &mut GeneralRegisters) -> bool {
        let down = registers.rflags & RFLAGS_DF != 0;
        let distance = if down { self.bytes.wrapping_neg() } else { self.bytes };
        for (moves, register, distance) in [
            (self.source, Register::low(RSI), distance),
            (self.destination, Register::low(RDI), distance),
            (self.repeat.is_some(), COUNTER, u64::MAX),
        ] {
            if moves {
                let value = register.read(registers, self.address_size).wrapping_add(distance);
                register.write(registers, self.address_size, value);
            }
        }
        self.repeat.is_some() && !self.is_done(registers)
    }
}
