//! Stands between the guest and the 9P server: passes on only what cannot leave the shared folder,
//! change a read-only one, reach a device, or use up the process.
//!
//! The server (crate `p9`) resolves every name with `openat` and O_NOFOLLOW from a descriptor, one
//! component at a time, so a symbolic link is never followed. What it does not do is done here: a
//! name must be one component (no `/`, no `..`), only regular files and directories are opened,
//! set-user-id bits do not come from a guest, open flags are the plain ones, and the number of
//! descriptors is bounded.
//!
//! Messages are judged in the host's copy and that copy is what the server gets, so a guest cannot
//! change a name behind our back.

use crate::message::{
    DATA_HEADER, ERROR_BYTES, Fields, HEADER_BYTES, Malformed, SETATTR_SIZE, error, kind, message,
    open,
};
use crate::names::Names;
use crate::owner::Owner;
use crate::portal::{Change, Portal, Step};
use p9::{Config, Server};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

/// The largest message, as much as a queue of 128 pages holds; clients ask for less or get this.
pub const MAX_MESSAGE: u32 = 512 * 1024;
/// P9_MAXWELEM: names in one walk (Linux `include/net/9p/9p.h`).
const MAX_NAMES: u16 = 16;
/// Permission bits a guest may set: no set-user-id, no set-group-id.
const MODE_BITS: u32 = 0o1777;
/// How often a listing is tried again when a file vanished while it was made.
const LISTING_TRIES: u32 = 8;

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
    /// Keeps the shared folder where it is, however it is renamed; the server's root names it.
    root: OwnedFd,
    read_only: bool,
    /// Handles the guest holds, each of which costs up to two descriptors.
    handles: BTreeMap<u32, Place>,
    max_handles: usize,
    owner: Option<Owner>,
    portal: Option<Portal>,
    msize: u32,
}

/// Where a handle leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Root,
    Below,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("root", &self.root).finish_non_exhaustive()
    }
}

/// Why a request is not carried out.
enum Refusal {
    /// The folder is read-only.
    ReadOnly,
    /// Anything else, as the error number the guest sees.
    Errno(Errno),
}

impl From<Malformed> for Refusal {
    fn from(_: Malformed) -> Self {
        Self::Errno(Errno::INVAL)
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

/// What the answer does to the handles, if it is good.
enum Effect {
    None,
    /// All handles go; the message size is agreed anew.
    Version,
    /// The handle exists and leads there, provided that so many names were walked.
    Adds(u32, u16, Place),
    Drops(u32),
}

impl Guard {
    /// Shares `root`, an open directory.
    ///
    /// # Errors
    /// The server cannot be made.
    pub fn new(root: OwnedFd, options: Options) -> io::Result<Self> {
        Ok(Self {
            server: server(&root)?,
            root,
            read_only: options.read_only,
            handles: BTreeMap::new(),
            max_handles: options.max_handles,
            owner: options.owner,
            portal: options.only.map(Portal::new),
            msize: MAX_MESSAGE,
        })
    }

    /// Forgets all handles.
    ///
    /// # Errors
    /// The server cannot be made anew.
    pub fn reset(&mut self) -> io::Result<()> {
        self.server = server(&self.root)?;
        self.handles.clear();
        self.msize = MAX_MESSAGE;
        Ok(())
    }

    /// The largest request now.
    #[must_use]
    pub fn msize(&self) -> usize {
        self.msize as usize
    }

    /// Carries out the request in `head` (for a write: its fixed part) and `data` (the written
    /// bytes), and writes the answer, of at most `space` bytes, to `answer`. True when the guard or
    /// the space stood in the way.
    ///
    /// # Errors
    /// The answer cannot be written, or the request is none.
    pub fn handle(
        &mut self,
        head: &mut [u8],
        data: impl Read,
        answer: &mut impl Write,
        space: usize,
    ) -> io::Result<bool> {
        let (kind, tag) = (head[4], u16::from_le_bytes([head[5], head[6]]));
        let judged = self.judge(kind, head, space).and_then(|effect| {
            let step = match &self.portal {
                Some(portal) => portal.judge(kind, head, |handle| self.is_root(handle))?,
                None => Step::Serve(Change::default()),
            };
            Ok((effect, step))
        });
        let (effect, step) = match judged {
            Ok(judged) => judged,
            Err(refusal) => {
                let errno = match refusal {
                    Refusal::ReadOnly => Errno::ROFS,
                    Refusal::Errno(errno) => errno,
                };
                answer.write_all(&error(tag, errno.raw_os_error()))?;
                return Ok(true);
            }
        };
        if matches!(effect, Effect::Version) {
            // The server only ever lowers its message size; a new session starts afresh.
            self.reset()?;
        }
        let mut seen = Seen { answer, bytes: Vec::new() };
        let change = match (step, &mut self.portal) {
            (Step::List, Some(portal)) => {
                let listed = portal.list(&self.root, head, tag, space);
                seen.write_all(&listed.unwrap_or_else(|errno| error(tag, errno.raw_os_error())))?;
                return Ok(false);
            }
            (Step::Rename(old, new), Some(portal)) => {
                let renamed = portal.rename(&self.root, &old, &new, tag);
                seen.write_all(&renamed.unwrap_or_else(|errno| error(tag, errno.raw_os_error())))?;
                return Ok(false);
            }
            (Step::Serve(change), _) => change,
            // Steps of its own are a portal's.
            (_, None) => Change::default(),
        };
        match kind {
            kind::READDIR => self.list(head, &mut seen)?,
            kind::GETATTR => self.attributes(head, &mut seen)?,
            _ => self.server.handle_message(&mut (&*head).chain(data), &mut seen)?,
        }
        let seen = seen.bytes;
        if seen.get(4) == Some(&(kind + 1)) {
            if let Some(portal) = &self.portal {
                portal.apply(&change);
            }
            if kind == kind::LCREATE
                && let Ok(handle) = Fields::new(head).word()
            {
                // It led to the folder and leads to the new file.
                self.handles.insert(handle, Place::Below);
            }
        }
        self.apply(effect, kind, &seen);
        Ok(false)
    }

    fn is_root(&self, handle: u32) -> bool {
        self.handles.get(&handle) == Some(&Place::Root)
    }

    /// Attributes, with the owner that the guest is to see.
    fn attributes(&mut self, request: &[u8], answer: &mut impl Write) -> io::Result<()> {
        let mut attributes = Vec::new();
        self.server.handle_message(&mut &*request, &mut attributes)?;
        if let Some(owner) = &self.owner
            && attributes.get(4) == Some(&(kind::GETATTR + 1))
        {
            owner.show(&mut attributes);
        }
        answer.write_all(&attributes)
    }

    /// A listing. The server gives up when a file vanishes between its name and its attributes, so
    /// that is tried again.
    fn list(&mut self, request: &[u8], answer: &mut impl Write) -> io::Result<()> {
        let mut listing = Vec::new();
        for _ in 0..LISTING_TRIES {
            listing.clear();
            self.server.handle_message(&mut &*request, &mut listing)?;
            if !is_error(&listing, Errno::NOENT) {
                break;
            }
        }
        answer.write_all(&listing)
    }

    /// Checks a request and takes out of it what is harmless but unwanted.
    fn judge(&mut self, kind: u8, head: &mut [u8], space: usize) -> Result<Effect, Refusal> {
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
            | kind::FLUSH
            | kind::XATTRWALK => {}
            kind::VERSION => effect = Effect::Version,
            kind::CLUNK => effect = Effect::Drops(fields.word()?),
            kind::ATTACH => {
                let handle = fields.word()?;
                self.room_for(handle)?;
                effect = Effect::Adds(handle, 0, Place::Root);
            }
            kind::WALK => {
                let from = fields.word()?;
                let handle = fields.word()?;
                let names = fields.half()?;
                if names > MAX_NAMES {
                    return Err(Errno::INVAL.into());
                }
                for _ in 0..names {
                    component(fields.string()?)?;
                }
                self.room_for(handle)?;
                let place = match names {
                    0 => self.handles.get(&from).copied().unwrap_or(Place::Root),
                    _ => Place::Below,
                };
                effect = Effect::Adds(handle, names, place);
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
                let mode = self.mode(handle)?;
                if !matches!(mode & S_IFMT, S_IFREG | S_IFDIR) {
                    // A device or a pipe would act on the host, or make us wait for somebody.
                    return Err(Errno::ACCESS.into());
                }
                put(head, at, flags);
            }
            _ => self.judge_change(kind, head)?,
        }
        Ok(effect)
    }

    /// Requests that change something.
    fn judge_change(&mut self, kind: u8, head: &mut [u8]) -> Result<(), Refusal> {
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
            return Err(Errno::OPNOTSUPP.into());
        }
        if self.read_only {
            return Err(Refusal::ReadOnly);
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
                if valid & SETATTR_SIZE != 0 && self.mode(handle)? & S_IFMT != S_IFREG {
                    // Setting a size opens the file, which a device or a pipe must not be.
                    return Err(Errno::INVAL.into());
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
    fn open_flags(&self, flags: u32) -> Result<u32, Refusal> {
        let access = flags & open::ACCESS;
        let changes = open::CREATE | open::TRUNCATE | open::APPEND;
        if self.read_only && (access != open::READ_ONLY || flags & changes != 0) {
            return Err(Refusal::ReadOnly);
        }
        if access > open::READ_WRITE {
            return Err(Errno::INVAL.into());
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

    fn room_for(&self, handle: u32) -> Result<(), Refusal> {
        if self.handles.len() >= self.max_handles && !self.handles.contains_key(&handle) {
            return Err(Errno::MFILE.into());
        }
        Ok(())
    }

    /// Type and permissions of what a handle names, from the server itself. The handle pins the
    /// file, so the type stays.
    fn mode(&mut self, handle: u32) -> Result<u32, Refusal> {
        // Everything up to the change time (P9_GETATTR_BASIC).
        let body = [&handle.to_le_bytes()[..], &0x7ff_u64.to_le_bytes()].concat();
        let mut answer = Vec::new();
        self.server
            .handle_message(&mut &*message(kind::GETATTR, 0, &body), &mut answer)
            .map_err(|_| Errno::IO)?;
        if answer.get(4) != Some(&(kind::GETATTR + 1)) {
            return Err(Errno::BADF.into());
        }
        let mut fields = Fields::new(&answer);
        // valid[8] qid[13]
        fields.skip(8 + 13)?;
        Ok(fields.word()?)
    }

    fn apply(&mut self, effect: Effect, kind: u8, answer: &[u8]) {
        let mut fields = Fields::new(answer);
        if answer.get(4) != Some(&(kind + 1)) {
            return;
        }
        match effect {
            Effect::None => {}
            Effect::Version => {
                if let Ok(msize) = fields.word() {
                    self.msize = msize.min(MAX_MESSAGE);
                }
            }
            Effect::Adds(handle, names, place) => {
                if names == 0 || fields.half() == Ok(names) {
                    self.handles.insert(handle, place);
                }
            }
            Effect::Drops(handle) => {
                self.handles.remove(&handle);
            }
        }
    }
}

/// File types in a mode (inode(7)).
const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
const S_IFDIR: u32 = 0o040_000;

fn server(root: &OwnedFd) -> io::Result<Server> {
    // The last dot makes the server resolve the link to our descriptor, which it would otherwise
    // take for a symbolic link.
    let path = format!("/proc/self/fd/{}/.", root.as_raw_fd());
    Server::with_config(Config {
        root: Path::new(&path).into(),
        msize: MAX_MESSAGE,
        ..Config::default()
    })
}

/// A name of one file in one folder.
fn component(name: &[u8]) -> Result<(), Refusal> {
    match name {
        // A server may take ".." for the parent, if that is inside; nobody needs it to.
        b"" | b"." | b".." => Err(Errno::INVAL.into()),
        name if name.contains(&b'/') || name.contains(&0) => Err(Errno::INVAL.into()),
        _ => Ok(()),
    }
}

fn put(head: &mut [u8], at: usize, value: u32) {
    // The field was read from there.
    if let Some(field) = head.get_mut(at..at + 4) {
        field.copy_from_slice(&value.to_le_bytes());
    }
}

fn is_error(answer: &[u8], errno: Errno) -> bool {
    answer.len() == ERROR_BYTES
        && answer[4] == kind::RLERROR
        && answer[HEADER_BYTES..] == errno.raw_os_error().to_le_bytes()
}

/// Passes an answer on and keeps its first fields.
struct Seen<'a, W> {
    answer: &'a mut W,
    bytes: Vec<u8>,
}

/// Header and the largest field looked at.
const SEEN: usize = HEADER_BYTES + 4;

impl<W: Write> Write for Seen<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.answer.write(bytes)?;
        let kept = SEEN.saturating_sub(self.bytes.len()).min(count);
        self.bytes.extend_from_slice(&bytes[..kept]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.answer.flush()
    }
}
