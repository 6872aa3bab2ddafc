//! Writes sectors, reads them back, and says what the disk holds; waits for a moment in between.
#![no_std]
#![no_main]

use unikernels::{
    ABI, Abi, BootInfo, Entry, Manifest, halt, manifest, poll, read, say, walltime, write,
};

#[used]
#[unsafe(link_section = ".note.solo5.abi")]
static ABI_NOTE: Abi = ABI;

#[used]
#[unsafe(link_section = ".note.solo5.manifest")]
static MANIFEST: Manifest<2> = manifest([Entry::RESERVED, Entry::block("storage")]);

/// The handle of `storage`: its place in the manifest.
const DISK: u64 = 1;
const SECTOR: usize = 512;
/// Sectors written, from the second on.
const SECTORS: usize = 4;
/// `solo5.h`, `SOLO5_R_EINVAL`.
const INVALID: i32 = 2;
/// 20 ms.
const PAUSE: u64 = 20_000_000;

#[unsafe(no_mangle)]
extern "C" fn _start(boot: &'static BootInfo) -> ! {
    let Some((capacity, block_size)) = boot.entry(DISK as usize).and_then(Entry::disk) else {
        say!("no disk is attached");
        halt(1);
    };
    say!("disk: {} blocks of {block_size}", capacity / u64::from(block_size));
    let mut sector = [0; SECTOR];
    expect("reading the first sector", read(DISK, 0, &mut sector), 0);
    say!("first sector: {:08x}", checksum(&sector));

    let mut data = [0; SECTORS * SECTOR];
    for (at, byte) in data.iter_mut().enumerate() {
        *byte = (at * 7 + at / SECTOR) as u8;
    }
    expect("writing", write(DISK, SECTOR as u64, &data), 0);
    let mut back = [0; SECTORS * SECTOR];
    expect("reading back", read(DISK, SECTOR as u64, &mut back), 0);
    if data != back {
        say!("what was read is not what was written");
        halt(1);
    }
    say!("checksum: {:08x}", checksum(&back));

    expect("reading past the end", read(DISK, capacity, &mut sector), INVALID);
    expect("reading half a sector", read(DISK, 1, &mut sector), INVALID);
    expect("reading a device that is none", read(0, 0, &mut sector), INVALID);

    let before = walltime();
    let (count, ready) = poll(PAUSE);
    let passed = walltime() - before;
    if (count, ready) != (0, 0) || passed < PAUSE {
        say!("a poll for {PAUSE} ns: {count} ready ({ready:#x}) after {passed} ns");
        halt(1);
    }
    say!("waited");
    halt(0)
}

fn expect(what: &str, answer: i32, expected: i32) {
    if answer != expected {
        say!("{what}: answer {answer}, not {expected}");
        halt(1);
    }
}

/// FNV-1a, 32 bits.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
