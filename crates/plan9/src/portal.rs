//! A folder of which the guest sees single names only: at its root it may walk to, list, make, rename and
//! remove those of its [`Names`], and nothing else is there for it. Below them all is open.
//!
//! Where the guest makes a name, no file of that name may be there: neither a new file nor a rename takes
//! the place of one that the guest was not given. That such a file exists is all that it learns.

use crate::message::{Fields, HEADER_BYTES, Malformed, kind, message};
use crate::names::Names;
use rustix::fs::{AtFlags, FileType, RenameFlags, Stat};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// What a request does to the names, if it succeeds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    removed: Option<Vec<u8>>,
    made: Option<Vec<u8>>,
}

/// What is to be done with a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The server carries it out.
    Serve(Change),
    /// The portal lists its names.
    List,
    /// The portal renames at its root, where nothing is.
    Rename(Vec<u8>, Vec<u8>),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Portal {
    names: Names,
    /// The last listing begun, so that names that come and go do not shift it.
    listing: Option<(u32, Vec<Vec<u8>>)>,
}

impl From<Malformed> for Errno {
    fn from(_: Malformed) -> Self {
        Self::INVAL
    }
}

impl Portal {
    pub(crate) fn new(names: Names) -> Self {
        Self { names, listing: None }
    }

    /// A name the guest has.
    fn known(&self, name: &[u8]) -> Result<(), Errno> {
        if self.names.has(name) { Ok(()) } else { Err(Errno::NOENT) }
    }

    /// A name the guest has or may make.
    fn usable(&self, name: &[u8]) -> Result<(), Errno> {
        if self.names.has(name) || self.names.has_room() { Ok(()) } else { Err(Errno::NOSPC) }
    }

    /// Judges a request whose fields and names are sound; `at_root` says which handles are the root.
    pub(crate) fn judge(
        &self,
        kind: u8,
        request: &[u8],
        at_root: impl Fn(u32) -> bool,
    ) -> Result<Step, Errno> {
        let mut fields = Fields::new(request);
        let mut change = Change::default();
        match kind {
            kind::WALK => {
                let (from, _, names) = (fields.word()?, fields.word()?, fields.half()?);
                if names > 0 && at_root(from) {
                    self.known(fields.string()?)?;
                }
            }
            kind::LCREATE | kind::MKDIR => {
                let (folder, name) = (fields.word()?, fields.string()?);
                if at_root(folder) {
                    self.usable(name)?;
                    change.made = Some(name.to_vec());
                }
            }
            kind::LINK => {
                let (folder, _, name) = (fields.word()?, fields.word()?, fields.string()?);
                if at_root(folder) {
                    self.usable(name)?;
                    change.made = Some(name.to_vec());
                }
            }
            kind::UNLINKAT => {
                let (folder, name) = (fields.word()?, fields.string()?);
                if at_root(folder) {
                    self.known(name)?;
                    change.removed = Some(name.to_vec());
                }
            }
            kind::RENAMEAT => {
                let (from, old) = (fields.word()?, fields.string()?);
                let (to, new) = (fields.word()?, fields.string()?);
                if at_root(from) {
                    self.known(old)?;
                    change.removed = Some(old.to_vec());
                }
                if at_root(to) {
                    self.usable(new)?;
                    change.made = Some(new.to_vec());
                    match (self.names.has(new), at_root(from)) {
                        (true, _) => {}
                        (false, true) => return Ok(Step::Rename(old.to_vec(), new.to_vec())),
                        // The server would take the place of whatever is there; programs copy instead.
                        (false, false) => return Err(Errno::XDEV),
                    }
                }
            }
            kind::READDIR if at_root(fields.word()?) => return Ok(Step::List),
            kind::SETATTR if at_root(fields.word()?) => return Err(Errno::PERM),
            _ => {}
        }
        Ok(Step::Serve(change))
    }

    /// The request has succeeded.
    pub(crate) fn apply(&self, change: &Change) {
        if let Some(name) = &change.removed {
            self.names.removed(name);
        }
        if let Some(name) = &change.made {
            self.names.made(name);
        }
    }

    /// Renames at the root, to a name that nothing has.
    pub(crate) fn rename(
        &self,
        root: &OwnedFd,
        old: &[u8],
        new: &[u8],
        tag: u16,
    ) -> Result<Vec<u8>, Errno> {
        match rustix::fs::renameat_with(root, old, root, new, RenameFlags::NOREPLACE) {
            // A file system that cannot: in two steps, for files.
            Err(Errno::INVAL) => {
                rustix::fs::linkat(root, old, root, new, AtFlags::empty())?;
                rustix::fs::unlinkat(root, old, AtFlags::empty())?;
            }
            other => other?,
        }
        let (removed, made) = (Some(old.to_vec()), Some(new.to_vec()));
        self.apply(&Change { removed, made });
        Ok(message(kind::RENAMEAT + 1, tag, &[]))
    }

    /// The answer to a listing of the root, of at most `space` bytes.
    pub(crate) fn list(
        &mut self,
        root: &OwnedFd,
        request: &[u8],
        tag: u16,
        space: usize,
    ) -> Result<Vec<u8>, Errno> {
        let mut fields = Fields::new(request);
        let handle = fields.word()?;
        let low = fields.word()?;
        let high = fields.word()?;
        let offset = (u64::from(high) << 32 | u64::from(low)).try_into().unwrap_or(usize::MAX);
        let count = fields.word()? as usize;
        // Tag and count in front.
        let room = count.min(space.saturating_sub(HEADER_BYTES + 4));
        let begun = self.listing.take().filter(|(of, _)| *of == handle && offset > 0);
        let names = begun.map_or_else(|| self.names.all(), |(_, names)| names);
        let mut entries = Vec::new();
        let dots = [&b"."[..], b".."];
        let all = dots.into_iter().chain(names.iter().map(Vec::as_slice));
        for (index, name) in all.enumerate().skip(offset) {
            let found = match index {
                // The folder above is none of the guest's business.
                0 | 1 => rustix::fs::statat(root, "", AtFlags::EMPTY_PATH),
                _ => rustix::fs::statat(root, name, AtFlags::SYMLINK_NOFOLLOW),
            };
            // One that was removed is not there.
            let Ok(found) = found else { continue };
            let entry = entry(&found, index as u64 + 1, name);
            if entries.len() + entry.len() > room {
                break;
            }
            entries.extend(entry);
        }
        self.listing = Some((handle, names));
        // Not truncated: below `count`.
        let length = (entries.len() as u32).to_le_bytes();
        Ok(message(kind::READDIR + 1, tag, &[&length[..], &entries].concat()))
    }
}

/// qid[13] offset[8] type[1] name[s].
fn entry(found: &Stat, next: u64, name: &[u8]) -> Vec<u8> {
    let sort = match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => 0x80,
        FileType::Symlink => 0x02,
        _ => 0,
    };
    let mut entry = vec![sort];
    // As the server makes them: both are 32 and 64 bits that only ever are compared.
    entry.extend((found.st_mtime as u32).to_le_bytes());
    entry.extend(found.st_ino.to_le_bytes());
    entry.extend(next.to_le_bytes());
    // DT_* are the type bits of the mode (readdir(3)).
    entry.push((found.st_mode >> 12) as u8);
    entry.extend((name.len() as u16).to_le_bytes());
    entry.extend(name);
    entry
}
