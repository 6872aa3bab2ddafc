//! Every encoding we accept means the same to an independent decoder, and we accept every encoding of
//! the instructions we claim.

use std::fmt;

use hypervisor_abi::SegmentName;
use iced_x86::{Decoder, DecoderOptions, Instruction as Theirs, OpKind, Register as TheirRegister};
use proptest::prelude::*;

use super::claims::{claimed, has_memory, mnemonics};
use crate::decode::{
    Alu, Base, DecodeError, Instruction, MAX_LENGTH, Memory, Mode, Operand, Operation, Register,
    Repeat, Width, decode,
};

const MODES: [(Mode, u32); 3] = [(Mode::Bits16, 16), (Mode::Bits32, 32), (Mode::Bits64, 64)];

fn theirs(bytes: &[u8], bits: u32) -> Theirs {
    Decoder::with_ip(bits, bytes, 0, DecoderOptions::NONE).decode()
}

fn their_segment(register: TheirRegister) -> SegmentName {
    match register {
        TheirRegister::ES => SegmentName::Es,
        TheirRegister::CS => SegmentName::Cs,
        TheirRegister::SS => SegmentName::Ss,
        TheirRegister::DS => SegmentName::Ds,
        TheirRegister::FS => SegmentName::Fs,
        TheirRegister::GS => SegmentName::Gs,
        other => panic!("{other:?} is no segment"),
    }
}

fn their_register(register: TheirRegister) -> Register {
    let high = matches!(
        register,
        TheirRegister::AH | TheirRegister::CH | TheirRegister::DH | TheirRegister::BH
    );
    // AH to BH follow the four low bytes in their numbering, as SPL to DIL follow them.
    let number = if high {
        register as u8 - TheirRegister::AH as u8
    } else {
        register.full_register() as u8 - TheirRegister::RAX as u8
    };
    Register { number, high }
}

/// In 64-bit mode they report overrides that do nothing.
fn check_segment(segment: SegmentName, theirs: &Theirs, what: &What<'_>) {
    let theirs = their_segment(theirs.memory_segment());
    let based = |segment| matches!(segment, SegmentName::Fs | SegmentName::Gs);
    if what.bits != 64 || based(theirs) || based(segment) {
        assert_eq!(segment, theirs, "{what}");
    }
}

fn check_memory(ours: &Instruction, memory: &Memory, theirs: &Theirs, what: &What<'_>) {
    let mask = ours.address_size.mask();
    check_segment(memory.segment, theirs, what);
    let base = theirs.memory_base();
    let mut displacement = memory.displacement;
    match memory.base {
        Base::None => assert_eq!(base, TheirRegister::None, "{what}"),
        Base::Register(number) => {
            assert_eq!(number, their_register(base).number, "{what}");
            assert_eq!(base.size(), ours.address_size.bytes() as usize, "{what}");
        }
        Base::NextInstruction => {
            assert!(matches!(base, TheirRegister::RIP | TheirRegister::EIP), "{what}");
            displacement = displacement.wrapping_add(u64::from(ours.length));
        }
    }
    match memory.index {
        None => assert_eq!(theirs.memory_index(), TheirRegister::None, "{what}"),
        Some((number, scale)) => {
            assert_eq!(number, their_register(theirs.memory_index()).number, "{what}");
            assert_eq!(u32::from(scale), theirs.memory_index_scale(), "{what}");
        }
    }
    assert_eq!(displacement & mask, theirs.memory_displacement64() & mask, "{what}");
}

/// The string forms of operand kinds: which pointer with which address size.
fn their_pointer(kind: OpKind) -> Option<(u8, Width)> {
    Some(match kind {
        OpKind::MemorySegSI => (6, Width::Word),
        OpKind::MemorySegESI => (6, Width::Dword),
        OpKind::MemorySegRSI => (6, Width::Qword),
        OpKind::MemoryESDI => (7, Width::Word),
        OpKind::MemoryESEDI => (7, Width::Dword),
        OpKind::MemoryESRDI => (7, Width::Qword),
        _ => return None,
    })
}

fn check_string(ours: &Instruction, theirs: &Theirs, what: &What<'_>) {
    let pointers = ours.string.expect("string instructions have pointers");
    let has = |number| {
        let wanted = Some((number, ours.address_size));
        (0..theirs.op_count()).any(|index| their_pointer(theirs.op_kind(index)) == wanted)
    };
    assert_eq!((pointers.source, pointers.destination), (has(6), has(7)), "{what}");
    assert_eq!(pointers.address_size, ours.address_size, "{what}");
    assert_eq!(pointers.bytes, theirs.memory_size().size() as u64, "{what}");
    assert_eq!(ours.memory.is_some(), pointers.source, "{what}");
    if let Some(memory) = ours.memory {
        assert_eq!(memory.base, Base::Register(6), "{what}");
        check_segment(memory.segment, theirs, what);
    }
    let repeat = match (theirs.has_rep_prefix(), theirs.has_repne_prefix()) {
        (false, false) => None,
        (true, _) => Some(Repeat::Equal),
        (false, true) => Some(Repeat::NotEqual),
    };
    assert_eq!(pointers.repeat, repeat, "{what}");
}

fn check_operand(
    ours: &Instruction,
    operand: Operand,
    theirs: &Theirs,
    index: u32,
    what: &What<'_>,
) {
    let kind = theirs.op_kind(index);
    match operand {
        Operand::None | Operand::StringDestination => {}
        Operand::Memory => assert_eq!(kind, OpKind::Memory, "{what}"),
        Operand::Register(register) => {
            assert_eq!(kind, OpKind::Register, "{what}");
            let theirs = theirs.op_register(index);
            assert_eq!(register, their_register(theirs), "{what}");
            assert_eq!(theirs.size(), ours.width.bytes() as usize, "{what}");
        }
        Operand::Immediate(value) => {
            // They extend to the operand size, or not at all for bit offsets.
            let mask = match ours.operation {
                Operation::Alu(Alu::Bt | Alu::Bts | Alu::Btr | Alu::Btc) => 0xff,
                _ => ours.width.mask(),
            };
            assert_eq!(value & mask, theirs.immediate(index) & mask, "{what}");
        }
    }
}

/// What is compared, for messages.
struct What<'a> {
    bytes: &'a [u8],
    bits: u32,
    theirs: &'a Theirs,
    ours: Option<&'a Instruction>,
}

impl fmt::Display for What<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, bits, theirs, ours } = self;
        write!(f, "{bytes:02x?} in {bits} bits: {theirs:?}\n{ours:?}")
    }
}

/// Compares one string of bytes. Returns whether we accepted it.
fn compare(bytes: &[u8], (mode, bits): (Mode, u32)) -> bool {
    let theirs = theirs(bytes, bits);
    let mut what = What { bytes, bits, theirs: &theirs, ours: None };
    let ours = match decode(bytes, mode) {
        Ok(ours) => ours,
        Err(error) => {
            assert!(theirs.is_invalid() || !claimed(&theirs), "{what}: refused as {error:?}");
            return false;
        }
    };
    assert!(!theirs.is_invalid(), "{what}: accepted as {ours:?}");
    what.ours = Some(&ours);
    assert_eq!(usize::from(ours.length), theirs.len(), "{what}");
    assert!(mnemonics(&ours).contains(&theirs.mnemonic()), "{what}");
    if ours.string.is_some() {
        check_string(&ours, &theirs, &what);
    } else {
        assert_eq!(ours.memory.is_some(), has_memory(&theirs), "{what}");
        if let Some(memory) = ours.memory {
            check_memory(&ours, &memory, &theirs, &what);
        }
        check_operand(&ours, ours.destination, &theirs, 0, &what);
        check_operand(&ours, ours.source, &theirs, 1, &what);
    }
    if ours.memory.is_some() {
        let size = theirs.memory_size().size() as u64;
        assert_eq!(ours.memory_width.bytes(), size, "{what}");
    }
    true
}

/// A small generator, so that the sweep is the same every time.
struct Random(u64);

impl Random {
    fn byte(&mut self) -> u8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 as u8
    }
}

const PREFIXES: &[&[u8]] = &[
    &[],
    &[0x66],
    &[0x67],
    &[0xf2],
    &[0xf3],
    &[0xf0],
    &[0x2e],
    &[0x64],
    &[0x66, 0x67],
    &[0xf3, 0x66],
    &[0xf2, 0xf3],
    &[0x40],
    &[0x48],
    &[0x4f],
    &[0x66, 0x48],
    &[0x48, 0x66],
    &[0xf3, 0x45],
    &[0x67, 0x43],
];

fn sweep(map: &[u8], opcodes: impl Iterator<Item = u8> + Clone) {
    let mut random = Random(0x1234_5678_9abc_def1);
    for mode in MODES {
        let mut accepted = 0;
        for prefixes in PREFIXES {
            for opcode in opcodes.clone() {
                // Every ModRM byte without prefixes; with them a sample that meets every field.
                let stride = if prefixes.is_empty() { 1 } else { 5 };
                for modrm in (0..=255).step_by(stride) {
                    let mut bytes = [0; MAX_LENGTH];
                    let head = [*prefixes, map, &[opcode, modrm]].concat();
                    for (index, byte) in bytes.iter_mut().enumerate() {
                        *byte = head.get(index).copied().unwrap_or_else(|| random.byte());
                    }
                    accepted += u32::from(compare(&bytes, mode));
                }
            }
        }
        assert!(accepted > 500);
    }
}

#[test]
fn every_one_byte_opcode_means_the_same_to_both() {
    sweep(&[], 0..=255);
}

#[test]
fn every_two_byte_opcode_means_the_same_to_both() {
    sweep(&[0x0f], 0..=255);
}

#[test]
fn every_movbe_means_the_same_to_both() {
    sweep(&[0x0f, 0x38], 0xf0..=0xf1);
}

#[test]
fn every_sib_byte_means_the_same_to_both() {
    for mode in MODES {
        for rex in [0x40, 0x41, 0x42, 0x43, 0x48] {
            for mode_field in [0x04, 0x44, 0x84] {
                for sib in 0..=255 {
                    let bytes = [rex, 0x89, mode_field, sib, 0x81, 0x92, 0xa3, 0xb4, 0, 0];
                    compare(&bytes, mode);
                    compare(&bytes[1..], mode);
                }
            }
        }
    }
}

#[test]
fn the_sixteenth_byte_is_never_taken() {
    let mut long = [0x66; 20];
    long[15] = 0xf4;
    assert_eq!(decode(&long, Mode::Bits64), Err(DecodeError::TooLong));
    long[14] = 0xf4;
    assert_eq!(decode(&long, Mode::Bits64).map(|found| found.length), Ok(15));
    assert_eq!(decode(&long[..14], Mode::Bits64), Err(DecodeError::Incomplete));
    assert_eq!(decode(&[], Mode::Bits16), Err(DecodeError::Incomplete));
}

#[test]
fn transfers_over_the_stack_are_not_emulated() {
    for bytes in [[0xff, 0x30], [0xff, 0x10], [0xff, 0x20], [0x8f, 0x00]] {
        for (mode, _) in MODES {
            assert_eq!(decode(&bytes, mode), Err(DecodeError::Unsupported));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn random_bytes_mean_the_same_to_both(
        bytes in proptest::array::uniform15(any::<u8>()),
        mode in 0_usize..3,
    ) {
        compare(&bytes, MODES[mode]);
    }

    #[test]
    fn a_prefix_of_an_instruction_is_incomplete(
        bytes in proptest::array::uniform15(any::<u8>()),
        mode in 0_usize..3,
    ) {
        let mode = MODES[mode].0;
        if let Ok(whole) = decode(&bytes, mode) {
            let length = usize::from(whole.length);
            prop_assert_eq!(decode(&bytes[..length], mode), Ok(whole));
            for cut in 0..length {
                prop_assert_eq!(decode(&bytes[..cut], mode), Err(DecodeError::Incomplete));
            }
        }
    }
}
