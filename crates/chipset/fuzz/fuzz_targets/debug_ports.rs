#![no_main]

use chipset_fuzz::exercise::{DebugSubject, run};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| run::<DebugSubject>(bytes));
