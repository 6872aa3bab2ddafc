//! Any file as a kernel, any file as an initrd.
//! Run: `cargo +nightly fuzz run kernel` in `crates/loader`.
#![no_main]

use layout::MemoryMap;
use libfuzzer_sys::fuzz_target;
use loader::{EntryPoint, Request};
use std::cell::OnceCell;
use std::io::Cursor;
use units::{Bytes, GuestPhysical};
use vm_memory::{GuestAddress, GuestMemoryMmap};

const MIB: u64 = 32;

thread_local! {
    static MEMORY: OnceCell<GuestMemoryMmap> = const { OnceCell::new() };
}

fuzz_target!(|kernel: &[u8]| {
    let map = MemoryMap::new(Bytes::mib(MIB), 40).unwrap();
    let (mut file, mut initrd) = (Cursor::new(kernel), Cursor::new(&b"initrd"[..]));
    let request = Request {
        kernel: &mut file,
        kernel_name: "kernel",
        initrd: Some(&mut initrd),
        initrd_name: "initrd",
        command_line: "console=ttyS0",
        rsdp: Some(GuestPhysical(0xe_0000)),
    };
    let loaded = MEMORY.with(|memory| {
        let memory = memory.get_or_init(|| {
            GuestMemoryMmap::from_ranges(&[(GuestAddress(0), (MIB << 20) as usize)]).unwrap()
        });
        loader::load(memory, &map, request)
    });
    if let Ok(EntryPoint::State { registers, .. }) = loaded.map(|loaded| loaded.entry) {
        assert!(registers.rip < MIB << 20);
    }
});
