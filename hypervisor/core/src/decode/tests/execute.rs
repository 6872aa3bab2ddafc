//! Instructions carried out against a device that remembers what was asked of it.

use hypervisor_abi::{GeneralRegisters, SegmentName};
use proptest::prelude::*;

use crate::decode::{AddressSpace, Execution, Mode, Repeat, Step, Width, decode};
use crate::registers::{RFLAGS_CF, RFLAGS_DF, RFLAGS_RF, RFLAGS_ZF};

const RIP: u64 = 0x1000;

fn registers() -> GeneralRegisters {
    GeneralRegisters {
        general: core::array::from_fn(|index| 0x1111_1111_1111_1111 * index as u64),
        rip: RIP,
        rflags: 2,
    }
}

fn space(mode: Mode) -> AddressSpace {
    AddressSpace {
        mode,
        bases: core::array::from_fn(|index| 0x1_0000 * index as u64),
        five_levels: false,
    }
}

/// Runs one instruction; every read brings the next of `answers`.
fn run(
    bytes: &[u8],
    mode: Mode,
    registers: &mut GeneralRegisters,
    answers: &[u64],
) -> Option<Vec<Step>> {
    let instruction = decode(bytes, mode).expect("the test's instruction decodes");
    let mut execution = Execution::begin(&instruction, registers, &space(mode))?;
    let mut answers = answers.iter();
    let mut steps = Vec::new();
    while let Some(step) = execution.step(registers) {
        steps.push(step);
        let value = match step.write {
            None => *answers.next().expect("one answer per read"),
            Some(_) => 0xdead_beef,
        };
        execution.advance(value);
    }
    execution.complete(registers);
    assert_eq!(answers.next(), None, "every answer was asked for");
    Some(steps)
}

fn read(address: u64, width: Width) -> Step {
    Step { address, width, write: None }
}

fn write(address: u64, width: Width, value: u64) -> Step {
    Step { address, width, write: Some(value) }
}

#[test]
fn a_load_extends_as_its_width_says() {
    for (bytes, expected, width) in [
        // MOV EAX, [RBX]; MOV AX; MOV AL; MOV AH; MOV RAX
        (&[0x8b, 0x03][..], 0xdead_beef, Width::Dword),
        (&[0x66, 0x8b, 0x03], 0xffff_ffff_ffff_beef, Width::Word),
        (&[0x8a, 0x03], 0xffff_ffff_ffff_ffef, Width::Byte),
        (&[0x8a, 0x23], 0xffff_ffff_ffff_efff, Width::Byte),
        (&[0x48, 0x8b, 0x03], 0x1234_5678_dead_beef, Width::Qword),
        // MOVZX EAX, byte; MOVSX EAX, byte; MOVSX RAX, word; MOVSXD RAX, dword; MOVBE EAX
        (&[0x0f, 0xb6, 0x03], 0xef, Width::Byte),
        (&[0x0f, 0xbe, 0x03], 0xffff_ffef, Width::Byte),
        (&[0x48, 0x0f, 0xbf, 0x03], 0xffff_ffff_ffff_beef, Width::Word),
        (&[0x48, 0x63, 0x03], 0xffff_ffff_dead_beef, Width::Dword),
        (&[0x0f, 0x38, 0xf0, 0x03], 0xefbe_adde, Width::Dword),
    ] {
        let mut registers = registers();
        registers.general[0] = u64::MAX;
        registers.general[3] = 0x8000;
        let steps = run(bytes, Mode::Bits64, &mut registers, &[0x1234_5678_dead_beef]).unwrap();
        assert_eq!(steps, [read(0x8000, width)], "{bytes:x?}");
        assert_eq!(registers.general[0], expected, "{bytes:x?}");
        assert_eq!(registers.rip, RIP + bytes.len() as u64);
    }
}

#[test]
fn a_finished_instruction_ends_the_suppression_of_breakpoints() {
    let mut registers = registers();
    registers.rflags |= RFLAGS_RF;
    registers.general[3] = 0x8000;
    run(&[0x8b, 0x03], Mode::Bits64, &mut registers, &[0]).unwrap();
    assert_eq!(registers.rflags, 2);
}

#[test]
fn a_store_writes_the_part_its_width_names() {
    let mut registers = registers();
    registers.general[0] = 0x8877_6655_4433_2211;
    registers.general[3] = 0x8000;
    for (bytes, expected) in [
        (&[0x88, 0x23][..], write(0x8000, Width::Byte, 0x22)),
        (&[0x89, 0x03], write(0x8000, Width::Dword, 0x4433_2211)),
        (&[0x48, 0x89, 0x03], write(0x8000, Width::Qword, 0x8877_6655_4433_2211)),
        (&[0x48, 0xc7, 0x03, 0xfe, 0xff, 0xff, 0xff], write(0x8000, Width::Qword, u64::MAX - 1)),
        (&[0x66, 0xc7, 0x03, 0x34, 0x12], write(0x8000, Width::Word, 0x1234)),
        (&[0x66, 0x0f, 0x38, 0xf1, 0x03], write(0x8000, Width::Word, 0x1122)),
        // MOV [RIP + 0x10], EAX
        (&[0x89, 0x05, 0x10, 0, 0, 0], write(RIP + 6 + 0x10, Width::Dword, 0x4433_2211)),
    ] {
        let mut registers = registers;
        assert_eq!(run(bytes, Mode::Bits64, &mut registers, &[]), Some(vec![expected]));
    }
}

#[test]
fn a_change_in_place_reads_then_writes() {
    let mut registers = registers();
    registers.general[3] = 0x8000;
    registers.general[0] = 5;
    // LOCK ADD [RBX], EAX
    let steps = run(&[0xf0, 0x01, 0x03], Mode::Bits64, &mut registers, &[0xffff_fffb]).unwrap();
    assert_eq!(steps, [read(0x8000, Width::Dword), write(0x8000, Width::Dword, 0)]);
    assert_ne!(registers.rflags & RFLAGS_ZF, 0);
    assert_ne!(registers.rflags & RFLAGS_CF, 0);
    // CMP and TEST write nothing.
    for bytes in [&[0x39, 0x03][..], &[0x85, 0x03], &[0x83, 0x3b, 0x05]] {
        let steps = run(bytes, Mode::Bits64, &mut registers, &[5]).unwrap();
        assert_eq!(steps, [read(0x8000, Width::Dword)]);
    }
}

#[test]
fn exchanges_give_the_old_value_to_the_register() {
    let mut registers = registers();
    registers.general[3] = 0x8000;
    registers.general[0] = 5;
    // XCHG [RBX], EAX
    let steps = run(&[0x87, 0x03], Mode::Bits64, &mut registers, &[7]).unwrap();
    assert_eq!(steps, [read(0x8000, Width::Dword), write(0x8000, Width::Dword, 5)]);
    assert_eq!(registers.general[0], 7);
    // XADD [RBX], EAX
    let steps = run(&[0x0f, 0xc1, 0x03], Mode::Bits64, &mut registers, &[3]).unwrap();
    assert_eq!(steps[1], write(0x8000, Width::Dword, 10));
    assert_eq!(registers.general[0], 3);
    // CMPXCHG [RBX], ECX with a match, then without
    registers.general[1] = 99;
    let steps = run(&[0x0f, 0xb1, 0x0b], Mode::Bits64, &mut registers, &[3]).unwrap();
    assert_eq!(steps[1], write(0x8000, Width::Dword, 99));
    assert_eq!(registers.general[0], 3);
    assert_ne!(registers.rflags & RFLAGS_ZF, 0);
    let steps = run(&[0x0f, 0xb1, 0x0b], Mode::Bits64, &mut registers, &[4]).unwrap();
    assert_eq!(steps[1], write(0x8000, Width::Dword, 4));
    assert_eq!(registers.general[0], 4);
    assert_eq!(registers.rflags & RFLAGS_ZF, 0);
}

#[test]
fn a_bit_offset_in_a_register_reaches_past_the_operand() {
    let mut registers = registers();
    registers.general[3] = 0x8000;
    registers.general[0] = 70;
    // BTS [RBX], EAX
    let steps = run(&[0x0f, 0xab, 0x03], Mode::Bits64, &mut registers, &[0]).unwrap();
    assert_eq!(steps, [read(0x8008, Width::Dword), write(0x8008, Width::Dword, 1 << 6)]);
    registers.general[0] = -1_i64 as u64;
    let steps = run(&[0x0f, 0xa3, 0x03], Mode::Bits64, &mut registers, &[1 << 31]).unwrap();
    assert_eq!(steps, [read(0x7ffc, Width::Dword)]);
    assert_ne!(registers.rflags & RFLAGS_CF, 0);
    // With an immediate the offset stays inside.
    let steps = run(&[0x0f, 0xba, 0x23, 70], Mode::Bits64, &mut registers, &[0]).unwrap();
    assert_eq!(steps, [read(0x8000, Width::Dword)]);
}

#[test]
fn a_repeated_string_goes_one_iteration_at_a_time() {
    let mut registers = registers();
    registers.general[0] = 0x41;
    registers.general[1] = 2;
    registers.general[7] = 0x8000;
    // REP STOSB
    let bytes = [0xf3, 0xaa];
    let steps = run(&bytes, Mode::Bits64, &mut registers, &[]).unwrap();
    assert_eq!(steps, [write(0x8000, Width::Byte, 0x41)]);
    assert_eq!((registers.rip, registers.general[1]), (RIP, 1));
    let steps = run(&bytes, Mode::Bits64, &mut registers, &[]).unwrap();
    assert_eq!(steps, [write(0x8001, Width::Byte, 0x41)]);
    assert_eq!((registers.rip, registers.general[1]), (RIP + 2, 0));
    registers.rip = RIP;
    assert_eq!(run(&bytes, Mode::Bits64, &mut registers, &[]), Some(vec![]));
    assert_eq!((registers.rip, registers.general[7]), (RIP + 2, 0x8002));
}

#[test]
fn string_ports_move_on_by_an_element() {
    let mut registers = registers();
    registers.general[1] = 0xffff_0000_0000_0003;
    registers.general[7] = 0xffff_fffe;
    // REP INSW with 32-bit addresses
    let instruction = decode(&[0x67, 0xf3, 0x66, 0x6d], Mode::Bits64).unwrap();
    let pointers = instruction.string.unwrap();
    assert_eq!((pointers.repeat, pointers.bytes), (Some(Repeat::Equal), 2));
    assert!(pointers.advance(&mut registers));
    assert_eq!((registers.general[1], registers.general[7]), (2, 0));
    registers.rflags |= RFLAGS_DF;
    assert!(pointers.advance(&mut registers));
    assert_eq!((registers.general[1], registers.general[7]), (1, 0xffff_fffe));
    assert!(!pointers.is_done(&registers));
    assert!(!pointers.advance(&mut registers), "no more than there are");
    assert!(pointers.is_done(&registers));
    assert_eq!((registers.general[1], registers.general[7]), (0, 0xffff_fffc));
    // OUTSB without repetition
    let pointers = decode(&[0x6e], Mode::Bits64).unwrap().string.unwrap();
    registers.general[6] = 8;
    assert!(!pointers.is_done(&registers) && !pointers.advance(&mut registers));
    assert_eq!((registers.general[1], registers.general[6]), (0, 7));
}

#[test]
fn a_move_between_devices_reads_one_and_writes_the_other() {
    let mut registers = registers();
    registers.rflags |= RFLAGS_DF;
    registers.general[6] = 0x0001_0002;
    registers.general[7] = 0x0001_0004;
    // MOVSD with FS: in 16-bit mode: 16-bit pointers, segments added.
    let steps = run(&[0x66, 0x64, 0xa5], Mode::Bits16, &mut registers, &[0x55]).unwrap();
    assert_eq!(steps, [read(0x4_0002, Width::Dword), write(0x0_0004, Width::Dword, 0x55)]);
    assert_eq!(registers.general[6], 0x0001_fffe);
    assert_eq!(registers.general[7], 0x0001_0000);
}

#[test]
fn a_scan_ends_where_the_condition_says() {
    for (prefix, answer, again) in
        [(0xf3, 7, true), (0xf3, 8, false), (0xf2, 7, false), (0xf2, 8, true)]
    {
        for bytes in [[prefix, 0xae], [prefix, 0xa6]] {
            let mut registers = registers();
            registers.general[0] = 7;
            registers.general[1] = 5;
            registers.general[6] = 0x9000;
            registers.general[7] = 0x8000;
            let answers: &[u64] = if bytes[1] == 0xae { &[answer] } else { &[7, answer] };
            run(&bytes, Mode::Bits64, &mut registers, answers).unwrap();
            assert_eq!(registers.rip == RIP, again);
            assert_eq!(registers.general[1], 4);
        }
    }
}

#[test]
fn addresses_wrap_at_their_size() {
    let mut registers = registers();
    registers.general[3] = 0xffff;
    registers.general[6] = 2;
    // MOV AX, [BX + SI]: DS base is 0x30000.
    let steps = run(&[0x8b, 0x00], Mode::Bits16, &mut registers, &[0]).unwrap();
    assert_eq!(steps, [read(0x3_0001, Width::Word)]);
    registers.general[3] = 0xffff_ffff;
    // MOV EAX, [EBX + 8] in 64-bit mode with 67
    let steps = run(&[0x67, 0x8b, 0x43, 8], Mode::Bits64, &mut registers, &[0]).unwrap();
    assert_eq!(steps, [read(7, Width::Dword)]);
    // The same in 32-bit mode: DS base added after the wrap.
    registers.general[3] = 0xffff_ffff;
    let steps = run(&[0x8b, 0x43, 8], Mode::Bits32, &mut registers, &[0]).unwrap();
    assert_eq!(steps, [read(0x3_0007, Width::Dword)]);
}

#[test]
fn addresses_that_are_not_canonical_fault() {
    let mut registers = registers();
    registers.general[3] = 1 << 47;
    registers.general[4] = (1 << 47) - 2;
    assert_eq!(run(&[0x8b, 0x03], Mode::Bits64, &mut registers, &[]), None);
    // MOV EAX, [RSP]: the last bytes lie outside.
    assert_eq!(run(&[0x8b, 0x04, 0x24], Mode::Bits64, &mut registers, &[]), None);
}

#[test]
fn what_reaches_no_device_through_memory_is_not_carried_out() {
    // CPUID, INSB
    for bytes in [&[0x0f, 0xa2][..], &[0x6c]] {
        assert_eq!(run(bytes, Mode::Bits64, &mut registers(), &[]), None);
    }
}

#[test]
fn only_fs_and_gs_have_bases_in_64_bit_mode() {
    let mut registers = registers();
    registers.general[3] = 0x8000;
    let steps = run(&[0x65, 0x8b, 0x03], Mode::Bits64, &mut registers, &[0]).unwrap();
    let base = space(Mode::Bits64).bases[SegmentName::Gs as usize];
    assert_eq!(steps, [read(0x8000 + base, Width::Dword)]);
    let steps = run(&[0x3e, 0x8b, 0x03], Mode::Bits64, &mut registers, &[0]).unwrap();
    assert_eq!(steps, [read(0x8000, Width::Dword)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    /// Hostile code: whatever the bytes and registers, an instruction ends after at most two accesses.
    #[test]
    fn anything_that_decodes_ends(
        bytes in proptest::array::uniform15(any::<u8>()),
        general in proptest::array::uniform16(any::<u64>()),
        rip in any::<u64>(),
        rflags in any::<u64>(),
        mode in 0_usize..3,
        answer in any::<u64>(),
        five_levels in any::<bool>(),
        base in any::<u64>(),
    ) {
        let mode = [Mode::Bits16, Mode::Bits32, Mode::Bits64][mode];
        let Ok(instruction) = decode(&bytes, mode) else { return Ok(()) };
        let mut registers = GeneralRegisters { general, rip, rflags };
        let space = AddressSpace { mode, bases: [base; 6], five_levels };
        if let Some(mut execution) = Execution::begin(&instruction, &registers, &space) {
            let mut accesses = 0;
            while execution.step(&registers).is_some() {
                accesses += 1;
                prop_assert!(accesses <= 2);
                execution.advance(answer);
            }
            execution.complete(&mut registers);
        }
    }
}
