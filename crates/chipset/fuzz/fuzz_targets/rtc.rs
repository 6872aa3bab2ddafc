#![no_main]

use chipset_fuzz::exercise::{RtcSubject, run};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| run::<RtcSubject>(bytes));
