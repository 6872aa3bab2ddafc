//! Any file as a unikernel: the bytes themselves, or a sound file with the bytes as changes to it, 2 of
//! place and 1 of value each.
//! Run: `cargo +nightly fuzz run file` in `crates/solo5`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use solo5::test_support::unikernel;
use solo5::{Boot, Devices, GuestMemory, Start, Unikernel};
use units::{Bytes, GuestPhysical};

const SIZE: u64 = 4 << 20;

/// Memory that keeps nothing and checks its bounds.
struct Memory;

impl GuestMemory for Memory {
    fn holds(&self, address: GuestPhysical, length: u64) -> bool {
        address.0.checked_add(length).is_some_and(|end| end <= SIZE)
    }

    fn read(&self, address: GuestPhysical, into: &mut [u8]) -> bool {
        into.fill(0);
        self.holds(address, into.len() as u64)
    }

    fn write(&self, address: GuestPhysical, bytes: &[u8]) -> bool {
        self.holds(address, bytes.len() as u64)
    }
}

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    let mut file = unikernel(1, &[], &[0xf4; 16]);
    for change in bytes.chunks_exact(3) {
        let place = usize::from(u16::from_le_bytes([change[0], change[1]]));
        let length = file.len();
        file[place % length] = change[2];
    }
    read(&file);
});

fn read(file: &[u8]) {
    let _ = solo5::is_unikernel(file);
    let Ok(unikernel) = Unikernel::read(file) else {
        return;
    };
    let Ok(devices) = Devices::attach(&unikernel.manifest, Vec::new(), Vec::new()) else {
        return;
    };
    let boot = Boot {
        memory: Bytes(SIZE),
        command_line: "line",
        tsc_hertz: 1,
    };
    if let Ok(start) = Start::place(&Memory, &unikernel, &devices, boot) {
        assert!(start.registers.rip < SIZE);
    }
}
