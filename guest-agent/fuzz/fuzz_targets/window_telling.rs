//! Windows and presents in any order: see `telling_steps.rs`.
//! Run: `cargo +nightly fuzz run window_telling` in `guest-agent`.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../telling_steps.rs"]
mod telling_steps;

fuzz_target!(|steps: Vec<(u8, u8, u16, u16)>| {
    telling_steps::take(&steps);
});
