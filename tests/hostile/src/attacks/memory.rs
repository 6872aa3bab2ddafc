//! Physical addresses that are not the guest's: past its memory, where the core and other guests are,
//! and as far as addresses go.

use crate::machine::{Chance, MEMORY_END, SCRATCH, fail, physical_bits, say, window};
use crate::traps::{Outcome, Registers, kernel, last_error};

/// Entry of a page table: present, writable.
const WRITE: u64 = 1 << 1;
const PAGE: u64 = 1 << 12;
/// Registers of virtio devices, the I/O APIC and the local APIC: theirs to read.
const DEVICES: [core::ops::Range<u64>; 3] =
    [0xfd00_0000..0xfd00_8000, 0xfec0_0000..0xfec0_1000, 0xfee0_0000..0xfee0_1000];
const PAGE_FAULT: u8 = 14;
const GENERAL_PROTECTION: u8 = 13;

/// Reads must give ones, as where no machine has anything, and writes must be lost.
fn probe(physical: u64) {
    if DEVICES.iter().any(|device| device.contains(&physical)) {
        return;
    }
    let at = window(physical & !7, WRITE);
    // SAFETY: a page of nobody's.
    unsafe {
        let long = at as *mut u64;
        let before = long.read_volatile();
        if before != u64::MAX {
            fail!("{physical:#x} can be read: {before:#x}");
        }
        long.write_volatile(0x1bad_c0de_1bad_c0de);
        (at as *mut u8).add(3).write_volatile(0x5a);
        let after = ((at as *const u8).add(2) as *const u16).read_volatile();
        if after != u16::MAX {
            fail!("{physical:#x} can be written: {after:#x}");
        }
    }
}

/// Addresses past the guest's memory, densely where the core lies and sparsely beyond.
pub(crate) fn outside(chance: &mut Chance) {
    let mut probed = 0_u32;
    let mut all = |from: u64, to: u64, step: u64| {
        let mut at = from;
        while at < to {
            probe(at);
            probed += 1;
            at += step;
        }
    };
    all(MEMORY_END, MEMORY_END + (1 << 20), PAGE);
    all(MEMORY_END + (1 << 20), 512 << 20, 256 * PAGE);
    all(512 << 20, 1 << 32, 16 << 20);
    let bits = physical_bits();
    for bit in 32..bits {
        all(1 << bit, (1 << bit) + 3 * PAGE, PAGE);
        all((1 << bit) + MEMORY_END, (1 << bit) + MEMORY_END + PAGE, PAGE);
    }
    for _ in 0..200 {
        let at = MEMORY_END + chance.below((1 << bits) - MEMORY_END);
        all(at, at + 1, PAGE);
    }
    // Bits above the physical address in a page table: a page fault that says "reserved".
    const RESERVED: u64 = 1 << 3;
    let read: &[u8] = &[0x48, 0x8b, 0x07]; // mov rax, [rdi]
    let mut registers: Registers = [0; 16];
    for bit in bits..52 {
        registers[7] = window(1 << bit | SCRATCH, WRITE);
        let outcome = kernel(read, &mut registers);
        if outcome != Outcome::Fault(PAGE_FAULT) || last_error() & RESERVED == 0 {
            fail!("physical address bit {bit}: {outcome:?}, rax {:#x}", registers[0]);
        }
    }
    say!("memory: {probed} pages are not there");
}

/// Instructions with operands half in memory and half beyond, and on nothing at all.
pub(crate) fn operands(chance: &mut Chance) {
    const FORMS: &[(&str, &[u8])] = &[
        ("mov al,[rdi]", &[0x8a, 0x07]),
        ("mov [rdi],rax", &[0x48, 0x89, 0x07]),
        ("mov dword [rdi],imm", &[0xc7, 0x07, 1, 2, 3, 4]),
        ("movzx", &[0x0f, 0xb7, 0x07]),
        ("movsx", &[0x48, 0x0f, 0xbe, 0x07]),
        ("movsxd", &[0x48, 0x63, 0x07]),
        ("xchg", &[0x48, 0x87, 0x07]),
        ("lock xadd", &[0xf0, 0x0f, 0xc1, 0x07]),
        ("add [rdi],eax", &[0x01, 0x07]),
        ("lock add", &[0xf0, 0x01, 0x07]),
        ("or eax,[rdi]", &[0x0b, 0x07]),
        ("and word", &[0x66, 0x21, 0x07]),
        ("cmp", &[0x39, 0x07]),
        ("test", &[0x85, 0x07]),
        ("sub imm", &[0x83, 0x2f, 0x07]),
        ("lodsq", &[0x48, 0xad]),
        ("stosd", &[0xab]),
        ("rep stosb", &[0xf3, 0xaa]),
        ("rep movsd", &[0xf3, 0xa5]),
        ("std rep movsb cld", &[0xfd, 0xf3, 0xa4, 0xfc]),
        ("rep movsq 32", &[0x67, 0xf3, 0x48, 0xa5]),
    ];
    let mut tried = 0_u32;
    for (name, code) in FORMS {
        for round in 0..40 {
            let mut registers: Registers = [0; 16];
            registers[0] = chance.word();
            registers[1] = chance.below(40);
            let target = match round % 4 {
                0 => window(MEMORY_END + chance.below(64), WRITE),
                1 => MEMORY_END - 8 + chance.below(16),
                2 => 0xfee0_0000 + chance.below(0x2f0),
                _ => MEMORY_END + 0xff0 + chance.below(32),
            };
            let source = if round % 8 < 4 { SCRATCH } else { target };
            (registers[6], registers[7]) = (source, target);
            if *name == "std rep movsb cld" {
                registers[6] += 64;
            }
            let outcome = kernel(code, &mut registers);
            let fine = outcome == Outcome::Done || outcome.is(&[GENERAL_PROTECTION, PAGE_FAULT]);
            if !fine {
                fail!("{name} at {target:#x}: {outcome:?}");
            }
            tried += 1;
        }
    }
    say!("operands: {tried} instructions");
}
