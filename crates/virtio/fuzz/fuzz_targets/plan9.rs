//! Hostile 9P messages; nothing outside the shared folder may change, and of a read-only one nothing.
//! Run: `cargo +nightly fuzz run plan9` in `crates/virtio`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::fs;
use virtio::plan9::Plan9;
use virtio::test_support::{Random, attack_with};

/// A counted string of 9P.
fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_le_bytes()[..], text.as_bytes()].concat()
}

fuzz_target!(|bytes: &[u8]| {
    let mut random = Random::from_bytes(bytes);
    let folder = tempfile::tempdir().unwrap();
    let share = folder.path().join("share");
    fs::create_dir_all(share.join("sub")).unwrap();
    fs::write(share.join("file"), "shared").unwrap();
    fs::write(folder.path().join("secret"), "secret").unwrap();
    std::os::unix::fs::symlink("../secret", share.join("link")).unwrap();
    let read_only = random.one_in(2);
    let device = Plan9::new("9p0", "home", &share, read_only).unwrap();
    attack_with(Box::new(device), &mut random, |_, random| {
        let kind = random.pick(&[
            8, 12, 14, 16, 18, 20, 22, 24, 26, 30, 32, 40, 50, 52, 54, 70, 72, 74, 76, 100, 104,
            108, 110, 110, 116, 118, 120, 122,
        ]);
        let mut body = Vec::new();
        if kind == 104 {
            body.extend([0, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0]);
        }
        for _ in 0..random.below(7) {
            match random.below(5) {
                0 => body.extend(string(
                    random.pick(&["file", "sub", "link", "..", "a/b", "/", "9P2000.L", "user.x"]),
                )),
                1 => body.extend((random.below(4) as u16).to_le_bytes()),
                2 => body.extend(random.next().to_le_bytes()),
                _ => body.extend((random.below(5) as u32).to_le_bytes()),
            }
        }
        let mut message = (7 + body.len() as u32).to_le_bytes().to_vec();
        message.extend([kind, 1, 0]);
        message.extend(body);
        message
    });
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    assert_eq!(
        fs::read_to_string(folder.path().join("secret")).unwrap(),
        "secret"
    );
    if read_only {
        assert_eq!(fs::read_dir(&share).unwrap().count(), 3);
        assert_eq!(fs::read_to_string(share.join("file")).unwrap(), "shared");
    }
});
