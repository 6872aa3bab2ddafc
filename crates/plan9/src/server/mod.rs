//! Carries out requests that the guard has let through, from the folder's descriptor on: each name is looked up in
//! the folder that a handle holds, never a path, and no symbolic link is followed. Names are bytes, as they
//! are for both kernels.
//!
//! A handle pins its file. What cannot be done through such a descriptor alone (open, change the mode, link) goes
//! through its link in `/proc/self/fd`, which leads to that file however it is named by now.

mod attributes;
mod extended;
mod listing;

use crate::identity::Identity;
use crate::message::{DATA_HEADER, Fields, HEADER_BYTES, Malformed, error, kind, message, open};
use crate::owner::Owner;
use crate::transfer::{Answer, Data};
use extended::Setting;
use listing::Listing;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// The one version there is.
const VERSION: &[u8] = b"9P2000.L";
/// The smallest message size agreed on; a listing needs room for a name of 255 bytes.
const LEAST_MESSAGE: u32 = 512;
/// What a Tunlinkat may say: that it is a folder (Linux `AT_REMOVEDIR`).
const REMOVE_FOLDER: u32 = 0x200;

/// See the module.
#[derive(Debug)]
pub(crate) struct Server {
    root: Arc<OwnedFd>,
    /// Device and inode of the root.
    shared: (u64, u64),
    /// The folder `/proc/self/fd`.
    descriptors: OwnedFd,
    fids: BTreeMap<u32, Fid>,
    /// Whose the files seem to be.
    owner: Option<Owner>,
    msize: u32,
    /// Names left out of listings.
    left_out: u64,
}

/// What a handle holds.
#[derive(Debug)]
struct Fid {
    /// Opened as a path. Handles that were made from each other share one.
    path: Arc<OwnedFd>,
    sort: FileType,
    open: Open,
}

/// What a handle is open for.
#[derive(Debug)]
enum Open {
    Not,
    File {
        file: OwnedFd,
        writable: bool,
    },
    Folder(Listing),
    /// An extended attribute, or the list of them, as it was when it was asked for.
    Attribute(Vec<u8>),
    /// An extended attribute that is being written and is set when the handle goes.
    Setting(Setting),
}

impl From<Malformed> for Errno {
    fn from(_: Malformed) -> Self {
        Self::INVAL
    }
}

/// How it went; without an error there is an answer.
enum Outcome {
    Body(Vec<u8>),
    /// It stands in the answer already.
    Written,
}

impl Server {
    pub(crate) fn new(root: OwnedFd, owner: Option<Owner>, msize: u32) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let found = stat(&root)?;
        Ok(Self {
            shared: (found.st_dev, found.st_ino),
            descriptors: rustix::fs::openat(CWD, "/proc/self/fd", flags, Mode::empty())?,
            root: Arc::new(root),
            fids: BTreeMap::new(),
            owner,
            msize,
            left_out: 0,
        })
    }

    /// Forgets all handles.
    pub(crate) fn reset(&mut self, msize: u32) {
        self.fids.clear();
        self.msize = msize;
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The largest message now.
    pub(crate) fn msize(&self) -> u32 {
        self.msize
    }

    /// How many names listings had no room for, and forgets them.
    pub(crate) fn take_left_out(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }

    /// Carries out a request whose fixed part is `head` and writes the answer; whether it is done, a walk as far as it
    /// was to go. `expected` is what the first name of a walk must lead to.
    pub(crate) fn serve(
        &mut self,
        head: &[u8],
        data: impl Data,
        answer: &mut impl Answer,
        expected: Option<Identity>,
    ) -> io::Result<bool> {
        let (kind, tag) = (head[4], u16::from_le_bytes([head[5], head[6]]));
        let mut fields = Fields::new(head);
        let outcome = match kind {
            kind::READ => match self.read(&mut fields, tag, answer) {
                Ok(outcome) => Ok(outcome),
                Err(ReadError::Errno(errno)) => Err(errno),
                Err(ReadError::Answer(error)) => return Err(error),
            },
            kind::WALK => match self.walk(&mut fields, expected) {
                Ok((body, done)) => {
                    answer.write_all(&message(kind + 1, tag, &body))?;
                    return Ok(done);
                }
                Err(errno) => Err(errno),
            },
            kind::WRITE => self.write(&mut fields, data).map(Outcome::Body),
            _ => self.carry_out(kind, &mut fields).map(Outcome::Body),
        };
        match outcome {
            Ok(Outcome::Written) => {}
            Ok(Outcome::Body(body)) => answer.write_all(&message(kind + 1, tag, &body))?,
            Err(errno) => {
                answer.write_all(&error(tag, errno.raw_os_error()))?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn carry_out(&mut self, kind: u8, fields: &mut Fields<'_>) -> Result<Vec<u8>, Errno> {
        match kind {
            kind::VERSION => self.version(fields),
            kind::ATTACH => self.attach(fields.word()?),
            kind::CLUNK => self.clunk(fields.word()?),
            kind::FLUSH => Ok(Vec::new()),
            kind::STATFS => self.statfs(fields.word()?),
            kind::GETATTR => self.attributes(fields.word()?),
            kind::SETATTR => self.set_attributes(fields),
            kind::LOPEN => self.open(fields.word()?, fields.word()?),
            kind::LCREATE => self.create(fields),
            kind::READDIR => self.list(fields),
            kind::READLINK => self.read_link(fields.word()?),
            kind::XATTRWALK => self.read_attribute(fields),
            kind::XATTRCREATE => self.begin_attribute(fields),
            kind::FSYNC => self.sync(fields),
            kind::LOCK => {
                self.file(fields.word()?)?;
                // Status "success": the guest's kernel holds the lock among its own programs.
                Ok(vec![0])
            }
            kind::GETLOCK => self.get_lock(fields),
            kind::LINK => self.link(fields),
            kind::MKDIR => self.make_folder(fields),
            kind::RENAMEAT => {
                let (from, old) = (fields.word()?, fields.string()?);
                let (to, new) = (fields.word()?, fields.string()?);
                rustix::fs::renameat(self.path(from)?, old, self.path(to)?, new)?;
                Ok(Vec::new())
            }
            kind::UNLINKAT => {
                let (folder, name) = (fields.word()?, fields.string()?);
                let flags = match fields.word()? {
                    0 => AtFlags::empty(),
                    REMOVE_FOLDER => AtFlags::REMOVEDIR,
                    _ => return Err(Errno::INVAL),
                };
                rustix::fs::unlinkat(self.path(folder)?, name, flags)?;
                Ok(Vec::new())
            }
            // What a guest makes and a program of the host would follow or open.
            kind::SYMLINK | kind::MKNOD => Err(Errno::ACCESS),
            // No authentication; and Linux names what it removes and renames by its folder.
            _ => Err(Errno::OPNOTSUPP),
        }
    }

    fn fid(&self, handle: u32) -> Result<&Fid, Errno> {
        self.fids.get(&handle).ok_or(Errno::BADF)
    }

    fn path(&self, handle: u32) -> Result<&OwnedFd, Errno> {
        Ok(&*self.fid(handle)?.path)
    }

    /// An open file or folder.
    fn file(&self, handle: u32) -> Result<&OwnedFd, Errno> {
        match &self.fid(handle)?.open {
            Open::File { file, .. } => Ok(file),
            Open::Folder(listing) => Ok(listing.folder()),
            _ => Err(Errno::BADF),
        }
    }

    /// Type of the file that a handle holds.
    pub(crate) fn sort(&self, handle: u32) -> Result<FileType, Errno> {
        Ok(self.fid(handle)?.sort)
    }

    fn version(&mut self, fields: &mut Fields<'_>) -> Result<Vec<u8>, Errno> {
        let (msize, version) = (fields.word()?, fields.string()?);
        if msize < LEAST_MESSAGE {
            return Err(Errno::INVAL);
        }
        self.reset(self.msize.min(msize));
        let version = if version == VERSION { VERSION } else { b"unknown" };
        let length = version.len() as u16;
        Ok([&self.msize.to_le_bytes()[..], &length.to_le_bytes(), version].concat())
    }

    fn attach(&mut self, handle: u32) -> Result<Vec<u8>, Errno> {
        if self.fids.contains_key(&handle) {
            return Err(Errno::BADF);
        }
        let path = Arc::clone(&self.root);
        let qid = self.qid(&stat(&path)?);
        self.fids.insert(handle, Fid { path, sort: FileType::Directory, open: Open::Not });
        Ok(qid.to_vec())
    }

    fn walk(
        &mut self,
        fields: &mut Fields<'_>,
        expected: Option<Identity>,
    ) -> Result<(Vec<u8>, bool), Errno> {
        let (from, to, count) = (fields.word()?, fields.word()?, fields.half()?);
        if from != to && self.fids.contains_key(&to) {
            return Err(Errno::BADF);
        }
        let start = self.fid(from)?;
        let (mut path, mut sort) = (Arc::clone(&start.path), start.sort);
        let mut qids = Vec::new();
        let mut walked = 0_u16;
        while walked < count {
            let name = fields.string()?;
            let step = || {
                let found = look_up(&path, name)?;
                let stat = stat(&found)?;
                if walked == 0
                    && let Some(expected) = expected
                    && expected != Identity::of(&found)?
                {
                    // Somebody of the host has put another file there.
                    return Err(Errno::NOENT);
                }
                Ok((found, stat))
            };
            match step() {
                Ok((found, stat)) => {
                    path = Arc::new(found);
                    sort = FileType::from_raw_mode(stat.st_mode);
                    qids.extend(self.qid(&stat));
                }
                Err(errno) if walked == 0 => return Err(errno),
                // So far it went.
                Err(_) => break,
            }
            walked += 1;
        }
        if walked == count {
            self.fids.insert(to, Fid { path, sort, open: Open::Not });
        }
        Ok(([&walked.to_le_bytes()[..], &qids].concat(), walked == count))
    }

    fn clunk(&mut self, handle: u32) -> Result<Vec<u8>, Errno> {
        let fid = self.fids.remove(&handle).ok_or(Errno::BADF)?;
        if let Open::Setting(setting) = fid.open {
            setting.finish()?;
        }
        Ok(Vec::new())
    }

    /// Opens the file that a descriptor of a path stands for.
    fn reopen(&self, path: &OwnedFd, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
        rustix::fs::openat(&self.descriptors, name_of(path), flags, Mode::empty())
    }

    fn open(&mut self, handle: u32, flags: u32) -> Result<Vec<u8>, Errno> {
        let fid = self.fid(handle)?;
        let file = self.reopen(&fid.path, open_flags(flags))?;
        let stat = stat(&file)?;
        let qid = self.qid(&stat);
        // The folder above the shared one is none of the guest's business.
        let above = (self.shared == (stat.st_dev, stat.st_ino)).then_some(stat.st_ino);
        let open = match fid.sort {
            FileType::Directory => Open::Folder(Listing::new(file, above)),
            _ => Open::File { file, writable: flags & open::ACCESS != open::READ_ONLY },
        };
        self.fids.get_mut(&handle).ok_or(Errno::BADF)?.open = open;
        // iounit 0: as much as a message holds.
        Ok([&qid[..], &[0; 4]].concat())
    }

    fn create(&mut self, fields: &mut Fields<'_>) -> Result<Vec<u8>, Errno> {
        let (handle, name) = (fields.word()?, fields.string()?);
        let (flags, mode) = (fields.word()?, fields.word()?);
        let folder = self.fid(handle)?;
        if folder.sort != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        let made = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode);
        let file = rustix::fs::openat(&*folder.path, name, open_flags(flags) | made, mode)?;
        // The same file whatever has its name by now.
        let path = self.reopen(&file, OFlags::PATH)?;
        let qid = self.qid(&stat(&file)?);
        let writable = flags & open::ACCESS != open::READ_ONLY;
        let fid = Fid {
            path: Arc::new(path),
            sort: FileType::RegularFile,
            open: Open::File { file, writable },
        };
        self.fids.insert(handle, fid);
        Ok([&qid[..], &[0; 4]].concat())
    }

    fn read(
        &self,
        fields: &mut Fields<'_>,
        tag: u16,
        answer: &mut impl Answer,
    ) -> Result<Outcome, ReadError> {
        let (handle, offset, count) = (fields.word()?, fields.long()?, fields.word()?);
        let count = count.min(self.msize - DATA_HEADER as u32) as usize;
        match &self.fid(handle)?.open {
            Open::File { file, .. } => {
                // Nothing is written to the answer unless the file could be read.
                match answer.put_file(tag, file.as_fd(), offset, count) {
                    Ok(_) => Ok(Outcome::Written),
                    Err(error) => match Errno::from_io_error(&error) {
                        Some(errno) => Err(errno.into()),
                        None => Err(ReadError::Answer(error)),
                    },
                }
            }
            Open::Attribute(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                let part = &bytes[start..bytes.len().min(start + count)];
                Ok(Outcome::Body([&(part.len() as u32).to_le_bytes()[..], part].concat()))
            }
            Open::Folder(_) => Err(Errno::ISDIR.into()),
            Open::Not | Open::Setting(_) => Err(Errno::BADF.into()),
        }
    }

    fn write(&mut self, fields: &mut Fields<'_>, mut data: impl Data) -> Result<Vec<u8>, Errno> {
        let (handle, offset, count) = (fields.word()?, fields.long()?, fields.word()?);
        let count = count as usize;
        if count > data.left() {
            return Err(Errno::INVAL);
        }
        let written = match &mut self.fids.get_mut(&handle).ok_or(Errno::BADF)?.open {
            Open::File { file, .. } => data
                .write_to(file.as_fd(), offset, count)
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?,
            Open::Setting(setting) => setting.write(offset, count, data)?,
            _ => return Err(Errno::BADF),
        };
        // Not truncated: no more than `count`.
        Ok((written as u32).to_le_bytes().to_vec())
    }

    fn read_link(&self, handle: u32) -> Result<Vec<u8>, Errno> {
        let target = rustix::fs::readlinkat(self.path(handle)?, "", Vec::new())?;
        // A link has less than 4096 bytes (PATH_MAX).
        let length = u16::try_from(target.as_bytes().len()).map_err(|_| Errno::NAMETOOLONG)?;
        Ok([&length.to_le_bytes()[..], target.as_bytes()].concat())
    }

    fn sync(&self, fields: &mut Fields<'_>) -> Result<Vec<u8>, Errno> {
        let (handle, data_only) = (fields.word()?, fields.word()?);
        let file = self.file(handle)?;
        match data_only {
            0 => rustix::fs::fsync(file)?,
            _ => rustix::fs::fdatasync(file)?,
        }
        Ok(Vec::new())
    }

    /// Nobody of the host holds a lock that counts: the same as for [`kind::LOCK`].
    fn get_lock(&self, fields: &mut Fields<'_>) -> Result<Vec<u8>, Errno> {
        /// P9_LOCK_TYPE_UNLCK (Linux `include/net/9p/9p.h`).
        const UNLOCKED: u8 = 2;
        self.file(fields.word()?)?;
        let _ = fields.byte()?;
        let (start, length, process) = (fields.long()?, fields.long()?, fields.word()?);
        let client = fields.string()?;
        let mut body = vec![UNLOCKED];
        body.extend(start.to_le_bytes());
        body.extend(length.to_le_bytes());
        body.extend(process.to_le_bytes());
        body.extend((client.len() as u16).to_le_bytes());
        body.extend(client);
        Ok(body)
    }

    fn link(&self, fields: &mut Fields<'_>) -> Result<Vec<u8>, Errno> {
        let (folder, target, name) = (fields.word()?, fields.word()?, fields.string()?);
        let (folder, target) = (self.path(folder)?, self.path(target)?);
        // Follows the link of the descriptor and no other.
        let flags = AtFlags::SYMLINK_FOLLOW;
        rustix::fs::linkat(&self.descriptors, name_of(target), folder, name, flags)?;
        Ok(Vec::new())
    }

    fn make_folder(&self, fields: &mut Fields<'_>) -> Result<Vec<u8>, Errno> {
        let (folder, name, mode) = (fields.word()?, fields.string()?, fields.word()?);
        let folder = self.path(folder)?;
        rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(mode))?;
        let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(self.qid(&stat).to_vec())
    }

    /// type[1] version[4] path[8]
    fn qid(&self, stat: &Stat) -> [u8; QID] {
        let sort = FileType::from_raw_mode(stat.st_mode);
        // Both versions and paths only ever are compared.
        qid(sort, stat.st_mtime as u32, self.qid_path(stat.st_dev, stat.st_ino))
    }

    /// One number for a file: its inode's, kept apart from those of other file systems mounted below the root.
    fn qid_path(&self, device: u64, inode: u64) -> u64 {
        match device == self.shared.0 {
            true => inode,
            // An odd factor spreads the device's number over all bits.
            false => inode ^ device.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        }
    }
}

/// Why there is no Rread.
enum ReadError {
    Errno(Errno),
    /// The answer could not be written.
    Answer(io::Error),
}

impl From<Errno> for ReadError {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<Malformed> for ReadError {
    fn from(_: Malformed) -> Self {
        Self::Errno(Errno::INVAL)
    }
}

/// Bytes of a qid.
const QID: usize = 13;
/// Where a body starts, and how much an answer that is a list of bytes has in front of them.
const LIST_HEADER: usize = HEADER_BYTES + 4;

fn qid(sort: FileType, version: u32, path: u64) -> [u8; QID] {
    let mut qid = [0; QID];
    // QTDIR and QTSYMLINK (Linux `include/net/9p/9p.h`).
    qid[0] = match sort {
        FileType::Directory => 0x80,
        FileType::Symlink => 0x02,
        _ => 0,
    };
    qid[1..5].copy_from_slice(&version.to_le_bytes());
    qid[5..].copy_from_slice(&path.to_le_bytes());
    qid
}

fn stat(path: &OwnedFd) -> Result<Stat, Errno> {
    rustix::fs::statat(path, "", AtFlags::EMPTY_PATH)
}

fn look_up(folder: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, Mode::empty())
}

/// A descriptor's name in `/proc/self/fd`.
fn name_of(descriptor: &OwnedFd) -> String {
    descriptor.as_raw_fd().to_string()
}

/// The system's flags for those the guard lets through.
fn open_flags(flags: u32) -> OFlags {
    const SAME: &[(u32, OFlags)] = &[
        (open::TRUNCATE, OFlags::TRUNC),
        (open::APPEND, OFlags::APPEND),
        (open::DATA_SYNC, OFlags::DSYNC),
        (open::SYNC, OFlags::SYNC),
        (open::DIRECTORY, OFlags::DIRECTORY),
    ];
    let access = match flags & open::ACCESS {
        open::WRITE_ONLY => OFlags::WRONLY,
        open::READ_WRITE => OFlags::RDWR,
        _ => OFlags::RDONLY,
    };
    let given = SAME.iter().filter(|(flag, _)| flags & flag != 0);
    given.fold(access | OFlags::LARGEFILE, |all, (_, flag)| all | *flag)
}
