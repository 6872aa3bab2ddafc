//! Extended attributes: those of users (`user.*`), and no others, which mean something to the host.

use super::{Fid, Open, Server};
use crate::message::Fields;
use crate::transfer::Data;
use rustix::fs::{FileType, OFlags, XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What names begin with (xattr(7)).
const OF_USERS: &[u8] = b"user.";
/// The longest name, the largest value and the largest list (Linux `include/uapi/linux/limits.h`).
const LONGEST_NAME: usize = 255;
const LARGEST_VALUE: usize = 64 << 10;
const LARGEST_LIST: usize = 64 << 10;
/// Handles that hold a value or a list at once.
const MOST_HELD: usize = 64;

/// See [`Open::Setting`].
#[derive(Debug)]
pub(super) struct Setting {
    file: OwnedFd,
    name: Vec<u8>,
    flags: XattrFlags,
    value: Vec<u8>,
    written: usize,
}

impl Setting {
    /// Takes bytes in their order; how many.
    pub(super) fn write(
        &mut self,
        offset: u64,
        count: usize,
        mut data: impl Data,
    ) -> Result<usize, Errno> {
        if offset != self.written as u64 {
            return Err(Errno::INVAL);
        }
        let room = &mut self.value[self.written..];
        let part = room.get_mut(..count).ok_or(Errno::NOSPC)?;
        data.read_exact(part).map_err(|_| Errno::INVAL)?;
        self.written += count;
        Ok(count)
    }

    /// Sets it. One of no bytes is removed, as other servers take it.
    pub(super) fn finish(self) -> Result<(), Errno> {
        let name = self.name.as_slice();
        match self.value.is_empty() {
            true => fremovexattr(&self.file, name),
            false if self.written < self.value.len() => Err(Errno::INVAL),
            false => fsetxattr(&self.file, name, &self.value, self.flags),
        }
    }
}

/// Whether this is a name that a guest may use.
fn name_of_users(name: &[u8]) -> Result<&[u8], Errno> {
    match name {
        name if !name.starts_with(OF_USERS) => Err(Errno::OPNOTSUPP),
        name if name.len() > LONGEST_NAME || name.contains(&0) => Err(Errno::RANGE),
        name => Ok(name),
    }
}

impl Server {
    /// Each holds memory.
    fn room_for_one_more(&self) -> Result<(), Errno> {
        let held = |fid: &&Fid| matches!(fid.open, Open::Attribute(_) | Open::Setting(_));
        if self.fids.values().filter(held).count() < MOST_HELD { Ok(()) } else { Err(Errno::MFILE) }
    }

    /// The file itself, opened: no path leads anywhere else then.
    fn opened(&self, fid: &Fid) -> Result<OwnedFd, Errno> {
        match fid.sort {
            FileType::RegularFile | FileType::Directory => {
                self.reopen(&fid.path, OFlags::RDONLY | OFlags::NONBLOCK)
            }
            _ => Err(Errno::OPNOTSUPP),
        }
    }

    /// fid[4] newfid[4] name[s]; answers with size[8]. Without a name it is the list of names.
    pub(super) fn read_attribute(&mut self, fields: &mut Fields<'_>) -> Result<Vec<u8>, Errno> {
        let (from, to, name) = (fields.word()?, fields.word()?, fields.string()?);
        if self.fids.contains_key(&to) {
            return Err(Errno::BADF);
        }
        self.room_for_one_more()?;
        let fid = self.fid(from)?;
        let bytes = match name {
            b"" => match self.opened(fid) {
                // A link or a pipe has none.
                Err(Errno::OPNOTSUPP) => Vec::new(),
                file => {
                    let mut list = vec![0; LARGEST_LIST];
                    let count = match flistxattr(&file?, &mut list[..]) {
                        Err(Errno::OPNOTSUPP) => 0,
                        count => count?,
                    };
                    let names = list[..count].split_inclusive(|byte| *byte == 0);
                    names.filter(|name| name.starts_with(OF_USERS)).flatten().copied().collect()
                }
            },
            name => {
                let name = name_of_users(name)?;
                let mut value = vec![0; LARGEST_VALUE];
                let count = fgetxattr(&self.opened(fid)?, name, &mut value[..])?;
                value[..count].to_vec()
            }
        };
        let (path, sort) = (Arc::clone(&fid.path), fid.sort);
        let size = bytes.len() as u64;
        self.fids.insert(to, Fid { path, sort, open: Open::Attribute(bytes) });
        Ok(size.to_le_bytes().to_vec())
    }

    /// fid[4] name[s] attr_size[8] flags[4]; the handle is for writing the value from then on.
    pub(super) fn begin_attribute(&mut self, fields: &mut Fields<'_>) -> Result<Vec<u8>, Errno> {
        let (handle, name) = (fields.word()?, name_of_users(fields.string()?)?.to_vec());
        let (size, flags) = (fields.long()?, fields.word()?);
        self.room_for_one_more()?;
        let size = usize::try_from(size).ok().filter(|size| *size <= LARGEST_VALUE);
        let size = size.ok_or(Errno::TOOBIG)?;
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        let file = self.opened(self.fid(handle)?)?;
        let setting = Setting { file, name, flags, value: vec![0; size], written: 0 };
        self.fids.get_mut(&handle).ok_or(Errno::BADF)?.open = Open::Setting(setting);
        Ok(Vec::new())
    }
}
