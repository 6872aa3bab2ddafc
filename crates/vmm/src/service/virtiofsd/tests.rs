//! A FUSE client as small as it can be, on a real virtiofsd.

use super::{arguments, maps_devices, shared_folder};
use crate::service::Service;
use definition::{Share, ShareKind};
use engine::discovery::Version;
use std::os::unix::net::UnixListener;
use std::path::Path;
use virtio::Device;
use virtio::remote::RemoteDevice;
use virtio::test_support::{Buffer, TestDriver, skipped};

const REQUESTS: u16 = 1;

/// Operations (Linux `include/uapi/linux/fuse.h`).
const LOOKUP: u32 = 1;
const MKDIR: u32 = 9;
const OPEN: u32 = 14;
const READ: u32 = 15;
const INIT: u32 = 26;

fn share(folder: &Path, read_only: bool) -> Share {
    std::fs::create_dir(folder.join("share")).unwrap();
    std::fs::write(folder.join("share/file"), "shared").unwrap();
    Share {
        tag: "home".to_owned(),
        path: folder.join("share"),
        kind: ShareKind::VirtioFs,
        read_only,
    }
}

fn start(folder: &Path, read_only: bool) -> Option<(Box<RemoteDevice>, Service)> {
    let socket = folder.join("fs.sock");
    // Left behind by a process that was killed.
    drop(UnixListener::bind(&socket).unwrap());
    match shared_folder("fs0", &share(folder, read_only), &socket) {
        Ok((device, service)) => {
            assert!(!socket.exists());
            Some((Box::new(device), service))
        }
        Err(error) if error.to_string().contains("not installed") => {
            skipped(&error);
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// One request: the error (0 is none) and the answer's body.
fn fuse(driver: &mut TestDriver, operation: u32, node: u64, body: &[u8]) -> (i32, Vec<u8>) {
    // fuse_in_header: length, operation, unique, node, user, group, process, padding.
    let mut header = (40 + body.len() as u32).to_le_bytes().to_vec();
    header.extend(operation.to_le_bytes());
    header.extend(1u64.to_le_bytes());
    header.extend(node.to_le_bytes());
    header.extend([0; 16]);
    let parts = [Buffer::Out(&header), Buffer::Out(body), Buffer::In(16), Buffer::In(4096)];
    let used = driver.request(REQUESTS, &parts);
    // fuse_out_header: length, error, unique.
    let length = u32::from_le_bytes(used.data[..4].try_into().unwrap());
    let error = i32::from_le_bytes(used.data[4..8].try_into().unwrap());
    (error, used.data[16..length as usize].to_vec())
}

/// The greeting (fuse_init_in): version 7.31, read-ahead, no flags.
fn greet(driver: &mut TestDriver) {
    let body: Vec<u8> = [7u32, 31, 4096, 0].iter().flat_map(|n| n.to_le_bytes()).collect();
    assert_eq!(fuse(driver, INIT, 0, &body).0, 0);
}

#[test]
fn a_file_is_read_through_virtiofsd_also_after_a_pause_and_a_reset() {
    let folder = tempfile::tempdir().unwrap();
    let Some((device, _service)) = start(folder.path(), false) else {
        return;
    };
    let mut tag = [0; 40];
    device.read_config(0, &mut tag);
    assert_eq!((&tag[..5], &tag[36..]), (&b"home\0"[..], &[1, 0, 0, 0][..]));
    let mut driver = TestDriver::start(device);
    for round in 0..3 {
        if round != 1 {
            greet(&mut driver);
        }
        let (error, entry) = fuse(&mut driver, LOOKUP, 1, b"file\0");
        assert_eq!(error, 0);
        let node = u64::from_le_bytes(entry[..8].try_into().unwrap());
        let (error, opened) = fuse(&mut driver, OPEN, node, &[0; 8]);
        assert_eq!(error, 0);
        // fuse_read_in: handle, offset, size, flags, owner, open flags, padding.
        let mut read = opened[..8].to_vec();
        read.extend([0; 8]);
        read.extend(100u32.to_le_bytes());
        read.extend([0; 20]);
        assert_eq!(fuse(&mut driver, READ, node, &read), (0, b"shared".to_vec()));
        match round {
            0 => {
                driver.stop();
                driver.resume();
            }
            _ => driver.reset(),
        }
    }
}

#[test]
fn a_read_only_share_refuses_a_change() {
    let folder = tempfile::tempdir().unwrap();
    let Some((device, _service)) = start(folder.path(), true) else {
        return;
    };
    let mut driver = TestDriver::start(device);
    greet(&mut driver);
    // fuse_mkdir_in: mode, mask; then the name.
    let body = [&[0o755u32.to_le_bytes(), [0; 4]].concat()[..], b"made\0"].concat();
    assert_eq!(fuse(&mut driver, MKDIR, 1, &body).0, -30, "EROFS");
    assert!(!folder.path().join("share/made").exists());
}

#[test]
fn when_virtiofsd_dies_the_device_asks_for_a_reset() {
    let folder = tempfile::tempdir().unwrap();
    let Some((device, service)) = start(folder.path(), false) else {
        return;
    };
    let driver = TestDriver::start(device);
    service.kill();
    let interrupts = driver.interrupts();
    interrupts.wait("the device to give up", |seen| seen.needs_reset);
}

#[test]
fn a_folder_virtiofsd_does_not_share_is_told_in_its_words() {
    let folder = tempfile::tempdir().unwrap();
    let mut share = share(folder.path(), false);
    share.path = folder.path().join("not there");
    let Err(error) = shared_folder("fs0", &share, &folder.path().join("fs.sock")) else {
        panic!("a folder that is not there was shared");
    };
    let message = error.to_string();
    if message.contains("not installed") {
        skipped(&error);
        return;
    }
    assert!(message.contains("not there"), "{message}");
    assert!(message.contains("ended with code"), "{message}");
}

#[test]
fn a_read_only_share_is_read_only() {
    let folder = tempfile::tempdir().unwrap();
    let mut share = share(folder.path(), false);
    assert!(!arguments(&share, 5).contains(&"--readonly".into()));
    share.read_only = true;
    let arguments = arguments(&share, 5);
    assert!(arguments.contains(&"--readonly".into()));
    assert_eq!(arguments[0], "--fd=5");
}

#[test]
fn only_a_virtiofsd_known_to_be_too_old_is_refused() {
    for fine in [None, Some(Version(1, 14, 0)), Some(Version(2, 0, 0))] {
        assert_eq!(maps_devices(fine), Ok(()));
    }
    let reason = maps_devices(Some(Version(1, 13, 2))).unwrap_err();
    assert!(reason.starts_with("virtiofsd 1.14.0 or later and there is 1.13.2"), "{reason}");
}
