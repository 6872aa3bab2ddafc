//! What a file is: attributes read and set.

use super::{Open, Server, name_of, stat};
use crate::message::{Fields, set};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid,
};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// P9_GETATTR_BASIC: all up to the number of blocks (Linux `include/net/9p/9p.h`).
const BASIC: u64 = 0x7ff;
/// Bytes of birth time, generation and data version, which are not said.
const UNSAID: usize = 8 * 4;

impl Server {
    /// valid[8] qid[13] mode[4] uid[4] gid[4] nlink[8] rdev[8] size[8] blksize[8] blocks[8], access, change and
    /// status time as seconds[8] nanoseconds[8], and what is not said.
    pub(super) fn attributes(&self, handle: u32) -> Result<Vec<u8>, Errno> {
        let stat = stat(self.path(handle)?)?;
        let mut body = Vec::with_capacity(160);
        body.extend(BASIC.to_le_bytes());
        body.extend(self.qid(&stat));
        let host = (stat.st_uid, stat.st_gid);
        let (user, group) = self.owner.as_ref().map_or(host, |owner| owner.shown(host));
        for word in [stat.st_mode, user, group] {
            body.extend(word.to_le_bytes());
        }
        for long in [
            stat.st_nlink,
            stat.st_rdev,
            stat.st_size as u64,
            stat.st_blksize as u64,
            stat.st_blocks as u64,
            stat.st_atime as u64,
            stat.st_atime_nsec,
            stat.st_mtime as u64,
            stat.st_mtime_nsec,
            stat.st_ctime as u64,
            stat.st_ctime_nsec,
        ] {
            body.extend(long.to_le_bytes());
        }
        body.extend([0; UNSAID]);
        Ok(body)
    }

    /// fid[4] valid[4] mode[4] uid[4] gid[4] size[8], access and change time as seconds[8] nanoseconds[8].
    pub(super) fn set_attributes(&self, fields: &mut Fields<'_>) -> Result<Vec<u8>, Errno> {
        let (handle, valid, mode) = (fields.word()?, fields.word()?, fields.word()?);
        let (user, group, size) = (fields.word()?, fields.word()?, fields.long()?);
        let mut time = || Ok::<_, Errno>((fields.long()?, fields.long()?));
        let (access, change) = (time()?, time()?);
        let given = |flags: u32| valid & flags != 0;
        let fid = self.fid(handle)?;
        let path = Arc::clone(&fid.path);
        let name = name_of(&path);
        if given(set::MODE) {
            let mode = Mode::from_raw_mode(mode);
            rustix::fs::chmodat(&self.descriptors, &name, mode, AtFlags::empty())?;
        }
        if given(set::USER | set::GROUP) {
            let user = given(set::USER).then(|| Uid::from_raw(user));
            let group = given(set::GROUP).then(|| Gid::from_raw(group));
            rustix::fs::chownat(&*path, "", user, group, AtFlags::EMPTY_PATH)?;
        }
        if given(set::SIZE) {
            match (&fid.open, fid.sort) {
                (_, FileType::Directory) => return Err(Errno::ISDIR),
                (Open::File { file, writable: true }, _) => rustix::fs::ftruncate(file, size)?,
                _ => rustix::fs::ftruncate(self.for_writing(&path)?, size)?,
            }
        }
        if given(set::ACCESS_TIME | set::CHANGE_TIME) {
            let time = |change: u32, to_given: u32, (seconds, nanoseconds): (u64, u64)| {
                let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
                match (given(change), given(to_given)) {
                    (false, _) => Ok(Timespec { tv_nsec: UTIME_OMIT, ..now }),
                    (true, false) => Ok(now),
                    (true, true) if nanoseconds > 999_999_999 => Err(Errno::INVAL),
                    // Times before 1970 are negative seconds.
                    (true, true) => {
                        Ok(Timespec { tv_sec: seconds as i64, tv_nsec: nanoseconds as i64 })
                    }
                }
            };
            let times = Timestamps {
                last_access: time(set::ACCESS_TIME, set::ACCESS_TIME_GIVEN, access)?,
                last_modification: time(set::CHANGE_TIME, set::CHANGE_TIME_GIVEN, change)?,
            };
            rustix::fs::utimensat(&self.descriptors, &name, &times, AtFlags::empty())?;
        }
        // All of the above set the status time as well.
        if valid == set::STATUS_TIME {
            rustix::fs::chownat(&*path, "", None, None, AtFlags::EMPTY_PATH)?;
        }
        Ok(Vec::new())
    }

    fn for_writing(&self, path: &OwnedFd) -> Result<OwnedFd, Errno> {
        self.reopen(path, OFlags::WRONLY | OFlags::NONBLOCK)
    }

    /// type[4] bsize[4] blocks[8] bfree[8] bavail[8] files[8] ffree[8] fsid[8] namelen[4]
    pub(super) fn statfs(&self, handle: u32) -> Result<Vec<u8>, Errno> {
        let found = rustix::fs::fstatfs(self.path(handle)?)?;
        let mut body = Vec::with_capacity(60);
        // Not truncated: magic numbers, sizes of blocks and lengths of names have 32 bits.
        for word in [found.f_type as u32, found.f_bsize as u32] {
            body.extend(word.to_le_bytes());
        }
        for long in [
            found.f_blocks,
            found.f_bfree,
            found.f_bavail,
            found.f_files,
            found.f_ffree,
            self.shared.0,
        ] {
            body.extend(long.to_le_bytes());
        }
        body.extend((found.f_namelen as u32).to_le_bytes());
        Ok(body)
    }
}
