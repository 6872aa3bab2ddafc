//! Stands between the guest and the 9P server: passes on only what cannot leave the shared folder,
//! change a read-only one, reach a device, or use up the process.
//!
//! The server resolves every name with `openat` and O_NOFOLLOW from a descriptor, one component at a
//! time, so a symbolic link is never followed. What it relies on is seen to here: a name must be one
//! component (no `/`, no `..`), only regular files and directories are opened, set-user-id bits do not
//! come from a guest, open flags are the plain ones, and the number of descriptors is bounded.
//!
//! Messages are judged in the host's copy and that copy is what the server gets, so a guest cannot
//! change a name behind our back.

use crate::message::{DATA_HEADER, Fields, error, kind, open, set};
use crate::names::Names;
use crate::owner::Owner;
use crate::portal::{self, Portal, Step};
use crate::server::Server;
use crate::transfer::{Answer, Data};
use rustix::fs::FileType;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

/// The largest message, as much as a queue of 128 pages holds; clients ask for less or get this.
pub const MAX_MESSAGE: u32 = 512 * 1024;
/// P9_MAXWELEM: names in one walk (Linux `include/net/9p/9p.h`).
const MAX_NAMES: u16 = 16;
/// Permission bits a guest may set: no set-user-id, no set-group-id.
const MODE_BITS: u32 = 0o1777;

/// How a folder is shared.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The guest changes nothing.
    pub read_only: bool,
    /// Handles the guest may hold; see [`most_handles`].
    pub max_handles: usize,
    /// Whose the files seem to be; without, whose they are on the host.
    pub owner: Option<Owner>,
    /// What of the folder is seen; without, all.
    pub only: Option<Names>,
}

/// The most files and folders a guest holds open or remembers at once. Each costs up to two descriptors,
/// so a process with less to give gives less.
const MAX_HANDLES: u64 = 16 * 1024;

/// What each of so many guests (or connections of one) may hold: together a quarter of the descriptors
/// this process may have, two for each handle.
#[must_use]
pub fn most_handles(guests: u64) -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let descriptors = limit.current.unwrap_or(u64::MAX);
    // Not truncated: far below 32 bits.
    (descriptors / 8 / guests.max(1)).clamp(16, MAX_HANDLES) as usize
}

/// Judges requests and has the server carry them out.
pub struct Guard {
    server: Server,
    read_only: bool,
    /// Handles the guest holds, each of which costs up to two descriptors.
    handles: BTreeMap<u32, Place>,
    max_handles: usize,
    owner: Option<Owner>,
    portal: Option<Portal>,
}

/// Where a handle leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Root,
    Below,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("server", &self.server).finish_non_exhaustive()
    }
}

/// How a request at the root of a portal went.
enum AtRoot {
    /// The server answered; whether well.
    Served(bool),
    Answered,
    Refused(Errno),
}

/// What a request does to the handles, if it is carried out.
enum Effect {
    None,
    /// All handles go; the message size is agreed anew.
    Version,
    /// The handle exists and leads there.
    Adds(u32, Place),
    Drops(u32),
}

impl Guard {
    /// Shares `root`, an open directory.
    ///
    /// # Errors
    /// It is none, or `/proc` is not there.
    pub fn new(root: OwnedFd, options: Options) -> io::Result<Self> {
        Ok(Self {
            server: Server::new(root, options.owner.clone(), MAX_MESSAGE)?,
            read_only: options.read_only,
            handles: BTreeMap::new(),
            max_handles: options.max_handles,
            owner: options.owner,
            portal: options.only.map(Portal::new),
        })
    }

    /// Forgets all handles.
    pub fn reset(&mut self) {
        self.server.reset(MAX_MESSAGE);
        self.handles.clear();
    }

    /// The largest request now.
    #[must_use]
    pub fn msize(&self) -> usize {
        self.server.msize() as usize
    }

    /// How many names listings left out since this was asked last: those of more than 255 bytes, which programs
    /// of Linux cannot use, and those that the guest's messages are too small for.
    pub fn take_left_out(&mut self) -> u64 {
        self.server.take_left_out()
    }

    /// Carries out the request in `head` (for a write: its fixed part) and `data` (the written
    /// bytes), and writes the answer, of at most `space` bytes, to `answer`. True when the guard or
    /// the space stood in the way.
    ///
    /// # Errors
    /// The answer cannot be written.
    pub fn handle(
        &mut self,
        head: &mut [u8],
        data: impl Data,
        answer: &mut impl Answer,
        space: usize,
    ) -> io::Result<bool> {
        let (kind, tag) = (head[4], u16::from_le_bytes([head[5], head[6]]));
        let effect = match self.judge(kind, head, space) {
            Ok(effect) => effect,
            Err(errno) => return refuse(tag, errno, answer),
        };
        if matches!(effect, Effect::Version) {
            // A session's message size is only ever lowered; a new session starts afresh.
            self.reset();
        }
        let done = match self.at_root_of_portal(kind, head) {
            false => self.server.serve(head, data, answer, None)?,
            true => match self.handle_at_root(kind, head, data, answer, space)? {
                AtRoot::Served(done) => done,
                AtRoot::Answered => return Ok(false),
                AtRoot::Refused(errno) => return refuse(tag, errno, answer),
            },
        };
        // A handle goes even when what it was to do at its end fails.
        if done || matches!(effect, Effect::Drops(_)) {
            self.apply(&effect, kind, head);
        }
        Ok(false)
    }

    /// Whether the names of a portal bear on this request.
    fn at_root_of_portal(&self, kind: u8, head: &[u8]) -> bool {
        let mut fields = Fields::new(head);
        let Ok(handle) = fields.word() else { return false };
        self.portal.is_some()
            && match kind {
                kind::RENAMEAT => {
                    let _ = fields.string();
                    let to = fields.word();
                    self.is_root(handle) || to.is_ok_and(|to| self.is_root(to))
                }
                _ => self.is_root(handle),
            }
    }

    /// A request at the root of a portal, while no other connection changes anything there.
    fn handle_at_root(
        &mut self,
        kind: u8,
        head: &[u8],
        data: impl Data,
        answer: &mut impl Answer,
        space: usize,
    ) -> io::Result<AtRoot> {
        let tag = u16::from_le_bytes([head[5], head[6]]);
        let Self { server, handles, portal: Some(portal), .. } = self else {
            return Ok(AtRoot::Refused(Errno::IO));
        };
        let names = portal.names();
        let mut names = names.hold();
        let at_root = |handle| handles.get(&handle) == Some(&Place::Root);
        let made = match portal::judge(&mut names, server.root(), kind, head, at_root) {
            Err(errno) => return Ok(AtRoot::Refused(errno)),
            Ok(Step::Serve(change, expected)) => {
                let done = server.serve(head, data, answer, expected)?;
                if done {
                    change.apply(&mut names, server.root());
                }
                return Ok(AtRoot::Served(done));
            }
            Ok(Step::List) => portal.list(&mut names, server.root(), head, tag, space),
            Ok(Step::Rename(old, new)) => {
                portal::rename(&mut names, server.root(), &old, &new, tag)
            }
        };
        answer.write_all(&made.unwrap_or_else(|errno| error(tag, errno.raw_os_error())))?;
        Ok(AtRoot::Answered)
    }

    fn is_root(&self, handle: u32) -> bool {
        self.handles.get(&handle) == Some(&Place::Root)
    }

    /// Checks a request and takes out of it what is harmless but unwanted.
    fn judge(&mut self, kind: u8, head: &mut [u8], space: usize) -> Result<Effect, Errno> {
        let mut fields = Fields::new(head);
        let mut effect = Effect::None;
        // Only these reach the server at all.
        match kind {
            kind::STATFS
            | kind::READLINK
            | kind::GETATTR
            | kind::FSYNC
            | kind::LOCK
            | kind::GETLOCK
            | kind::AUTH
            | kind::FLUSH => {}
            kind::XATTRWALK => {
                let (_, handle) = (fields.word()?, fields.word()?);
                self.room_for(handle)?;
                effect = Effect::Adds(handle, Place::Below);
            }
            kind::VERSION => effect = Effect::Version,
            kind::CLUNK => effect = Effect::Drops(fields.word()?),
            kind::ATTACH => {
                let handle = fields.word()?;
                self.room_for(handle)?;
                effect = Effect::Adds(handle, Place::Root);
            }
            kind::WALK => {
                let from = fields.word()?;
                let handle = fields.word()?;
                let names = fields.half()?;
                if names > MAX_NAMES {
                    return Err(Errno::INVAL);
                }
                for _ in 0..names {
                    component(fields.string()?)?;
                }
                self.room_for(handle)?;
                let place = match names {
                    0 => self.handles.get(&from).copied().unwrap_or(Place::Root),
                    _ => Place::Below,
                };
                effect = Effect::Adds(handle, place);
            }
            kind::READ | kind::READDIR => {
                fields.skip(4 + 8)?;
                let at = fields.position();
                let count = fields.word()?;
                // Not truncated: no more than the count itself.
                let count = (space.saturating_sub(DATA_HEADER)).min(count as usize) as u32;
                put(head, at, count);
            }
            kind::LOPEN => {
                let handle = fields.word()?;
                let at = fields.position();
                let flags = self.open_flags(fields.word()?)?;
                let sort = self.server.sort(handle)?;
                if !matches!(sort, FileType::RegularFile | FileType::Directory) {
                    // A device or a pipe would act on the host, or make us wait for somebody.
                    return Err(Errno::ACCESS);
                }
                put(head, at, flags);
            }
            _ => self.judge_change(kind, head)?,
        }
        Ok(effect)
    }

    /// Requests that change something.
    fn judge_change(&mut self, kind: u8, head: &mut [u8]) -> Result<(), Errno> {
        let known = matches!(
            kind,
            kind::LCREATE
                | kind::SYMLINK
                | kind::MKNOD
                | kind::RENAME
                | kind::SETATTR
                | kind::XATTRCREATE
                | kind::LINK
                | kind::MKDIR
                | kind::RENAMEAT
                | kind::UNLINKAT
                | kind::WRITE
                | kind::REMOVE
        );
        if !known {
            return Err(Errno::OPNOTSUPP);
        }
        if self.read_only {
            return Err(Errno::ROFS);
        }
        let mut fields = Fields::new(head);
        match kind {
            kind::LCREATE => {
                fields.word()?;
                component(fields.string()?)?;
                let at = fields.position();
                let flags = self.open_flags(fields.word()?)?;
                let mode = fields.word()? & MODE_BITS;
                put(head, at, flags);
                put(head, at + 4, mode);
            }
            kind::MKDIR => {
                fields.word()?;
                component(fields.string()?)?;
                let at = fields.position();
                let mode = fields.word()? & MODE_BITS;
                put(head, at, mode);
            }
            kind::SETATTR => {
                let handle = fields.word()?;
                let valid = fields.word()?;
                let at = fields.position();
                let mode = fields.word()? & MODE_BITS;
                if valid & set::SIZE != 0 && self.server.sort(handle)? != FileType::RegularFile {
                    // Setting a size opens the file, which a device or a pipe must not be.
                    return Err(Errno::INVAL);
                }
                put(head, at, mode);
                if let Some(owner) = &self.owner {
                    owner.take(head)?;
                }
            }
            kind::LINK => {
                fields.skip(8)?;
                component(fields.string()?)?;
            }
            kind::RENAMEAT => {
                for _ in 0..2 {
                    fields.word()?;
                    component(fields.string()?)?;
                }
            }
            kind::UNLINKAT => {
                fields.word()?;
                component(fields.string()?)?;
            }
            // The rest either has no name or is refused by the server as a whole.
            _ => {}
        }
        Ok(())
    }

    /// The flags that are passed on.
    fn open_flags(&self, flags: u32) -> Result<u32, Errno> {
        let access = flags & open::ACCESS;
        let changes = open::CREATE | open::TRUNCATE | open::APPEND;
        if self.read_only && (access != open::READ_ONLY || flags & changes != 0) {
            return Err(Errno::ROFS);
        }
        if access > open::READ_WRITE {
            return Err(Errno::INVAL);
        }
        // Direct I/O wants aligned buffers, which the server has not; the others are no business
        // of a guest.
        Ok(flags
            & (open::ACCESS
                | open::TRUNCATE
                | open::APPEND
                | open::DATA_SYNC
                | open::SYNC
                | open::LARGE_FILE
                | open::DIRECTORY
                | open::NO_FOLLOW))
    }

    fn room_for(&self, handle: u32) -> Result<(), Errno> {
        if self.handles.len() >= self.max_handles && !self.handles.contains_key(&handle) {
            return Err(Errno::MFILE);
        }
        Ok(())
    }

    /// The request was carried out.
    fn apply(&mut self, effect: &Effect, kind: u8, head: &[u8]) {
        match *effect {
            Effect::None | Effect::Version => {}
            Effect::Adds(handle, place) => {
                self.handles.insert(handle, place);
            }
            Effect::Drops(handle) => {
                self.handles.remove(&handle);
            }
        }
        if kind == kind::LCREATE
            && let Ok(handle) = Fields::new(head).word()
        {
            // It led to the folder and leads to the new file.
            self.handles.insert(handle, Place::Below);
        }
    }
}

/// Answers with an error of the guard's.
fn refuse(tag: u16, errno: Errno, answer: &mut impl Write) -> io::Result<bool> {
    answer.write_all(&error(tag, errno.raw_os_error()))?;
    Ok(true)
}

/// A name of one file in one folder.
fn component(name: &[u8]) -> Result<(), Errno> {
    match name {
        // A server may take ".." for the parent, if that is inside; nobody needs it to.
        b"" | b"." | b".." => Err(Errno::INVAL),
        name if name.contains(&b'/') || name.contains(&0) => Err(Errno::INVAL),
        _ => Ok(()),
    }
}

fn put(head: &mut [u8], at: usize, value: u32) {
    // The field was read from there.
    if let Some(field) = head.get_mut(at..at + 4) {
        field.copy_from_slice(&value.to_le_bytes());
    }
}
