//! Hostile chains for the entropy device. Run: `cargo +nightly fuzz run rng` in `crates/virtio`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use virtio::rng::Rng;
use virtio::test_support::{Random, attack_with};

fuzz_target!(|bytes: &[u8]| {
    let rng = Box::new(Rng::new("rng0"));
    attack_with(rng, &mut Random::from_bytes(bytes), |_, _| vec![0; 16]);
});
