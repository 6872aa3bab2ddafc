//! Hostile packets, with programs of the host that flood and never read.
//! Run: `cargo +nightly fuzz run vsock` in `crates/virtio`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::io::Write;
use std::os::unix::net::UnixListener;
use virtio::test_support::{Random, attack_with};
use virtio::vsock::Vsock;

const CID: u64 = 42;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().unwrap();
    let vsock = Vsock::new("vsock0", CID, &folder.path().join("vsock.sock"), None).unwrap();
    let listener = UnixListener::bind(folder.path().join("vsock.sock_1")).unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut programs = Vec::new();
    attack_with(
        Box::new(vsock),
        &mut Random::from_bytes(bytes),
        |_, random| {
            while let Ok((mut program, _)) = listener.accept() {
                program.set_nonblocking(true).unwrap();
                let _ = program.write(&[0xaa; 50_000]);
                programs.push(program);
            }
            if programs.len() > 20 {
                programs.clear();
            }
            // The header of virtio 1.2, 5.10.6, mostly with the right addresses.
            let length = random.pick(&[0_u32, 1, 500]);
            let mut packet = CID.to_le_bytes().to_vec();
            packet.extend(random.pick(&[2_u64, 2, 2, 1, CID]).to_le_bytes());
            packet.extend((random.below(3) as u32).to_le_bytes());
            packet.extend(random.pick(&[1_u32, 1, 2, 1 << 30]).to_le_bytes());
            packet.extend(random.pick(&[length, length, u32::MAX]).to_le_bytes());
            packet.extend(random.pick(&[1_u16, 1, 1, 2]).to_le_bytes());
            packet.extend((random.below(9) as u16).to_le_bytes());
            packet.extend((random.below(5) as u32).to_le_bytes());
            packet.extend(random.pick(&[0, 1, 1 << 16, u32::MAX]).to_le_bytes());
            packet.extend(random.pick(&[0, 0, 1, u32::MAX]).to_le_bytes());
            packet.resize(packet.len() + length as usize, 0x55);
            packet
        },
    );
});
