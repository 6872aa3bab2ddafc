//! Hostile requests to a folder of which one name was given: no other file changes, and none is read.
//! Run: `cargo +nightly fuzz run portal` in `crates/plan9`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plan9::client::{Client, string, words};
use plan9::{Guard, Names, Options};
use std::fs;

const KINDS: &[u8] =
    &[8, 12, 14, 20, 22, 24, 26, 30, 32, 40, 50, 52, 54, 70, 72, 74, 76, 110, 110, 110, 116, 118, 120, 122];
const NAMES: &[&str] = &["given", "hidden", "folder", "new", "newer", "link", "..", "a/b", ""];

fuzz_target!(|bytes: &[u8]| {
    let base = tempfile::tempdir().unwrap();
    let at = |name: &str| base.path().join("home").join(name);
    fs::create_dir_all(at("folder")).unwrap();
    fs::write(at("given"), "given").unwrap();
    fs::write(at("hidden"), "a secret").unwrap();
    fs::write(at("folder/hidden"), "a secret").unwrap();
    std::os::unix::fs::symlink("hidden", at("link")).unwrap();
    let root = fs::File::open(base.path().join("home")).unwrap();
    let only = Some(Names::new([b"given".to_vec()]));
    let options = Options { max_handles: 20, only, ..Options::default() };
    let mut client = Client::attach(Guard::new(root.into(), options).unwrap());
    let mut bytes = bytes.iter().copied();
    'all: while let Some(kind) = bytes.next() {
        if kind >= 250 {
            // Somebody of the host saves a file, perhaps where the guest made one.
            let name = NAMES[usize::from(kind) % 2 + 3];
            if at("other").symlink_metadata().is_err() && !at(name).is_dir() {
                fs::write(at("other"), "a secret").unwrap();
                fs::rename(at("other"), at(name)).unwrap();
            }
            continue;
        }
        let kind = KINDS[usize::from(kind) % KINDS.len()];
        let mut body = Vec::new();
        for _ in 0..6 {
            let Some(byte) = bytes.next() else { break 'all };
            let value = usize::from(byte >> 2);
            match byte % 4 {
                0 => body.extend(string(NAMES[value % NAMES.len()])),
                1 => body.extend((value as u16 % 3).to_le_bytes()),
                2 => body.extend(words(&[value as u32 % 6])),
                _ => break,
            }
        }
        if let Ok(answer) = client.call(kind, &body) {
            assert!(!answer.windows(8).any(|part| part == b"a secret"));
        }
    }
    for name in ["hidden", "folder/hidden"] {
        assert_eq!(fs::read_to_string(at(name)).unwrap(), "a secret");
    }
    assert_eq!(fs::read_dir(at("folder")).unwrap().count(), 1);
    assert!(fs::symlink_metadata(at("link")).unwrap().is_symlink());
    assert_eq!(fs::read_dir(base.path()).unwrap().count(), 1);
});
