//! A guest's SVG: what comes of it is taken again as it is, and names nothing outside itself.
//! Run: `cargo +nightly fuzz run drawing` in `host-agent`.
#![no_main]

use host_agent::launchers::drawing::check;
use host_agent::untrusted::Untrusted;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = check(Untrusted::new(bytes.to_vec())) {
        for word in ["<script", "<!", "<?", "<foreignObject"] {
            assert!(!text.contains(word), "{text}");
        }
        let again = check(Untrusted::new(text.clone().into_bytes())).expect("our own is one");
        assert_eq!(again, text);
    }
});
