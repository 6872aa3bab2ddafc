//! From opcode to operation (SDM 2D appendix A, APM 3 appendix A).

use super::address::StringPointers;
use super::alu::Alu;
use super::fetch::{Decoder, Prefixes, RSI};
use super::instruction::{
    Base, DecodeError, Instruction, Memory, Mode, Operand, Operation, Register, Width,
};
use hypervisor_abi::SegmentName;

/// Where the operands of an instruction are.
enum Form {
    /// The exit tells, or there are none.
    Plain,
    /// ModRM.rm is the destination, ModRM.reg the source.
    Store,
    /// ModRM.reg is the destination, ModRM.rm, which is so wide, the source.
    Load(Width),
    /// ModRM.rm is the destination, a constant of this width the source, if there is one.
    Constant(Option<Width>),
    /// The accumulator is the destination, memory at an address in the instruction the source.
    LoadAbsolute,
    /// The other way round.
    StoreAbsolute,
    /// rSI and rDI are implied: destination, source.
    String(Operand, Operand),
}

/// The memory operand, the destination and the source.
type Operands = Result<(Option<Memory>, Operand, Operand), DecodeError>;

/// What an instruction does, the width of its operands, and where they are.
type Meaning = Result<(Operation, Width, Form), DecodeError>;

const ACCUMULATOR: Operand = Operand::Register(Register::low(0));

/// Decodes the first instruction of `bytes`, of which at most [`MAX_LENGTH`](super::MAX_LENGTH) are
/// looked at.
///
/// # Errors
///
/// What [`DecodeError`] lists; [`DecodeError::Incomplete`] when more bytes may help.
pub fn decode(bytes: &[u8], mode: Mode) -> Result<Instruction, DecodeError> {
    let mut decoder = Decoder { bytes, position: 0, mode, prefixes: Prefixes::default() };
    let (operation, width, form) = match decoder.opcode()? {
        0x0f => decoder.two_bytes()?,
        opcode => decoder.one_byte(opcode)?,
    };
    let (memory, destination, source) = decoder.operands(width, &form)?;
    // LOCK may precede what reads memory and writes it back (SDM 2A LOCK).
    let lockable = operation.reads_destination() && operation.writes();
    if decoder.prefixes.lock && !(lockable && destination == Operand::Memory) {
        return Err(DecodeError::Invalid);
    }
    let address_size = decoder.address_width();
    let has = |operand| destination == operand || source == operand;
    let string = matches!(form, Form::String(..)).then(|| StringPointers {
        bytes: width.bytes(),
        address_size,
        source: has(Operand::Memory),
        destination: has(Operand::StringDestination),
        repeat: decoder.prefixes.repeat,
    });
    Ok(Instruction {
        length: decoder.position as u8,
        operation,
        width,
        memory_width: if let Form::Load(loaded) = form { loaded } else { width },
        address_size,
        memory,
        destination,
        source,
        string,
    })
}

impl Decoder<'_> {
    /// Byte for even opcodes, else the operand size.
    fn width(&self, opcode: u8) -> Width {
        if opcode & 1 == 0 { Width::Byte } else { self.operand_width() }
    }

    fn operands(&mut self, width: Width, form: &Form) -> Operands {
        Ok(match *form {
            Form::Plain => (None, Operand::None, Operand::None),
            Form::Store => {
                let (reg, memory) = self.modrm()?;
                (Some(memory), Operand::Memory, self.register(reg, width))
            }
            Form::Load(_) => {
                let (reg, memory) = self.modrm()?;
                (Some(memory), self.register(reg, width), Operand::Memory)
            }
            Form::Constant(constant) => {
                let (_, memory) = self.modrm()?;
                let source = match constant {
                    // At most 4 bytes (SDM 2A 2.2.1.5).
                    Some(width) => Operand::Immediate(self.signed(width.min(Width::Dword))?),
                    None => Operand::None,
                };
                (Some(memory), Operand::Memory, source)
            }
            Form::LoadAbsolute => (Some(self.absolute()?), ACCUMULATOR, Operand::Memory),
            Form::StoreAbsolute => (Some(self.absolute()?), Operand::Memory, ACCUMULATOR),
            Form::String(destination, source) => {
                let reads = destination == Operand::Memory || source == Operand::Memory;
                let memory = reads.then(|| self.data(Base::Register(RSI), 0));
                (memory, destination, source)
            }
        })
    }

    /// The register an operand of `width` with this number is.
    const fn register(&self, number: u8, width: Width) -> Operand {
        let high = matches!(width, Width::Byte) && self.prefixes.rex == 0 && number & !3 == 4;
        Operand::Register(Register { number: if high { number - 4 } else { number }, high })
    }

    /// The operand whose whole address is in the instruction.
    fn absolute(&mut self) -> Result<Memory, DecodeError> {
        let address = self.unsigned(self.address_width())?;
        Ok(self.data(Base::None, address))
    }

    /// An operand in the data segment.
    fn data(&self, base: Base, displacement: u64) -> Memory {
        let segment = self.prefixes.segment.unwrap_or(SegmentName::Ds);
        Memory { segment, base, index: None, displacement }
    }

    fn one_byte(&self, opcode: u8) -> Meaning {
        let width = self.width(opcode);
        // The second bit of some opcodes tells the direction.
        let either = if opcode & 2 == 0 { Form::Store } else { Form::Load(width) };
        Ok(match opcode {
            0x00..=0x3f if opcode & 4 == 0 => {
                (Operation::Alu(Alu::ROWS[usize::from(opcode >> 3)]), width, either)
            }
            // ARPL outside 64-bit mode.
            0x63 if self.mode == Mode::Bits64 => {
                let width = self.operand_width();
                (Operation::MoveSignExtend, width, Form::Load(width.min(Width::Dword)))
            }
            0x6c..=0x6f | 0xa4..=0xa7 | 0xaa..=0xaf => string(opcode, width),
            0x82 if self.mode == Mode::Bits64 => return Err(DecodeError::Invalid),
            0x80..=0x83 | 0xc6 | 0xc7 | 0xf6 | 0xf7 | 0xfe | 0xff => self.group(opcode, width)?,
            0x84 | 0x85 => (Operation::Alu(Alu::Test), width, Form::Store),
            0x86 | 0x87 => (Operation::Exchange, width, Form::Store),
            0x88..=0x8b => (Operation::Move, width, either),
            0xa0 | 0xa1 => (Operation::Move, width, Form::LoadAbsolute),
            0xa2 | 0xa3 => (Operation::Move, width, Form::StoreAbsolute),
            // HLT.
            0xf4 => (Operation::Exit, width, Form::Plain),
            _ => return Err(DecodeError::Unsupported),
        })
    }

    /// Opcodes of which ModRM.reg is a part.
    fn group(&self, opcode: u8, width: Width) -> Meaning {
        let group = usize::from(self.peek()? >> 3 & 7);
        let (operation, constant) = match (opcode, group) {
            (0x81, _) => (Alu::ROWS[group], Some(width)),
            (0x80..=0x83, _) => (Alu::ROWS[group], Some(Width::Byte)),
            (0xba, 4..) => (Alu::BITS[group - 4], Some(Width::Byte)),
            (0xba, _) => return Err(DecodeError::Invalid),
            (0xc6 | 0xc7, 0) => return Ok((Operation::Move, width, Form::Constant(Some(width)))),
            // /1 is an undocumented twin of /0 in the SDM and documented in the APM.
            (0xf6 | 0xf7, 0 | 1) => (Alu::Test, Some(width)),
            (0xf6 | 0xf7, 2) => (Alu::Not, None),
            (0xf6 | 0xf7, 3) => (Alu::Neg, None),
            (0xfe | 0xff, 0) => (Alu::Inc, None),
            (0xfe | 0xff, 1) => (Alu::Dec, None),
            // Multiplication, division, calls, jumps and PUSH are not emulated.
            _ => return Err(DecodeError::Unsupported),
        };
        Ok((Operation::Alu(operation), width, Form::Constant(constant)))
    }

    fn two_bytes(&mut self) -> Meaning {
        let opcode = self.byte()?;
        let width = self.operand_width();
        let Prefixes { operand_size, repeat, .. } = self.prefixes;
        let prefixed = operand_size || repeat.is_some();
        Ok(match opcode {
            0x01 => match self.byte()? {
                // VMCALL, XSETBV. With F2 or F3, VMMCALL is VMGEXIT, the same outside encrypted guests
                // (APM 3 VMGEXIT).
                0xc1 | 0xd1 if !prefixed => (Operation::Exit, width, Form::Plain),
                0xd9 => (Operation::Exit, width, Form::Plain),
                _ => return Err(DecodeError::Unsupported),
            },
            // INVD, WBINVD, WRMSR, RDMSR, CPUID.
            0x08 | 0x09 | 0x30 | 0x32 | 0xa2 => (Operation::Exit, width, Form::Plain),
            // MOVBE; its neighbours with F2 and F3 are other instructions.
            0x38 => match self.byte()? {
                0xf0 if repeat.is_none() => (Operation::MoveSwapped, width, Form::Load(width)),
                0xf1 if repeat.is_none() => (Operation::MoveSwapped, width, Form::Store),
                _ => return Err(DecodeError::Unsupported),
            },
            0xa3 | 0xab | 0xb3 | 0xbb => {
                (Operation::Alu(Alu::BITS[usize::from(opcode >> 3 & 3)]), width, Form::Store)
            }
            0xba => self.group(opcode, width)?,
            0xb0 | 0xb1 => (Operation::CompareExchange, self.width(opcode), Form::Store),
            0xb6 => (Operation::Move, width, Form::Load(Width::Byte)),
            0xb7 => (Operation::Move, width, Form::Load(Width::Word)),
            0xbe => (Operation::MoveSignExtend, width, Form::Load(Width::Byte)),
            0xbf => (Operation::MoveSignExtend, width, Form::Load(Width::Word)),
            0xc0 | 0xc1 => (Operation::ExchangeAdd, self.width(opcode), Form::Store),
            // MOVNTI has no other form than 32 or 64 bits without prefixes (SDM 2B MOVNTI).
            0xc3 if prefixed => return Err(DecodeError::Invalid),
            0xc3 => (Operation::Move, width.max(Width::Dword), Form::Store),
            _ => return Err(DecodeError::Unsupported),
        })
    }
}

/// INS, OUTS, whose items are 8, 16 or 32 bits wide, and the other string instructions.
fn string(opcode: u8, width: Width) -> (Operation, Width, Form) {
    use Operand::{Memory as Source, None, StringDestination as Destination};
    let compare = Operation::Alu(Alu::Cmp);
    match opcode & !1 {
        0x6c => (Operation::Exit, width.min(Width::Dword), Form::String(Destination, None)),
        0x6e => (Operation::Exit, width.min(Width::Dword), Form::String(None, Source)),
        0xa4 => (Operation::Move, width, Form::String(Destination, Source)),
        0xa6 => (compare, width, Form::String(Source, Destination)),
        0xaa => (Operation::Move, width, Form::String(Destination, ACCUMULATOR)),
        0xac => (Operation::Move, width, Form::String(ACCUMULATOR, Source)),
        _ => (compare, width, Form::String(ACCUMULATOR, Destination)),
    }
}
