//! Hostile page numbers, reports and statistics; what is given back must be memory.
//! Run: `cargo +nightly fuzz run balloon` in `crates/virtio`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use units::{Bytes, GuestPhysical};
use virtio::balloon::{Balloon, MemoryReclaim, ReclaimError};
use virtio::test_support::{END, Random, attack_with};

/// Checks instead of giving back: the driver's memory is in use.
struct Checked;

impl MemoryReclaim for Checked {
    fn release(&self, start: GuestPhysical, length: Bytes) -> Result<(), ReclaimError> {
        assert!(start.0 % 4096 == 0 && length.0 % 4096 == 0 && length.0 > 0);
        match start.0.checked_add(length.0) {
            Some(end) if end <= END => Ok(()),
            _ => Err(ReclaimError::NotMemory { start, length }),
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let (balloon, control) = Balloon::new("balloon0", Bytes(END), Box::new(Checked)).unwrap();
    attack_with(
        Box::new(balloon),
        &mut Random::from_bytes(bytes),
        |_, random| {
            let _ = control.set_size(Bytes(random.below(2 * END)));
            if random.one_in(4) {
                control.refresh_statistics();
            }
            let mut pages = vec![0; 4 * random.below(600) as usize];
            random.fill(&mut pages);
            for page in pages.chunks_exact_mut(4).step_by(2) {
                page[2..].fill(0);
            }
            pages
        },
    );
});
