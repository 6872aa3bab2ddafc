//! Pictures of windows as PNG files in memory.

use crate::model::Rect;
use crate::paint::compose;
use compositor_control::Answer;
use rustix::fs::MemfdFlags;
use std::io::Write;
use window_memory::PIXEL;

use super::window::Open;

/// Pixels, blue first, and where on the desktop they are.
pub(super) struct Picture {
    pub(super) rect: Rect,
    pub(super) pixels: Vec<u8>,
}

impl Picture {
    /// Of windows with their borders, whose left and top are at these places, the last on top; where there is none
    /// it is transparent. Of each window there are pixels only while it is put in.
    ///
    /// # Errors
    /// For a person: there are none, or together they are larger than the largest picture there is.
    pub(super) fn of(windows: &[(&Open, Rect)]) -> Result<Self, String> {
        let places: Vec<Rect> = windows
            .iter()
            .map(|(window, place)| {
                let [width, height] = window.size;
                Rect { width, height, ..*place }
            })
            .collect();
        let rect = around(&places)?;
        let mut picture = Self { rect, pixels: vec![0; (rect.area() * u64::from(PIXEL)) as usize] };
        for ((window, _), place) in windows.iter().zip(&places) {
            picture.put(place, &compose(&window.frame()));
        }
        Ok(picture)
    }

    /// Lays a window on top.
    fn put(&mut self, place: &Rect, window: &[u8]) {
        let left = (place.x - self.rect.x).unsigned_abs() as usize * PIXEL as usize;
        let top = (place.y - self.rect.y).unsigned_abs() as usize;
        let (stride, width) = ((place.width * PIXEL) as usize, (self.rect.width * PIXEL) as usize);
        for (row, from) in window.chunks_exact(stride).enumerate() {
            let start = (top + row) * width + left;
            let to = &mut self.pixels[start..start + stride];
            for (to, from) in to.chunks_exact_mut(4).zip(from.chunks_exact(4)) {
                let rest = 255 - u32::from(from[3]);
                for (to, from) in to.iter_mut().zip(from) {
                    let mixed = u32::from(*from) + (u32::from(*to) * rest + 127) / 255;
                    *to = u8::try_from(mixed).unwrap_or(u8::MAX);
                }
            }
        }
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

/// What all of them lie in.
fn around(places: &[Rect]) -> Result<Rect, String> {
    let none = || "no window is open".to_owned();
    let x = places.iter().map(|place| place.x).min().ok_or_else(none)?;
    let y = places.iter().map(|place| place.y).min().ok_or_else(none)?;
    let right = places.iter().map(Rect::right).max().ok_or_else(none)?;
    let bottom = places.iter().map(Rect::bottom).max().ok_or_else(none)?;
    let (width, height) = (right - i64::from(x), bottom - i64::from(y));
    let (Ok(width), Ok(height)) = (u32::try_from(width), u32::try_from(height)) else {
        return Err(none());
    };
    let rect = Rect { x, y, width, height };
    let most = window_link::limits::AREA;
    if rect.area() > most {
        return Err(format!(
            "the picture would have {width}x{height} pixels, more than {most} in all; take one of a window"
        ));
    }
    Ok(rect)
}

#[cfg(test)]
mod tests {
    use super::around;
    use crate::model::Rect;

    #[test]
    fn what_is_too_large_is_refused_before_it_is_made() {
        let one = Rect { x: -5, y: 3, width: 10, height: 10 };
        let two = Rect { x: 20, y: -4, width: 1, height: 2 };
        assert_eq!(around(&[one, two]), Ok(Rect { x: -5, y: -4, width: 26, height: 17 }));
        assert!(around(&[]).unwrap_err().contains("no window is open"));
        let large = Rect { width: 16_400, height: 16_400, ..one };
        assert!(around(&[large]).unwrap_err().contains("16400x16400"));
        let far = Rect { x: 32_000, y: 32_000, ..one };
        assert!(around(&[one, far]).is_err());
    }
}
