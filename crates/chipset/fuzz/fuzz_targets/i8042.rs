#![no_main]

use chipset_fuzz::exercise::{I8042Subject, run};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| run::<I8042Subject>(bytes));
