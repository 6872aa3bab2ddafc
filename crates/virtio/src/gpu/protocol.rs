//! Numbers and layouts of the graphics device (virtio 1.2, 5.7).

use crate::scatter::Readable;
use display::Rectangle;

/// Feature bits (5.7.3).
pub(super) const F_EDID: u64 = 1 << 1;
pub(super) const F_RESOURCE_BLOB: u64 = 1 << 3;

/// `VIRTIO_GPU_EVENT_DISPLAY` (5.7.4).
pub(super) const EVENT_DISPLAY: u32 = 1;

/// `VIRTIO_GPU_FLAG_FENCE` (5.7.6.7).
pub(super) const FLAG_FENCE: u32 = 1;

/// `VIRTIO_GPU_MAX_SCANOUTS` (5.7.6.8): places in the display information.
pub(super) const MOST_SCANOUTS: usize = 16;

/// Room for an EDID in its answer (5.7.6.8).
pub(super) const EDID_ROOM: usize = 1024;

/// `VIRTIO_GPU_BLOB_MEM_GUEST` (5.7.6.8).
pub(super) const BLOB_MEM_GUEST: u32 = 1;

/// A pointer image is so many pixels each way (5.7.6.10).
pub(super) const CURSOR_SIDE: u32 = 64;

/// Commands (5.7.6.7, `virtio_gpu_ctrl_type`).
pub(super) mod command {
    pub(crate) const GET_DISPLAY_INFO: u32 = 0x0100;
    pub(crate) const RESOURCE_CREATE_2D: u32 = 0x0101;
    pub(crate) const RESOURCE_UNREF: u32 = 0x0102;
    pub(crate) const SET_SCANOUT: u32 = 0x0103;
    pub(crate) const RESOURCE_FLUSH: u32 = 0x0104;
    pub(crate) const TRANSFER_TO_HOST_2D: u32 = 0x0105;
    pub(crate) const RESOURCE_ATTACH_BACKING: u32 = 0x0106;
    pub(crate) const RESOURCE_DETACH_BACKING: u32 = 0x0107;
    pub(crate) const GET_EDID: u32 = 0x010a;
    pub(crate) const RESOURCE_CREATE_BLOB: u32 = 0x010c;
    pub(crate) const SET_SCANOUT_BLOB: u32 = 0x010d;
    pub(crate) const UPDATE_CURSOR: u32 = 0x0300;
    pub(crate) const MOVE_CURSOR: u32 = 0x0301;
}

/// Answers that are no refusals (5.7.6.7).
pub(super) mod response {
    pub(crate) const OK_NODATA: u32 = 0x1100;
    pub(crate) const OK_DISPLAY_INFO: u32 = 0x1101;
    pub(crate) const OK_EDID: u32 = 0x1104;
}

/// Why a command is not done (5.7.6.7); the value is what the driver is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Refusal {
    Unspecified = 0x1200,
    OutOfMemory = 0x1201,
    InvalidScanout = 0x1202,
    InvalidResource = 0x1203,
    InvalidParameter = 0x1205,
}

/// Bytes of a header (5.7.6.7).
pub(super) const HEADER: usize = 24;

/// The header of a command or answer (5.7.6.7, `virtio_gpu_ctrl_hdr`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: u32,
    pub(super) flags: u32,
    pub(super) fence: u64,
    pub(super) context: u32,
}

impl Header {
    pub(super) fn read(request: &mut Readable<'_>) -> Option<Self> {
        let [kind, flags, fence_low, fence_high, context, _ring] = words(request).ok()?;
        let fence = u64::from(fence_low) | u64::from(fence_high) << 32;
        Some(Self { kind, flags, fence, context })
    }

    /// The header of an answer: a fence is signalled with it, for all is done by then.
    pub(super) fn answer(&self, kind: u32) -> Vec<u8> {
        let fenced = self.flags & FLAG_FENCE != 0;
        let fence = if fenced { self.fence } else { 0 };
        let (low, high) = (fence as u32, (fence >> 32) as u32);
        let context = if fenced { self.context } else { 0 };
        bytes(&[kind, self.flags & FLAG_FENCE, low, high, context, 0])
    }
}

/// The next `N` words of a request.
pub(super) fn words<const N: usize>(request: &mut Readable<'_>) -> Result<[u32; N], Refusal> {
    let mut words = [[0; 4]; N];
    let bytes = words.as_flattened_mut();
    if request.copy_to(bytes) < bytes.len() {
        return Err(Refusal::InvalidParameter);
    }
    request.skip(4 * N);
    Ok(words.map(u32::from_le_bytes))
}

pub(super) fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// `virtio_gpu_rect` (5.7.6.8).
pub(super) fn rectangle([x, y, width, height]: [u32; 4]) -> Rectangle {
    Rectangle { x, y, width, height }
}

/// The eight formats (5.7.6.8, `virtio_gpu_formats`), named by their bytes in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format {
    number: u32,
    /// Places of blue, green and red.
    colours: [usize; 3],
    /// Place of alpha, where there is one.
    alpha: Option<usize>,
}

/// Bytes of a pixel, in every format.
pub(super) const PIXEL: usize = 4;

impl Format {
    pub(super) fn from_number(number: u32) -> Result<Self, Refusal> {
        let (colours, alpha) = match number {
            1 => ([0, 1, 2], Some(3)),
            2 => ([0, 1, 2], None),
            3 => ([3, 2, 1], Some(0)),
            4 => ([3, 2, 1], None),
            67 => ([2, 1, 0], Some(3)),
            68 => ([1, 2, 3], None),
            121 => ([1, 2, 3], Some(0)),
            134 => ([2, 1, 0], None),
            _ => return Err(Refusal::InvalidParameter),
        };
        Ok(Self { number, colours, alpha })
    }

    pub(super) fn number(self) -> u32 {
        self.number
    }

    /// Pixels as a frame or pointer image has them: blue, green, red, alpha (255 where the format
    /// has none).
    pub(super) fn convert(self, source: &[u8], target: &mut [u8]) {
        let pixels = source.chunks_exact(PIXEL).zip(target.chunks_exact_mut(PIXEL));
        let [blue, green, red] = self.colours;
        match self.alpha {
            Some(3) if self.colours == [0, 1, 2] => {
                let length = source.len().min(target.len());
                target[..length].copy_from_slice(&source[..length]);
            }
            Some(alpha) => pixels.for_each(|(from, to)| {
                to.copy_from_slice(&[from[blue], from[green], from[red], from[alpha]]);
            }),
            None => pixels.for_each(|(from, to)| {
                to.copy_from_slice(&[from[blue], from[green], from[red], 0xff]);
            }),
        }
    }
}
