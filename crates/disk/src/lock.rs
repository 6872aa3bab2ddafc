//! Locks on image files, in QEMU's own scheme, so that our VMs and QEMU's keep off each other's
//! disks.
//!
//! QEMU takes open-file-description locks on single bytes (QEMU block/file-posix.c): byte 100 + n
//! says "I use permission n", byte 200 + n says "nobody else may use permission n". All locks are
//! read locks; a conflict is found by asking who holds the opposite byte.
#![allow(unsafe_code)]

use crate::DiskError;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const USED: i64 = 100;
const UNSHARED: i64 = 200;
/// Permission numbers (QEMU include/block/block-common.h).
const READ: i64 = 0;
const WRITE: i64 = 1;
const RESIZE: i64 = 3;

/// What an opener needs and what it shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Reads; others may read.
    Read,
    /// Reads and writes; others may do neither.
    Write,
}

impl Access {
    fn used(self) -> &'static [i64] {
        match self {
            Self::Read => &[READ],
            Self::Write => &[READ, WRITE, RESIZE],
        }
    }

    fn unshared(self) -> &'static [i64] {
        // A reader's data must stay as they are. A writer's lets others look, as QEMU's does, but a
        // reader will not accept a writer.
        &[WRITE, RESIZE]
    }

    fn wanted(self) -> &'static str {
        match self {
            Self::Read => "reading it needs that nobody writes to it",
            Self::Write => "writing to it needs that nobody else writes to it or relies on it",
        }
    }
}

/// Locks `file`; the lock goes when every descriptor of this open file is closed. A filesystem
/// without locks is used without, with a warning.
pub(crate) fn lock(file: &File, path: &Path, access: Access) -> Result<(), DiskError> {
    let mine = (access.used().iter().map(|n| USED + n))
        .chain(access.unshared().iter().map(|n| UNSHARED + n));
    for byte in mine {
        match set(file, byte) {
            Ok(()) => {}
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EINVAL | libc::ENOLCK | libc::ENOTSUP)
                ) =>
            {
                tracing::warn!(path = %path.display(), %error, "filesystem has no locks; nothing keeps another VM off this disk");
                return Ok(());
            }
            Err(source) => {
                return Err(DiskError::Io { path: path.to_owned(), tried: "lock", source });
            }
        }
    }
    let theirs = (access.used().iter().map(|n| UNSHARED + n))
        .chain(access.unshared().iter().map(|n| USED + n));
    for byte in theirs {
        if held_by_other(file, byte).map_err(DiskError::io(path, "look for locks of"))? {
            return Err(DiskError::Locked {
                path: path.to_owned(),
                holder: holder(file),
                wanted: access.wanted(),
            });
        }
    }
    Ok(())
}

fn record(kind: libc::c_int, byte: i64) -> libc::flock {
    // SAFETY: all zeroes is a valid flock; the pid must be 0 for open-file-description locks.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = byte;
    lock.l_len = 1;
    lock
}

fn set(file: &File, byte: i64) -> io::Result<()> {
    let lock = record(libc::F_RDLCK, byte);
    // SAFETY: the descriptor is open while `file` is borrowed, and F_OFD_SETLK only reads `lock`.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether a write lock on `byte` would meet somebody else's lock.
fn held_by_other(file: &File, byte: i64) -> io::Result<bool> {
    let mut lock = record(libc::F_WRLCK, byte);
    // SAFETY: the descriptor is open while `file` is borrowed, and F_OFD_GETLK writes one flock.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(libc::c_int::from(lock.l_type) != libc::F_UNLCK)
}

/// Names the other processes that have the file open: the kernel keeps no process with such a lock.
fn holder(file: &File) -> String {
    let unknown = || "another process".to_owned();
    let Ok(wanted) = file.metadata() else {
        return unknown();
    };
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return unknown();
    };
    let me = std::process::id();
    let mut names = Vec::new();
    for pid in
        processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
    {
        let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
            continue;
        };
        let mut same = descriptors.flatten().filter(|descriptor| {
            std::fs::metadata(descriptor.path())
                .is_ok_and(|found| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino()))
        });
        // In this very process the file is open once for the one who asks.
        if (pid == me && same.nth(1).is_some()) || (pid != me && same.next().is_some()) {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            names.push(format!("{} (process {pid})", name.trim()));
        }
    }
    if names.is_empty() { unknown() } else { names.join(", ") }
}
