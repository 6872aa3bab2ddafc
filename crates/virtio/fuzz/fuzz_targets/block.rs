//! Hostile requests for a disk of 1 MiB, raw or qcow2.
//! Run: `cargo +nightly fuzz run block` in `crates/virtio`.
#![no_main]

use disk::{CreateOptions, Format, OpenOptions, create};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;
use virtio::block::{Block, BlockOptions, RateLimit};
use virtio::test_support::{Random, attack_with};

const SIZE: u64 = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    let mut random = Random::from_bytes(bytes);
    let format = random.pick(&[Format::Raw, Format::Qcow2]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    create(
        &path,
        &CreateOptions {
            format,
            size: SIZE,
            backing: None,
        },
    )
    .unwrap();
    let block = Block::new(BlockOptions {
        name: "block0".to_owned(),
        image: Arc::new(OpenOptions::new(format).open(&path).unwrap()),
        serial: "fuzz".to_owned(),
        queues: 2,
        limit: RateLimit::default(),
    });
    attack_with(Box::new(block), &mut random, |_, random| {
        let kind = random.pick(&[0_u32, 1, 4, 8, 11, 13, 99]);
        let sector = random.pick(&[0, 1, 100, SIZE / 512 - 1, SIZE / 512, u64::MAX]);
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend([0; 4]);
        bytes.extend(sector.to_le_bytes());
        let mut rest = vec![0; 16 * random.below(40) as usize];
        random.fill(&mut rest[..]);
        bytes.extend(rest);
        bytes
    });
    if format == Format::Raw {
        assert_eq!(std::fs::metadata(&path).unwrap().len(), SIZE);
    }
});
