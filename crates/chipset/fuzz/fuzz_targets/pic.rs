#![no_main]

use chipset_fuzz::exercise::{PicSubject, run};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| run::<PicSubject>(bytes));
