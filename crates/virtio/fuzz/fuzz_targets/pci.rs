//! Random accesses to the registers of the PCI transport, around an entropy device.
//! Run: `cargo +nightly fuzz run pci` in `crates/virtio`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use virtio::rng::Rng;
use virtio::test_support::{Random, attack_pci};

fuzz_target!(|bytes: &[u8]| {
    attack_pci(Box::new(Rng::new("rng0")), &mut Random::from_bytes(bytes));
});
