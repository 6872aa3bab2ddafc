//! Pictures of windows as PNG files in memory.

use crate::model::Rect;
use crate::paint::compose;
use compositor_control::Answer;
use rustix::fs::MemfdFlags;
use std::io::Write;
use window_memory::PIXEL;

use super::window::Open;

/// Pixels of a window, blue first, and where on the desktop they are.
pub(super) struct Picture {
    pub(super) rect: Rect,
    pub(super) pixels: Vec<u8>,
}

impl Picture {
    /// Of one window with its border, whose left and top are at `place`.
    pub(super) fn of(window: &Open, place: Rect) -> Self {
        let frame = window.frame();
        let rect = Rect { width: frame.width, height: frame.height, ..place };
        Self { rect, pixels: compose(&frame) }
    }

    /// Of many, the last on top; where there is none it is transparent. `None` when there are none, or they lie
    /// so far apart that a picture of them would be larger than one of the largest window.
    pub(super) fn together(windows: &[Self]) -> Option<Self> {
        let x = windows.iter().map(|window| window.rect.x).min()?;
        let y = windows.iter().map(|window| window.rect.y).min()?;
        let right = windows.iter().map(|window| window.rect.right()).max()?;
        let bottom = windows.iter().map(|window| window.rect.bottom()).max()?;
        let width = u32::try_from(right - i64::from(x)).ok()?;
        let height = u32::try_from(bottom - i64::from(y)).ok()?;
        let rect = Rect { x, y, width, height };
        if rect.area() > window_link::limits::AREA {
            return None;
        }
        let mut pixels = vec![0; (rect.area() * u64::from(PIXEL)) as usize];
        for window in windows {
            let left = (window.rect.x - x).unsigned_abs() as usize * PIXEL as usize;
            let top = (window.rect.y - y).unsigned_abs() as usize;
            let stride = (window.rect.width * PIXEL) as usize;
            for (row, from) in window.pixels.chunks_exact(stride).enumerate() {
                let start = (top + row) * (width * PIXEL) as usize + left;
                for (to, from) in
                    pixels[start..start + stride].chunks_exact_mut(4).zip(from.chunks_exact(4))
                {
                    let rest = 255 - u32::from(from[3]);
                    for (to, from) in to.iter_mut().zip(from) {
                        let mixed = u32::from(*from) + (u32::from(*to) * rest + 127) / 255;
                        *to = u8::try_from(mixed).unwrap_or(u8::MAX);
                    }
                }
            }
        }
        Some(Self { rect, pixels })
    }

    /// As a PNG file.
    pub(super) fn encode(mut self) -> Result<Vec<u8>, png::EncodingError> {
        for pixel in self.pixels.chunks_exact_mut(4) {
            let [blue, green, red, alpha] = [pixel[0], pixel[1], pixel[2], pixel[3]];
            // PNG's alpha is not premultiplied.
            let plain = |part: u8| match alpha {
                0 => 0,
                255 => part,
                alpha => {
                    let part = (u32::from(part) * 255 + u32::from(alpha) / 2) / u32::from(alpha);
                    u8::try_from(part).unwrap_or(u8::MAX)
                }
            };
            pixel.copy_from_slice(&[plain(red), plain(green), plain(blue), alpha]);
        }
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, self.rect.width, self.rect.height);
        encoder.set_color(png::ColorType::Rgba);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::Fast);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.pixels)?;
        writer.finish()?;
        Ok(file)
    }

    /// As an answer to the daemon.
    pub(super) fn answer(self) -> Answer {
        let refused = |message: String| Answer::Refused { message };
        let png = match self.encode() {
            Ok(png) => png,
            Err(error) => return refused(format!("the picture cannot be made: {error}")),
        };
        let file = rustix::fs::memfd_create("screenshot", MemfdFlags::CLOEXEC);
        let written =
            file.map_err(std::io::Error::from).map(std::fs::File::from).and_then(|mut file| {
                file.write_all(&png)?;
                Ok(file)
            });
        match written {
            Ok(file) => Answer::Picture { file: file.into(), length: png.len() as u64 },
            Err(error) => refused(format!("there is no memory for the picture: {error}")),
        }
    }
}
