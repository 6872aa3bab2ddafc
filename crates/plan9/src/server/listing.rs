//! What is in a folder, as far as one message holds.

use super::{LIST_HEADER, Open, Server, qid};
use crate::message::Fields;
use rustix::fs::{FileType, RawDir, SeekFrom};
use rustix::io::Errno;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

/// What is asked of the kernel at a time.
const BLOCK: usize = 16 << 10;
/// The longest name of Linux (`NAME_MAX`); some file systems have longer ones, which its programs cannot use.
const LONGEST_NAME: usize = 255;
/// qid[13] offset[8] type[1], and the length of the name.
const ENTRY: usize = 13 + 8 + 1 + 2;

/// An open folder.
#[derive(Debug)]
pub(super) struct Listing {
    folder: OwnedFd,
    /// The number to show for `..`, if not its own.
    above: Option<u64>,
    /// Where the kernel goes on by itself; unknown after a listing that was cut.
    at: Option<u64>,
}

impl Listing {
    pub(super) fn new(folder: OwnedFd, above: Option<u64>) -> Self {
        Self { folder, above, at: Some(0) }
    }

    pub(super) fn folder(&self) -> &OwnedFd {
        &self.folder
    }

    /// Entries from `offset` on, in at most `room` bytes, and how many were left out: because they would not fit
    /// alone, or are longer than any name of Linux.
    fn entries(&mut self, offset: u64, room: usize) -> Result<(Vec<u8>, u64), Errno> {
        if self.at != Some(offset) {
            // Offsets are the file system's own, which takes any.
            rustix::fs::seek(&self.folder, SeekFrom::Start(offset))?;
        }
        self.at = None;
        let mut space = [MaybeUninit::uninit(); BLOCK];
        let mut entries = Vec::with_capacity(room.min(BLOCK));
        let mut left_out = 0;
        let mut raw = RawDir::new(&self.folder, &mut space);
        let mut next = offset;
        while let Some(entry) = raw.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            let size = ENTRY + name.len();
            if name.len() > LONGEST_NAME || size > room {
                left_out += 1;
                next = entry.next_entry_cookie();
                continue;
            }
            if entries.len() + size > room {
                return Ok((entries, left_out));
            }
            let number = match self.above {
                Some(above) if name == b".." => above,
                _ => entry.ino(),
            };
            next = entry.next_entry_cookie();
            entries.extend(qid(entry.file_type(), 0, number));
            entries.extend(next.to_le_bytes());
            entries.push(type_number(entry.file_type()));
            // Not truncated: at most 255.
            entries.extend((name.len() as u16).to_le_bytes());
            entries.extend(name);
            // Enough of one block; the rest of the room would cost another call.
            if raw.is_buffer_empty() && entries.len() + BLOCK > room {
                break;
            }
        }
        self.at = Some(next);
        Ok((entries, left_out))
    }
}

impl Server {
    pub(super) fn list(&mut self, fields: &mut Fields<'_>) -> Result<Vec<u8>, Errno> {
        let (handle, offset, count) = (fields.word()?, fields.long()?, fields.word()?);
        let room = (count as usize).min(self.msize as usize - LIST_HEADER);
        let fid = self.fids.get_mut(&handle).ok_or(Errno::BADF)?;
        let Open::Folder(listing) = &mut fid.open else {
            return Err(Errno::BADF);
        };
        let (entries, left_out) = listing.entries(offset, room)?;
        self.left_out += left_out;
        // Not truncated: no more than `count`.
        Ok([&(entries.len() as u32).to_le_bytes()[..], &entries].concat())
    }
}

/// DT_* (readdir(3)): the type bits of a mode.
fn type_number(sort: FileType) -> u8 {
    match sort {
        FileType::Unknown => 0,
        sort => (sort.as_raw_mode() >> 12) as u8,
    }
}
