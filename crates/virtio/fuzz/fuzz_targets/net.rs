//! Hostile frames and commands, and an other end of the cable that is no better.
//! Run: `cargo +nightly fuzz run net` in `crates/virtio`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use virtio::net::{HEADER_BYTES, Net, Stream};
use virtio::test_support::{Random, attack_with};

fuzz_target!(|bytes: &[u8]| {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let backend = Box::new(Stream::new(ours.into(), 65520));
    let net = Net::new("net0", [0x52, 0x54, 0, 0, 0, 1], backend).unwrap();
    let mut sink = vec![0; 1 << 16];
    attack_with(
        Box::new(net),
        &mut Random::from_bytes(bytes),
        |queue, random| {
            let length = 14 + random.below(3000) as u32;
            let told = if random.one_in(100) {
                random.next() as u32
            } else {
                length
            };
            let mut frame = told.to_be_bytes().to_vec();
            frame.resize(4 + length as usize, 0x55);
            let _ = theirs.write(&frame);
            let _ = theirs.read(&mut sink);
            if queue == 2 {
                let mut command = vec![random.below(7) as u8, random.below(3) as u8];
                command.extend(random.next().to_le_bytes());
                return command;
            }
            let mut request = vec![0; HEADER_BYTES + 14 + random.below(200) as usize];
            if random.one_in(2) {
                random.fill(&mut request[..HEADER_BYTES]);
            }
            request
        },
    );
});
