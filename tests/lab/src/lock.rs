//! flock(1), which the guest's busybox lacks.

use crate::Result;
use rustix::fs::{FlockOperation, flock};
use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::process::Command;

/// Runs `program` while it holds `path` alone; with `now` not when another holds it.
pub(crate) fn run(path: &Path, now: bool, program: &[OsString]) -> Result {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    let operation = match now {
        true => FlockOperation::NonBlockingLockExclusive,
        false => FlockOperation::LockExclusive,
    };
    flock(&file, operation)?;
    let (name, arguments) = program.split_first().ok_or("no program given")?;
    let status = Command::new(name).args(arguments).status()?;
    if status.success() { Ok(()) } else { Err(format!("the program ended with {status}").into()) }
}
