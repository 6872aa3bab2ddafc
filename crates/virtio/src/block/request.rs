//! One request: taken apart, checked, carried out (virtio 1.2, 5.2.6).

use crate::scatter::{Buffers, Readable, Writable};
use crate::{Chain, Counter, MemoryGuard, WorkerError};
use disk::{Image, SECTOR, Wait, WriteBuffers};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_S_IOERR,
    VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

/// Length of a GET_ID answer (virtio 1.2, 5.2.6).
pub(super) const SERIAL_BYTES: usize = 20;
/// Ranges in one discard or write-zeroes request.
pub(super) const MOST_SEGMENTS: u32 = 32;
/// Sectors in one discarded range: freeing space is quick whatever its size.
pub(super) const MOST_DISCARD_SECTORS: u32 = 4 << 21;
/// Sectors in one zeroed range: some filesystems make us write them.
pub(super) const MOST_ZEROES_SECTORS: u32 = 64 << 11;
/// `struct virtio_blk_discard_write_zeroes` (virtio 1.2, 5.2.6).
const SEGMENT_BYTES: usize = 16;

/// Copying so many bytes takes some ten times as long as handing the request to another thread.
const LARGE: u64 = 256 * 1024;

/// What a disk did.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    pub(super) requests: Counter,
    pub(super) bytes_read: Counter,
    pub(super) bytes_written: Counter,
    pub(super) flushes: Counter,
    pub(super) errors: Counter,
    pub(super) refused: Counter,
}

/// What carrying out a request needs; shared by the queues and their helpers.
pub(super) struct Disk {
    pub(super) image: Arc<Image>,
    pub(super) serial: [u8; SERIAL_BYTES],
    pub(super) features: u64,
    pub(super) writeback: Arc<AtomicBool>,
    pub(super) counters: Counters,
}

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answer {
    status: u32,
    /// Bytes written to the data buffers.
    written: usize,
}

impl Answer {
    const OK: Self = Self { status: VIRTIO_BLK_S_OK, written: 0 };
    const ERROR: Self = Self { status: VIRTIO_BLK_S_IOERR, written: 0 };
    const UNSUPPORTED: Self = Self { status: VIRTIO_BLK_S_UNSUPP, written: 0 };
}

/// A request with its parts in place: header read, status byte found.
pub(super) struct Request<'m> {
    kind: u32,
    sector: u64,
    readable: Readable<'m>,
    writable: Writable<'m>,
    status: Writable<'m>,
}

impl<'m> Request<'m> {
    /// Takes a chain apart. An error means that there is not even a place for a status.
    pub(super) fn parse(chain: Chain, memory: &'m MemoryGuard) -> Result<Self, WorkerError> {
        let Buffers { mut readable, mut writable, .. } = Buffers::of(chain, memory)?;
        let broken = |what: &str| WorkerError { what: what.to_owned() };
        // Type, a reserved word, sector.
        let header: [u8; 16] =
            readable.take().ok_or_else(|| broken("request shorter than its header"))?;
        let data = writable.len().checked_sub(1).ok_or_else(|| broken("no status byte"))?;
        let status = writable.split_off(data);
        let [k0, k1, k2, k3, _, _, _, _, sector @ ..] = header;
        Ok(Self {
            kind: u32::from_le_bytes([k0, k1, k2, k3]),
            sector: u64::from_le_bytes(sector),
            readable,
            writable,
            status,
        })
    }

    /// Data bytes it moves.
    pub(super) fn bytes(&self) -> u64 {
        match self.kind {
            VIRTIO_BLK_T_IN => self.writable.len() as u64,
            VIRTIO_BLK_T_OUT => self.readable.len() as u64,
            _ => 0,
        }
    }

    /// Whether it takes long in any case: it waits for the disk, or moves so much that others
    /// should use another processor meanwhile.
    pub(super) fn is_slow(&self, disk: &Disk) -> bool {
        match self.kind {
            _ if self.bytes() >= LARGE => true,
            VIRTIO_BLK_T_FLUSH | VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES => true,
            VIRTIO_BLK_T_OUT => !disk.writeback.load(Ordering::Relaxed),
            _ => false,
        }
    }

    /// Carries it out and writes its status; says how many bytes were written, status included.
    /// `None`: it would have to wait and may not, and nothing has been answered.
    pub(super) fn carry_out(mut self, disk: &Disk, wait: Wait) -> Option<u32> {
        let bytes = self.bytes();
        let answer = match self.kind {
            VIRTIO_BLK_T_IN => self.read(disk, wait)?,
            VIRTIO_BLK_T_OUT => self.write(disk),
            VIRTIO_BLK_T_FLUSH if disk.has(VIRTIO_BLK_F_FLUSH) => {
                disk.counters.flushes.add(1);
                disk.outcome(disk.image.flush())
            }
            VIRTIO_BLK_T_GET_ID => self.identify(disk),
            VIRTIO_BLK_T_DISCARD if disk.has(VIRTIO_BLK_F_DISCARD) => self.discard(disk),
            VIRTIO_BLK_T_WRITE_ZEROES if disk.has(VIRTIO_BLK_F_WRITE_ZEROES) => {
                self.write_zeroes(disk)
            }
            _ => disk.refuse(Answer::UNSUPPORTED),
        };
        if answer.status == VIRTIO_BLK_S_OK {
            match self.kind {
                VIRTIO_BLK_T_IN => disk.counters.bytes_read.add(bytes),
                VIRTIO_BLK_T_OUT => disk.counters.bytes_written.add(bytes),
                _ => {}
            }
        }
        disk.counters.requests.add(1);
        // All three status values fit a byte.
        self.status.copy_from(&[answer.status as u8]);
        // A chain has less than 2^32 bytes (virtio-queue ends it there).
        Some(u32::try_from(answer.written + 1).unwrap_or(u32::MAX))
    }

    fn read(&mut self, disk: &Disk, wait: Wait) -> Option<Answer> {
        let length = self.writable.len();
        let Some(offset) = disk.offset(self.sector, length as u64) else {
            return Some(disk.refuse(Answer::ERROR));
        };
        match disk.image.read(&mut self.writable, offset, wait) {
            Ok(()) => Some(Answer { written: length, ..Answer::OK }),
            Err(error) if wait == Wait::No && error.kind() == io::ErrorKind::WouldBlock => None,
            failed => Some(disk.outcome(failed)),
        }
    }

    fn write(&mut self, disk: &Disk) -> Answer {
        let length = self.readable.left() as u64;
        let Some(offset) = disk.offset(self.sector, length) else {
            return disk.refuse(Answer::ERROR);
        };
        if disk.image.read_only() {
            return disk.refuse(Answer::ERROR);
        }
        let written = disk.image.write(&mut self.readable, offset);
        disk.outcome(match written {
            Ok(()) if !disk.writeback.load(Ordering::Relaxed) => disk.image.flush(),
            written => written,
        })
    }

    fn identify(&self, disk: &Disk) -> Answer {
        let written = self.writable.copy_from(&disk.serial);
        Answer { written, ..Answer::OK }
    }

    fn discard(&mut self, disk: &Disk) -> Answer {
        self.for_each_segment(disk, MOST_DISCARD_SECTORS, 0, |offset, length, _| {
            disk.image.discard(offset, length)
        })
    }

    fn write_zeroes(&mut self, disk: &Disk) -> Answer {
        let flags = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
        self.for_each_segment(disk, MOST_ZEROES_SECTORS, flags, |offset, length, flags| {
            disk.image.write_zeroes(offset, length, flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0)
        })
    }

    /// Checks every range first, so that a request with a bad one changes nothing.
    fn for_each_segment(
        &mut self,
        disk: &Disk,
        most_sectors: u32,
        known_flags: u32,
        act: impl Fn(u64, u64, u32) -> io::Result<()>,
    ) -> Answer {
        let bytes = self.readable.len();
        let most = MOST_SEGMENTS as usize * SEGMENT_BYTES;
        if bytes == 0
            || !bytes.is_multiple_of(SEGMENT_BYTES)
            || bytes > most
            || disk.image.read_only()
        {
            return disk.refuse(Answer::ERROR);
        }
        let mut segments = Vec::with_capacity(bytes / SEGMENT_BYTES);
        while let Some(segment) = self.readable.take::<SEGMENT_BYTES>() {
            let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, f0, f1, f2, f3] = segment;
            let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
            let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
            let flags = u32::from_le_bytes([f0, f1, f2, f3]);
            // Unknown flags, and unmap with discard, are unsupported (virtio 1.2, 5.2.6.2).
            if flags & !known_flags != 0 {
                return disk.refuse(Answer::UNSUPPORTED);
            }
            let length = u64::from(sectors) * SECTOR;
            match disk.offset(sector, length) {
                Some(offset) if sectors <= most_sectors => segments.push((offset, length, flags)),
                _ => return disk.refuse(Answer::ERROR),
            }
        }
        let done =
            segments.into_iter().try_for_each(|(offset, length, flags)| act(offset, length, flags));
        disk.outcome(done)
    }
}

impl Disk {
    fn has(&self, feature: u32) -> bool {
        self.features & 1 << feature != 0
    }

    /// The byte offset of a range of whole sectors inside the disk.
    fn offset(&self, sector: u64, length: u64) -> Option<u64> {
        let offset = sector.checked_mul(SECTOR)?;
        let end = offset.checked_add(length)?;
        (length.is_multiple_of(SECTOR) && end <= self.image.size()).then_some(offset)
    }

    fn refuse(&self, answer: Answer) -> Answer {
        self.counters.refused.add(1);
        answer
    }

    fn outcome(&self, result: io::Result<()>) -> Answer {
        match result {
            Ok(()) => Answer::OK,
            Err(error) => {
                self.counters.errors.add(1);
                tracing::warn!(image = %self.image.path().display(), %error, "disk request failed");
                Answer::ERROR
            }
        }
    }
}
