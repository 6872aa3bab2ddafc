//! Any bytes as content of every name, and any names as an offer: 1 byte of limit, then the bytes.
//! Run: `cargo +nightly fuzz run content` in `crates/clipboard`.
#![no_main]

use clipboard::targets::{TARGETS, formats, is_secret, known};
use clipboard::{Content, uris};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((limit, bytes)) = bytes.split_first() else {
        return;
    };
    let most = usize::from(*limit) * 16;
    for target in &TARGETS {
        match target.coding.read(bytes.to_vec(), most) {
            Ok(Content::Bytes(content)) => {
                assert!(content.len() <= most);
                assert!(target.name == "image/png" || std::str::from_utf8(&content).is_ok());
            }
            Ok(Content::Files { paths, cut }) => {
                assert!(!paths.is_empty() && paths.iter().all(|path| path.is_absolute()));
                // What was read once is the same when it is written and read again.
                assert_eq!(uris::read_list(&uris::write_list(&paths)), paths);
                let again = uris::read_copied(&uris::write_copied(&paths, cut));
                assert_eq!(again, Some((paths, cut)));
            }
            Err(_) => {}
        }
    }
    let _ = is_secret(bytes);
    let names = bytes.split(|byte| *byte == b'\n').filter_map(|name| std::str::from_utf8(name).ok());
    let offered: Vec<_> = names.filter_map(known).map(|place| &TARGETS[place]).collect();
    assert!(formats(offered.iter().copied()).len() <= offered.len());
});
