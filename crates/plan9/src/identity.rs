//! Which file it is, whatever it is called by now.

use rustix::fs::{AtFlags, Statx, StatxFlags, statx};
use rustix::io::Errno;
use std::os::fd::AsFd;

/// See the module. A file system gives the number of a removed file to the next one, which then was born later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    device: (u32, u32),
    inode: u64,
    /// Seconds and nanoseconds; none where the file system does not know.
    born: Option<(i64, u32)>,
}

impl Identity {
    /// Of an open file.
    pub(crate) fn of(file: impl AsFd) -> Result<Self, Errno> {
        facts(file, b"").map(|facts| (&facts).into())
    }
}

impl From<&Statx> for Identity {
    fn from(facts: &Statx) -> Self {
        let knows = facts.stx_mask & StatxFlags::BTIME.bits() != 0;
        Self {
            device: (facts.stx_dev_major, facts.stx_dev_minor),
            inode: facts.stx_ino,
            born: knows.then_some((facts.stx_btime.tv_sec, facts.stx_btime.tv_nsec)),
        }
    }
}

/// What is known of the file `name` in an open folder, or without a name of the open file itself.
pub(crate) fn facts(folder: impl AsFd, name: &[u8]) -> Result<Statx, Errno> {
    let here = if name.is_empty() { AtFlags::EMPTY_PATH } else { AtFlags::empty() };
    let flags = AtFlags::SYMLINK_NOFOLLOW | here;
    statx(folder, name, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME)
}
