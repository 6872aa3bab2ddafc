//! Which instructions of the other decoder are ours too.

use iced_x86::{Instruction as Theirs, Mnemonic, OpKind};

use crate::decode::{Alu, Instruction, Operand, Operation};

/// Their mnemonics for what `ours` is.
pub(super) fn mnemonics(ours: &Instruction) -> &'static [Mnemonic] {
    use Mnemonic as M;
    let register = |operand| matches!(operand, Operand::Register(_));
    match ours.operation {
        Operation::Exit => ALWAYS,
        Operation::Move if ours.string.is_none() => &[M::Mov, M::Movnti, M::Movzx],
        Operation::Move if register(ours.source) => &[M::Stosb, M::Stosw, M::Stosd, M::Stosq],
        Operation::Move if register(ours.destination) => &[M::Lodsb, M::Lodsw, M::Lodsd, M::Lodsq],
        Operation::Move => &[M::Movsb, M::Movsw, M::Movsd, M::Movsq],
        Operation::MoveSignExtend => &[M::Movsx, M::Movsxd],
        Operation::MoveSwapped => &[M::Movbe],
        Operation::Alu(Alu::Add) => &[M::Add],
        Operation::Alu(Alu::Or) => &[M::Or],
        Operation::Alu(Alu::Adc) => &[M::Adc],
        Operation::Alu(Alu::Sbb) => &[M::Sbb],
        Operation::Alu(Alu::And) => &[M::And],
        Operation::Alu(Alu::Sub) => &[M::Sub],
        Operation::Alu(Alu::Xor) => &[M::Xor],
        Operation::Alu(Alu::Cmp) if ours.string.is_none() => &[M::Cmp],
        Operation::Alu(Alu::Cmp) if register(ours.destination) => {
            &[M::Scasb, M::Scasw, M::Scasd, M::Scasq]
        }
        Operation::Alu(Alu::Cmp) => &[M::Cmpsb, M::Cmpsw, M::Cmpsd, M::Cmpsq],
        Operation::Alu(Alu::Test) => &[M::Test],
        Operation::Alu(Alu::Not) => &[M::Not],
        Operation::Alu(Alu::Neg) => &[M::Neg],
        Operation::Alu(Alu::Inc) => &[M::Inc],
        Operation::Alu(Alu::Dec) => &[M::Dec],
        Operation::Alu(Alu::Bt) => &[M::Bt],
        Operation::Alu(Alu::Bts) => &[M::Bts],
        Operation::Alu(Alu::Btr) => &[M::Btr],
        Operation::Alu(Alu::Btc) => &[M::Btc],
        Operation::Exchange => &[M::Xchg],
        Operation::ExchangeAdd => &[M::Xadd],
        Operation::CompareExchange => &[M::Cmpxchg],
    }
}

/// Instructions we accept whenever they exist, whatever their operands.
const ALWAYS: &[Mnemonic] = &[
    Mnemonic::Cpuid,
    Mnemonic::Rdmsr,
    Mnemonic::Wrmsr,
    Mnemonic::Hlt,
    Mnemonic::Vmcall,
    Mnemonic::Vmmcall,
    Mnemonic::Vmgexit,
    Mnemonic::Xsetbv,
    Mnemonic::Invd,
    Mnemonic::Wbinvd,
    Mnemonic::Wbnoinvd,
    Mnemonic::Insb,
    Mnemonic::Insw,
    Mnemonic::Insd,
    Mnemonic::Outsb,
    Mnemonic::Outsw,
    Mnemonic::Outsd,
];

/// Instructions we accept when one operand is memory.
const ON_MEMORY: &[Mnemonic] = &[
    Mnemonic::Mov,
    Mnemonic::Movnti,
    Mnemonic::Movzx,
    Mnemonic::Movsx,
    Mnemonic::Movsxd,
    Mnemonic::Movbe,
    Mnemonic::Add,
    Mnemonic::Or,
    Mnemonic::Adc,
    Mnemonic::Sbb,
    Mnemonic::And,
    Mnemonic::Sub,
    Mnemonic::Xor,
    Mnemonic::Cmp,
    Mnemonic::Test,
    Mnemonic::Not,
    Mnemonic::Neg,
    Mnemonic::Inc,
    Mnemonic::Dec,
    Mnemonic::Xchg,
    Mnemonic::Xadd,
    Mnemonic::Cmpxchg,
    Mnemonic::Bt,
    Mnemonic::Bts,
    Mnemonic::Btr,
    Mnemonic::Btc,
];

pub(super) fn has_memory(theirs: &Theirs) -> bool {
    (0..theirs.op_count()).any(|index| theirs.op_kind(index) == OpKind::Memory)
}

/// An instruction of theirs that we claim to understand.
pub(super) fn claimed(theirs: &Theirs) -> bool {
    let with_segment_register = (0..theirs.op_count()).any(|index| {
        theirs.op_kind(index) == OpKind::Register && theirs.op_register(index).is_segment_register()
    });
    if with_segment_register {
        return false;
    }
    ALWAYS.contains(&theirs.mnemonic())
        || ON_MEMORY.contains(&theirs.mnemonic()) && has_memory(theirs)
        || theirs.is_string_instruction()
}
