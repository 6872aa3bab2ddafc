//! Bytes in order, the prefixes at their head, and ModRM, SIB and displacement (SDM 2A 2.1.3 to 2.1.5).

use super::instruction::{Base, DecodeError, MAX_LENGTH, Memory, Mode, Repeat, Width};
use hypervisor_abi::SegmentName;

/// Takes the bytes of one instruction, never more than [`MAX_LENGTH`].
pub(super) struct Decoder<'a> {
    pub(super) bytes: &'a [u8],
    /// Bytes taken so far.
    pub(super) position: usize,
    pub(super) mode: Mode,
    pub(super) prefixes: Prefixes,
}

/// Prefixes of an instruction (SDM 2A 2.1.1, 2.2.1).
#[derive(Clone, Copy, Default)]
pub(super) struct Prefixes {
    pub(super) operand_size: bool,
    pub(super) address_size: bool,
    pub(super) segment: Option<SegmentName>,
    pub(super) repeat: Option<Repeat>,
    pub(super) lock: bool,
    /// REX, 0 where there is none.
    pub(super) rex: u8,
}

/// REX bits (SDM 2A 2.2.1.2).
const REX_B: u8 = 1 << 0;
const REX_X: u8 = 1 << 1;
const REX_R: u8 = 1 << 2;
const REX_W: u8 = 1 << 3;

/// Numbers of registers that addresses treat specially.
const RBX: u8 = 3;
const RSP: u8 = 4;
const RBP: u8 = 5;
pub(super) const RSI: u8 = 6;
pub(super) const RDI: u8 = 7;

/// Registers of 16-bit addresses by ModRM.rm (SDM 2A table 2-1).
const SHORT_BASE: [u8; 8] = [RBX, RBX, RBP, RBP, RSI, RDI, RBP, RBX];
const SHORT_INDEX: [Option<u8>; 8] =
    [Some(RSI), Some(RDI), Some(RSI), Some(RDI), None, None, None, None];

impl Decoder<'_> {
    /// The next byte, which stays.
    pub(super) fn peek(&self) -> Result<u8, DecodeError> {
        if self.position == MAX_LENGTH {
            return Err(DecodeError::TooLong);
        }
        self.bytes.get(self.position).copied().ok_or(DecodeError::Incomplete)
    }

    pub(super) fn byte(&mut self) -> Result<u8, DecodeError> {
        let byte = self.peek()?;
        self.position += 1;
        Ok(byte)
    }

    /// A little-endian number of `width`.
    pub(super) fn unsigned(&mut self, width: Width) -> Result<u64, DecodeError> {
        (0..width.bytes()).try_fold(0, |value, at| Ok(value | u64::from(self.byte()?) << (at * 8)))
    }

    /// The same, extended by its sign.
    pub(super) fn signed(&mut self, width: Width) -> Result<u64, DecodeError> {
        self.unsigned(width).map(|value| width.sign_extend(value))
    }

    /// Takes all prefixes and the first byte of the opcode, which it returns.
    pub(super) fn opcode(&mut self) -> Result<u8, DecodeError> {
        let long = self.mode == Mode::Bits64;
        loop {
            let byte = self.byte()?;
            let prefixes = &mut self.prefixes;
            match byte {
                // In 64-bit mode only FS and GS override (SDM 1 3.7.5.1, APM 3 1.2.4).
                0x26 | 0x2e | 0x36 | 0x3e if long => {}
                0x26 => prefixes.segment = Some(SegmentName::Es),
                0x2e => prefixes.segment = Some(SegmentName::Cs),
                0x36 => prefixes.segment = Some(SegmentName::Ss),
                0x3e => prefixes.segment = Some(SegmentName::Ds),
                0x64 => prefixes.segment = Some(SegmentName::Fs),
                0x65 => prefixes.segment = Some(SegmentName::Gs),
                0x66 => prefixes.operand_size = true,
                0x67 => prefixes.address_size = true,
                0xf0 => prefixes.lock = true,
                0xf2 => prefixes.repeat = Some(Repeat::NotEqual),
                0xf3 => prefixes.repeat = Some(Repeat::Equal),
                0x40..=0x4f if long => {
                    prefixes.rex = byte;
                    continue;
                }
                opcode => return Ok(opcode),
            }
            // REX counts only right before the opcode (SDM 2A 2.2.1).
            prefixes.rex = 0;
        }
    }

    /// A register number: the 3 low bits of `field`, with a REX bit on top.
    const fn number(&self, field: u8, rex: u8) -> u8 {
        field & 7 | ((self.prefixes.rex & rex != 0) as u8) << 3
    }

    /// The operand size of instructions that have no byte form (SDM 1 3.6.1).
    pub(super) fn operand_width(&self) -> Width {
        match self.mode {
            Mode::Bits64 if self.prefixes.rex & REX_W != 0 => Width::Qword,
            mode if (mode == Mode::Bits16) == self.prefixes.operand_size => Width::Dword,
            _ => Width::Word,
        }
    }

    /// The address size (SDM 1 3.6.1).
    pub(super) const fn address_width(&self) -> Width {
        match (self.mode, self.prefixes.address_size) {
            (Mode::Bits64, false) => Width::Qword,
            (Mode::Bits16, false) | (Mode::Bits32, true) => Width::Word,
            _ => Width::Dword,
        }
    }

    /// ModRM.reg with REX.R, and what ModRM.rm names in memory. Register forms of instructions reach no
    /// device.
    pub(super) fn modrm(&mut self) -> Result<(u8, Memory), DecodeError> {
        let byte = self.byte()?;
        if byte >> 6 == 3 {
            return Err(DecodeError::Unsupported);
        }
        Ok((self.number(byte >> 3, REX_R), self.memory(byte)?))
    }

    /// Addresses of 16 bits (SDM 2A table 2-1), and of 32 and 64 (tables 2-2, 2-3, 2-7).
    fn memory(&mut self, modrm: u8) -> Result<Memory, DecodeError> {
        let (mode, rm) = (modrm >> 6, modrm & 7);
        let short = self.address_width() == Width::Word;
        let (mut base, mut index) = (self.number(rm, REX_B), None);
        // Where these registers would be the base, there is none but with a displacement.
        let mut without = mode == 0 && rm == RBP;
        if short {
            base = SHORT_BASE[usize::from(rm)];
            index = SHORT_INDEX[usize::from(rm)].map(|number| (number, 1));
            without = mode == 0 && rm == 6;
        } else if rm == RSP {
            let sib = self.byte()?;
            let number = self.number(sib >> 3, REX_X);
            base = self.number(sib, REX_B);
            index = (number != RSP).then_some((number, 1 << (sib >> 6)));
            without = mode == 0 && sib & 7 == RBP;
        }
        let base = match without {
            false => Base::Register(base),
            true if self.mode == Mode::Bits64 && rm == RBP => Base::NextInstruction,
            true => Base::None,
        };
        let displacement = match (base, mode) {
            (Base::Register(_), 0) => 0,
            (Base::Register(_), 1) => self.signed(Width::Byte)?,
            _ if short => self.signed(Width::Word)?,
            _ => self.signed(Width::Dword)?,
        };
        // SS for addresses from the stack and frame pointer, else DS (SDM 1 3.7.4).
        let usual = match base {
            Base::Register(RSP | RBP) => SegmentName::Ss,
            _ => SegmentName::Ds,
        };
        let segment = self.prefixes.segment.unwrap_or(usual);
        Ok(Memory { segment, base, index, displacement })
    }
}
