//! Calls to the core that are not the guest's to make, and the instructions of virtualization itself.

use crate::machine::{Chance, SCRATCH, USER, fail, is_amd, say, window};
use crate::traps::{Outcome, Registers, kernel, user};
use hypervisor_abi::{Fault, GuestCall, ROOT_CALLS, RootCall, Status};

const VMCALL: &[u8] = &[0x0f, 0x01, 0xc1];
const VMMCALL: &[u8] = &[0x0f, 0x01, 0xd9];
const INVALID_OPCODE: u8 = 6;
const GENERAL_PROTECTION: u8 = 13;
const PAGE_FAULT: u8 = 14;

/// What call `number` from kernel mode may come back with.
fn expected(number: u64, status: Status) -> bool {
    let fault = status.unpack();
    if number >= ROOT_CALLS {
        return fault == Some((Fault::Denied, 0));
    }
    match GuestCall::from_number(number) {
        None => fault == Some((Fault::UnknownCall, 0)),
        Some(GuestCall::MemoryMap) => status == Status::OK || fault == Some((Fault::NotFound, 1)),
        Some(GuestCall::Ipc | GuestCall::Clipboard | GuestCall::Display) => {
            status == Status::OK || fault == Some((Fault::NotSupported, 0))
        }
        Some(_) => status == Status::OK,
    }
}

/// Every number of both ranges and many others, with bad pointers and guessed keys.
pub(crate) fn calls(chance: &mut Chance) {
    let (own, other) = if is_amd() { (VMMCALL, VMCALL) } else { (VMCALL, VMMCALL) };
    let mut made = 0_u32;
    let mut call = |number: u64, chance: &mut Chance| {
        let mut registers: Registers = [0; 16];
        for register in &mut registers {
            *register = chance.nasty();
        }
        registers[0] = number;
        let mut again = registers;
        made += 1;
        let outcome = kernel(own, &mut registers);
        let status = Status(registers[0]);
        if outcome != Outcome::Done || !expected(number, status) {
            fail!("call {number:#x} from the kernel: {outcome:?}, {:#x}", status.0);
        }
        // From a program: refused, or an instruction it does not have.
        match user(own, 0, &mut again) {
            Outcome::Done | Outcome::Fault(INVALID_OPCODE | GENERAL_PROTECTION) => {}
            outcome => fail!("call {number:#x} from a program: {outcome:?}"),
        }
        let outcome = kernel(other, &mut [0; 16]);
        if outcome != Outcome::Fault(INVALID_OPCODE) {
            fail!("the other vendor's call: {outcome:?}");
        }
    };
    for number in (0..0x180).chain(ROOT_CALLS..ROOT_CALLS + 0x180) {
        call(number, chance);
    }
    for known in RootCall::ALL {
        for _ in 0..20 {
            call(known.number(), chance);
        }
    }
    for known in GuestCall::ALL {
        for _ in 0..20 {
            call(known.number(), chance);
        }
    }
    for _ in 0..500 {
        let number = chance.nasty();
        call(number, chance);
    }
    say!("calls: {made} made");
}

/// Instructions that only hosts have, and some that this guest must not have without the core.
const FORMS: &[(&str, &[u8])] = &[
    ("VMXON", &[0xf3, 0x0f, 0xc7, 0x37]),
    ("VMXOFF", &[0x0f, 0x01, 0xc4]),
    ("VMCLEAR", &[0x66, 0x0f, 0xc7, 0x37]),
    ("VMPTRLD", &[0x0f, 0xc7, 0x37]),
    ("VMPTRST", &[0x0f, 0xc7, 0x3f]),
    ("VMREAD", &[0x0f, 0x78, 0xc8]),
    ("VMREAD memory", &[0x0f, 0x78, 0x0f]),
    ("VMWRITE", &[0x0f, 0x79, 0xc8]),
    ("VMWRITE memory", &[0x0f, 0x79, 0x0f]),
    ("VMLAUNCH", &[0x0f, 0x01, 0xc2]),
    ("VMRESUME", &[0x0f, 0x01, 0xc3]),
    ("INVEPT", &[0x66, 0x0f, 0x38, 0x80, 0x07]),
    ("INVVPID", &[0x66, 0x0f, 0x38, 0x81, 0x07]),
    ("VMFUNC", &[0x0f, 0x01, 0xd4]),
    ("GETSEC", &[0x0f, 0x37]),
    ("RSM", &[0x0f, 0xaa]),
    ("VMRUN", &[0x0f, 0x01, 0xd8]),
    ("VMLOAD", &[0x0f, 0x01, 0xda]),
    ("VMSAVE", &[0x0f, 0x01, 0xdb]),
    ("STGI", &[0x0f, 0x01, 0xdc]),
    ("CLGI", &[0x0f, 0x01, 0xdd]),
    ("SKINIT", &[0x0f, 0x01, 0xde]),
    ("INVLPGA", &[0x0f, 0x01, 0xdf]),
    ("INVLPGB", &[0x0f, 0x01, 0xfe]),
    ("TLBSYNC", &[0x0f, 0x01, 0xff]),
    ("PVALIDATE", &[0xf2, 0x0f, 0x01, 0xff]),
    ("RMPADJUST", &[0xf3, 0x0f, 0x01, 0xfe]),
    ("RMPUPDATE", &[0xf2, 0x0f, 0x01, 0xfe]),
    ("PSMASH", &[0xf3, 0x0f, 0x01, 0xff]),
    ("ENCLS", &[0x0f, 0x01, 0xcf]),
    ("ENCLU", &[0x0f, 0x01, 0xd7]),
    ("ENCLV", &[0x0f, 0x01, 0xc0]),
    ("PCONFIG", &[0x0f, 0x01, 0xc5]),
    ("TDCALL", &[0x66, 0x0f, 0x01, 0xcc]),
    ("SEAMCALL", &[0x66, 0x0f, 0x01, 0xcf]),
    ("XSAVES", &[0x48, 0x0f, 0xc7, 0x2f]),
    ("XRSTORS", &[0x48, 0x0f, 0xc7, 0x1f]),
    ("WRPKRU", &[0x0f, 0x01, 0xef]),
    ("RDPMC", &[0x0f, 0x33]),
    ("RDPRU", &[0x0f, 0x01, 0xfd]),
    ("MONITOR", &[0x0f, 0x01, 0xc8]),
    ("MWAIT", &[0x0f, 0x01, 0xc9]),
    ("MONITORX", &[0x0f, 0x01, 0xfa]),
    ("MWAITX", &[0x0f, 0x01, 0xfb]),
    ("UMWAIT", &[0xf2, 0x0f, 0xae, 0xf1]),
    ("TPAUSE", &[0x66, 0x0f, 0xae, 0xf1]),
    ("LOADIWKEY", &[0xf3, 0x0f, 0x38, 0xdc, 0xc1]),
    ("HRESET", &[0xf3, 0x0f, 0x3a, 0xf0, 0xc0, 0]),
    ("ICEBP", &[0xf1]),
    ("LOCK prefix on what takes none", &[0xf0, 0x0f, 0xa2]),
];
const SVM: [&str; 3] = ["VMRUN", "VMLOAD", "VMSAVE"];
/// These do nothing bad and may run.
const HARMLESS: &[(&str, &[u8])] = &[
    // Without SEV it is VMMCALL.
    ("VMGEXIT", &[0xf3, 0x0f, 0x01, 0xd9]),
    ("INVD", &[0x0f, 0x08]),
    ("WBINVD", &[0x0f, 0x09]),
    ("WBNOINVD", &[0xf3, 0x0f, 0x09]),
    ("INVLPG", &[0x0f, 0x01, 0x3f]),
    ("INVPCID", &[0x66, 0x0f, 0x38, 0x82, 0x07]),
    ("CLTS", &[0x0f, 0x06]),
    ("SMSW", &[0x0f, 0x01, 0xe0]),
    ("SLDT", &[0x0f, 0x00, 0xc0]),
    ("SWAPGS", &[0x0f, 0x01, 0xf8]),
    ("RDTSCP", &[0x0f, 0x01, 0xf9]),
    ("XGETBV", &[0x0f, 0x01, 0xd0]),
    ("CPUID", &[0x0f, 0xa2]),
    ("PAUSE", &[0xf3, 0x90]),
    ("LLDT 0", &[0x31, 0xc0, 0x0f, 0x00, 0xd0]),
    ("ARPL", &[0x63, 0xc0]),
    ("SYSEXIT without SYSENTER", &[0x0f, 0x35]),
    ("SYSRET without SYSCALL", &[0x0f, 0x07]),
];

/// From the kernel with operands here, at the core's addresses and at nothing; and from programs.
pub(crate) fn virtualization(chance: &mut Chance) {
    let (mut refused, mut passed) = (0_u32, 0_u32);
    for (harmless, (name, code)) in
        FORMS.iter().map(|form| (false, form)).chain(HARMLESS.iter().map(|form| (true, form)))
    {
        for round in 0..8 {
            let mut registers: Registers = [0; 16];
            for register in &mut registers {
                *register = chance.nasty();
            }
            let target = match round % 4 {
                _ if harmless => SCRATCH,
                0 => SCRATCH,
                1 => 0x100_0000,
                2 => window(0x100_0000 + chance.below(1 << 20), 2),
                _ => chance.nasty(),
            };
            (registers[0], registers[7]) = (target, target);
            let from_user = round >= 4 && *name != "SYSEXIT without SYSENTER";
            let outcome = if from_user {
                registers[7] = USER + 0x2000;
                user(code, 0, &mut registers)
            } else {
                kernel(code, &mut registers)
            };
            let faults = [1, INVALID_OPCODE, GENERAL_PROTECTION, PAGE_FAULT, 12];
            match outcome {
                Outcome::Done => passed += 1,
                outcome if outcome.is(&faults) => refused += 1,
                outcome => fail!("{name}: {outcome:?}"),
            }
            // What the other vendor calls so may be another instruction here.
            let other = is_amd() && name.starts_with("VM") && !SVM.contains(name);
            let optional = ["XSAVES", "XRSTORS", "WRPKRU", "MONITORX", "TPAUSE", "UMWAIT", "ICEBP"];
            if outcome == Outcome::Done && !harmless && !other && !optional.contains(name) {
                fail!("{name} was carried out");
            }
        }
    }
    say!("virtualization: {refused} refused, {passed} harmless");
}
