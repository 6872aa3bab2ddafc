//! The block device (virtio 1.2, 5.2): one queue, answered at once.

use super::{Broken, Chain, Device, DeviceKind, Session};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use units::Sector;

const FEATURE_SEG_MAX: u64 = 1 << 2;
const FEATURE_FLUSH: u64 = 1 << 9;
/// Header and status take two of a chain's descriptors.
const SEGMENTS: u32 = super::queue::MOST_ENTRIES as u32 - 2;

// Request types and answers (5.2.6).
const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;
const HEADER: u64 = 16;
const ID_SIZE: usize = 20;

/// The most one request moves: what Linux can ask for with so many segments of 64 KiB.
const REQUEST_MOST: u64 = SEGMENTS as u64 * (64 << 10);
/// Bytes moved at once between storage and guest.
const MOVE: usize = 64 << 10;
/// Granularity of what a memory disk keeps.
const PIECE: usize = 4096;

/// What is behind a block device.
pub trait Storage: Send {
    /// Its size in bytes.
    fn size(&self) -> u64;

    /// Fills `into` from `offset` on, which lies inside; false when that failed.
    fn read(&mut self, offset: u64, into: &mut [u8]) -> bool;

    /// Writes `bytes` at `offset`, which lies inside; false when that failed.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> bool;

    /// What was written before is safe when this returns true.
    fn flush(&mut self) -> bool;
}

/// A disk in memory: a file of the boot archive, and what was written over it.
pub struct MemoryDisk {
    base: &'static [u8],
    size: u64,
    written: BTreeMap<u64, Box<[u8; PIECE]>>,
}

impl MemoryDisk {
    /// The disk with these contents, to the last whole or begun sector.
    #[must_use]
    pub fn new(base: &'static [u8]) -> Self {
        Self {
            base,
            size: (base.len() as u64).next_multiple_of(Sector::SIZE),
            written: BTreeMap::new(),
        }
    }

    /// Copies what the file has at `offset`; zeros past its end.
    fn original(&self, offset: u64, into: &mut [u8]) {
        into.fill(0);
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = self.base.get(from..).unwrap_or_default();
        let count = bytes.len().min(into.len());
        into[..count].copy_from_slice(&bytes[..count]);
    }
}

/// The parts of `length` bytes from `offset` on: piece, offset in it, bytes before, bytes.
fn pieces(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        let at = offset + done as u64;
        let inside = (at % PIECE as u64) as usize;
        let count = (length - done).min(PIECE - inside);
        let part = (at / PIECE as u64, inside, done, count);
        done += count;
        (count > 0).then_some(part)
    })
}

impl Storage for MemoryDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> bool {
        for (piece, inside, done, count) in pieces(offset, into.len()) {
            let to = &mut into[done..done + count];
            match self.written.get(&piece) {
                Some(written) => to.copy_from_slice(&written[inside..inside + count]),
                None => self.original(piece * PIECE as u64 + inside as u64, to),
            }
        }
        true
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> bool {
        for (piece, inside, done, count) in pieces(offset, bytes.len()) {
            if !self.written.contains_key(&piece) {
                let mut page = Box::new([0; PIECE]);
                self.original(piece * PIECE as u64, &mut page[..]);
                self.written.insert(piece, page);
            }
            if let Some(page) = self.written.get_mut(&piece) {
                page[inside..inside + count].copy_from_slice(&bytes[done..done + count]);
            }
        }
        true
    }

    fn flush(&mut self) -> bool {
        true
    }
}

/// The device.
pub struct Block {
    storage: Box<dyn Storage>,
    id: [u8; ID_SIZE],
    chain: Chain,
    buffer: Vec<u8>,
}

impl Block {
    /// A disk on `storage`, called `name`.
    #[must_use]
    pub fn new(storage: Box<dyn Storage>, name: &str) -> Self {
        let mut id = [0; ID_SIZE];
        for (to, byte) in id.iter_mut().zip(name.bytes()) {
            *to = byte;
        }
        Self { storage, id, chain: Chain::default(), buffer: vec![0; MOVE] }
    }

    /// Answers `chain`: the status, and how many bytes were written before it.
    fn answer(&mut self, chain: &Chain, session: &Session<'_>) -> (u8, u32) {
        let mut header = [0; HEADER as usize];
        if chain.read(session.ram, 0, &mut header) < header.len() {
            return (IO_ERROR, 0);
        }
        let word = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let sector = Sector(u64::from(word(8)) | u64::from(word(12)) << 32);
        let room = chain.writable().saturating_sub(1);
        match word(0) {
            READ => self.transfer(chain, session, sector, room, true),
            WRITE => {
                let length = chain.readable() - HEADER;
                self.transfer(chain, session, sector, length, false)
            }
            FLUSH if self.storage.flush() => (OK, 0),
            FLUSH => (IO_ERROR, 0),
            GET_ID => {
                let count = ID_SIZE.min(usize::try_from(room).unwrap_or(0));
                let written = chain.write(session.ram, 0, &self.id[..count]);
                (OK, written as u32)
            }
            _ => (UNSUPPORTED, 0),
        }
    }

    fn transfer(
        &mut self,
        chain: &Chain,
        session: &Session<'_>,
        sector: Sector,
        length: u64,
        read: bool,
    ) -> (u8, u32) {
        let fits =
            |start: u64| start.checked_add(length).is_some_and(|end| end <= self.storage.size());
        let start = sector.offset().map(|offset| offset.0);
        let possible = length.is_multiple_of(Sector::SIZE) && length <= REQUEST_MOST;
        let Some(start) = start.filter(|at| possible && fits(*at)) else {
            return (IO_ERROR, 0);
        };
        let mut done = 0;
        while done < length {
            let count = usize::try_from(length - done).unwrap_or(MOVE).min(MOVE);
            let piece = &mut self.buffer[..count];
            let moved = if read {
                self.storage.read(start + done, piece)
                    && chain.write(session.ram, done, piece) == count
            } else {
                chain.read(session.ram, HEADER + done, piece) == count
                    && self.storage.write(start + done, piece)
            };
            if !moved {
                return (IO_ERROR, if read { done as u32 } else { 0 });
            }
            done += count as u64;
        }
        (OK, if read { done as u32 } else { 0 })
    }
}

impl Device for Block {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Block
    }

    fn features(&self) -> u64 {
        FEATURE_SEG_MAX | FEATURE_FLUSH
    }

    fn queues(&self) -> usize {
        1
    }

    /// Capacity in sectors, size_max, seg_max (5.2.4).
    fn config(&self) -> Vec<u8> {
        let mut bytes = (self.storage.size() / Sector::SIZE).to_le_bytes().to_vec();
        bytes.extend_from_slice(&0u32.to_le_bytes());
        bytes.extend_from_slice(&SEGMENTS.to_le_bytes());
        bytes
    }

    fn ring(&mut self, index: usize, session: &mut Session<'_>) -> Result<(), Broken> {
        let mut chain = core::mem::take(&mut self.chain);
        while session.pop(index, &mut chain)? {
            // The status is the last byte; without room for it there is no answer to give.
            let Some(last) = chain.writable().checked_sub(1) else {
                return Err(Broken("a request without room for its status"));
            };
            if chain.readable() < HEADER {
                return Err(Broken("a request without a header"));
            }
            let (status, written) = self.answer(&chain, session);
            chain.write(session.ram, last, &[status]);
            session.give_back(index, &chain, written + 1)?;
        }
        self.chain = chain;
        Ok(())
    }
}
