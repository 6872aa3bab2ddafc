//! 9P2000.L messages as far as they must be understood to be judged (Linux
//! `include/net/9p/9p.h`; diod's `protocol.md`).

/// Bytes of `size[4] type[1] tag[2]`.
pub const HEADER_BYTES: usize = 7;

/// Message types of requests; the answer's is one higher.
#[allow(missing_docs, reason = "the protocol's own names")]
pub mod kind {
    pub const RLERROR: u8 = 7;
    pub const STATFS: u8 = 8;
    pub const LOPEN: u8 = 12;
    pub const LCREATE: u8 = 14;
    pub const SYMLINK: u8 = 16;
    pub const MKNOD: u8 = 18;
    pub const RENAME: u8 = 20;
    pub const READLINK: u8 = 22;
    pub const GETATTR: u8 = 24;
    pub const SETATTR: u8 = 26;
    pub const XATTRWALK: u8 = 30;
    pub const XATTRCREATE: u8 = 32;
    pub const READDIR: u8 = 40;
    pub const FSYNC: u8 = 50;
    pub const LOCK: u8 = 52;
    pub const GETLOCK: u8 = 54;
    pub const LINK: u8 = 70;
    pub const MKDIR: u8 = 72;
    pub const RENAMEAT: u8 = 74;
    pub const UNLINKAT: u8 = 76;
    pub const VERSION: u8 = 100;
    pub const AUTH: u8 = 102;
    pub const ATTACH: u8 = 104;
    pub const FLUSH: u8 = 108;
    pub const WALK: u8 = 110;
    pub const READ: u8 = 116;
    pub const WRITE: u8 = 118;
    pub const CLUNK: u8 = 120;
    pub const REMOVE: u8 = 122;
}

/// Open flags (Linux `include/net/9p/9p.h`, `P9_DOTL_*`).
#[allow(missing_docs, reason = "the protocol's own names")]
pub mod open {
    pub const ACCESS: u32 = 0o3;
    pub const READ_ONLY: u32 = 0o0;
    pub const WRITE_ONLY: u32 = 0o1;
    pub const READ_WRITE: u32 = 0o2;
    pub const CREATE: u32 = 0o100;
    pub const TRUNCATE: u32 = 0o1000;
    pub const APPEND: u32 = 0o2000;
    pub const DATA_SYNC: u32 = 0o10000;
    pub const LARGE_FILE: u32 = 0o100000;
    pub const DIRECTORY: u32 = 0o200000;
    pub const NO_FOLLOW: u32 = 0o400000;
    pub const SYNC: u32 = 0o4000000;
}

/// Which attributes a Tsetattr sets (Linux `include/net/9p/9p.h`, `P9_SETATTR_*`).
#[allow(missing_docs, reason = "the protocol's own names")]
pub mod set {
    pub const MODE: u32 = 1;
    pub const USER: u32 = 2;
    pub const GROUP: u32 = 4;
    pub const SIZE: u32 = 8;
    pub const ACCESS_TIME: u32 = 0x10;
    pub const CHANGE_TIME: u32 = 0x20;
    pub const STATUS_TIME: u32 = 0x40;
    /// To the time given; else to now.
    pub const ACCESS_TIME_GIVEN: u32 = 0x80;
    pub const CHANGE_TIME_GIVEN: u32 = 0x100;
}

/// Bytes of `size[4] Rread tag[2] count[4]`, in front of data.
pub const DATA_HEADER: usize = HEADER_BYTES + 4;
/// Bytes of a whole Rlerror.
pub const ERROR_BYTES: usize = HEADER_BYTES + 4;
/// Bytes of a Twrite in front of its data: header, fid, offset, count.
pub const WRITE_HEADER: usize = HEADER_BYTES + 4 + 8 + 4;

/// The message is not one: a field lies outside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Reads fields of a message from its start, remembering where they were.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    /// The fields behind the header.
    #[must_use]
    pub fn new(message: &'a [u8]) -> Self {
        Self { bytes: message, at: HEADER_BYTES }
    }

    /// Where the next field starts.
    #[must_use]
    pub fn position(&self) -> usize {
        self.at
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(count).ok_or(Malformed)?;
        let field = self.bytes.get(self.at..end).ok_or(Malformed)?;
        self.at = end;
        Ok(field)
    }

    /// Two bytes.
    ///
    /// # Errors
    /// They lie outside.
    pub fn half(&mut self) -> Result<u16, Malformed> {
        let field = self.take(2)?;
        Ok(u16::from_le_bytes([field[0], field[1]]))
    }

    /// Four bytes.
    ///
    /// # Errors
    /// They lie outside.
    pub fn word(&mut self) -> Result<u32, Malformed> {
        let field = self.take(4)?;
        Ok(u32::from_le_bytes([field[0], field[1], field[2], field[3]]))
    }

    /// Eight bytes.
    ///
    /// # Errors
    /// They lie outside.
    pub fn long(&mut self) -> Result<u64, Malformed> {
        let (low, high) = (self.word()?, self.word()?);
        Ok(u64::from(high) << 32 | u64::from(low))
    }

    /// One byte.
    ///
    /// # Errors
    /// It lies outside.
    pub fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    /// Passes over `count` bytes.
    ///
    /// # Errors
    /// They lie outside.
    pub fn skip(&mut self, count: usize) -> Result<(), Malformed> {
        self.take(count).map(|_| ())
    }

    /// A counted string.
    ///
    /// # Errors
    /// It lies outside.
    pub fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.half()?;
        self.take(length.into())
    }
}

/// What stands before `count` bytes of data in an Rread with this tag.
#[must_use]
pub fn read_header(tag: u16, count: usize) -> [u8; DATA_HEADER] {
    let mut header = [0; DATA_HEADER];
    // Not truncated: no more than the largest message.
    header[..4].copy_from_slice(&((DATA_HEADER + count) as u32).to_le_bytes());
    header[4] = kind::READ + 1;
    header[5..7].copy_from_slice(&tag.to_le_bytes());
    header[7..].copy_from_slice(&(count as u32).to_le_bytes());
    header
}

/// A message of kind `kind` with `body` behind its header.
#[must_use]
pub fn message(kind: u8, tag: u16, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER_BYTES + body.len());
    // Not truncated: no more than the largest message.
    message.extend(((HEADER_BYTES + body.len()) as u32).to_le_bytes());
    message.push(kind);
    message.extend(tag.to_le_bytes());
    message.extend(body);
    message
}

/// The answer that says what went wrong, as a Linux error number.
#[must_use]
pub fn error(tag: u16, errno: i32) -> Vec<u8> {
    message(kind::RLERROR, tag, &errno.to_le_bytes())
}
