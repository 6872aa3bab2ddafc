//! Hostile buffers and lamps, while keys and the pointer move. Run: `cargo +nightly fuzz run input`
//! in `crates/virtio`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use virtio::input::Input;
use virtio::test_support::{Random, attack_with};

fuzz_target!(|bytes: &[u8]| {
    let mut random = Random::from_bytes(bytes);
    let (device, input) = if random.one_in(2) {
        Input::pointer("pointer0").unwrap()
    } else {
        let lamps = Box::new(|lamps| assert!(lamps < 8));
        Input::keyboard("keyboard0", lamps).unwrap()
    };
    attack_with(Box::new(device), &mut random, |_, random| {
        match random.below(3) {
            0 => input.key(random.below(0x300) as u16, random.one_in(2)),
            1 => input.point(random.next() as u16, random.next() as u16),
            _ => input.wheel(random.next() as i32, random.next() as i32),
        }
        let mut event = vec![0; random.pick(&[0, 7, 8, 9])];
        random.fill(&mut event);
        event
    });
});
