//! Properties of X11 windows, which any program sets to anything: what is told of them keeps to the protocol.
//! Run: `cargo +nightly fuzz run window_properties` in `guest-agent`.
#![no_main]

use guest_agent::windows::x11::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| parse::everything(bytes));
