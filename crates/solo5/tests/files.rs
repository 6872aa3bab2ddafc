//! What a unikernel's file must be, and the state it starts in.

mod common;

use common::{Memory, World};
use proptest::prelude::*;
use solo5::test_support::unikernel;
use solo5::{
    AttachError, Block, Boot, Devices, EntryKind, Net, PlaceError, Start, Unikernel, is_unikernel,
};
use units::Bytes;

const DEVICES: [(&str, EntryKind); 2] = [("disk", EntryKind::Block), ("card", EntryKind::Net)];
const MEMORY: u64 = 4 << 20;

fn file() -> Vec<u8> {
    unikernel(2, &DEVICES, b"code")
}

fn boot(command_line: &str) -> Boot<'_> {
    Boot { memory: Bytes(MEMORY), command_line, tsc_hertz: 2_000_000_000 }
}

/// The refusal of the file with these bytes changed.
fn refusal(change: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut file = file();
    change(&mut file);
    Unikernel::read(&file).unwrap_err().to_string()
}

#[test]
fn versions_one_and_two_are_spoken() {
    for version in 1..=2 {
        let file = unikernel(version, &[], b"code");
        assert_eq!(Unikernel::read(&file).unwrap().version, version);
    }
    let message = Unikernel::read(&unikernel(3, &[], b"code")).unwrap_err();
    assert_eq!(
        message.to_string(),
        "it uses version 3 of the hvt interface; this tender speaks 1 to 2"
    );
    assert!(is_unikernel(&file()));
    assert!(!is_unikernel(b"\x7fELF"));
}

#[test]
fn a_file_that_breaks_a_rule_is_refused_with_the_rule() {
    // Offsets: the header, program headers at 64 of 56 bytes each, notes at 0x1000 and 0x1024.
    let header = |number: usize| 64 + number * 56;
    for (at, value, said) in [
        (0, 0, "e_ident[EI_MAG]"),
        (4, 1, "e_ident[EI_CLASS] of the ELF header is 0x1; allowed is 2"),
        (16, 3, "e_type"),
        (18, 3, "e_machine"),
        (56, 0, "e_phnum"),
        (33, 0xff, "the program header table"),
        (0x1008, 0, "no Solo5 note ABI1"),
        (0x1004, 15, "the Solo5 note ABI1 has a description of 15 bytes"),
        (0x1014, 2, "built for Solo5's target spt"),
        (0x1014, 99, "target of no known name"),
        (0x1024 + 8, 0, "no Solo5 note MFT1"),
        (0x1024 + 24, 2, "manifest version 2"),
        (0x1024 + 28, 0, "0 manifest entries"),
        (0x1024 + 28, 2, "a manifest of 320 bytes with 2 entries"),
        (0x1024 + 32, b'x', "manifest entry 0 is not the reserved one"),
        (0x1024 + 32 + 104, 0, "the name of manifest entry 1"),
        (0x1024 + 32 + 104 + 68, 3, "manifest entry 1 has type 3"),
        (0x1024 + 32 + 104 + 96, 1, "manifest entry 1 says its device is there"),
        (header(2) + 4, 7, "it can be written and executed"),
        (header(2) + 4, 4, "the entry point 0x100000 lies in no executable segment"),
        (header(2) + 18, 0, "it must lie above 0x100000"),
        (header(2) + 48, 3, "its alignment"),
        (header(2) + 38, 1, "more bytes in the file than in memory"),
        (header(3) + 17, 0, "behind the segment before it"),
        (header(2) + 14, 0xff, "a segment of 0x4 bytes"),
        (26, 0xff, "the entry point"),
    ] {
        let message = refusal(|file| file[at] = value);
        assert!(message.contains(said), "{at:#x}: {message}");
    }
    let message = refusal(|file| file[header(3) + 16..][..8].fill(0xff));
    assert!(message.contains("passes the end of the address space"), "{message}");
    let message = refusal(|file| file[0x1024 + 32 + 104..][..4].copy_from_slice(b"card"));
    assert!(message.contains("entries 1 and 2 have the same name"), "{message}");
    let message = refusal(|file| file[0x1024 + 32 + 104..][..68].fill(b'a'));
    assert!(message.contains("is not text of 1 to 67 bytes"), "{message}");
}

#[test]
fn every_declared_device_must_be_there_and_no_other() {
    let file = file();
    let manifest = &Unikernel::read(&file).unwrap().manifest;
    let block = |size| Box::new(World::with_disk(size)) as Box<dyn Block>;
    let net = || Box::new(World::default()) as Box<dyn Net>;
    let refused = |blocks, nets| Devices::attach(manifest, blocks, nets).err().unwrap();
    let missing = refused(vec![], vec![net()]);
    assert!(missing.to_string().contains("block device \"disk\", its 1."), "{missing}");
    let many = refused(vec![block(512)], vec![net(), net()]);
    assert_eq!(many.to_string(), "2 net devices were given, and the unikernel declares 1");
    for size in [0, 511, 513] {
        let odd = refused(vec![block(size)], vec![net()]);
        assert!(matches!(odd, AttachError::Capacity { .. }), "{odd}");
    }
}

#[test]
fn it_starts_in_64_bit_mode_knowing_its_memory_devices_and_command_line() {
    let file = file();
    let unikernel = Unikernel::read(&file).unwrap();
    let memory = Memory::new(MEMORY as usize);
    memory.put(0x10_2000, &[0xff; 4096]);
    let devices = World::with_disk(4096).devices(&unikernel);
    let start = Start::place(&memory, &unikernel, &devices, boot("a b")).unwrap();
    let registers = start.registers;
    assert_eq!((registers.rip, registers.rsp, registers.rdi), (0x10_0000, MEMORY - 8, 0x1_0000));
    assert_eq!(start.system.cr0, 0x8001_0031);
    assert_eq!(start.system.cr4, 0x620);
    assert_eq!(start.system.efer, 0x500);
    assert_eq!(memory.get(0x10_0000), *b"code");
    assert_eq!(memory.get(0x10_2000), [0; 4096]);
    assert_eq!(memory.long(0x1008), 0x00af_9b00_0000_ffff);
    let information: Vec<u64> = (0..5).map(|n| memory.long(0x1_0000 + n * 8)).collect();
    let [size, end, hertz, line, manifest] = information.try_into().unwrap();
    assert_eq!((size, end, hertz), (MEMORY, 0x10_3000, 2_000_000_000));
    assert_eq!(memory.get(line), *b"a b\0");
    assert_eq!((memory.word(manifest), memory.word(manifest + 4)), (1, 3));
    let disk = manifest + 8 + 104;
    assert_eq!(memory.get(disk), *b"disk\0");
    assert_eq!(memory.long(disk + 72), 4096);
    assert_eq!(memory.get(disk + 80), 512u16.to_le_bytes());
    assert_eq!(memory.get(disk + 96), [1]);
    let card = disk + 104;
    assert_eq!(memory.get(card + 72), [0x52, 0x54, 0, 1, 2, 3]);
    assert_eq!(memory.get(card + 78), 1500u16.to_le_bytes());
}

#[test]
fn what_does_not_fit_is_not_started() {
    let file = file();
    let unikernel = Unikernel::read(&file).unwrap();
    let memory = Memory::new(MEMORY as usize);
    let devices = World::with_disk(4096).devices(&unikernel);
    let place = |boot| Start::place(&memory, &unikernel, &devices, boot);
    for size in [0, 1 << 20, 3 << 20, 6 << 30] {
        let boot = Boot { memory: Bytes(size), ..boot("") };
        assert!(matches!(place(boot), Err(PlaceError::Memory(_))), "{size}");
    }
    let beyond = Boot { memory: Bytes(8 << 20), ..boot("") };
    assert!(place(beyond).is_ok(), "only what is used must be there");
    let (fits, long) = ("x".repeat(8191), "x".repeat(8192));
    assert!(place(boot(&fits)).is_ok());
    let refused = place(boot(&long)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "a command line of 8192 bytes; at most 8191 fit, none of them zero"
    );
    assert!(place(boot("a\0b")).is_err());
    let mut large = file.clone();
    // The last segment's size in memory: up to the end of memory.
    large[64 + 3 * 56 + 40..][..8].copy_from_slice(&(MEMORY - 0x10_2000).to_le_bytes());
    let unikernel = Unikernel::read(&large).unwrap();
    let refused = Start::place(&memory, &unikernel, &devices, boot(""));
    assert!(matches!(refused, Err(PlaceError::TooLarge { .. })));
}

proptest! {
    #[test]
    fn no_file_panics_or_reaches_outside(
        changes in prop::collection::vec((0usize..0x1200, any::<u8>()), 0..12),
        cut in prop::option::of(0usize..0x3004),
    ) {
        let mut file = file();
        for (at, byte) in changes {
            file[at] = byte;
        }
        if let Some(cut) = cut {
            file.truncate(cut);
        }
        let _ = is_unikernel(&file);
        if let Ok(unikernel) = Unikernel::read(&file) {
            let memory = Memory::new(MEMORY as usize);
            let given = || Box::new(World::with_disk(4096));
            let of = |kind| unikernel.manifest.entries().iter().filter(move |e| e.kind == kind);
            let blocks = of(EntryKind::Block).map(|_| given() as Box<dyn Block>).collect();
            let nets = of(EntryKind::Net).map(|_| given() as Box<dyn Net>).collect();
            let devices = Devices::attach(&unikernel.manifest, blocks, nets).unwrap();
            if let Ok(start) = Start::place(&memory, &unikernel, &devices, boot("line")) {
                prop_assert!(start.registers.rip < MEMORY);
            }
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
        file.extend(&bytes);
        let _ = is_unikernel(&file);
        let _ = is_unikernel(&bytes);
        let _ = Unikernel::read(&file);
        let _ = Unikernel::read(&bytes);
    }
}
