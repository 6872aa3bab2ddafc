//! Hostile chains for the console, whose other end sends some bytes and reads none.
//! Run: `cargo +nightly fuzz run console` in `crates/virtio`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::io::Write;
use std::os::unix::net::UnixStream;
use virtio::console::Console;
use virtio::test_support::{Random, attack_with};

fuzz_target!(|bytes: &[u8]| {
    let (mut host, end) = UnixStream::pair().unwrap();
    end.set_nonblocking(true).unwrap();
    host.write_all(&[b'i'; 1000]).unwrap();
    let console = Box::new(Console::new("console0", Box::new(end)));
    attack_with(console, &mut Random::from_bytes(bytes), |_, random| {
        vec![b'o'; random.below(100) as usize]
    });
});
