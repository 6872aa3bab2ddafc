#![no_main]

use chipset_fuzz::exercise::{IoApicSubject, run};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| run::<IoApicSubject>(bytes));
