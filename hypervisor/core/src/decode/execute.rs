//! Carrying out an instruction whose operand is not memory, access by access.

use super::address::AddressSpace;
use super::alu::Alu;
use super::fetch::RDI;
use super::instruction::{Base, Instruction, Memory, Operand, Operation, Register, Repeat, Width};
use crate::registers::{RFLAGS_RF, RFLAGS_ZF};
use hypervisor_abi::{GeneralRegisters, SegmentName};

const RAX: Register = Register::low(0);

/// [`Operand::StringDestination`].
const STRING_DESTINATION: Memory =
    Memory { segment: SegmentName::Es, base: Base::Register(RDI), index: None, displacement: 0 };

/// An access to memory that an instruction needs from its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Linear address of the first byte. May cross pages.
    pub address: u64,
    /// How many bytes.
    pub width: Width,
    /// What to write; `None` reads.
    pub write: Option<u64>,
}

/// An operand in memory.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// Linear address.
    address: u64,
    /// It is still to be read.
    unread: bool,
    /// What reading it brought.
    value: u64,
}

/// An instruction, or one iteration of a repeated one, in progress. Registers change only when it is
/// complete: dropped before that, it never happened but for the accesses made.
#[derive(Clone, Copy, Debug)]
pub struct Execution {
    instruction: Instruction,
    /// [`Operand::Memory`] and [`Operand::StringDestination`].
    places: [Place; 2],
    /// The result is still to be written, after all is read.
    unwritten: bool,
}

impl Execution {
    /// Starts `instruction`, which is at RIP. A repeated one with its counter at zero needs no access.
    /// `None` when the operand's address is not canonical or the instruction reaches no device through
    /// memory.
    pub fn begin(
        instruction: &Instruction,
        registers: &GeneralRegisters,
        space: &AddressSpace,
    ) -> Option<Self> {
        let Instruction { operation, memory, source, destination, string, .. } = *instruction;
        if operation == Operation::Exit {
            return None;
        }
        let places = [Place::default(); 2];
        let mut execution = Self { instruction: *instruction, places, unwritten: false };
        if string.is_some_and(|pointers| pointers.is_done(registers)) {
            return Some(execution);
        }
        let offset = bit_offset(instruction, registers);
        let second = string.filter(|pointers| pointers.destination).map(|_| STRING_DESTINATION);
        for (place, operand, memory, offset) in
            [(0, Operand::Memory, memory, offset), (1, Operand::StringDestination, second, 0)]
        {
            let Some(memory) = memory else { continue };
            execution.places[place] = Place {
                address: space.address(instruction, &memory, offset, registers)?,
                unread: source == operand
                    || destination == operand && operation.reads_destination(),
                value: 0,
            };
            execution.unwritten |= destination == operand && operation.writes();
        }
        Some(execution)
    }

    /// The access it needs now; the registers are those it started with. `None` when it has all.
    pub fn step(&self, registers: &GeneralRegisters) -> Option<Step> {
        let Instruction { memory_width: width, destination, .. } = self.instruction;
        if let Some(place) = self.places.iter().find(|place| place.unread) {
            return Some(Step { address: place.address, width, write: None });
        }
        let place = &self.places[usize::from(destination == Operand::StringDestination)];
        let write = Some(self.outcome(registers).0 & width.mask());
        self.unwritten.then_some(Step { address: place.address, width, write })
    }

    /// Takes note that the access of [`Self::step`] is done; `value` is what a read brought.
    pub fn advance(&mut self, value: u64) {
        match self.places.iter_mut().find(|place| place.unread) {
            Some(place) => {
                place.value = value & self.instruction.memory_width.mask();
                place.unread = false;
            }
            None => self.unwritten = false,
        }
    }

    /// The result, whichever place it is for, and RFLAGS after it.
    fn outcome(&self, registers: &GeneralRegisters) -> (u64, u64) {
        let Instruction { operation, width, memory_width, source, destination, .. } =
            self.instruction;
        let rflags = registers.rflags;
        let [left, right] = [destination, source].map(|operand| match operand {
            Operand::None => 0,
            Operand::Memory => self.places[0].value,
            Operand::StringDestination => self.places[1].value,
            Operand::Register(register) => register.read(registers, width),
            Operand::Immediate(constant) => constant,
        });
        match operation {
            Operation::Exit | Operation::Move | Operation::Exchange => (right, rflags),
            Operation::MoveSignExtend => (memory_width.sign_extend(right), rflags),
            Operation::MoveSwapped => ((right << (64 - width.bits())).swap_bytes(), rflags),
            Operation::Alu(alu) => alu.apply(left, right, width, rflags),
            Operation::ExchangeAdd => Alu::Add.apply(left, right, width, rflags),
            Operation::CompareExchange => {
                let accumulator = RAX.read(registers, width);
                let (difference, rflags) = Alu::Cmp.apply(accumulator, left, width, rflags);
                // Without a match the old value is written back (SDM 2A CMPXCHG).
                (if difference == 0 { right } else { left }, rflags)
            }
        }
    }

    /// Brings the registers up to date after the last access. RIP is past the instruction then, or still at
    /// it when a repeated string instruction has iterations left.
    pub fn complete(&self, registers: &mut GeneralRegisters) {
        let Instruction { operation, width, source, destination, string, .. } = self.instruction;
        if string.is_some_and(|pointers| pointers.is_done(registers)) {
            return self.skip(registers);
        }
        let (result, rflags) = self.outcome(registers);
        registers.rflags = rflags;
        let equal = rflags & RFLAGS_ZF != 0;
        let (target, value) = match operation {
            Operation::Exchange | Operation::ExchangeAdd => (source, self.places[0].value),
            Operation::CompareExchange if !equal => (Operand::Register(RAX), self.places[0].value),
            _ if operation.writes() => (destination, result),
            _ => (Operand::None, 0),
        };
        if let Operand::Register(register) = target {
            register.write(registers, width, value);
        }
        // Of string instructions, those with flags compare, and go on as long as their prefix says.
        let compares = matches!(operation, Operation::Alu(_));
        let again = string.is_some_and(|pointers| {
            let wanted = pointers.repeat == Some(Repeat::Equal);
            pointers.advance(registers) && (!compares || equal == wanted)
        });
        if !again {
            self.skip(registers);
        }
    }

    /// RIP past the instruction; outside 64-bit code the caller cuts it to 32 bits.
    fn skip(&self, registers: &mut GeneralRegisters) {
        registers.rip = registers.rip.wrapping_add(u64::from(self.instruction.length));
        registers.rflags &= !RFLAGS_RF;
    }
}

/// BT and its kin with a register reach past the operand: the offset in bytes of the unit that holds
/// the bit (SDM 2A BT, "Bit(BitBase, BitOffset)").
fn bit_offset(instruction: &Instruction, registers: &GeneralRegisters) -> u64 {
    let Instruction { operation, source, width, .. } = *instruction;
    match (operation, source) {
        (Operation::Alu(Alu::Bt | Alu::Bts | Alu::Btr | Alu::Btc), Operand::Register(register)) => {
            let offset = width.sign_extend(register.read(registers, width)) as i64;
            (offset.div_euclid(width.bits() as i64) * width.bytes() as i64) as u64
        }
        _ => 0,
    }
}
