//! A FUSE client as small as it can be, on a real virtiofsd.

use super::{FsError, FsOptions, VirtioFs, find};
use crate::Device;
use crate::test_support::{Buffer, TestDriver, skipped};
use std::os::unix::net::UnixListener;
use std::path::Path;

const REQUESTS: u16 = 1;

/// Operations (Linux `include/uapi/linux/fuse.h`).
const LOOKUP: u32 = 1;
const MKDIR: u32 = 9;
const OPEN: u32 = 14;
const READ: u32 = 15;
const INIT: u32 = 26;

fn options(folder: &Path, read_only: bool) -> FsOptions {
    std::fs::create_dir(folder.join("share")).unwrap();
    std::fs::write(folder.join("share/file"), "shared").unwrap();
    FsOptions {
        name: "fs0".to_owned(),
        tag: "home".to_owned(),
        folder: folder.join("share"),
        read_only,
        socket: folder.join("fs.sock"),
    }
}

fn start(folder: &Path, read_only: bool) -> Option<Box<VirtioFs>> {
    match VirtioFs::start(options(folder, read_only)) {
        Ok(device) => Some(Box::new(device)),
        Err(error @ FsError::Missing { .. }) => {
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
    let parts = [
        Buffer::Out(&header),
        Buffer::Out(body),
        Buffer::In(16),
        Buffer::In(4096),
    ];
    let used = driver.request(REQUESTS, &parts);
    // fuse_out_header: length, error, unique.
    let length = u32::from_le_bytes(used.data[..4].try_into().unwrap());
    let error = i32::from_le_bytes(used.data[4..8].try_into().unwrap());
    (error, used.data[16..length as usize].to_vec())
}

/// The greeting (fuse_init_in): version 7.31, read-ahead, no flags.
fn greet(driver: &mut TestDriver) {
    let body: Vec<u8> = [7u32, 31, 4096, 0]
        .iter()
        .flat_map(|n| n.to_le_bytes())
        .collect();
    assert_eq!(fuse(driver, INIT, 0, &body).0, 0);
}

#[test]
fn a_file_is_read_through_virtiofsd_also_after_a_pause_and_a_reset() {
    let folder = tempfile::tempdir().unwrap();
    let Some(device) = start(folder.path(), false) else {
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
        assert_eq!(
            fuse(&mut driver, READ, node, &read),
            (0, b"shared".to_vec())
        );
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
    let Some(device) = start(folder.path(), true) else {
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
    let Some(device) = start(folder.path(), false) else {
        return;
    };
    let process = device.process().to_string();
    let driver = TestDriver::start(device);
    let kill = std::process::Command::new("kill")
        .args(["-9", &process])
        .status();
    assert!(kill.unwrap().success());
    let interrupts = driver.interrupts();
    interrupts.wait("the device to give up", |seen| seen.needs_reset);
}

#[test]
fn a_program_that_is_none_and_a_tag_too_long_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path(), false);
    let missing = VirtioFs::start_program(Path::new("/nowhere/virtiofsd"), options.clone());
    assert!(matches!(missing, Err(FsError::Start { .. })));
    // One that ends at once without a word.
    let silent = VirtioFs::start_program(Path::new("/bin/true"), options.clone());
    assert!(matches!(silent, Err(FsError::Attach(_))));
    options.tag = "x".repeat(37);
    let program = find().unwrap_or_else(|| "/bin/true".into());
    let long = VirtioFs::start_program(&program, options);
    assert!(matches!(long, Err(FsError::Tag { .. })));
}

#[test]
fn a_socket_left_behind_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path(), false);
    drop(UnixListener::bind(&options.socket).unwrap());
    // It starts, and ends without a word of the protocol.
    let ended = VirtioFs::start_program(Path::new("/bin/true"), options);
    assert!(matches!(ended, Err(FsError::Attach(_))));
}
