//! A guest's PNG: what comes of it is an icon of a known size that is taken again as it is.
//! Run: `cargo +nightly fuzz run picture` in `host-agent`.
#![no_main]

use host_agent::launchers::picture::{SIZES, check};
use host_agent::untrusted::Untrusted;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(picture) = check(Untrusted::new(bytes.to_vec())) {
        assert!(SIZES.contains(&picture.size));
        let again = check(Untrusted::new(picture.png.clone())).expect("our own is one");
        assert_eq!(again, picture);
    }
});
