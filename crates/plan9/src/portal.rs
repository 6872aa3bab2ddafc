//! A folder of which the guest sees single names only: at its root it may walk to, list, make, rename and
//! remove those of its [`Names`], and nothing else is there for it. Below them all is open.
//!
//! Where the guest makes a name, no file of that name may be there: neither a new file nor a rename takes
//! the place of one that the guest was not given. That such a file exists is all that it learns.

use crate::identity::{Identity, facts};
use crate::message::{Fields, HEADER_BYTES, kind, message};
use crate::names::{List, Names};
use rustix::fs::{AtFlags, FileType, RenameFlags, Statx};
use rustix::io::Errno;
use std::os::fd::BorrowedFd;

/// What a request does to the names, if it succeeds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    removed: Option<Vec<u8>>,
    made: Option<Vec<u8>>,
}

/// What is to be done with a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The server carries it out; the first name of a walk must lead to this file.
    Serve(Change, Option<Identity>),
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

impl Portal {
    pub(crate) fn new(names: Names) -> Self {
        Self { names, listing: None }
    }

    /// To be held for as long as a request at the root takes: no other connection comes in between then.
    pub(crate) fn names(&self) -> Names {
        self.names.clone()
    }

    /// The answer to a listing of the root, of at most `space` bytes.
    pub(crate) fn list(
        &mut self,
        names: &mut List,
        root: BorrowedFd<'_>,
        request: &[u8],
        tag: u16,
        space: usize,
    ) -> Result<Vec<u8>, Errno> {
        let mut fields = Fields::new(request);
        let (handle, offset, count) = (fields.word()?, fields.long()?, fields.word()?);
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        // Tag and count in front.
        let room = (count as usize).min(space.saturating_sub(HEADER_BYTES + 4));
        let begun = self.listing.take().filter(|(of, _)| *of == handle && offset > 0);
        let (_, listed) = self.listing.insert(begun.unwrap_or_else(|| (handle, names.all())));
        let mut entries = Vec::new();
        let dots = [&b"."[..], b".."];
        let all = dots.into_iter().chain(listed.iter().map(Vec::as_slice));
        for (index, name) in all.enumerate().skip(offset) {
            let found = match index {
                // The folder above is none of the guest's business.
                0 | 1 => facts(root, b""),
                _ => names.find(root, name),
            };
            // One that was removed is not there, and what the host put in its place is the host's.
            let Ok(found) = found else { continue };
            let entry = entry(&found, index as u64 + 1, name);
            if entries.len() + entry.len() > room {
                break;
            }
            entries.extend(entry);
        }
        // Not truncated: below `count`.
        let length = (entries.len() as u32).to_le_bytes();
        Ok(message(kind::READDIR + 1, tag, &[&length[..], &entries].concat()))
    }
}

/// Judges a request whose fields and names are sound; `at_root` says which handles are the root. `names` are the
/// portal's, held.
pub(crate) fn judge(
    names: &mut List,
    root: BorrowedFd<'_>,
    kind: u8,
    request: &[u8],
    at_root: impl Fn(u32) -> bool,
) -> Result<Step, Errno> {
    let mut fields = Fields::new(request);
    let mut change = Change::default();
    let mut expected = None;
    // A name the guest has or may make.
    let usable = |names: &mut List, name: &[u8]| {
        let fine = names.known(root, name).is_ok() || names.has_room(root);
        if fine { Ok(()) } else { Err(Errno::NOSPC) }
    };
    match kind {
        kind::WALK => {
            let (from, _, count) = (fields.word()?, fields.word()?, fields.half()?);
            if count > 0 && at_root(from) {
                expected = names.known(root, fields.string()?)?;
            }
        }
        kind::LCREATE | kind::MKDIR => {
            let (folder, name) = (fields.word()?, fields.string()?);
            if at_root(folder) {
                usable(names, name)?;
                change.made = Some(name.to_vec());
            }
        }
        kind::LINK => {
            let (folder, _, name) = (fields.word()?, fields.word()?, fields.string()?);
            if at_root(folder) {
                usable(names, name)?;
                change.made = Some(name.to_vec());
            }
        }
        kind::UNLINKAT => {
            let (folder, name) = (fields.word()?, fields.string()?);
            if at_root(folder) {
                names.known(root, name)?;
                change.removed = Some(name.to_vec());
            }
        }
        kind::RENAMEAT => {
            let (from, old) = (fields.word()?, fields.string()?);
            let (to, new) = (fields.word()?, fields.string()?);
            if at_root(from) {
                names.known(root, old)?;
                change.removed = Some(old.to_vec());
            }
            if at_root(to) {
                usable(names, new)?;
                change.made = Some(new.to_vec());
                match (names.known(root, new).is_ok(), at_root(from)) {
                    (true, _) => {}
                    (false, true) => return Ok(Step::Rename(old.to_vec(), new.to_vec())),
                    // The server would take the place of whatever is there; programs copy instead.
                    (false, false) => return Err(Errno::XDEV),
                }
            }
        }
        kind::READDIR if at_root(fields.word()?) => return Ok(Step::List),
        kind::SETATTR if at_root(fields.word()?) => return Err(Errno::PERM),
        // Not of the folder itself, which is the host's.
        kind::XATTRCREATE | kind::XATTRWALK if at_root(fields.word()?) => {
            return Err(Errno::OPNOTSUPP);
        }
        _ => {}
    }
    Ok(Step::Serve(change, expected))
}

impl Change {
    /// The request has succeeded: what it made is the guest's from now on.
    pub(crate) fn apply(&self, names: &mut List, root: BorrowedFd<'_>) {
        if let Some(name) = &self.removed {
            names.removed(name);
        }
        if let Some(name) = &self.made
            && let Ok(facts) = facts(root, name)
        {
            names.made(name, (&facts).into());
        }
    }
}

/// Renames at the root, to a name that nothing has.
pub(crate) fn rename(
    names: &mut List,
    root: BorrowedFd<'_>,
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
    Change { removed, made }.apply(names, root);
    Ok(message(kind::RENAMEAT + 1, tag, &[]))
}

/// qid[13] offset[8] type[1] name[s].
fn entry(found: &Statx, next: u64, name: &[u8]) -> Vec<u8> {
    let mode = u32::from(found.stx_mode);
    let sort = match FileType::from_raw_mode(mode) {
        FileType::Directory => 0x80,
        FileType::Symlink => 0x02,
        _ => 0,
    };
    let mut entry = vec![sort];
    // As the server makes them: both are 32 and 64 bits that only ever are compared.
    entry.extend((found.stx_mtime.tv_sec as u32).to_le_bytes());
    entry.extend(found.stx_ino.to_le_bytes());
    entry.extend(next.to_le_bytes());
    // DT_* are the type bits of the mode (readdir(3)).
    entry.push((mode >> 12) as u8);
    entry.extend((name.len() as u16).to_le_bytes());
    entry.extend(name);
    entry
}
