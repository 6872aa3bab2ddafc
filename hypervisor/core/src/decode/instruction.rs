//! What a decoded instruction is.

use super::address::StringPointers;
use super::alu::Alu;
use hypervisor_abi::{GeneralRegisters, SegmentName};

/// The most bytes of an instruction (SDM 2A 2.3.11, APM 3 1.1).
pub const MAX_LENGTH: usize = 15;

/// How the processor reads code: EFER.LMA with CS.L and CS.D (SDM 3A 5.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Real mode, virtual-8086 mode, or a code segment with D clear.
    Bits16,
    /// A code segment with D set.
    Bits32,
    /// EFER.LMA and CS.L set.
    Bits64,
}

/// Bytes of an operand or an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Width {
    /// 8 bits.
    Byte = 1,
    /// 16 bits.
    Word = 2,
    /// 32 bits.
    Dword = 4,
    /// 64 bits.
    Qword = 8,
}

impl Width {
    /// In bytes.
    pub const fn bytes(self) -> u64 {
        self as u64
    }

    /// In bits.
    pub const fn bits(self) -> u64 {
        self as u64 * 8
    }

    /// All ones of this width.
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - self.bits())
    }

    /// `value` of this width, extended by its sign to 64 bits.
    pub const fn sign_extend(self, value: u64) -> u64 {
        let shift = 64 - self.bits();
        (((value << shift) as i64) >> shift) as u64
    }
}

/// A general register as an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// 0 to 15 in machine encoding (SDM 2A table 2-2).
    pub number: u8,
    /// Bits 8 to 15 of registers 0 to 3: AH, CH, DH, BH.
    pub high: bool,
}

impl Register {
    /// The register with this number, from its lowest bit on.
    pub(super) const fn low(number: u8) -> Self {
        Self { number, high: false }
    }

    /// The part of it that is `width` wide.
    pub(super) fn read(self, registers: &GeneralRegisters, width: Width) -> u64 {
        let whole = registers.general[usize::from(self.number & 15)];
        whole >> (u32::from(self.high) * 8) & width.mask()
    }

    /// Sets that part. A 32-bit result clears the upper half, shorter ones keep the rest
    /// (SDM 1 3.4.1.1).
    pub(super) fn write(self, registers: &mut GeneralRegisters, width: Width, value: u64) {
        let whole = &mut registers.general[usize::from(self.number & 15)];
        let value = value & width.mask();
        *whole = match width {
            Width::Byte if self.high => *whole & !0xff00 | value << 8,
            Width::Byte | Width::Word => *whole & !width.mask() | value,
            Width::Dword | Width::Qword => value,
        };
    }
}

/// What an address counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// Nothing.
    None,
    /// A general register.
    Register(u8),
    /// The address of the next instruction (SDM 2A 2.2.1.6).
    NextInstruction,
}

/// A memory operand. The effective address is base + index * scale + displacement, cut to the
/// instruction's address size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The segment after overrides and defaults (SDM 1 3.7.4).
    pub segment: SegmentName,
    /// What the address counts from.
    pub base: Base,
    /// Index register, and 1, 2, 4 or 8.
    pub index: Option<(u8, u8)>,
    /// Displacement, extended by its sign.
    pub displacement: u64,
}

/// An operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// No operand in this place.
    None,
    /// [`Instruction::memory`].
    Memory,
    /// ES:\[rDI\] of a string instruction.
    StringDestination,
    /// A general register.
    Register(Register),
    /// A constant, extended by its sign to 64 bits.
    Immediate(u64),
}

/// F3 and F2 before a string instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// REP, REPE.
    Equal,
    /// REPNE. The same as REP for instructions that compare nothing.
    NotEqual,
}

/// What an instruction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It exits, and the exit tells what it does: CPUID, RDMSR, WRMSR, HLT, VMCALL, VMMCALL, XSETBV,
    /// INVD, WBINVD, INS, OUTS.
    Exit,
    /// MOV, MOVNTI, MOVZX, STOS, LODS, MOVS.
    Move,
    /// MOVSX, MOVSXD.
    MoveSignExtend,
    /// MOVBE.
    MoveSwapped,
    /// Arithmetic; CMP is also CMPS and SCAS.
    Alu(Alu),
    /// XCHG.
    Exchange,
    /// XADD.
    ExchangeAdd,
    /// CMPXCHG.
    CompareExchange,
}

impl Operation {
    /// What was in the destination counts.
    pub(super) const fn reads_destination(self) -> bool {
        !matches!(self, Self::Exit | Self::Move | Self::MoveSignExtend | Self::MoveSwapped)
    }

    /// The destination changes.
    pub(super) const fn writes(self) -> bool {
        !matches!(self, Self::Exit | Self::Alu(Alu::Cmp | Alu::Test | Alu::Bt))
    }
}

/// A decoded instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Its bytes, 1 to 15.
    pub length: u8,
    /// What it does.
    pub operation: Operation,
    /// Of its register operand, or of the memory operand when there is no other.
    pub width: Width,
    /// Of the access to memory: differs from `width` where the instruction extends.
    pub memory_width: Width,
    /// Of effective addresses and of string counters.
    pub address_size: Width,
    /// The memory operand; the source of a string instruction.
    pub memory: Option<Memory>,
    /// Where the result goes, or the first input of a comparison.
    pub destination: Operand,
    /// Where the other input comes from.
    pub source: Operand,
    /// What a string instruction moves along.
    pub string: Option<StringPointers>,
}

/// Why there is no instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// The bytes ended before the instruction did.
    Incomplete,
    /// More than [`MAX_LENGTH`] bytes: #GP (SDM 2A 2.3.11).
    TooLong,
    /// The processor raises #UD for it.
    Invalid,
    /// Not an instruction the core emulates.
    Unsupported,
}
