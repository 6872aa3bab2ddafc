//! 9P2000.L messages as far as they must be understood to be judged (Linux
//! `include/net/9p/9p.h`; diod's `protocol.md`).

/// Bytes of `size[4] type[1] tag[2]`.
pub(super) const HEADER_BYTES: usize = 7;

/// Message types of requests; the answer's is one higher.
pub(super) mod kind {
    pub(crate) const RLERROR: u8 = 7;
    pub(crate) const STATFS: u8 = 8;
    pub(crate) const LOPEN: u8 = 12;
    pub(crate) const LCREATE: u8 = 14;
    pub(crate) const SYMLINK: u8 = 16;
    pub(crate) const MKNOD: u8 = 18;
    pub(crate) const RENAME: u8 = 20;
    pub(crate) const READLINK: u8 = 22;
    pub(crate) const GETATTR: u8 = 24;
    pub(crate) const SETATTR: u8 = 26;
    pub(crate) const XATTRWALK: u8 = 30;
    pub(crate) const XATTRCREATE: u8 = 32;
    pub(crate) const READDIR: u8 = 40;
    pub(crate) const FSYNC: u8 = 50;
    pub(crate) const LOCK: u8 = 52;
    pub(crate) const GETLOCK: u8 = 54;
    pub(crate) const LINK: u8 = 70;
    pub(crate) const MKDIR: u8 = 72;
    pub(crate) const RENAMEAT: u8 = 74;
    pub(crate) const UNLINKAT: u8 = 76;
    pub(crate) const VERSION: u8 = 100;
    pub(crate) const AUTH: u8 = 102;
    pub(crate) const ATTACH: u8 = 104;
    pub(crate) const FLUSH: u8 = 108;
    pub(crate) const WALK: u8 = 110;
    pub(crate) const READ: u8 = 116;
    pub(crate) const WRITE: u8 = 118;
    pub(crate) const CLUNK: u8 = 120;
    pub(crate) const REMOVE: u8 = 122;
}

/// Open flags (Linux `include/net/9p/9p.h`, `P9_DOTL_*`).
pub(super) mod open {
    pub(crate) const ACCESS: u32 = 0o3;
    pub(crate) const READ_ONLY: u32 = 0o0;
    pub(crate) const READ_WRITE: u32 = 0o2;
    pub(crate) const CREATE: u32 = 0o100;
    pub(crate) const TRUNCATE: u32 = 0o1000;
    pub(crate) const APPEND: u32 = 0o2000;
    pub(crate) const DATA_SYNC: u32 = 0o10000;
    pub(crate) const LARGE_FILE: u32 = 0o100000;
    pub(crate) const DIRECTORY: u32 = 0o200000;
    pub(crate) const NO_FOLLOW: u32 = 0o400000;
    pub(crate) const SYNC: u32 = 0o4000000;
}

/// P9_SETATTR_SIZE (Linux `include/net/9p/9p.h`).
pub(super) const SETATTR_SIZE: u32 = 8;

/// Bytes of `size[4] Rread tag[2] count[4]`, in front of data.
pub(super) const DATA_HEADER: usize = HEADER_BYTES + 4;
/// Bytes of a whole Rlerror.
pub(super) const ERROR_BYTES: usize = HEADER_BYTES + 4;
/// Bytes of a Twrite in front of its data: header, fid, offset, count.
pub(super) const WRITE_HEADER: usize = HEADER_BYTES + 4 + 8 + 4;

/// The message is not one: a field lies outside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Reads fields of a message from its start, remembering where they were.
pub(super) struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    /// The fields behind the header.
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self {
            bytes: message,
            at: HEADER_BYTES,
        }
    }

    /// Where the next field starts.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(count).ok_or(Malformed)?;
        let field = self.bytes.get(self.at..end).ok_or(Malformed)?;
        self.at = end;
        Ok(field)
    }

    pub(super) fn half(&mut self) -> Result<u16, Malformed> {
        let field = self.take(2)?;
        Ok(u16::from_le_bytes([field[0], field[1]]))
    }

    pub(super) fn word(&mut self) -> Result<u32, Malformed> {
        let field = self.take(4)?;
        Ok(u32::from_le_bytes([field[0], field[1], field[2], field[3]]))
    }

    pub(super) fn skip(&mut self, count: usize) -> Result<(), Malformed> {
        self.take(count).map(|_| ())
    }

    pub(super) fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.half()?;
        self.take(length.into())
    }
}

/// A request of kind `kind` with `body` behind its header.
pub(super) fn message(kind: u8, tag: u16, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER_BYTES + body.len());
    // Not truncated: bodies made here are tiny.
    message.extend(((HEADER_BYTES + body.len()) as u32).to_le_bytes());
    message.push(kind);
    message.extend(tag.to_le_bytes());
    message.extend(body);
    message
}

/// The answer that says what went wrong, as a Linux error number.
pub(super) fn error(tag: u16, errno: i32) -> Vec<u8> {
    message(kind::RLERROR, tag, &errno.to_le_bytes())
}
