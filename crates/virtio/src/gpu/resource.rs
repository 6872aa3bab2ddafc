//! What the driver made: pictures in host memory, and blobs in its own.

use super::protocol::{Format, PIXEL, Refusal, words};
use crate::scatter::Readable;
use display::{Rectangle, Size};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// Host memory for all resources of a device: pictures and lists of guest memory. Seven pictures
/// of 4K, or one of 8K.
pub(super) const MOST_BYTES: u64 = 256 << 20;
/// Resources of a device. Drivers have one for each buffer and pointer image.
pub(super) const MOST_RESOURCES: usize = 1024;
/// Pieces of guest memory behind a resource: 256 MiB in pages of 4 KiB.
const MOST_PIECES: u32 = 65_536;

/// Host memory in use.
#[derive(Debug, Default)]
pub(super) struct Quota(u64);

impl Quota {
    pub(super) fn charge(&mut self, bytes: u64) -> Result<(), Refusal> {
        let after = self.0.checked_add(bytes).filter(|after| *after <= MOST_BYTES);
        self.0 = after.ok_or(Refusal::OutOfMemory)?;
        Ok(())
    }

    pub(super) fn release(&mut self, bytes: u64) {
        self.0 = self.0.saturating_sub(bytes);
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> u64 {
        self.0
    }
}

/// Guest memory in order, as one run of bytes.
#[derive(Debug, Default)]
pub(super) struct Backing {
    pieces: Vec<Piece>,
    bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Where it starts in the run.
    start: u64,
    address: GuestAddress,
    length: u32,
}

impl Backing {
    /// Reads `count` entries of a request (`virtio_gpu_mem_entry`).
    pub(super) fn read_entries(
        request: &mut Readable<'_>,
        count: u32,
        memory: &GuestMemoryMmap,
        quota: &mut Quota,
    ) -> Result<Self, Refusal> {
        const ENTRY: usize = 16;
        if count > MOST_PIECES {
            return Err(Refusal::OutOfMemory);
        }
        if request.len() < count as usize * ENTRY {
            return Err(Refusal::InvalidParameter);
        }
        let mut entries = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let [low, high, length, _padding] = words(request)?;
            let address = u64::from(low) | u64::from(high) << 32;
            if !memory.check_range(GuestAddress(address), length as usize) {
                return Err(Refusal::InvalidParameter);
            }
            entries.push((address, length));
        }
        Self::new(&entries, quota)
    }

    /// Of address and length of each piece; what is no memory is found out when it is read.
    pub(super) fn new(entries: &[(u64, u32)], quota: &mut Quota) -> Result<Self, Refusal> {
        if entries.len() > MOST_PIECES as usize {
            return Err(Refusal::OutOfMemory);
        }
        let mut backing = Self { pieces: Vec::with_capacity(entries.len()), bytes: 0 };
        for &(address, length) in entries {
            let address = GuestAddress(address);
            if length == 0 {
                return Err(Refusal::InvalidParameter);
            }
            backing.pieces.push(Piece { start: backing.bytes, address, length });
            // At most 65,536 pieces of 4 GiB.
            backing.bytes += u64::from(length);
        }
        quota.charge(backing.cost())?;
        Ok(backing)
    }

    /// Host memory its list takes.
    pub(super) fn cost(&self) -> u64 {
        (self.pieces.len() * size_of::<Piece>()) as u64
    }

    /// Bytes of guest memory.
    pub(super) fn len(&self) -> u64 {
        self.bytes
    }

    /// Address and length of each piece.
    pub(super) fn entries(&self) -> impl Iterator<Item = (u64, u32)> {
        self.pieces.iter().map(|piece| (piece.address.0, piece.length))
    }

    /// Copies from the run; false when it does not reach that far or is no memory any more.
    pub(super) fn read(&self, memory: &GuestMemoryMmap, offset: u64, target: &mut [u8]) -> bool {
        let end = offset.checked_add(target.len() as u64);
        if end.is_none_or(|end| end > self.bytes) {
            return false;
        }
        let first = self.pieces.partition_point(|piece| piece.start <= offset).saturating_sub(1);
        let (mut offset, mut rest) = (offset, target);
        for piece in &self.pieces[first.min(self.pieces.len())..] {
            if rest.is_empty() {
                break;
            }
            let within = offset - piece.start;
            let length = (u64::from(piece.length) - within).min(rest.len() as u64) as usize;
            let (part, later) = rest.split_at_mut(length);
            let Some(address) = piece.address.0.checked_add(within) else {
                return false;
            };
            if memory.read_slice(part, GuestAddress(address)).is_err() {
                return false;
            }
            offset += length as u64;
            rest = later;
        }
        rest.is_empty()
    }
}

/// One resource.
#[derive(Debug)]
pub(super) struct Resource {
    pub(super) kind: Kind,
    pub(super) backing: Option<Backing>,
}

/// Where its pixels are.
#[derive(Debug)]
pub(super) enum Kind {
    /// Here, copied from guest memory by a transfer.
    Picture(Picture),
    /// In guest memory; so many bytes.
    Blob(u64),
}

/// Pixels in host memory.
#[derive(Debug)]
pub(super) struct Picture {
    pub(super) size: Size,
    pub(super) format: Format,
    pub(super) pixels: Vec<u8>,
}

impl Picture {
    pub(super) fn new(
        width: u32,
        height: u32,
        format: u32,
        quota: &mut Quota,
    ) -> Result<Self, Refusal> {
        let format = Format::from_number(format)?;
        let size = Size::new(width, height).ok_or(Refusal::InvalidParameter)?;
        let bytes = u64::from(width) * u64::from(height) * PIXEL as u64;
        quota.charge(bytes)?;
        // No more than the quota.
        Ok(Self { size, format, pixels: vec![0; bytes as usize] })
    }

    pub(super) fn stride(&self) -> usize {
        self.size.width as usize * PIXEL
    }

    /// The pixels of a row of `area`, which lies in the picture.
    pub(super) fn row(&self, x: u32, y: u32, width: u32) -> &[u8] {
        let start = y as usize * self.stride() + x as usize * PIXEL;
        self.pixels.get(start..start + width as usize * PIXEL).unwrap_or_default()
    }

    /// 5.7.6.8, `TRANSFER_TO_HOST_2D`: copies `area` from guest memory, whose rows are as long as
    /// the picture's and whose first pixel of `area` is at `offset`.
    pub(super) fn transfer(
        &mut self,
        memory: &GuestMemoryMmap,
        backing: &Backing,
        area: Rectangle,
        offset: u64,
    ) -> Result<(), Refusal> {
        if !area.is_inside(&self.size.whole()) {
            return Err(Refusal::InvalidParameter);
        }
        if area.is_empty() {
            return Ok(());
        }
        let stride = self.stride();
        let length = area.width as usize * PIXEL;
        let reach = (area.height as usize - 1) * stride + length;
        let end = offset.checked_add(reach as u64);
        if end.is_none_or(|end| end > backing.len()) {
            return Err(Refusal::InvalidParameter);
        }
        let start = area.y as usize * stride + area.x as usize * PIXEL;
        let copied = if length == stride {
            backing.read(memory, offset, &mut self.pixels[start..start + reach])
        } else {
            (0..area.height as usize).all(|row| {
                let at = start + row * stride;
                let from = offset + (row * stride) as u64;
                backing.read(memory, from, &mut self.pixels[at..at + length])
            })
        };
        if copied { Ok(()) } else { Err(Refusal::Unspecified) }
    }
}

impl Resource {
    /// Host memory it takes.
    pub(super) fn cost(&self) -> u64 {
        let pixels = match &self.kind {
            Kind::Picture(picture) => picture.pixels.len() as u64,
            Kind::Blob(_) => 0,
        };
        pixels + self.backing.as_ref().map_or(0, Backing::cost)
    }
}
