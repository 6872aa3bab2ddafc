//! A client for tests: well-behaved where it is asked to be, and otherwise whatever a test sends.

use crate::message::{DATA_HEADER, HEADER_BYTES, WRITE_HEADER, kind, message};
use crate::{Buffer, Guard};
use rustix::io::Errno;
use std::io::{self, Read, Write};

/// The handle of the root.
pub const ROOT: u32 = 0;
/// Open flags.
pub const RDWR: u32 = 2;
/// Open flags.
pub const TRUNCATE: u32 = 0o1000;
/// Size of messages.
const MESSAGE: u32 = 64 << 10;

/// What carries a request to a server and its answer back.
pub trait Transport {
    /// # Errors
    /// The server does not answer.
    fn exchange(&mut self, request: &[u8]) -> io::Result<Vec<u8>>;
}

impl Transport for Guard {
    fn exchange(&mut self, request: &[u8]) -> io::Result<Vec<u8>> {
        let mut answer = Buffer::default();
        let mut request = request.to_vec();
        let space = self.msize();
        let fixed = match request.get(4) {
            Some(&kind::WRITE) => request.len().min(WRITE_HEADER),
            _ => request.len(),
        };
        let (head, data) = request.split_at_mut(fixed);
        self.handle(head, &*data, &mut answer, space)?;
        Ok(answer.bytes().to_vec())
    }
}

impl Transport for std::os::unix::net::UnixStream {
    fn exchange(&mut self, request: &[u8]) -> io::Result<Vec<u8>> {
        self.write_all(request)?;
        let mut size = [0; 4];
        self.read_exact(&mut size)?;
        let mut answer = size.to_vec();
        answer.resize((u32::from_le_bytes(size) as usize).max(4), 0);
        self.read_exact(&mut answer[4..])?;
        Ok(answer)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Client<T> {
    /// To the server.
    pub transport: T,
    next: u32,
}

/// The body of an answer, or what the server said is wrong.
pub type Answer = Result<Vec<u8>, Errno>;

impl<T: Transport> Client<T> {
    /// Agrees on a version and attaches to the root.
    ///
    /// # Panics
    /// The server does not.
    pub fn attach(transport: T) -> Self {
        let mut client = Self { transport, next: 1 };
        let version = [&MESSAGE.to_le_bytes()[..], &string("9P2000.L")].concat();
        assert_eq!(client.call(kind::VERSION, &version), Ok(version.clone()));
        let body = [words(&[ROOT, u32::MAX]), string(""), string(""), words(&[0])].concat();
        client.call(kind::ATTACH, &body).expect("attach");
        client
    }

    /// Sends a request.
    ///
    /// # Errors
    /// The server's answer is an error, or none came (`EPIPE`).
    pub fn call(&mut self, kind: u8, body: &[u8]) -> Answer {
        let answer = self.transport.exchange(&message(kind, 1, body)).map_err(|_| Errno::PIPE)?;
        match answer.get(4) {
            Some(&kind::RLERROR) => {
                let errno = answer[HEADER_BYTES..].try_into().map_or(0, i32::from_le_bytes);
                Err(Errno::from_raw_os_error(errno))
            }
            Some(found) if *found == kind + 1 => Ok(answer[HEADER_BYTES..].to_vec()),
            _ => Err(Errno::PROTO),
        }
    }

    /// A handle for `names` below the root.
    ///
    /// # Errors
    /// As for a call.
    pub fn walk(&mut self, names: &[&str]) -> Result<u32, Errno> {
        let handle = self.next;
        self.next += 1;
        let mut body = words(&[ROOT, handle]);
        body.extend((names.len() as u16).to_le_bytes());
        body.extend(names.iter().flat_map(|name| string(name)));
        let answer = self.call(kind::WALK, &body)?;
        let walked = answer.get(..2).map_or(0, |two| u16::from_le_bytes([two[0], two[1]]));
        if usize::from(walked) < names.len() { Err(Errno::NOENT) } else { Ok(handle) }
    }

    /// A handle that is open.
    ///
    /// # Errors
    /// As for a call.
    pub fn open(&mut self, names: &[&str], flags: u32) -> Result<u32, Errno> {
        let handle = self.walk(names)?;
        match self.call(kind::LOPEN, &words(&[handle, flags])) {
            Ok(_) => Ok(handle),
            Err(errno) => {
                self.clunk(handle);
                Err(errno)
            }
        }
    }

    /// Gives a handle back.
    pub fn clunk(&mut self, handle: u32) {
        // One that the server does not have is gone as well.
        let _ = self.call(kind::CLUNK, &words(&[handle]));
    }

    /// What stands in a file, as text.
    ///
    /// # Errors
    /// As for a call.
    pub fn contents(&mut self, names: &[&str]) -> Result<String, Errno> {
        let handle = self.open(names, 0)?;
        let answer = self.call(kind::READ, &words(&[handle, 0, 0, 4000]));
        self.clunk(handle);
        Ok(String::from_utf8_lossy(&answer?[DATA_HEADER - HEADER_BYTES..]).into_owned())
    }

    /// Writes to a file that is there.
    ///
    /// # Errors
    /// As for a call.
    pub fn write(&mut self, names: &[&str], text: &str) -> Answer {
        let handle = self.open(names, RDWR | TRUNCATE)?;
        let written = self.write_at(handle, text);
        self.clunk(handle);
        written
    }

    fn write_at(&mut self, handle: u32, text: &str) -> Answer {
        let fixed = words(&[handle, 0, 0, text.len() as u32]);
        self.call(kind::WRITE, &[&fixed[..], text.as_bytes()].concat())
    }

    /// Makes a file with contents in the folder `names`.
    ///
    /// # Errors
    /// As for a call.
    pub fn create(&mut self, names: &[&str], name: &str, text: &str) -> Answer {
        let handle = self.walk(names)?;
        let body = [&words(&[handle])[..], &string(name), &words(&[RDWR, 0o644, 0])].concat();
        let created = self.call(kind::LCREATE, &body).and_then(|_| self.write_at(handle, text));
        self.clunk(handle);
        created
    }

    /// Names in a folder, in a listing of so many bytes at a time.
    ///
    /// # Errors
    /// As for a call.
    pub fn list(&mut self, names: &[&str], bytes: u32) -> Result<Vec<String>, Errno> {
        let found = self.list_bytes(names, bytes)?;
        Ok(found.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect())
    }

    /// The same, as bytes.
    ///
    /// # Errors
    /// As for a call.
    pub fn list_bytes(&mut self, names: &[&str], bytes: u32) -> Result<Vec<Vec<u8>>, Errno> {
        let handle = self.open(names, 0)?;
        let mut found = Vec::new();
        let mut offset = 0_u64;
        loop {
            let at = [offset as u32, (offset >> 32) as u32];
            let answer = self.call(kind::READDIR, &words(&[handle, at[0], at[1], bytes]))?;
            let mut entries = &answer[4..];
            if entries.is_empty() {
                self.clunk(handle);
                return Ok(found);
            }
            while entries.len() >= 24 {
                offset = u64::from_le_bytes(entries[13..21].try_into().unwrap_or_default());
                let length = usize::from(u16::from_le_bytes([entries[22], entries[23]]));
                found.push(entries[24..24 + length].to_vec());
                entries = &entries[24 + length..];
            }
        }
    }

    /// The value of an extended attribute; without a name the list of names.
    ///
    /// # Errors
    /// As for a call.
    pub fn attribute(&mut self, names: &[&str], name: &str) -> Answer {
        let (handle, value) = (self.walk(names)?, self.next);
        self.next += 1;
        let asked = self.call(kind::XATTRWALK, &[words(&[handle, value]), string(name)].concat());
        self.clunk(handle);
        let size = asked?.as_slice().try_into().map_or(0, u64::from_le_bytes);
        let read = self.call(kind::READ, &words(&[value, 0, 0, size as u32]));
        self.clunk(value);
        Ok(read?[DATA_HEADER - HEADER_BYTES..].to_vec())
    }

    /// Sets an extended attribute; to nothing, to remove it. `flags` as of setxattr(2).
    ///
    /// # Errors
    /// As for a call.
    pub fn set_attribute(
        &mut self,
        names: &[&str],
        name: &str,
        value: &[u8],
        flags: u32,
    ) -> Answer {
        let handle = self.walk(names)?;
        let size = words(&[value.len() as u32, 0, flags]);
        let begun = [&words(&[handle])[..], &string(name), &size].concat();
        if let Err(errno) = self.call(kind::XATTRCREATE, &begun) {
            self.clunk(handle);
            return Err(errno);
        }
        if !value.is_empty() {
            let fixed = words(&[handle, 0, 0, value.len() as u32]);
            self.call(kind::WRITE, &[&fixed[..], value].concat())?;
        }
        self.call(kind::CLUNK, &words(&[handle]))
    }

    /// Renames between two folders, each a handle.
    ///
    /// # Errors
    /// As for a call.
    pub fn rename(&mut self, from: u32, old: &str, to: u32, new: &str) -> Answer {
        let body = [words(&[from]), string(old), words(&[to]), string(new)].concat();
        self.call(kind::RENAMEAT, &body)
    }

    /// Removes from a folder, a handle; with `0x200` a folder.
    ///
    /// # Errors
    /// As for a call.
    pub fn unlink(&mut self, folder: u32, name: &str, flags: u32) -> Answer {
        self.call(kind::UNLINKAT, &[words(&[folder]), string(name), words(&[flags])].concat())
    }

    /// Owner and group of a file.
    ///
    /// # Errors
    /// As for a call.
    pub fn owner(&mut self, names: &[&str]) -> Result<(u32, u32), Errno> {
        let handle = self.walk(names)?;
        let body = [&words(&[handle])[..], &0x7ff_u64.to_le_bytes()].concat();
        let answer = self.call(kind::GETATTR, &body);
        self.clunk(handle);
        let answer = answer?;
        let word = |at: usize| answer[at..at + 4].try_into().map_or(0, u32::from_le_bytes);
        // valid[8] qid[13] mode[4]
        Ok((word(25), word(29)))
    }
}

/// Words one after the other.
#[must_use]
pub fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A counted string.
#[must_use]
pub fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_le_bytes()[..], text.as_bytes()].concat()
}

/// The body of Tsetattr: what is `valid`, a mode, an owner and a size.
#[must_use]
pub fn attributes(handle: u32, valid: u32, mode: u32, owner: (u32, u32), size: u32) -> Vec<u8> {
    let mut body = words(&[handle, valid, mode, owner.0, owner.1, size, 0]);
    body.extend([0; 32]);
    body
}
