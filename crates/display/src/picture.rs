//! A picture of the screen, as a file.

use crate::{FrameView, PIXEL_BYTES, Size};

/// A picture cannot be made into a file.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the picture as PNG: {0}")]
pub struct PictureError(#[from] png::EncodingError);

/// What a frame showed at one moment.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    size: Size,
    /// Blue, green, red, anything; rows without gaps.
    pixels: Vec<u8>,
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picture({} x {})", self.size.width, self.size.height)
    }
}

impl Picture {
    /// What `frame` shows now.
    #[must_use]
    pub fn of(frame: &FrameView) -> Self {
        let size = frame.size();
        let stride = size.width as usize * PIXEL_BYTES;
        let mut pixels = vec![0; stride * size.height as usize];
        frame.copy(size.whole(), &mut pixels, stride);
        Self { size, pixels }
    }

    /// Its size.
    #[must_use]
    pub fn size(&self) -> Size {
        self.size
    }

    /// Red, green and blue of one pixel; `None` outside.
    #[must_use]
    pub fn pixel(&self, x: u32, y: u32) -> Option<[u8; 3]> {
        if x >= self.size.width || y >= self.size.height {
            return None;
        }
        let at = (y as usize * self.size.width as usize + x as usize) * PIXEL_BYTES;
        Some([self.pixels[at + 2], self.pixels[at + 1], self.pixels[at]])
    }

    /// All pixels, red, green, blue, rows without gaps.
    #[must_use]
    pub fn rgb(&self) -> Vec<u8> {
        self.pixels.chunks_exact(PIXEL_BYTES).flat_map(|p| [p[2], p[1], p[0]]).collect()
    }

    /// As a PNG file.
    ///
    /// # Errors
    /// The encoder refuses it.
    pub fn to_png(&self) -> Result<Vec<u8>, PictureError> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, self.size.width, self.size.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.rgb())?;
        writer.finish()?;
        Ok(file)
    }
}
