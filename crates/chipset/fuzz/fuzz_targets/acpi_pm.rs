#![no_main]

use chipset_fuzz::exercise::{AcpiPmSubject, run};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| run::<AcpiPmSubject>(bytes));
