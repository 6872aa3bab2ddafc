//! Hostile chains and messages for a named port, whose host sends some bytes and reads none.
//! Run: `cargo +nightly fuzz run port` in `crates/virtio`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use virtio::console::port::NamedPort;
use virtio::test_support::{Random, attack_with};

/// READY, PORT_READY, OPEN and its opposite: port, event, value (virtio 1.2, 5.3.6.2).
const MESSAGES: [[u8; 8]; 4] = [
    [0, 0, 0, 0, 0, 0, 1, 0],
    [1, 0, 0, 0, 3, 0, 1, 0],
    [1, 0, 0, 0, 6, 0, 1, 0],
    [1, 0, 0, 0, 6, 0, 0, 0],
];

fuzz_target!(|bytes: &[u8]| {
    let path = std::env::temp_dir().join(format!("port-fuzz-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    let mut host = UnixStream::connect(&path).unwrap();
    host.write_all(&[b'i'; 1000]).unwrap();
    let device = Box::new(NamedPort::new("port0", "org.example.port", listener).unwrap());
    attack_with(device, &mut Random::from_bytes(bytes), |queue, random| match queue {
        3 => random.pick(&MESSAGES).to_vec(),
        _ => vec![b'o'; random.below(100) as usize],
    });
});
